"""The store and its function library, on a real Valkey and a real Redis."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from os import fsdecode

import pytest
from prometheus_client import REGISTRY

from tests.kit.counting import Counted, at, counting, make_site, open_store, visitor
from tests.kit.stores.server import Server, run_server, server_binaries
from visit_counter.errors import StoreUnavailable
from visit_counter.model.counts import Numbers
from visit_counter.model.hit import Drop, Hit
from visit_counter.model.kinds import Kind
from visit_counter.model.reasons import Reason
from visit_counter.model.seeds import Seed
from visit_counter.rules.visitor_hash import browser_hash, visitor_id
from visit_counter.store.libraries import library
from visit_counter.store.replies import EXISTS, NEWER, NO_OPERATION, Refused

DAY = 86_400_000
NOON = at("2026-03-10 12:00")  # a Tuesday


async def test_every_period_and_the_page_count_a_view(store_server: Server) -> None:
    """A first view is one pageview, visit and visitor in all running periods, none in the last."""
    async with counting(store_server.url) as counted:
        await counted.view(1, NOON, path="/a")
        counts = await counted.counts(NOON, "/a", "/b")

    one, none = Numbers(1, 1, 1), Numbers(0, 0, 0)
    assert (counts.today, counts.week, counts.month, counts.year, counts.total) == (one,) * 5
    assert (counts.yesterday, counts.last_week, counts.last_month) == (none,) * 3
    assert counts.pages == [1, 0]
    assert counts.last_hit == NOON


async def test_a_batch_counts_many_sites_and_days_at_once(store_server: Server) -> None:
    """One call applies the hits and drops of several sites, on both sides of midnight."""
    midnight = at("2026-03-11 00:00")
    async with open_store(store_server.url) as ledger:
        sites: dict[int, list[Counted]] = {}
        for name in (f"s{n}" for n in range(400)):
            counted = await make_site(ledger, name)
            sites.setdefault(counted.site.partition, []).append(counted)
        one, two, *_ = next(group for group in sites.values() if len(group) > 1)
        entries: list[Hit | Drop] = [
            one.hit(1, midnight - 1),
            two.hit(1, midnight),
            Drop(two.site, Reason.BOT, midnight),
            one.hit(2, midnight + 1),
        ]
        await one.record(*entries)
        first, second = await one.counts(midnight), await two.counts(midnight)
        dropped = await ledger._store.drops(two.site, ["2026-03"])

    assert (first.today, first.yesterday, first.total) == (
        Numbers(1, 1, 1), Numbers(1, 1, 1), Numbers(2, 2, 2),
    )  # fmt: skip
    assert second.total == Numbers(1, 1, 1)
    assert dropped == {"2026-03-11": {"bot": 1}}


async def test_a_thousand_visitors_fit_into_one_batch(store_server: Server) -> None:
    """The largest batch stays within what Lua can unpack, and counts exactly."""
    async with counting(store_server.url) as counted:
        hits = [counted.hit(n, NOON + n, path=f"/{n}") for n in range(1, 1001)]
        outcomes = await counted.record(*hits)
        counts = await counted.counts(NOON)

    assert all(outcome.new for outcome in outcomes)
    assert (counts.total.pageviews, counts.total.visits) == (1000, 1000)
    assert counts.total.visitors == pytest.approx(1000, rel=0.02)


async def test_paths_beyond_the_cap_count_as_other(store_server: Server) -> None:
    """At most max_pages paths are kept; those known go on counting, the rest is (other), which has
    the views of paths that wait for a place."""
    async with counting(store_server.url, max_pages=2) as counted:
        for path in ("/a", "/b", "/c", "/d", "/a"):
            await counted.view(1, NOON, path=path)
        counts = await counted.counts(NOON, "/a", "/b", "/c", "(other)")

    assert counts.pages == [2, 1, 1, 2]


async def test_scores_are_never_later_than_the_stores_time(store_server: Server) -> None:
    """A hit from a slightly fast clock is online from now on, no longer than others."""
    async with counting(store_server.url) as counted:
        now = counted.clock.now()
        (outcome,) = await counted.record(counted.hit(1, now + 1500), now=now)
        key = f"{counted.tag}:portal:1:"
        score = await counted.client.zscore(key + "seen", visitor(1))
        later = counted.clock.now()

    assert outcome.counts.online == 1
    assert score is not None
    assert now <= score <= later
    assert now <= outcome.counts.last_hit <= later


async def test_a_fast_clock_ends_no_period(store_server: Server) -> None:
    """A hit from next year is counted today: labels wait for the store's time as scores do."""
    async with counting(store_server.url) as counted:
        now = counted.clock.now()
        await counted.record(counted.hit(1, now), counted.hit(2, now), now=now)
        counted.clock._offset = 370 * 86_400_000
        fast = counted.clock.now()
        (outcome,) = await counted.record(counted.hit(3, fast), now=fast)
        learned = abs(counted.clock._offset)
        visitors = await counted.visitors(now)

    assert outcome.counts.today == Numbers(3, 3, 3)
    assert learned < 2000
    assert {visitors[name] for name in ("today", "week", "month", "year", "total")} == {3}


async def test_the_peak_stays_when_online_falls(store_server: Server) -> None:
    """Peak keeps the greatest number online and its instant."""
    async with counting(store_server.url) as counted:
        now = counted.clock.now()
        await counted.record(*(counted.hit(n, now - 10_000) for n in (1, 2, 3)), now=now)
        await counted.record(*(counted.hit(n, now, kind="bye") for n in (1, 2)), now=now)
        counts = await counted.counts(now)

    assert (counts.online, counts.peak) == (1, 3)
    assert abs(counts.peak_at - now) < 5000


async def test_old_hits_raise_neither_online_nor_the_peak(store_server: Server) -> None:
    """What is replayed later counts in its day, but nobody of it is online."""
    async with counting(store_server.url) as counted:
        await counted.view(1, NOON)
        counts = await counted.counts(NOON)

    assert (counts.online, counts.peak, counts.total.visits) == (0, 0, 1)


async def test_seeds_add_to_their_period_only(store_server: Server) -> None:
    """A seed is shown in its period, is bound to that label, and never shows less than 0."""
    async with counting(store_server.url) as counted:
        await counted.view(1, NOON)
        seeds = {("total", ""): 1_891_450, ("day", "2026-03-10"): -1}
        await counted.store.seed(counted.site, "op1", "visits", seeds)
        today = await counted.counts(NOON)
        tomorrow = await counted.counts(NOON + 86_400_000)

    assert (today.total.visits, today.today.visits, today.week.visits) == (1_891_451, 0, 1)
    assert (tomorrow.today.visits, tomorrow.yesterday.visits) == (0, 0)
    assert today.seeds == [Seed("today", "visits", -1), Seed("total", "visits", 1_891_450)]


async def test_numbers_of_days(store_server: Server) -> None:
    """Of days that ended, of the one that runs, of one that an admin added to, over two months."""
    first, last = at("2026-02-27 23:00"), at("2026-03-02 01:00")
    labels = ["2026-02-26", "2026-02-27", "2026-02-28", "2026-03-01", "2026-03-02"]
    async with counting(store_server.url) as counted:
        for when in (first, first + 2 * 3_600_000, last):
            await counted.view(1, when)
        await counted.view(2, first)  # late
        await counted.store.seed(counted.site, "op1", "visits", {("day", "2026-03-01"): 7})
        await counted.store.seed(counted.site, "op2", "pageviews", {("day", "2026-03-02"): -1})
        days = await counted.store.days(counted.site, labels)

    numbers = [(0, 0, 0), (2, 2, 2), (1, 1, 1), (0, 7, 0), (0, 1, 1)]
    assert [day.numbers for day in days.values()] == [Numbers(*each) for each in numbers]
    assert [*days] == labels


async def test_a_seed_with_the_same_operation_id_counts_once(store_server: Server) -> None:
    """Sending an operation again changes nothing."""
    async with counting(store_server.url) as counted:
        for _ in range(2):
            await counted.store.seed(counted.site, "op1", "visits", {("total", ""): 10})
        counts = await counted.counts(NOON)

    assert counts.total.visits == 10


async def test_reset_begins_at_zero_and_undo_adds_back(store_server: Server) -> None:
    """After a reset all is 0; undo brings the moved numbers back beside what came since."""
    async with counting(store_server.url) as counted:
        now = counted.clock.now()
        await counted.record(*(counted.hit(n, now - 1, path="/a") for n in (1, 2, 3)), now=now)
        await counted.store.seed(counted.site, "op1", "visits", {("total", ""): 100})
        await counted.record(Drop(counted.site, Reason.BOT, now))
        await counted.store.reset(counted.site, "r1")
        counted.next_generation()
        zero = await counted.counts(now, "/a")
        await counted.record(*(counted.hit(n, now, path="/a") for n in (3, 4)), now=now)
        approximate = await counted.store.undo(counted.site, "r1")
        back = await counted.counts(now, "/a")
        dropped = await counted.store.drops(counted.site, [month_of(now)])

    assert (zero.online, zero.total, zero.today, zero.pages) == (
        0, Numbers(0, 0, 0), Numbers(0, 0, 0), [0],
    )  # fmt: skip
    assert approximate == 0
    assert (back.online, back.today, back.pages) == (4, Numbers(5, 5, 4), [5])
    assert back.total == Numbers(5, 105, 4)
    assert list(dropped.values()) == [{"bot": 1}]


def month_of(now: int) -> str:
    return datetime.fromtimestamp(now / 1000, UTC).strftime("%Y-%m")


async def test_undo_takes_the_newest_reset_first(store_server: Server) -> None:
    """An older reset waits for the newer one's undo; an unknown one is refused."""
    async with counting(store_server.url) as counted:
        await counted.view(1, NOON)
        await counted.store.reset(counted.site, "r1")
        counted.next_generation()
        await counted.view(2, NOON)
        await counted.store.reset(counted.site, "r2")
        counted.next_generation()
        words = []
        for operation in ("r1", "r9"):
            with pytest.raises(Refused) as refused:
                await counted.store.undo(counted.site, operation)
            words.append(refused.value.word)
        for operation in ("r2", "r1", "r1"):
            await counted.store.undo(counted.site, operation)
        counts = await counted.counts(NOON)

    assert words == [NEWER, NO_OPERATION]
    assert counts.total == Numbers(2, 2, 2)


async def test_late_hits_of_an_undone_generation_count_in_the_current_one(
    store_server: Server,
) -> None:
    """A hit that was accepted before the reset and arrives after its undo is not lost."""
    async with counting(store_server.url) as counted:
        late = counted.hit(1, NOON)
        await counted.store.reset(counted.site, "r1")
        await counted.store.undo(counted.site, "r1")
        await counted.record(late)
        counted.next_generation()
        counts = await counted.counts(NOON)

    assert counts.total == Numbers(1, 1, 1)


async def test_undo_over_a_day_turn_freezes_the_older_day(store_server: Server) -> None:
    """The moved day's sketch merges and is frozen under the newer running day."""
    tomorrow = NOON + 86_400_000
    async with counting(store_server.url) as counted:
        await counted.record(counted.hit(1, NOON), counted.hit(2, NOON))
        await counted.store.reset(counted.site, "r1")
        counted.next_generation()
        await counted.view(3, tomorrow)
        await counted.store.undo(counted.site, "r1")
        visitors = await counted.visitors(tomorrow)
        await counted.view(4, NOON)
        late = await counted.visitors(tomorrow)

    assert (visitors["today"], visitors["yesterday"], visitors["week"], visitors["total"]) == (
        1, 2, 3, 3,
    )  # fmt: skip
    assert (late["today"], late["yesterday"], late["week"], late["total"]) == (1, 3, 4, 4)


async def test_undo_with_the_same_day_on_both_sides(store_server: Server) -> None:
    """A visitor counted before the reset and again after the undo is one visitor in all periods."""
    async with counting(store_server.url) as counted:
        await counted.view(1, NOON)
        await counted.store.reset(counted.site, "r1")
        counted.next_generation()
        await counted.view(2, NOON)
        await counted.store.undo(counted.site, "r1")
        await counted.record(counted.hit(1, NOON + 1), counted.hit(3, NOON + 1))
        visitors = await counted.visitors(NOON)

    assert {visitors[name] for name in ("today", "week", "month", "year", "total")} == {3}


async def test_what_came_after_an_undo_survives_the_next_one(store_server: Server) -> None:
    """Visitors of a day that an undo brought back, itself without any, are moved and brought back
    with it."""
    async with counting(store_server.url) as counted:
        await counted.view(0, NOON)
        for who in (1, 2):
            await counted.store.reset(counted.site, f"r{who}")
            counted.next_generation()
            await counted.store.undo(counted.site, f"r{who}")
            await counted.view(who, NOON)
        visitors = await counted.visitors(NOON)

    assert {visitors[name] for name in ("today", "week", "month", "year", "total")} == {2}


async def test_sites_are_made_once_and_seen_by_version(store_server: Server) -> None:
    """A second site of that id is refused; only changed partitions are read again."""
    async with open_store(store_server.url) as ledger:
        counted = await make_site(ledger)
        with pytest.raises(Refused) as refused:
            await make_site(ledger)
        found = await counted.store.sites_since([""] * 64)
        again = await counted.store.sites_since([found[n].version for n in range(64)])

    assert refused.value.word == EXISTS
    assert list(found[counted.site.partition].settings) == ["portal"]
    assert found[counted.site.partition].generations == {"portal": 1}
    assert again == {}


async def test_a_lost_function_is_loaded_again(store_server: Server) -> None:
    """After FUNCTION FLUSH the next batch and the next read count as before."""
    async with counting(store_server.url) as counted:
        await counted.client.function_flush()
        await counted.view(1, NOON)
        await counted.client.function_flush()
        counts = await counted.counts(NOON)

    assert counts.total == Numbers(1, 1, 1)


async def test_quiet_sites_keep_no_visitors(store_server: Server) -> None:
    """The sets of ids expire by themselves; nothing that a total depends on does."""
    async with counting(store_server.url) as counted:
        await counted.record(counted.hit(1, NOON), Drop(counted.site, Reason.BOT, NOON))
        await counted.record(counted.hit(1, NOON + 5000, kind="bye"))
        client = counted.client
        lives = {
            fsdecode(key).split(":1:")[1]: await client.pttl(key)
            for key in await client.keys(f"{counted.namespace}:*:1:*")
        }

    mortal = {name for name, life in lives.items() if life > 0}
    assert mortal == {"seen", "left", "drops:2026-03"}
    assert {name for name, life in lives.items() if life == -1} == {
        "running", "pages", "index",
        "visitors:day:2026-03-10", "visitors:week:2026-03-09", "visitors:month:2026-03",
        "visitors:year:2026", "visitors:total",
    }  # fmt: skip


async def test_a_store_that_is_gone_is_unavailable(store_server: Server) -> None:
    """Nothing was sent: the batch is refused, not unknown."""
    with run_server(server_binaries()["valkey"]) as own:
        async with counting(own.url) as counted:
            own.kill()
            counted.shard.writer.end()
            result = await counted.commit(counted.hit(1, NOON))

    assert isinstance(result, StoreUnavailable)


async def test_a_full_store_refuses_the_batch_whole(store_server: Server) -> None:
    """OOM is answered before anything runs: unavailable, and no number moved."""
    with run_server(server_binaries()["valkey"]) as own:
        async with counting(own.url) as counted:
            await counted.view(1, NOON)
            await counted.client.config_set("maxmemory", "1mb")
            result = await counted.commit(counted.hit(2, NOON))
            counts = await counted.counts(NOON)

    assert isinstance(result, StoreUnavailable)
    assert counts.total == Numbers(1, 1, 1)


async def test_ids_are_as_good_as_random_for_the_sketch(store_server: Server) -> None:
    """The ids of 20,000 addresses in a row read as 20,000, within 3 standard errors."""
    async with counting(store_server.url) as counted:
        browser = browser_hash(counted.store.secret, "portal", "ua", "vi")
        ids = [visitor_id(browser, f"10.0.{n >> 8}.{n & 255}") for n in range(20_000)]
        for start in range(0, len(ids), 1000):
            some = ids[start : start + 1000]
            hits = [Hit(counted.site, Kind.VIEW, NOON, visitor) for visitor in some]
            await counted.record(*hits)
        counts = await counted.counts(NOON)

    assert counts.total.visitors == pytest.approx(20_000, rel=3 * 0.0081)


async def test_two_producers_record_at_the_same_time(store_server: Server) -> None:
    """Two connections, interleaved batches: every view counts once."""
    async with counting(store_server.url) as counted:
        async with open_store(store_server.url, counted.namespace) as ledger:
            other = Counted(ledger, counted.site)
            for _ in range(50):
                await asyncio.gather(counted.view(1, NOON), other.view(2, NOON))
        counts = await counted.counts(NOON)

    assert counts.total == Numbers(100, 2, 2)


async def test_undo_never_lowers_a_frozen_number(store_server: Server) -> None:
    """A day whose sketch is gone adds its number to what came late, and says it is approximate."""
    async with counting(store_server.url) as counted:
        await counted.record(*(counted.hit(n, NOON) for n in range(1, 11)))
        await counted.view(11, NOON + DAY)
        client, tag = counted.client, counted.tag
        await client.delete(f"{tag}:portal:1:visitors:day:2026-03-10")
        await counted.store.reset(counted.site, "r1")
        counted.next_generation()
        await counted.view(12, NOON)
        approximate = await counted.store.undo(counted.site, "r1")
        yesterday = (await counted.counts(NOON + DAY)).yesterday
        mark = await client.hget(f"{tag}:portal:2:day:2026-03", "10a")

    assert yesterday == Numbers(11, 11, 11)
    assert (approximate, mark) == (1, b"1")


async def test_undo_brings_back_peak_since_and_last(store_server: Server) -> None:
    """`since` is the earlier one, the peak the higher, the last hit the later."""
    async with counting(store_server.url) as counted:
        now = counted.clock.now()
        await counted.record(*(counted.hit(n, now) for n in (1, 2, 3)), now=now)
        before = await counted.counts(now)
        await counted.store.reset(counted.site, "r1")
        counted.next_generation()
        zero = await counted.counts(now)
        await counted.store.undo(counted.site, "r1")
        after = await counted.counts(now)

    assert (zero.peak, zero.last_hit) == (0, 0)
    assert zero.since >= before.since
    assert (after.peak, after.peak_at) == (3, before.peak_at)
    assert (after.since, after.last_hit) == (before.since, before.last_hit)


async def test_undo_leaves_nothing_behind_and_ids_still_expire(store_server: Server) -> None:
    """The moved generation's keys are gone; the sets of ids keep their lives."""
    async with counting(store_server.url) as counted:
        now = counted.clock.now()
        await counted.record(counted.hit(1, now), Drop(counted.site, Reason.BOT, now), now=now)
        await counted.store.reset(counted.site, "r1")
        counted.next_generation()
        await counted.record(*(counted.hit(n, now - 5000) for n in (2, 3)), now=now)
        await counted.record(counted.hit(2, now, kind="bye"))
        await counted.store.undo(counted.site, "r1")
        client, tag = counted.client, counted.tag
        left = await client.keys(f"{tag}:portal:1:*")
        lives = [await client.pttl(f"{tag}:portal:2:{name}") for name in ("seen", "left")]

    assert left == []
    assert all(life > 0 for life in lives)


async def test_undo_knows_who_left(store_server: Server) -> None:
    """Who left under one generation and came back under the other is online, the rest is not."""
    async with counting(store_server.url) as counted:
        now = counted.clock.now()
        await counted.record(*(counted.hit(n, now - 10_000) for n in (1, 2, 3)), now=now)
        await counted.record(*(counted.hit(n, now - 5000, kind="bye") for n in (1, 2)), now=now)
        await counted.store.reset(counted.site, "r1")
        counted.next_generation()
        await counted.view(2, now)
        await counted.store.undo(counted.site, "r1")
        merged = await counted.counts(now)
        (back,) = await counted.record(counted.hit(1, now, kind="here"))

    assert (merged.online, back.counts.online) == (2, 3)


async def test_a_batch_over_a_reset_counts_all_its_hits(store_server: Server) -> None:
    """Hits of both sides that end up in one generation add up."""
    async with counting(store_server.url) as counted:
        before = counted.hit(1, NOON)
        await counted.store.reset(counted.site, "r1")
        await counted.store.undo(counted.site, "r1")
        counted.next_generation()
        outcomes = await counted.record(before, counted.hit(2, NOON), before)
        counts = await counted.counts(NOON)

    assert counts.total == Numbers(3, 2, 2)
    assert [outcome.new for outcome in outcomes] == [True, True, False]


async def test_a_reset_that_can_no_longer_be_undone_is_forgotten(store_server: Server) -> None:
    """30 days on, the next operation removes the moved generation's keys with its id."""
    async with counting(store_server.url) as counted:
        await counted.view(1, NOON)
        await counted.store.reset(counted.site, "r1")
        client, tag = counted.client, counted.tag
        operations = f"{tag}:operations:portal"
        old = counted.clock.now() - 31 * DAY
        await client.hset(operations, "r1", f"reset:1:{old}")
        await counted.store.seed(counted.site, "s1", "visits", {("total", ""): 1})
        left = await client.keys(f"{tag}:portal:1:*")
        known = await client.hkeys(operations)

    assert (left, known) == ([], [b"s1"])


async def test_old_ids_are_trimmed(store_server: Server) -> None:
    """Once a minute those go who would be offline without a bye, and visits an hour behind their
    end."""
    async with counting(store_server.url) as counted:
        await counted.view(1, NOON)
        await counted.record(counted.hit(1, NOON + 2000, kind="bye"))
        await counted.view(2, NOON + 302_000)
        client, tag = counted.client, counted.tag
        left = await client.exists(f"{tag}:portal:1:left")
        await counted.view(3, NOON + (1800 + 3600) * 1000 + 1)
        seen = await client.zrange(f"{tag}:portal:1:seen", 0, -1)

    assert not left
    assert seen == [visitor(2), visitor(3)]


async def test_a_full_set_holds_strangers_and_says_so(
    valkey: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the cap new ids are held and counted in a metric; known ones go on."""
    name, source = library("full")
    capped = source.replace("MAX_IDS = 1000000", "MAX_IDS = 2")
    monkeypatch.setattr("visit_counter.store.libraries.library", lambda *_: (name, capped))
    full = "visitcounter_visitors_full_hits_total"
    before = REGISTRY.get_sample_value(full) or 0
    async with counting(valkey.url) as counted:
        outcomes = await counted.record(*(counted.hit(n, NOON) for n in (1, 2, 3, 1)))
        counts = await counted.counts(NOON)

    assert [outcome.held for outcome in outcomes] == [False, False, True, False]
    assert counts.total == Numbers(4, 2, 2)
    assert (REGISTRY.get_sample_value(full) or 0) - before == 1


async def test_the_index_forgets_what_has_expired(store_server: Server) -> None:
    """A new day removes from the index the sketches that are gone by then."""
    async with counting(store_server.url) as counted:
        await counted.view(1, NOON)
        client, tag = counted.client, counted.tag
        index = f"{tag}:portal:1:index"
        await client.zadd(index, {"visitors:day:2026-01-01": NOON})
        await counted.view(1, NOON + DAY)
        names = set(await client.zrange(index, 0, -1))

    assert b"visitors:day:2026-01-01" not in names
    assert {b"day:2026-03", b"visitors:day:2026-03-10", b"visitors:day:2026-03-11"} <= names


async def test_an_idle_connection_that_the_store_closed_costs_no_hit(store_server: Server) -> None:
    """A store that was restarted, or that ends idle connections, is met with a new one."""
    with run_server(server_binaries()["valkey"]) as own:
        async with counting(own.url) as counted:
            await counted.view(1, NOON)
            await asyncio.to_thread(own.stop)
            await asyncio.to_thread(own.start)
            await counted.view(2, NOON)
            counts = await counted.counts(NOON)

    assert counts.total == Numbers(2, 2, 2)


async def test_a_lost_function_is_loaded_for_sites_too(store_server: Server) -> None:
    """After FUNCTION FLUSH a look at the sites loads the function as a hit does."""
    async with counting(store_server.url) as counted:
        await counted.client.function_flush()
        found = await counted.store.sites_since([""] * 64)

    assert "portal" in found[counted.site.partition].settings

"""Undo of a reset: what comes back, in bounded steps, from wherever it ended, and twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest

from tests.kit.counting import Counted, at, counting, open_store, visitor
from tests.kit.stores.server import Server
from visit_counter.model.counts import Counts, Numbers
from visit_counter.store.libraries import library
from visit_counter.store.replies import BEYOND, NEWER, NO_OPERATION, Refused

DAY = 86_400_000
NOON = at("2026-03-10 12:00")  # a Tuesday
STEP = 500
"""Visitors or pages that one call brings over at most."""


class Stopped(Exception):
    """The process was killed."""


async def come(counted: Counted, who: range, when: int, path: str = "/") -> None:
    """A view of each visitor, in batches that are as large as they get."""
    for first in range(who.start, who.stop, 1000):
        some = range(first, min(first + 1000, who.stop))
        await counted.record(*(counted.hit(n, when, path=path.format(n)) for n in some), now=when)


async def reset(counted: Counted, operation: str = "r1") -> None:
    await counted.store.reset(counted.site, operation)
    counted.next_generation()


def exact(counts: Counts) -> tuple[int, int]:
    return counts.total.pageviews, counts.total.visits


def key(counted: Counted, generation: int, name: str) -> str:
    return f"{counted.tag}:portal:{generation}:{name}"


@asynccontextmanager
async def stepping(counted: Counted, operation: str = "r1") -> AsyncIterator[Callable[[], Any]]:
    """The function does one step, and returns what the store answered."""
    timeout = counted.site.settings.visit_timeout * 1000

    async def step() -> Any:
        return await counted.store._call(
            "undo", counted.site.partition, "portal", operation, timeout
        )

    yield step


# -- repeated


async def test_a_repeated_undo_answers_as_it_did(store_server: Server) -> None:
    """Also after a newer reset, and with the number of sums that became approximate."""
    async with counting(store_server.url) as counted:
        await come(counted, range(1, 11), NOON)
        await counted.view(11, NOON + DAY)
        await counted.client.delete(key(counted, 1, "visitors:day:2026-03-10"))
        await reset(counted)
        await counted.view(12, NOON)
        first = await counted.store.undo(counted.site, "r1")
        again = await counted.store.undo(counted.site, "r1")
        await reset(counted, "r2")
        after_reset = await counted.store.undo(counted.site, "r1")
        zero = await counted.counts(NOON)
        await counted.store.undo(counted.site, "r2")
        after_undo = await counted.store.undo(counted.site, "r1")

    assert [first, again, after_reset, after_undo] == [1] * 4
    assert zero.total == Numbers(0, 0, 0)


async def test_every_operation_is_repeated_as_it_was_done(store_server: Server) -> None:
    """A reset after its undo, a seed after a reset, settings after others: nothing is done twice,
    and nothing is refused."""
    async with counting(store_server.url) as counted:
        store, site = counted.store, counted.site
        await counted.view(1, NOON)
        await store.seed(site, "s1", "visits", {("total", ""): 10})
        await reset(counted, "r1")
        await store.seed(site, "s2", "visits", {("total", ""): 5})
        await store.undo(site, "r1")
        await reset(counted, "r2")
        for operation in ("s1", "s2"):
            await store.seed(site, operation, "visits", {("total", ""): -100})
        for operation in ("r1", "r2"):
            await store.reset(site, operation)
        repeated = await counted.counts(NOON)
        await store.undo(site, "r2")
        counts = await counted.counts(NOON)

    assert repeated.total == Numbers(0, 0, 0)
    assert counts.total == Numbers(1, 16, 1)


async def test_thirty_days_on_an_undo_is_unknown(store_server: Server) -> None:
    """Whether it was done or not: the next operation forgets it."""
    async with counting(store_server.url) as counted:
        await counted.view(1, NOON)
        await reset(counted, "r1")
        await counted.store.undo(counted.site, "r1")
        await reset(counted, "r2")
        operations = f"{counted.tag}:operations:portal"
        for operation, generation in (("r1", 1), ("r2", 2)):
            old = f"reset:{generation}:{counted.clock.now() - 31 * DAY}"
            await counted.client.hset(operations, operation, old)
        still = await counted.store.undo(counted.site, "r1")
        await reset(counted, "r3")
        words = []
        for operation in ("r1", "r2"):
            with pytest.raises(Refused) as refused:
                await counted.store.undo(counted.site, operation)
            words.append(refused.value.word)

    assert still == 0
    assert words == [NO_OPERATION] * 2


# -- in steps


async def test_no_step_brings_over_more_than_some(store_server: Server) -> None:
    """However many visitors and pages there are on both sides; then the numbers, at once."""
    visitors = 2 * STEP + 7
    async with counting(store_server.url) as counted:
        now = counted.clock.now()
        client = counted.client
        await come(counted, range(1, visitors + 1), now - 5000, "/{}")
        await reset(counted)
        await come(counted, range(STEP, 2 * visitors), now, "/{}")
        left, moved = [visitors], list[int]()
        answers: list[int | None] = []
        async with stepping(counted) as step:
            while not answers or answers[-1] is None:
                answers.append(await step())
                left.append(await client.zcard(key(counted, 1, "seen")))
                moved.append(await client.zcard(key(counted, 1, "pages")))
        counts = await counted.counts(now, "/1", f"/{STEP}", f"/{visitors + 1}")
        keys = await client.keys(key(counted, 1, "*"))

    assert answers == [None] * (len(answers) - 1) + [0]
    assert max(before - after for before, after in pairwise(left)) == STEP
    assert moved[:4] == [visitors, visitors, visitors - STEP, visitors - 2 * STEP]
    assert counts.online == 2 * visitors - 1
    assert counts.pages == [1, 2, 1]
    assert counts.total.pageviews == counts.today.pageviews == 3 * visitors - STEP
    assert keys == []


@pytest.mark.parametrize("steps", [1, 2, 3])
async def test_an_undo_goes_on_where_it_was_killed(valkey: Server, steps: int) -> None:
    """By another process, with hits in between: what is counted then is the same."""
    async with counting(valkey.url) as counted:
        now = counted.clock.now()
        await come(counted, range(1, 2 * STEP + 8), now - 60_000, "/{}")
        await reset(counted)
        await come(counted, range(2 * STEP, 4 * STEP), now - 30_000, "/{}")
        async with stepping(counted) as step:
            for _ in range(steps):
                assert await step() is None
        await counted.view(4 * STEP, now)
        async with open_store(valkey.url, counted.namespace) as ledger:
            other = Counted(ledger, counted.site)
            await other.store.undo(other.site, "r1")
            await other.store.undo(other.site, "r1")
            counts = await other.counts(now, f"/{2 * STEP}")
        pages: Any = await counted.client.zrange(key(counted, 2, "pages"), 0, -1, withscores=True)

    assert (counts.online, counts.pages) == (4 * STEP, [2])
    assert counts.total == counts.today
    assert exact(counts) == (4 * STEP + 8, 4 * STEP + 8)
    assert counts.total.visitors == pytest.approx(4 * STEP, rel=3 * 0.0081)
    assert sum(views for _, views in pages) == counts.total.pageviews


async def test_hits_go_on_between_the_steps(store_server: Server) -> None:
    """Who has come over is known and in the sketches all the same; late hits of the moved
    generation count into the current one."""
    async with counting(store_server.url) as counted:
        now = counted.clock.now()
        await come(counted, range(1, STEP + 1), now - 60_000)
        await come(counted, range(STEP + 1, 2 * STEP + 1), now - 1000)
        late = counted.hit(STEP + 1, now - 2000)
        await reset(counted)
        await counted.view(0, now - 120_000)
        async with stepping(counted) as step:
            await step()
            await counted.view(2 * STEP, now)
            between = await counted.counts(now)
            await counted.record(late)
            assert await step() == 0
        counts = await counted.counts(now)

    assert between.total == between.today == Numbers(2, 0, 1)
    assert between.online == STEP
    assert exact(counts) == (2 * STEP + 3, 2 * STEP)


async def test_visitors_whom_no_hit_needs_stay_away(store_server: Server) -> None:
    """They would fill the set until it is trimmed."""
    async with counting(store_server.url) as counted:
        now = counted.clock.now()
        ago = counted.site.settings.visit_timeout * 1000 + 3_600_000
        await counted.record(counted.hit(1, now - ago - 5000), counted.hit(2, now - ago + 5000))
        await reset(counted)
        await counted.view(3, now)
        await counted.store.undo(counted.site, "r1")
        seen = await counted.client.zrange(key(counted, 2, "seen"), 0, -1)

    assert seen == [visitor(2), visitor(3)]


async def test_an_undo_keeps_to_the_most_visitors(
    valkey: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those who were seen last come over; whoever is known already is brought up to date."""
    name, source = library("most")
    capped = source.replace("MAX_IDS = 1000000", "MAX_IDS = 4")
    monkeypatch.setattr("visit_counter.store.libraries.library", lambda *_: (name, capped))
    async with counting(valkey.url) as counted:
        now = counted.clock.now()
        await counted.record(*(counted.hit(n, now - 10_000 + n) for n in (1, 2, 3, 4)), now=now)
        await reset(counted)
        await counted.record(*(counted.hit(n, now - 20_000) for n in (1, 8, 9)), now=now)
        await counted.store.undo(counted.site, "r1")
        seen: Any = await counted.client.zrange(key(counted, 2, "seen"), 0, -1, withscores=True)

    scores = {int.from_bytes(member, "big"): now - score for member, score in seen}
    assert scores == {1: 9999, 4: 9996, 8: 20_000, 9: 20_000}


# -- who has left


@pytest.mark.parametrize("is_known", [True, False], ids=["bye kept", "bye lost"])
async def test_who_left_before_the_reset_is_not_online(
    store_server: Server, is_known: bool
) -> None:
    """Until they come again; the visit goes on."""
    async with counting(store_server.url) as counted:
        now = counted.clock.now()
        await come(counted, range(1, 4), now - 10_000)
        await counted.record(*(counted.hit(n, now - 5000, kind="bye") for n in (1, 2)), now=now)
        await reset(counted)
        await counted.view(2, now - 1000)
        if not is_known:
            await counted.client.delete(key(counted, 1, "left"))
        await counted.store.undo(counted.site, "r1")
        merged = await counted.counts(now)
        (back,) = await counted.record(counted.hit(1, now, kind="here"))

    assert (merged.online, back.counts.online) == (2, 3)
    assert back.counts.total.visits == 4


async def test_a_bye_after_the_reset_holds_after_the_undo(store_server: Server) -> None:
    """It came after the last view on either side."""
    async with counting(store_server.url) as counted:
        now = counted.clock.now()
        await counted.view(1, now - 10_000)
        await reset(counted)
        await counted.view(1, now - 20_000)
        await counted.record(counted.hit(1, now - 5000, kind="bye"))
        await counted.store.undo(counted.site, "r1")
        counts = await counted.counts(now)

    assert counts.online == 0


# -- numbers


async def test_ten_years_of_history_come_back(store_server: Server) -> None:
    """Numbers add, field by field; visitors of ended periods add up and are approximate."""
    months = [f"{year}-{month:02}" for year in range(2016, 2026) for month in range(1, 13)]
    async with counting(store_server.url) as counted:
        pipeline = counted.client.pipeline(transaction=False)
        for generation in (1, 2):
            index = key(counted, generation, "index")
            for month in months:
                numbers: Any = {f"{n:02}{metric}": n for n in range(1, 29) for metric in "pvu"}
                _ = pipeline.hset(key(counted, generation, f"day:{month}"), mapping=numbers)
                _ = pipeline.zadd(index, {f"day:{month}": "+inf"})
            if generation == 1:
                await pipeline.execute()
                await reset(counted)
        await pipeline.execute()
        approximate = await counted.store.undo(counted.site, "r1")
        days = await counted.store.days(counted.site, ["2016-01-01", "2025-12-28"])

    assert approximate == len(months) * 28
    assert [day.numbers for day in days.values()] == [Numbers(2, 2, 2), Numbers(56, 56, 56)]
    assert all(day.is_approximate for day in days.values())


async def test_an_approximate_sum_is_never_lowered(store_server: Server) -> None:
    """By an undo of a generation whose sketch knows of fewer visitors than the sum."""
    async with counting(store_server.url) as counted:
        await come(counted, range(1, 11), NOON)
        await counted.view(11, NOON + DAY)
        await counted.client.delete(key(counted, 1, "visitors:day:2026-03-10"))
        await reset(counted)
        await counted.view(12, NOON)
        await counted.view(13, NOON + DAY)
        await counted.store.undo(counted.site, "r1")
        before = await counted.visitors(NOON + DAY)
        await reset(counted, "r2")
        await counted.view(14, NOON)
        await counted.store.undo(counted.site, "r2")
        after = await counted.visitors(NOON + DAY)

    assert before["yesterday"] == 11
    assert after["yesterday"] >= 11


async def test_an_undo_does_not_lengthen_the_life_of_drops(store_server: Server) -> None:
    """They are kept for 400 days, whatever is undone."""
    async with counting(store_server.url) as counted:
        drops = key(counted, 1, "drops:2026-03")
        await counted.client.hset(drops, mapping={"10:bot": 3})
        await counted.client.pexpire(drops, DAY)
        await counted.client.zadd(key(counted, 1, "index"), {"drops:2026-03": NOON})
        await reset(counted)
        await counted.store.undo(counted.site, "r1")
        life = await counted.client.pttl(key(counted, 2, "drops:2026-03"))
        found = await counted.store.drops(counted.site, ["2026-03"])

    assert 0 < life <= DAY
    assert found == {"2026-03-10": {"bot": 3}}


async def test_seeds_that_are_too_large_together_wait(store_server: Server) -> None:
    """Beyond 2^53 numbers are not exact: nothing is lost, and once one is lowered it is done."""
    async with counting(store_server.url) as counted:
        site, total = counted.site, ("total", "")
        for generation in (1, 2):
            await counted.client.hset(key(counted, generation, "seeds"), "total::v", 2**53 - 1)
            if generation == 1:
                await reset(counted)
        with pytest.raises(Refused) as refused:
            await counted.store.undo(site, "r1")
        await counted.store.seed(site, "s1", "visits", {total: -(2**53 - 2)})
        await counted.store.undo(site, "r1")
        counts = await counted.counts(NOON)

    assert (refused.value.word, str(refused.value)) == (BEYOND, "total 0")
    assert counts.total.visits == 2**53


async def test_an_older_reset_waits_while_a_newer_one_is_being_undone(
    store_server: Server,
) -> None:
    """Newest first: a half is not whole."""
    async with counting(store_server.url) as counted:
        now = counted.clock.now()
        await come(counted, range(1, 3), now)
        await reset(counted, "r1")
        await come(counted, range(1, 2 * STEP), now)
        await reset(counted, "r2")
        async with stepping(counted, "r2") as step:
            await step()
        with pytest.raises(Refused) as refused:
            await counted.store.undo(counted.site, "r1")
        for operation in ("r2", "r1"):
            await counted.store.undo(counted.site, operation)
        counts = await counted.counts(now)

    assert refused.value.word == NEWER
    assert exact(counts) == (2 * STEP + 1, 2 * STEP + 1)


async def test_two_undo_at_the_same_time(store_server: Server) -> None:
    """Both are told the same, and it is done once."""
    async with counting(store_server.url) as counted:
        now = counted.clock.now()
        await come(counted, range(1, 4 * STEP), now)
        await reset(counted)
        undo = counted.store.undo
        answers = await asyncio.gather(*(undo(counted.site, "r1") for _ in range(2)))
        counts = await counted.counts(now)

    assert answers == [0, 0]
    assert exact(counts) == (4 * STEP - 1, 4 * STEP - 1)

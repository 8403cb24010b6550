"""How hits are packed for the store, what it costs there, and what is read back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.kit.counting import Counted, at, counting, visitor
from tests.kit.ledger_machine.function import unpacked
from tests.kit.stores.server import Server
from visit_counter.model.calendar import Calendar
from visit_counter.model.hit import Drop, Hit
from visit_counter.model.kinds import Kind
from visit_counter.model.reasons import Reason
from visit_counter.model.site import Site
from visit_counter.model.site_settings import SiteSettings, StoredSite
from visit_counter.store.batch import BYE, KNOWN_ONLY, Batch

NOON = at("2026-03-10 12:00")
DAY = 86_400_000
SITES = [
    Site(StoredSite(SiteSettings(id=name, origins=("*",)), Calendar.of("UTC")), 1)
    for name in ("a", "b")
]
ASKING = ("fcall", "info", "config|resetstat")

hits = st.builds(
    Hit,
    site=st.sampled_from(SITES),
    kind=st.sampled_from(Kind),
    at=st.sampled_from([NOON, NOON + 1, NOON + DAY]),
    visitor=st.sampled_from([b"", visitor(1), visitor(2), visitor(3)]),
    known_only=st.booleans(),
)


@given(st.lists(hits, min_size=1))
def test_every_hit_is_packed_once_and_in_order(entries: list[Hit]) -> None:
    """Of a site's day: who, when and how, in the order in which the hits were accepted."""
    parts, visitors = unpacked(Batch(7, 1, entries, NOON).record.payload)
    ids = [visitors[n : n + 8] for n in range(0, len(visitors), 8)]

    for part in parts:
        of_part, ids = ids[: part.visitors], ids[part.visitors :]
        expected = [
            (BYE * (hit.kind is Kind.BYE) + KNOWN_ONLY * hit.known_only, hit.at, hit.visitor)
            for hit in entries
            if hit.visitor and hit.site.id == part.site and (hit.at < NOON + DAY) == is_first(part)
        ]
        assert part.hits(of_part) == expected
    assert ids == []


def is_first(part: Any) -> bool:
    return bool(part.day == "2026-03-10")


async def test_hits_that_fared_alike_share_an_outcome(store_server: Server) -> None:
    """What is made of an outcome can be made once for all of them."""
    async with counting(store_server.url) as counted:
        first, second = counted.hit(1, NOON), counted.hit(2, NOON)
        drop = Drop(counted.site, Reason.BOT, NOON)
        outcomes = await counted.record(first, drop, second, first, counted.hit(0, NOON))

    new, dropped, also_new, again, anonymous = outcomes
    assert [outcome.new for outcome in outcomes] == [True, False, True, False, False]
    assert new is also_new
    assert dropped is again is anonymous


async def test_pages_are_told_to_whom_they_were_asked_by(store_server: Server) -> None:
    """Each gets the pageviews of its own path, also where others ask for other ones."""
    async with counting(store_server.url) as counted:
        outcomes = await counted.record(
            counted.hit(1, NOON, path="/a", wants_page=True),
            counted.hit(2, NOON, path="/b"),
            counted.hit(3, NOON, path="/b", wants_page=True),
            counted.hit(1, NOON + DAY, path="/a", wants_page=True),
            now=NOON + DAY,
        )

    assert [outcome.page for outcome in outcomes] == [2, None, 2, 2]


async def test_a_hit_takes_few_commands(store_server: Server) -> None:
    """The next view of who was here today runs seven commands in the store, a new visitor's at most
    eleven more: of the numbers that a page shows none is read or written by itself."""
    async with counting(store_server.url) as counted:
        await counted.record(*(counted.hit(n, NOON) for n in range(1, 11)))
        known = await commands(counted, counted.hit(1, NOON + 1))
        new = await commands(counted, counted.hit(11, NOON + 2))

    assert known == {
        "time": 1, "mget": 1, "mset": 1, "zmscore": 1, "zadd": 2, "zcount": 1,
    }  # fmt: skip
    assert new - known == {"zcard": 1, "pfadd": 5, "pfcount": 5}


async def test_who_was_here_yesterday_is_a_visitor_of_today(store_server: Server) -> None:
    """Also in the day's first batch, where some come twice, and with a sign of presence only."""
    midnight = NOON + DAY // 2
    async with counting(store_server.url) as counted:
        await counted.record(*(counted.hit(n, midnight - 2) for n in (1, 2, 3)), now=midnight)
        first = [counted.hit(1, midnight - 1), counted.hit(1, midnight + 5)]
        await counted.record(*first, counted.hit(2, midnight + 3), now=midnight + 9)
        await counted.record(counted.hit(3, midnight + 4, kind="here"), now=midnight + 9)
        await counted.record(*(counted.hit(n, midnight + 8) for n in (1, 2, 3)), now=midnight + 9)
        visitors = await counted.visitors(midnight + 9)

    assert (visitors["today"], visitors["yesterday"], visitors["total"]) == (3, 3, 3)


async def test_a_thousand_hits_take_as_many_commands_as_one(store_server: Server) -> None:
    """All commands of a batch take many members at once."""
    async with counting(store_server.url) as counted:
        paths = [f"/{n}" for n in range(1000)]
        views = [counted.hit(n + 1, NOON, path=path) for n, path in enumerate(paths)]
        await counted.record(*views)
        many = await commands(counted, *views)

    assert many.total() <= 12


async def commands(counted: Counted, *hits: Hit) -> Counter[str]:
    """The commands that ran inside the store to count a batch."""
    await counted.client.config_resetstat()
    await counted.record(*hits)
    stats: Mapping[str, Any] = await counted.client.info("commandstats")
    calls = {name.removeprefix("cmdstat_"): each["calls"] for name, each in stats.items()}
    return Counter({name: n for name, n in calls.items() if name not in ASKING})

"""Clocks that are wrong and jump, the store's and ours: nothing blocks, nothing is lost, and soon
after right time all numbers of running periods follow the definitions again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.kit.counting import Counted, at, counting
from tests.kit.stores.clocked import Clocked, run_clocked
from tests.kit.stores.server import Server
from visit_counter.clock import Clock
from visit_counter.model.counts import Counts, Numbers
from visit_counter.model.kinds import PERIODS

SECOND, MINUTE, HOUR, DAY = 1000, 60_000, 3_600_000, 86_400_000
BEGIN = at("2031-03-03 12:00")  # a Monday, later than this machine's time


@pytest.fixture(scope="module")
def clocked_server() -> Iterator[Clocked]:
    with run_clocked() as server:
        yield server


class Timeline:
    """A site in a store whose clock a test sets; each visitor comes once."""

    def __init__(self, server: Clocked, counted: Counted) -> None:
        self.counted = counted
        self.instants: list[int] = []
        """Of all hits, as they were accepted."""
        self._server = server

    def set(self, when: int) -> None:
        """The store's clock."""
        self._server.ahead(ms=when - Clock().local())

    async def view(self, when: int, who: int = 0) -> Counts:
        """A new visitor, or this one, at an instant that the store's clock shows as well."""
        self.set(when)
        self.instants.append(when)
        return (await self.counted.view(who or len(self.instants), when)).counts

    async def check(self, now: int) -> None:
        """All periods, as of now, by their definition."""
        self.set(now)
        counts = await self.counted.counts(now)
        running = self.counted.site.calendar.periods(now)
        for name in PERIODS:
            label = getattr(running, name, "")
            there = [self._label(name, when) for when in self.instants]
            expected = len(there) if name == "total" else there.count(label)
            assert (name, getattr(counts, name)) == (name, Numbers(*[expected] * 3))
        assert counts.approximate == []

    def _label(self, period: str, when: int) -> str:
        of = {"yesterday": "today", "last_week": "week", "last_month": "month"}
        return getattr(self.counted.site.calendar.periods(when), of.get(period, period), "")


@pytest.fixture
async def timeline(clocked_server: Clocked) -> AsyncIterator[Timeline]:
    clocked_server.ahead(ms=BEGIN - Clock().local())
    async with counting(clocked_server.url) as counted:
        yield Timeline(clocked_server, counted)


@pytest.mark.parametrize("ahead", [2, 9, 40, 400], ids=lambda days: f"{days} days")
@pytest.mark.parametrize("first", [False, True], ids=["after others", "first of all"])
async def test_one_hit_ahead_of_time_stops_no_visitors(
    timeline: Timeline, ahead: int, first: bool
) -> None:
    """The store's clock is ahead for one hit; a month later every period has all its visitors, and
    also when the time of that hit comes."""
    if not first:
        await timeline.view(BEGIN)
    await timeline.view(BEGIN + ahead * DAY)
    for day in range(25):
        await timeline.view(BEGIN + day * DAY + MINUTE)
        await timeline.check(BEGIN + day * DAY + 2 * MINUTE)
    if ahead > 25:
        await timeline.view(BEGIN + ahead * DAY + HOUR)
        await timeline.check(BEGIN + ahead * DAY + HOUR)


async def test_a_clock_that_jumps_about(timeline: Timeline) -> None:
    """Ahead by years, back in parts, behind, and right again."""
    for days in (0, 800, 790, 40, 41, 3, -2, 0, 0.1, 365, 1, 2):
        await timeline.view(BEGIN + round(days * DAY))
        await timeline.check(BEGIN + round(days * DAY) + 1)


async def test_instants_of_a_wrong_clock_are_not_shown(timeline: Timeline) -> None:
    """Last hit and peak are not later than now."""
    await timeline.view(BEGIN + 90 * DAY)
    counts = await timeline.view(BEGIN + SECOND)

    assert max(counts.since, counts.last_hit, counts.peak_at) <= BEGIN + 2 * SECOND


async def test_who_was_seen_ahead_of_time_was_seen_now(timeline: Timeline) -> None:
    """They go offline as others do, and their next visit begins."""
    for who in (1, 2, 3):
        await timeline.view(BEGIN + 90 * DAY, who)
    online = [(await timeline.view(BEGIN, 4)).online]
    online.append((await timeline.view(BEGIN + 6 * MINUTE, 5)).online)
    again = await timeline.view(BEGIN + 40 * MINUTE, 1)

    assert online == [4, 1]
    assert again.total.visits == 6


async def test_an_expired_sketch_makes_visitors_approximate(timeline: Timeline) -> None:
    """The store's clock was ahead for so long that the running month's sketch is gone."""
    for hour in range(5):
        await timeline.view(BEGIN + hour * HOUR)
    client, base = timeline.counted.client, f"{timeline.counted.tag}:portal:1:visitors:"
    for day in (40, 50):
        await timeline.view(BEGIN + day * DAY)
    gone = [await client.exists(base + of) for of in ("month:2031-03", "week:2031-03-03")]
    counts = await timeline.view(BEGIN + DAY)

    assert gone == [0, 0]
    assert counts.approximate == ["week", "month"]
    assert counts.month == counts.week == Numbers(6, 6, 6)
    assert counts.year.visitors == 8


async def test_hits_of_a_fast_clock_wait_for_nothing_in_the_spool(store_server: Server) -> None:
    """They count as of now, with what came after them, under the labels of the site's zone."""
    async with counting(store_server.url, timezone="Pacific/Kiritimati") as counted:
        counted.store.periods = lambda _site, now: counted.site.calendar.periods(now)
        now = counted.clock.now()
        fast = [counted.hit(n, now + 10 * DAY + n) for n in (1, 2, 3)]
        batches = [counted.seal(hit, now=hit.at) for hit in fast]
        batches.append(counted.seal(counted.hit(9, now)))
        await counted.ledger.replay([batch.record for batch in batches])
        counts = await counted.counts(counted.clock.now())
        later = await counted.counts(now + 10 * DAY)

    assert counts.today == counts.total == Numbers(4, 4, 4)
    assert counts.online == 4
    assert later.today == Numbers(0, 0, 0)


async def test_a_batch_that_cannot_be_read_holds_up_no_fast_clock(store_server: Server) -> None:
    """It is rejected, and what lies beside it in the spool counts."""
    async with counting(store_server.url) as counted:
        now = counted.clock.now()
        batches = [counted.seal(counted.hit(n, now + DAY)).record for n in (1, 2, 3)]
        batches[1] = batches[1]._replace(payload=b"\xc1")
        await counted.ledger.replay(batches)
        counts = await counted.counts(counted.clock.now())

    assert counts.today == Numbers(2, 2, 2)

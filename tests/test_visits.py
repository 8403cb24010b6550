"""When a visit begins, who is online, and what is counted of whom.

Over HTTP with a stopped clock in the past where silence is measured in minutes; straight into the
store, on real time, where it is about who is online now.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from itertools import count, pairwise
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.kit.counting import Counted, at, counting, make_site, open_store
from tests.kit.services.in_process import Service, StoppedClock, run_service
from tests.kit.stores.server import Server
from visit_counter.clock import Clock
from visit_counter.model.counts import Numbers
from visit_counter.model.site import Site
from visit_counter.model.site_settings import StoredSite

NOON = at("2026-03-10 12:00")
SECOND, MINUTE, HOUR, DAY = 1000, 60_000, 3_600_000, 86_400_000
TIMEOUT = 30 * MINUTE

Step = tuple[int, str]
"""When, in ms after noon, and the kind of hit."""


@dataclass
class Past:
    """A service whose clock a test sets, at noon of a past day."""

    service: Service
    clock: StoppedClock

    async def play(self, *steps: Step) -> None:
        for after, kind in steps:
            self.clock.at = NOON + after
            await self.service.hit(k=kind)

    async def numbers(self, period: str = "total") -> tuple[int, int, int]:
        found = (await self.service.counts())[period]
        return found["pageviews"], found["visits"], found["visitors"]


@pytest.fixture
async def past(store_server: Server) -> AsyncIterator[Past]:
    """A service at noon of 10 March 2026."""
    clock = StoppedClock(NOON)
    async with run_service(store_server.url, clock=clock) as service:
        yield Past(service, clock)


@pytest.mark.parametrize(
    ("silence", "visits"),
    [
        pytest.param(29 * MINUTE + 59 * SECOND, 1, id="29:59"),
        pytest.param(1_799_999, 1, id="29:59.999"),
        pytest.param(1_800_000, 2, id="30:00"),
        pytest.param(30 * MINUTE + 1 * SECOND, 2, id="30:01"),
    ],
)
async def test_a_visit_ends_with_thirty_minutes_of_silence(
    past: Past, silence: int, visits: int
) -> None:
    """A view that comes 30:00 after the last one begins a visit, to the millisecond."""
    await past.service.site()
    await past.play((0, "view"), (silence, "view"))

    assert (2, visits, 1) == await past.numbers()


@pytest.mark.parametrize(("silence", "visits"), [(59_999, 1), (60_000, 2)])
async def test_a_site_sets_its_own_timeout(past: Past, silence: int, visits: int) -> None:
    """visit_timeout is the silence that ends this site's visits."""
    await past.service.site(visit_timeout=60, online_window=60)
    await past.play((0, "view"), (silence, "view"))

    assert (2, visits, 1) == await past.numbers()


@pytest.mark.parametrize(
    ("steps", "numbers"),
    [
        pytest.param(
            [(0, "view"), (20 * MINUTE, "here"), (40 * MINUTE, "view")],
            (2, 1, 1),
            id="here bridges the silence",
        ),
        pytest.param(
            [(0, "view"), (TIMEOUT - 1, "here"), (2 * TIMEOUT - 1, "view")],
            (2, 2, 1),
            id="silence is measured from the here",
        ),
        pytest.param([(0, "here")], (0, 1, 1), id="here alone begins a visit, no pageview"),
        pytest.param([(0, "here"), (MINUTE, "view")], (1, 1, 1), id="a view joins its here"),
        pytest.param([(0, "view"), (TIMEOUT, "here")], (1, 2, 1), id="here after 30 minutes"),
        pytest.param([(0, "bye")], (0, 0, 0), id="bye alone counts nothing"),
        pytest.param(
            [(0, "view"), (10 * MINUTE, "bye"), (11 * MINUTE, "view")],
            (2, 1, 1),
            id="bye ends no visit",
        ),
        pytest.param(
            [(0, "view"), (20 * MINUTE, "bye"), (30 * MINUTE, "view")],
            (2, 2, 1),
            id="bye prolongs no visit",
        ),
        pytest.param(
            [(40 * MINUTE, "view"), (0, "view")], (2, 1, 1), id="a late view begins no visit"
        ),
        pytest.param(
            [(40 * MINUTE, "view"), (0, "view"), (40 * MINUTE + TIMEOUT - 1, "view")],
            (3, 1, 1),
            id="a late view shortens no visit",
        ),
    ],
)
async def test_what_begins_a_visit(
    past: Past, steps: list[Step], numbers: tuple[int, int, int]
) -> None:
    """Pageviews, visits and visitors of one visitor's views, heres and byes."""
    await past.service.site()
    await past.play(*steps)

    assert numbers == await past.numbers()


async def test_a_visit_belongs_to_the_day_it_began(past: Past) -> None:
    """Over midnight the pageview and the visitor are of both days, the visit of the first."""
    await past.service.site()
    await past.play((12 * HOUR - 10 * MINUTE, "view"), (12 * HOUR + 10 * MINUTE, "view"))

    assert await past.numbers("yesterday") == (1, 1, 1)
    assert await past.numbers("today") == (1, 0, 1)
    assert await past.numbers("total") == (2, 1, 1)


@pytest.mark.parametrize("header", ["DNT", "Sec-GPC"])
@pytest.mark.parametrize(("honoured", "numbers"), [(True, (1, 0, 0)), (False, (1, 1, 1))])
async def test_do_not_track_where_the_site_honours_it(
    past: Past, header: str, honoured: bool, numbers: tuple[int, int, int]
) -> None:
    """Of somebody who objects only the pageview counts, and a here counts nothing."""
    await past.service.site(honour_dnt=honoured)
    for kind in ("view", "here"):
        await past.service.hit(k=kind, headers={header: "1"})

    assert numbers == await past.numbers()


class Played(NamedTuple):
    """A hit of a generated sequence."""

    who: int
    kind: str
    gap: int
    """ms since the newest hit so far."""
    late: int
    """ms that it arrives too late, within its day."""
    flushed: bool
    """It is the last one of its batch."""


GAPS = st.sampled_from([0, 1, SECOND, TIMEOUT - 1, TIMEOUT, TIMEOUT + 1, 2 * HOUR])
SEQUENCES = st.lists(
    st.builds(
        Played,
        who=st.integers(1, 3),
        kind=st.sampled_from(["view", "view", "here", "bye"]),
        gap=GAPS | st.integers(0, 3 * HOUR),
        late=st.just(0) | st.sampled_from([1, MINUTE, TIMEOUT, HOUR]),
        flushed=st.booleans(),
    ),
    min_size=1,
    max_size=30,
)
_sites = count(1)


def instants(sequence: Sequence[Played]) -> list[int]:
    newest, found = NOON, []
    for hit in sequence:
        newest += hit.gap
        found.append(max(newest - hit.late, newest // DAY * DAY))
    return found


def modelled(sequence: Sequence[Played]) -> dict[int, tuple[int, int, int]]:
    """Pageviews, visits and visitors by day (the number of its midnight), and of all (-1)."""
    last: dict[int, int] = {}
    found: list[tuple[int, int, int, int]] = []
    for hit, when in zip(sequence, instants(sequence), strict=True):
        if hit.kind == "bye":
            continue
        begins = hit.who not in last or when - last[hit.who] >= TIMEOUT
        last[hit.who] = max(when, last.get(hit.who, when))
        found.append((when // DAY, hit.kind == "view", begins, hit.who))
    days = {day: [row for row in found if row[0] == day] for day in {row[0] for row in found}}
    return {
        day: (sum(row[1] for row in rows), sum(row[2] for row in rows), len({r[3] for r in rows}))
        for day, rows in {**days, -1: found}.items()
    }


async def counted_in_batches(counted: Counted, sequence: Sequence[Played]) -> None:
    batch = []
    for hit, when in zip(sequence, instants(sequence), strict=True):
        batch.append(counted.hit(hit.who, when, kind=hit.kind))
        if hit.flushed or hit is sequence[-1]:
            await counted.record(*batch)
            batch = []


@given(sequence=SEQUENCES)
@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # all examples share the server
)
async def test_batches_change_nothing(store_server: Server, sequence: list[Played]) -> None:
    """Hits count as an exact model says, one by one or together, and on the right days."""
    expected = modelled(sequence)
    async with open_store(store_server.url, "batches") as store:
        counted = await make_site(store, f"s{next(_sites)}")
        await counted_in_batches(counted, sequence)
        found = {day: (await counted.counts(max(day, 0) * DAY)) for day in expected}

    actual = {day: c.today if day >= 0 else c.total for day, c in found.items()}
    assert {day: Numbers(*numbers) for day, numbers in expected.items()} == actual


@pytest.mark.parametrize("together", [True, False], ids=["one batch", "one by one"])
@pytest.mark.parametrize(
    ("hits", "online"),
    [
        pytest.param([(290_000, "view")], 1, id="within the window"),
        pytest.param([(300_000, "view")], 0, id="outside the window"),
        pytest.param([(400_000, "view"), (200_000, "here")], 1, id="still here"),
        pytest.param([(10_000, "view"), (5_000, "bye")], 0, id="gone"),
        pytest.param([(10_000, "view"), (8_000, "bye")], 0, id="bye 2 s after the view"),
        pytest.param([(10_000, "view"), (8_001, "bye")], 1, id="bye 1.999 s after the view"),
        pytest.param([(10_000, "view"), (5_000, "here"), (4_000, "bye")], 1, id="bye after here"),
        pytest.param([(10_000, "view"), (400_000, "view")], 1, id="view arrives late"),
        pytest.param([(3_000, "view"), (10_000, "bye")], 1, id="bye arrives late"),
        pytest.param([(10_000, "view"), (5_000, "bye"), (4_900, "view")], 1, id="next page"),
        pytest.param([(10_000, "view"), (5_000, "bye"), (4_900, "here")], 1, id="here again"),
        pytest.param([(5_000, "bye")], 0, id="bye of a stranger"),
        pytest.param([(30_000, "view"), (5_000, "bye"), (20_000, "here")], 0, id="late here"),
        pytest.param([(30_000, "view"), (5_000, "bye"), (7_000, "here")], 0, id="2 s before"),
        pytest.param([(30_000, "view"), (5_000, "bye"), (6_999, "here")], 1, id="1.999 s before"),
        pytest.param(
            [(30_000, "view"), (5_000, "bye"), (20_000, "here"), (4_000, "here")],
            1,
            id="late here, and here again",
        ),
        pytest.param(
            [(30_000, "view"), (5_000, "bye"), (3_000, "view"), (20_000, "bye")],
            1,
            id="bye of before arrives after the return",
        ),
    ],
)
async def test_who_is_online(
    store_server: Server, together: bool, hits: list[tuple[int, str]], online: int
) -> None:
    """Who viewed or was here within the window, and said no bye at least 2 s later."""
    async with counting(store_server.url) as counted:
        now = Clock().now()
        made = [counted.hit(1, now - ago, kind=kind) for ago, kind in hits]
        for batch in [made] if together else [[hit] for hit in made]:
            await counted.record(*batch, now=now)

        assert online == (await counted.counts(now)).online


@pytest.mark.parametrize(
    ("kind", "numbers"), [("view", Numbers(1, 0, 0)), ("here", Numbers(0, 0, 0))]
)
async def test_a_new_visitor_is_held(store_server: Server, kind: str, numbers: Numbers) -> None:
    """Of a hit marked known-only only the pageview counts when the visitor is new."""
    async with counting(store_server.url) as counted:
        now = Clock().now()
        (outcome,) = await counted.record(counted.hit(1, now, kind=kind, known_only=True))

    assert (outcome.held, outcome.new) == (True, False)
    assert (numbers, 0) == (outcome.counts.total, outcome.counts.online)


@pytest.mark.parametrize("together", [True, False], ids=["one batch", "one by one"])
async def test_a_known_visitor_is_not_held(store_server: Server, together: bool) -> None:
    """Known-only hits of a visitor seen before, in the same batch too, count like any other."""
    async with counting(store_server.url) as counted:
        now = Clock().now()
        made = [counted.hit(1, now - 1), counted.hit(1, now, known_only=True)]
        batches = [made] if together else [[hit] for hit in made]
        outcomes = [outcome for batch in batches for outcome in await counted.record(*batch)]

    assert [outcome.new for outcome in outcomes] == [True, False]
    assert [outcome.held for outcome in outcomes] == [False, False]
    assert (Numbers(2, 1, 1), 1) == (outcomes[-1].counts.total, outcomes[-1].counts.online)


async def test_a_held_visitor_is_still_new_later(store_server: Server) -> None:
    """Being held leaves no trace: the first hit that is let in begins the visit."""
    async with counting(store_server.url) as counted:
        now = Clock().now()
        await counted.record(counted.hit(1, now - 1, known_only=True))
        (outcome,) = await counted.record(counted.hit(1, now))

    assert outcome.new
    assert Numbers(2, 1, 1) == outcome.counts.total


async def test_a_busy_site_forgets_whom_no_hit_needs(store_server: Server) -> None:
    """Also where somebody leaves in every batch: the sets are trimmed, and keep their life."""
    minute = 60_000
    async with counting(store_server.url) as counted:
        for n in range(1, 31):
            when = NOON + 10 * n * minute
            await counted.record(
                counted.hit(n, when), counted.hit(n - 1, when, kind="bye"), counted.hit(99, when)
            )
        seen = f"{counted.tag}:portal:1:seen"
        kept, life = await counted.client.zcard(seen), await counted.client.pttl(seen)

    assert kept <= 11
    assert life > 60 * minute


async def test_an_older_view_brings_nobody_back_who_left(store_server: Server) -> None:
    """As from the spool of another worker: it counts, and they are not online again."""
    async with counting(store_server.url) as counted:
        now = Clock().now()
        await counted.record(counted.hit(1, now - 20_000, kind="here"))
        await counted.record(counted.hit(1, now - 5_000, kind="bye"))
        (late,) = await counted.record(counted.hit(1, now - 30_000))
        (again,) = await counted.record(counted.hit(1, now))

    assert (late.counts.online, late.counts.total.pageviews) == (0, 1)
    assert again.counts.online == 1


async def test_a_longer_window_brings_nobody_back_who_left(store_server: Server) -> None:
    """Whoever said bye under a short window is not online under a long one."""
    async with counting(store_server.url, online_window=60) as counted:
        now = Clock().now()
        for who in (1, 2):
            await counted.record(counted.hit(who, now - 200_000 + who))
        await counted.record(counted.hit(1, now - 190_000, kind="bye"))
        await counted.view(3, now - 70_000)  # trims whom the short window no longer needs
        settings = msgspec.structs.replace(counted.site.settings, online_window=300)
        counted.site = Site(StoredSite(settings, counted.site.calendar), 1)
        online = (await counted.view(4, now)).counts.online

    assert online == 3


async def test_a_million_ids_are_trimmed_step_by_step(store_server: Server) -> None:
    """The first hit after a pause does not remove all of them at once, and the next ones go on; ids
    of those who left go too."""
    async with counting(store_server.url) as counted:
        seen, old = f"{counted.tag}:portal:1:seen", NOON - 3 * HOUR
        await counted.view(1, old)
        for start in range(0, 30_000, 5000):
            ids = {str(n).zfill(8): old if n % 2 else -old for n in range(start, start + 5000)}
            await counted.client.zadd(seen, ids)
        sizes = []
        for n in range(20):
            await counted.view(2 + n, NOON + n)
            sizes.append(await counted.client.zcard(seen))
        life = await counted.client.pttl(seen)

    steps = [before - after for before, after in pairwise(sizes)]
    assert max(steps) < 2000
    assert sizes[0] > 20_000
    assert sizes[-1] == 20
    assert life > DAY


@pytest.mark.parametrize("kind", ["view", "bye"])
async def test_late_hits_give_ids_that_are_gone_no_eternal_life(
    store_server: Server, kind: str
) -> None:
    """A set that has expired meanwhile expires again."""
    async with counting(store_server.url) as counted:
        now, client = Clock().now(), counted.client
        await counted.record(counted.hit(1, now - 90_000))
        await counted.record(counted.hit(1, now - 60_000, kind="bye"))
        keys = [f"{counted.tag}:portal:1:{name}" for name in ("seen", "left")]
        await client.delete(*keys)
        await counted.record(counted.hit(1, now - 80_000))
        await counted.record(counted.hit(1, now - 50_000, kind=kind))
        lives = [await client.pttl(key) for key in keys if await client.exists(key)]

    assert len(lives) == (2 if kind == "bye" else 1)
    assert all(life > 0 for life in lives)


async def test_a_visit_goes_on_behind_an_outage(store_server: Server) -> None:
    """Who was there keeps their place for a day, however long the store had nobody."""
    async with counting(store_server.url) as counted:
        await counted.record(counted.hit(1, Clock().now()))
        life = await counted.client.pttl(f"{counted.tag}:portal:1:seen")

    assert life > 86_400_000

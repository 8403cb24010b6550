"""Midnight, week and year turns through the store: what is frozen stays, late hits included."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kit.counting import Counted, at, counting
from tests.kit.stores.server import Server, run_server, server_binaries
from tests.kit.tools import at_another_time
from visit_counter.model.calendar import Calendar
from visit_counter.model.hit import Drop, Hit
from visit_counter.model.reasons import Reason

DAY = 86_400_000


@pytest.fixture(scope="module")
def late_valkey() -> Iterator[Server]:
    """A Valkey in June 2027, since hits later than the store's time are refused. Debian's Redis
    cannot: its jemalloc and faketime do not go together."""
    late = at_another_time("@2027-06-01 12:00:00")
    with run_server(server_binaries()["valkey"], under=late) as server:
        yield server


@pytest.mark.parametrize(
    ("zone", "midnight"),
    [
        pytest.param("Asia/Ho_Chi_Minh", "2026-03-11 00:00", id="Ho Chi Minh City"),
        pytest.param("Europe/Berlin", "2026-03-29 00:00", id="the day summer time begins"),
        pytest.param("Europe/Berlin", "2026-03-30 00:00", id="after a day of 23 hours"),
        pytest.param("Europe/Berlin", "2025-10-27 00:00", id="after a day of 25 hours"),
        pytest.param("Australia/Lord_Howe", "2026-04-06 00:00", id="half an hour's summer time"),
        pytest.param("Pacific/Apia", "2011-12-31 00:00", id="after a day that never was"),
    ],
)
async def test_the_day_turns_at_the_sites_midnight(
    store_server: Server, zone: str, midnight: str
) -> None:
    """A millisecond before midnight is yesterday, midnight is today."""
    turn = at(midnight, zone)
    async with counting(store_server.url, timezone=zone) as counted:
        await counted.view(1, turn - 1)
        await counted.view(2, turn)
        visits = await counted.visits(turn)

    assert (visits["today"], visits["yesterday"], visits["total"]) == (1, 1, 2)


async def test_2020_w53_ends_on_2021_01_03(store_server: Server) -> None:
    """Week 53 is one week on both sides of New Year and ends on Sunday night."""
    await week_53(store_server, "2021-01-03 23:59", "2021-01-04 00:00")


async def test_2026_w53_ends_on_2027_01_03(late_valkey: Server) -> None:
    """The next week 53 too."""
    await week_53(late_valkey, "2027-01-03 23:59", "2027-01-04 00:00")


async def week_53(server: Server, last: str, first: str) -> None:
    new_year = at(last[:4] + "-01-01 00:00")
    async with counting(server.url) as counted:
        await counted.view(1, new_year - 1)
        await counted.view(2, at(last))
        in_week = await counted.visits(at(last))
        await counted.view(3, at(first))
        after = await counted.visits(at(first))

    assert (in_week["week"], in_week["year"], in_week["month"]) == (2, 1, 1)
    assert (after["week"], after["last_week"], after["year"]) == (1, 2, 2)


async def test_weeks_may_begin_on_sunday(store_server: Server) -> None:
    """With week_start sunday, Saturday night ends the week."""
    sunday = at("2026-03-08 00:00")
    async with counting(store_server.url, week_start="sunday") as counted:
        await counted.view(1, sunday - 1)
        await counted.view(2, sunday)
        visits = await counted.visits(sunday)

    assert (visits["week"], visits["last_week"]) == (1, 1)


async def turn(counted: Counted, first: int) -> None:
    """Three visitors on one day, one of them and a new one on the next."""
    await counted.record(*(counted.hit(n, first) for n in (1, 2, 3)))
    await counted.record(*(counted.hit(n, first + DAY) for n in (3, 4)))


async def test_a_frozen_day_keeps_its_visitors(store_server: Server) -> None:
    """The first hit of a new day freezes the old one, whose sketch then expires."""
    tuesday = at("2026-03-10 12:00")
    async with counting(store_server.url) as counted:
        await turn(counted, tuesday)
        client, tag = counted.client, counted.tag
        sketch = f"{tag}:portal:1:visitors:day:2026-03-10"
        life = await client.pttl(sketch)
        await client.delete(sketch)
        visitors = await counted.visitors(tuesday + DAY)

    assert 7 * DAY < life <= 8 * DAY
    assert (visitors["yesterday"], visitors["today"], visitors["week"]) == (3, 2, 4)


async def test_a_late_hit_counts_in_its_own_day(store_server: Server) -> None:
    """While the sketch lives, a late visitor is added to the day, the week and the total."""
    tuesday = at("2026-03-10 12:00")
    async with counting(store_server.url) as counted:
        await turn(counted, tuesday)
        await counted.record(counted.hit(5, tuesday + 1), counted.hit(1, tuesday + 2))
        visitors = await counted.visitors(tuesday + DAY)
        counts = await counted.counts(tuesday + DAY)

    assert (visitors["yesterday"], visitors["today"], visitors["week"]) == (4, 2, 5)
    assert visitors["total"] == 5
    assert (counts.yesterday.pageviews, counts.total.pageviews) == (5, 7)


async def test_a_late_hit_finds_its_visit_within_the_hour(store_server: Server) -> None:
    """Ids outlive their visit by an hour, so a late hit of that visit begins no second one."""
    midnight = at("2026-03-11 00:00")
    async with counting(store_server.url) as counted:
        await counted.view(1, midnight - 60_000)
        await counted.view(2, midnight + 80 * 60_000)
        await counted.view(1, midnight - 30_000)
        visits = await counted.visits(midnight)

    assert (visits["yesterday"], visits["total"]) == (1, 2)


async def test_a_late_hit_never_lowers_a_frozen_number(store_server: Server) -> None:
    """Once the sketch is gone, late pageviews and visits count and the visitors stay."""
    tuesday = at("2026-03-10 12:00")
    async with counting(store_server.url) as counted:
        await turn(counted, tuesday)
        client, tag = counted.client, counted.tag
        await client.delete(f"{tag}:portal:1:visitors:day:2026-03-10")
        await counted.view(5, tuesday + 1)
        yesterday = (await counted.counts(tuesday + DAY)).yesterday

    assert (yesterday.pageviews, yesterday.visits, yesterday.visitors) == (4, 4, 3)


async def test_a_late_day_that_had_nobody_gets_its_own_visitors(store_server: Server) -> None:
    """A late label with neither sketch nor number is counted, frozen after each write."""
    tuesday = at("2026-03-10 12:00")
    async with counting(store_server.url) as counted:
        await counted.view(1, tuesday + DAY)
        await counted.view(2, tuesday)
        await counted.view(3, tuesday)
        visitors = await counted.visitors(tuesday + DAY)
        client, tag = counted.client, counted.tag
        life = await client.pttl(f"{tag}:portal:1:visitors:day:2026-03-10")

    assert (visitors["yesterday"], visitors["today"], visitors["week"]) == (2, 1, 3)
    assert life > 0


async def test_a_fast_day_and_back_loses_nothing(store_server: Server) -> None:
    """Where clocks go back over midnight (St John's), both labels keep on counting."""
    zone = "America/St_Johns"
    first = at("2010-11-07 00:00", zone)
    async with counting(store_server.url, timezone=zone) as counted:
        for n, minutes in enumerate((-1, 0, 30, 59, 62), start=1):
            await counted.view(n, first + minutes * 60_000)
        visits = await counted.visits(first + 62 * 60_000)
        visitors = await counted.visitors(first + 62 * 60_000)

    assert visits["today"] + visits["yesterday"] == 5
    assert visitors["today"] + visitors["yesterday"] == 5
    assert visitors["month"] == 5


async def test_a_visitor_of_a_day_that_comes_back_is_one_of_the_next_too(
    store_server: Server,
) -> None:
    """Seen in the hour that belongs to the day before, though the next one had begun already."""
    zone = "America/St_Johns"
    first = at("2010-11-07 00:00", zone)
    async with counting(store_server.url, timezone=zone) as counted:
        await counted.view(1, first)
        await counted.view(2, first + 30 * 60_000)
        back = await counted.visitors(first + 30 * 60_000)
        await counted.view(2, first + 61 * 60_000)
        again = await counted.visitors(first + 61 * 60_000)

    assert (back["today"], back["week"], back["total"]) == (1, 2, 2)
    assert (again["today"], again["yesterday"], again["week"]) == (2, 1, 2)


async def test_a_change_of_timezone_waits_for_the_new_zones_midnight(
    store_server: Server,
) -> None:
    """The running day ends at the new zone's first midnight with a later date; nothing moves."""
    noon = at("2026-03-10 12:00")
    midnight = at("2026-03-11 00:00", "Asia/Ho_Chi_Minh")
    async with counting(store_server.url) as counted:
        await counted.view(1, noon)
        counted.with_calendar(counted.site.calendar.with_timezone("Asia/Ho_Chi_Minh", noon))
        await counted.view(2, midnight - 1)
        before = await counted.visits(midnight - 1)
        await counted.view(3, midnight)
        after = await counted.visits(midnight)

    assert (before["today"], before["yesterday"]) == (2, 0)
    assert (after["today"], after["yesterday"], after["total"]) == (1, 2, 3)


async def test_a_change_of_week_start_waits_for_the_next_such_day(store_server: Server) -> None:
    """The running week keeps its days, a short one may follow, then weeks begin on Sunday."""
    tuesday = at("2026-03-10 12:00")
    async with counting(store_server.url) as counted:
        await counted.view(1, tuesday)
        counted.with_calendar(counted.site.calendar.with_week_start(6, tuesday))
        for n in range(1, 13):
            await counted.view(1, tuesday + n * DAY)
        sunday = at("2026-03-22 12:00")
        visits = await counted.visits(sunday)

    # Tue 10 to Sun 15 the old week, Mon 16 to Sat 21 a short one, Sun 22 the first new one.
    assert (visits["week"], visits["last_week"], visits["total"]) == (1, 6, 13)


async def test_a_day_that_gets_another_week_adds_its_visitors_to_it(store_server: Server) -> None:
    """Whoever was counted this day under the old week is new in the other week's sketch."""
    thursday = at("2026-03-12 12:00")
    async with counting(store_server.url) as counted:
        await counted.view(1, thursday)
        await counted.view(2, thursday)
        counted.with_calendar(Calendar.of("UTC", 3))
        await counted.view(1, thursday)
        visitors = await counted.visitors(thursday)

    assert (visitors["today"], visitors["week"], visitors["total"]) == (2, 1, 2)


async def test_what_another_worker_brings_after_midnight_is_in_yesterday(
    store_server: Server,
) -> None:
    """The first to ask for yesterday while it still runs does not decide what it was."""
    day, next_day = at("2026-03-10 23:59"), at("2026-03-11 00:00")
    async with counting(store_server.url) as counted:
        for who in (1, 2, 3):
            await counted.record(counted.hit(who, day), now=next_day)
        await counted.view(4, next_day)
        counts = await counted.counts(next_day)

    assert (counts.yesterday.pageviews, counts.today.pageviews) == (3, 1)


@pytest.mark.parametrize("first", ["drop", "bye", "held", "here held"])
async def test_hits_of_the_last_second_are_yesterdays(store_server: Server, first: str) -> None:
    """Also where something of the new day, month and year that is no counted hit came before
    them."""
    midnight = at("2026-01-01 00:00")
    async with counting(store_server.url) as counted:
        await counted.view(1, midnight - 3 * DAY)
        entries: dict[str, Hit | Drop] = {
            "drop": Drop(counted.site, Reason.BOT, midnight),
            "bye": counted.hit(1, midnight, kind="bye"),
            "held": counted.hit(2, midnight, known_only=True),
            "here held": counted.hit(2, midnight, known_only=True, kind="here"),
        }
        await counted.record(entries[first])
        for who in (3, 4):
            await counted.record(counted.hit(who, midnight - 1), now=midnight + 1)
        await counted.view(5, midnight + 1)
        visits = await counted.visits(midnight + 2)
        told = (await counted.view(5, midnight + 2)).counts

    assert (visits["yesterday"], visits["last_month"], visits["year"]) == (2, 3, 1)
    assert (told.yesterday.visits, told.last_month.visits) == (2, 3)

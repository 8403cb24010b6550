"""The calendar of a site: labels of periods, awkward timezones, changes of timezone and week."""

from __future__ import annotations

from bisect import bisect_left
from datetime import UTC, date, datetime, timedelta
from itertools import groupby, pairwise
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visit_counter.model.calendar import WEEKDAYS, Calendar, Periods, zone

MONDAY, TUESDAY, WEDNESDAY, THURSDAY, FRIDAY, SATURDAY, SUNDAY = range(7)
SAIGON = "Asia/Ho_Chi_Minh"
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000

ZONES = (
    "UTC",
    SAIGON,
    "Europe/Berlin",
    "America/New_York",
    "America/Havana",
    "America/Sao_Paulo",
    "America/Asuncion",
    "America/Goose_Bay",
    "America/St_Johns",
    "Africa/Cairo",
    "Asia/Gaza",
    "Asia/Kathmandu",
    "Asia/Beirut",
    "Asia/Pyongyang",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Pacific/Kiritimati",
    "Pacific/Kwajalein",
    "Pacific/Niue",
)
zones = st.sampled_from(ZONES)
weekdays = st.integers(MONDAY, SUNDAY)


def at(text: str) -> int:
    """The instant of an ISO time with its offset."""
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def instants(first: str = "1973-01-01", last: str = "2100-01-01") -> st.SearchStrategy[int]:
    return st.integers(at(f"{first}T00:00Z"), at(f"{last}T00:00Z"))


def local_day(instant: int, name: str) -> date:
    """The date on a wall calendar, without anything of the service."""
    utc = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=instant)
    return utc.astimezone(ZoneInfo(name)).date()


def transitions(name: str) -> list[int]:
    """The instants since 1973 at which the zone's clocks changed."""

    def offset(instant: int) -> timedelta | None:
        return datetime.fromtimestamp(instant / 1000, ZoneInfo(name)).utcoffset()

    step, found = 20 * DAY, []
    for first in range(at("1973-01-01T00:00Z"), at("2038-01-01T00:00Z"), step):
        before, minutes = offset(first), range(first, first + step, MINUTE)
        if offset(first + step) != before:
            found.append(
                first + MINUTE * bisect_left(minutes, True, key=lambda m: offset(m) != before)
            )
    return found


@st.composite
def clock_changes(draw: st.DrawFn) -> tuple[str, int]:
    """A zone, and an instant within two days of a change of its clocks."""
    name = draw(st.sampled_from([zone for zone in ZONES if CHANGES[zone]]))
    change, minutes = draw(st.sampled_from(CHANGES[name])), st.integers(-2 * 1440, 2 * 1440)
    return name, change + draw(st.one_of(minutes, st.integers(-70, 70))) * MINUTE


CHANGES = {name: transitions(name) for name in ZONES}


def days(calendar: Calendar, first: int, end: int, step: int) -> list[str]:
    """The labels of the days from one instant to another, each once for each time it came."""
    labels = [calendar.periods(instant).today for instant in range(first, end, step)]
    return [label for label, _ in groupby(labels)]


def test_periods_of_an_ordinary_day() -> None:
    """Every period is named by its first day, as far as its length needs."""
    calendar = Calendar.of(SAIGON)

    actual = calendar.periods(at("2026-11-22T10:00+07:00"))

    expected = Periods(
        "2026-11-22", "2026-11-21", "2026-11-16", "2026-11-09", "2026-11", "2026-10", "2026"
    )
    assert expected == actual


@pytest.mark.parametrize(
    ("last_ms", "before", "after"),
    [
        pytest.param(
            "2026-11-18T23:59:59.999",
            ("2026-11-18", "2026-11-17", "2026-11-16", "2026-11-09", "2026-11", "2026-10", "2026"),
            ("2026-11-19", "2026-11-18", "2026-11-16", "2026-11-09", "2026-11", "2026-10", "2026"),
            id="midnight",
        ),
        pytest.param(
            "2026-11-22T23:59:59.999",
            ("2026-11-22", "2026-11-21", "2026-11-16", "2026-11-09", "2026-11", "2026-10", "2026"),
            ("2026-11-23", "2026-11-22", "2026-11-23", "2026-11-16", "2026-11", "2026-10", "2026"),
            id="week",
        ),
        pytest.param(
            "2028-02-29T23:59:59.999",
            ("2028-02-29", "2028-02-28", "2028-02-28", "2028-02-21", "2028-02", "2028-01", "2028"),
            ("2028-03-01", "2028-02-29", "2028-02-28", "2028-02-21", "2028-03", "2028-02", "2028"),
            id="leap-day",
        ),
        pytest.param(
            "2026-12-31T23:59:59.999",
            ("2026-12-31", "2026-12-30", "2026-12-28", "2026-12-21", "2026-12", "2026-11", "2026"),
            ("2027-01-01", "2026-12-31", "2026-12-28", "2026-12-21", "2027-01", "2026-12", "2027"),
            id="year",
        ),
        pytest.param(
            "2021-01-03T23:59:59.999",
            ("2021-01-03", "2021-01-02", "2020-12-28", "2020-12-21", "2021-01", "2020-12", "2021"),
            ("2021-01-04", "2021-01-03", "2021-01-04", "2020-12-28", "2021-01", "2020-12", "2021"),
            id="2020-W53",
        ),
        pytest.param(
            "2027-01-03T23:59:59.999",
            ("2027-01-03", "2027-01-02", "2026-12-28", "2026-12-21", "2027-01", "2026-12", "2027"),
            ("2027-01-04", "2027-01-03", "2027-01-04", "2026-12-28", "2027-01", "2026-12", "2027"),
            id="2026-W53",
        ),
    ],
)
def test_turn(last_ms: str, before: tuple[str, ...], after: tuple[str, ...]) -> None:
    """A period ends with the last millisecond before its local midnight."""
    calendar = Calendar.of(SAIGON)
    last = at(last_ms + "+07:00")

    assert (before, after) == (calendar.periods(last), calendar.periods(last + 1))


@pytest.mark.parametrize(
    ("week_start", "week", "last_week"),
    [
        (MONDAY, "2026-11-16", "2026-11-09"),
        (TUESDAY, "2026-11-17", "2026-11-10"),
        (WEDNESDAY, "2026-11-18", "2026-11-11"),
        (THURSDAY, "2026-11-19", "2026-11-12"),
        (FRIDAY, "2026-11-20", "2026-11-13"),
        (SATURDAY, "2026-11-21", "2026-11-14"),
        (SUNDAY, "2026-11-22", "2026-11-15"),
    ],
    ids=WEEKDAYS,
)
def test_week_start(week_start: int, week: str, last_week: str) -> None:
    """On a Sunday each week start finds its own week around the day."""
    periods = Calendar.of(SAIGON, week_start).periods(at("2026-11-22T12:00+07:00"))

    assert (week, last_week) == (periods.week, periods.last_week)


DAYS = {
    "berlin-spring": ("Europe/Berlin", "2026-03-29T00:00+01:00", "2026-03-30T00:00+02:00", 23),
    "berlin-autumn": ("Europe/Berlin", "2026-10-25T00:00+02:00", "2026-10-26T00:00+01:00", 25),
    "ny-spring": ("America/New_York", "2026-03-08T00:00-05:00", "2026-03-09T00:00-04:00", 23),
    "ny-autumn": ("America/New_York", "2026-11-01T00:00-04:00", "2026-11-02T00:00-05:00", 25),
    "lord-howe-spring": (
        "Australia/Lord_Howe",
        "2023-10-01T00:00+10:30",
        "2023-10-02T00:00+11:00",
        23.5,
    ),
    "lord-howe-autumn": (
        "Australia/Lord_Howe",
        "2023-04-02T00:00+11:00",
        "2023-04-03T00:00+10:30",
        24.5,
    ),
    "no-midnight": ("America/Sao_Paulo", "2018-11-04T01:00-02:00", "2018-11-05T00:00-02:00", 23),
    "23h-twice": ("America/Sao_Paulo", "2018-02-17T00:00-02:00", "2018-02-18T00:00-03:00", 25),
    "00h-twice": ("America/Havana", "2023-11-05T00:00-04:00", "2023-11-06T00:00-05:00", 25),
    "00h-missing": ("America/Havana", "2023-03-12T01:00-04:00", "2023-03-13T00:00-04:00", 23),
    "saigon": (SAIGON, "2026-11-22T00:00+07:00", "2026-11-23T00:00+07:00", 24),
}


@pytest.mark.parametrize(("name", "midnight", "next_midnight", "hours"), DAYS.values(), ids=DAYS)
def test_length_of_a_day(name: str, midnight: str, next_midnight: str, hours: float) -> None:
    """A day lasts from its first instant to that of the next, however long the clocks make it."""
    calendar = Calendar.of(name)
    first, end = at(midnight), at(next_midnight)
    today = midnight[:10]

    assert hours * HOUR == end - first
    assert today == calendar.periods(first).today == calendar.periods(end - 1).today
    assert today > calendar.periods(first - 1).today == calendar.periods(first).yesterday
    assert today == calendar.periods(end).yesterday


def test_a_day_that_a_zone_skipped_is_nobodys_yesterday() -> None:
    """Samoa went from 29 to 31 December 2011, which was a Saturday."""
    calendar = Calendar.of("Pacific/Apia", SATURDAY)
    turn = at("2011-12-31T00:00+14:00")

    before, after = calendar.periods(turn - 1), calendar.periods(turn)

    assert (before.today, before.yesterday) == ("2011-12-29", "2011-12-28")
    assert (after.today, after.yesterday) == ("2011-12-31", "2011-12-29")
    assert (after.week, after.last_week) == ("2011-12-31", "2011-12-24")
    assert calendar.periods(turn + DAY).yesterday == "2011-12-31"


def test_a_week_that_begins_on_a_skipped_day_keeps_its_name() -> None:
    """A week is named by its first day even in a zone that had no such day."""
    periods = Calendar.of("Pacific/Apia", FRIDAY).periods(at("2011-12-31T12:00+14:00"))

    assert (periods.week, periods.last_week) == ("2011-12-30", "2011-12-23")


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        pytest.param(
            "2006-04-01T23:59-03:30", ["2006-04-01", "2006-04-02", "2006-04-02"], id="spring"
        ),
        pytest.param(
            "2006-10-28T23:59-02:30", ["2006-10-28", "2006-10-29", "2006-10-28"], id="autumn"
        ),
    ],
)
def test_clocks_that_change_a_minute_after_midnight(first: str, expected: list[str]) -> None:
    """In St John's, until 2011, an autumn day began for one minute and then waited an hour."""
    calendar = Calendar.of("America/St_Johns")
    start = at(first)

    assert expected == [calendar.periods(start + n * MINUTE).today for n in range(3)]
    assert expected[1] == calendar.periods(start + 2 * HOUR).today
    assert expected[0] == calendar.periods(start + 2 * HOUR).yesterday


TIMEZONE_CHANGES = {
    "east-same-date": ("UTC", SAIGON, "2026-11-22T10:00Z", "2026-11-23T00:00+07:00"),
    "east-ahead-already": ("UTC", SAIGON, "2026-11-22T20:00Z", "2026-11-24T00:00+07:00"),
    "west-same-date": (SAIGON, "UTC", "2026-11-22T10:00+07:00", "2026-11-23T00:00Z"),
    "west-still-behind": (SAIGON, "UTC", "2026-11-22T03:00+07:00", "2026-11-23T00:00Z"),
    "at-its-very-midnight": ("UTC", SAIGON, "2026-11-22T17:00Z", "2026-11-24T00:00+07:00"),
    "no-midnight": ("UTC", "America/Sao_Paulo", "2018-11-03T10:00Z", "2018-11-04T01:00-02:00"),
    "00h-twice": ("UTC", "America/Havana", "2023-11-04T10:00Z", "2023-11-05T00:00-04:00"),
    "00h00-again": (
        "America/New_York",
        "America/St_Johns",
        "2010-11-07T02:45Z",
        "2010-11-07T00:00-03:30",
    ),
    "00h00-twice": ("UTC", "America/St_Johns", "2006-10-28T10:00Z", "2006-10-29T00:00-02:30"),
    "gap-before": ("UTC", "Asia/Pyongyang", "2018-05-04T10:00Z", "2018-05-05T00:00+09:00"),
    "gap-around": ("UTC", "America/Toronto", "1919-03-30T10:00Z", "1919-03-31T00:30-04:00"),
    "gap-of-a-day": (
        "Pacific/Pago_Pago",
        "Pacific/Apia",
        "2011-12-29T10:00-11:00",
        "2011-12-31T00:00+14:00",
    ),
}


@pytest.mark.parametrize(
    ("old", "new", "change", "takes_over"), TIMEZONE_CHANGES.values(), ids=TIMEZONE_CHANGES
)
def test_change_of_timezone(old: str, new: str, change: str, takes_over: str) -> None:
    """The new zone takes over at its first midnight of a date later than the old zone's today."""
    calendar = Calendar.of(old).with_timezone(new, at(change))
    turn = at(takes_over)

    assert ((0, old), (turn, new)) == calendar.zones
    assert (old, new) == (calendar.timezone_at(turn - 1), calendar.timezone_at(turn))
    assert calendar.periods(turn - 1).today in calendar.periods(turn)[:2]


def test_days_pass_in_order_over_a_change_eastwards() -> None:
    """From UTC to Saigon the last day before the change loses the seven hours between them."""
    change = at("2026-11-22T20:00Z")
    calendar = Calendar.of("UTC").with_timezone(SAIGON, change)

    actual = days(calendar, change, change + 36 * HOUR, HOUR)

    assert actual == ["2026-11-22", "2026-11-23", "2026-11-24"]
    assert calendar.periods(at("2026-11-23T17:00Z")).today == "2026-11-24"


def test_days_pass_in_order_over_a_change_westwards() -> None:
    """From Saigon to UTC the next date begins by the old clock and goes on by the new one."""
    change = at("2026-11-22T20:00+07:00")
    calendar = Calendar.of(SAIGON).with_timezone("UTC", change)

    actual = days(calendar, change, change + 36 * HOUR, HOUR)

    assert actual == ["2026-11-22", "2026-11-23", "2026-11-24"]
    assert calendar.periods(at("2026-11-23T23:59:59.999Z")).today == "2026-11-23"


def test_a_date_that_a_change_of_timezone_left_out_is_nobodys_yesterday() -> None:
    """From Niue to Kiritimati, 25 hours ahead, one date does not come."""
    calendar = Calendar.of("Pacific/Niue").with_timezone(
        "Pacific/Kiritimati", at("2026-11-21T23:30-11:00")
    )
    turn = at("2026-11-24T00:00+14:00")

    assert calendar.periods(turn - 1).today == "2026-11-22"
    assert calendar.periods(turn)[:2] == ("2026-11-24", "2026-11-22")


def test_previous_periods_of_before_a_change_of_timezone_keep_their_labels() -> None:
    """What was counted before the change is found afterwards under the label it was given."""
    change = at("2026-11-22T20:00Z")
    before = Calendar.of("UTC")
    after = before.with_timezone(SAIGON, change)

    assert before.periods(change) == after.periods(change)
    assert before.periods(change - 40 * DAY) == after.periods(change - 40 * DAY)


@pytest.mark.parametrize(
    ("change", "begins", "week_before", "next_week"),
    [
        pytest.param("2026-11-16", "2026-11-29", "2026-11-23", "2026-12-06", id="first-day"),
        pytest.param("2026-11-18", "2026-11-29", "2026-11-23", "2026-12-06", id="midweek"),
        pytest.param("2026-11-22", "2026-11-29", "2026-11-23", "2026-12-06", id="last-day"),
        pytest.param("2026-11-23", "2026-12-06", "2026-11-30", "2026-12-13", id="next-week"),
    ],
)
def test_change_of_week_start(change: str, begins: str, week_before: str, next_week: str) -> None:
    """The running week ends as it began, and one short week leads to the first new one."""
    calendar = Calendar.of("UTC", MONDAY).with_week_start(SUNDAY, at(f"{change}T12:00Z"))
    turn = at(f"{begins}T00:00Z")

    assert (("1970-01-01", MONDAY), (begins, SUNDAY)) == calendar.week_starts
    assert (calendar.week_start_at(turn - 1), calendar.week_start_at(turn)) == (MONDAY, SUNDAY)
    assert week_before == calendar.periods(turn - 1).week
    assert (begins, week_before) == calendar.periods(turn)[2:4]
    assert (next_week, begins) == calendar.periods(turn + 7 * DAY)[2:4]


def test_the_short_week_before_a_new_week_start_may_be_one_day() -> None:
    """From Mondays to Tuesdays one Monday stands between, and is a week of its own."""
    calendar = Calendar.of("UTC", MONDAY).with_week_start(TUESDAY, at("2026-11-18T12:00Z"))

    weeks = [calendar.periods(at(f"2026-11-{day}T12:00Z")).week for day in (22, 23, 24, 30)]

    assert weeks == ["2026-11-16", "2026-11-23", "2026-11-24", "2026-11-24"]


def test_the_date_of_a_change_of_week_start_is_the_sites_own() -> None:
    """Sunday evening in UTC is Monday in Saigon: another week is running there."""
    change = at("2026-11-22T20:00Z")

    assert Calendar.of(SAIGON).with_week_start(SUNDAY, change).week_starts[-1][0] == "2026-12-06"
    assert Calendar.of("UTC").with_week_start(SUNDAY, change).week_starts[-1][0] == "2026-11-29"


def test_a_second_change_replaces_one_that_has_not_taken_effect() -> None:
    """Only the last wish of a day counts."""
    now = at("2026-11-18T12:00Z")
    first = Calendar.of("UTC").with_timezone("Europe/Berlin", now).with_week_start(SUNDAY, now)

    second = first.with_timezone(SAIGON, now + HOUR).with_week_start(SATURDAY, now + HOUR)

    assert [name for _, name in second.zones] == ["UTC", SAIGON]
    assert [weekday for _, weekday in second.week_starts] == [MONDAY, SATURDAY]


def test_a_change_after_the_first_has_taken_effect_adds_to_the_history() -> None:
    """Three zones one after the other are all remembered."""
    now = at("2026-11-18T12:00Z")
    calendar = Calendar.of("UTC").with_timezone("Europe/Berlin", now)

    calendar = calendar.with_timezone("UTC", now + 3 * DAY)

    assert [name for _, name in calendar.zones] == ["UTC", "Europe/Berlin", "UTC"]


def test_setting_what_is_in_force_drops_a_pending_change() -> None:
    """To take a change back before it has happened leaves no trace."""
    now = at("2026-11-18T12:00Z")
    calendar = Calendar.of("UTC", MONDAY)
    pending = calendar.with_timezone(SAIGON, now).with_week_start(SUNDAY, now)

    assert calendar == pending.with_timezone("UTC", now + 1).with_week_start(MONDAY, now + 1)


def test_a_calendar_survives_json() -> None:
    """The settings keep a calendar as plain data, and it finds its cached labels again."""
    calendar = Calendar.of(SAIGON).with_timezone("UTC", at("2026-11-22T10:00Z"))

    actual = msgspec.json.decode(msgspec.json.encode(calendar), type=Calendar)

    assert (calendar, hash(calendar)) == (actual, hash(actual))


@pytest.mark.parametrize(
    "name",
    [
        *("", "Mars/Olympus", "Hà Nội", "Europe", "Europe/", "zone.tab", "UTC\n", "UTC\0", "UTC/x"),
        *("/etc/localtime", "../etc/localtime", "Europe/../UTC", "right/UTC", "posix/UTC"),
        *("localtime", "posixrules", "__init__", "x" * 5000),
    ],
)
def test_unknown_timezone(name: str) -> None:
    """A name that is no IANA zone is refused in words, by every way in."""
    with pytest.raises(ValueError, match=r"^unknown timezone .*: use an IANA name such as"):
        Calendar.of(name)
    with pytest.raises(ValueError, match="unknown timezone"):
        Calendar.of("UTC").with_timezone(name, 0)


@pytest.mark.parametrize("name", [*ZONES, "Etc/GMT+5", "America/Argentina/Buenos_Aires", "EST5EDT"])
def test_known_timezone(name: str) -> None:
    """Every form of an IANA name is known."""
    assert name == zone(name).key


@pytest.mark.parametrize("weekday", [-1, 7])
def test_unknown_weekday(weekday: int) -> None:
    """A weekday outside 0 to 6 is refused in words."""
    message = rf"^week_start must be from 0 \(monday\) to 6 \(sunday\), not {weekday}$"

    with pytest.raises(ValueError, match=message):
        Calendar.of("UTC", weekday)
    with pytest.raises(ValueError, match=message):
        Calendar.of("UTC").with_week_start(weekday, 0)


@given(zones, weekdays, instants())
def test_labels_agree_with_a_wall_calendar(name: str, week_start: int, instant: int) -> None:
    """Day, week, month and year are those that a plain computation of dates finds."""
    day = local_day(instant, name)
    periods = Calendar.of(name, week_start).periods(instant)
    week, last_week = date.fromisoformat(periods.week), date.fromisoformat(periods.last_week)

    assert (f"{day}", f"{day:%Y-%m}", f"{day:%Y}") == (periods.today, periods.month, periods.year)
    assert week_start == week.weekday() == last_week.weekday()
    assert 0 <= (day - week).days < 7
    assert (week - last_week).days == 7
    assert periods.last_month == f"{date(day.year, day.month, 1) - timedelta(days=1):%Y-%m}"


@given(clock_changes())
def test_labels_agree_with_a_wall_calendar_where_clocks_change(changed: tuple[str, int]) -> None:
    """Also where a change comes at midnight or a minute after it: today is the wall's date, and
    yesterday the last one before it that there was."""
    name, instant = changed
    periods, today = Calendar.of(name).periods(instant), local_day(instant, name)

    before = instant
    while local_day(before, name) >= today:
        before -= 10 * MINUTE
    assert f"{today}" == periods.today
    assert f"{local_day(before, name)}" == periods.yesterday


@given(clock_changes(), zones)
@settings(max_examples=60)
def test_a_new_zone_takes_over_at_the_first_midnight_where_clocks_change(
    changed: tuple[str, int], old: str
) -> None:
    """A date that begins twice, as in St John's, has two midnights."""
    new, instant = changed
    actual = Calendar.of(old).with_timezone(new, instant).zones[1:]

    assert (() if old == new else ((first_midnight(old, new, instant), new),)) == actual


@given(zones, instants(), st.integers(1, 400))
def test_last_days_end_today(name: str, instant: int, number: int) -> None:
    """They are so many dates, each the day after the one before."""
    calendar = Calendar.of(name)
    labels = calendar.last_days(instant, number)

    days = [date.fromisoformat(label) for label in labels]
    assert [days[-1] - timedelta(days=n) for n in reversed(range(number))] == days
    assert labels[-1] == calendar.periods(instant).today


@given(zones, zones, instants())
@settings(max_examples=60)
def test_a_new_zone_takes_over_at_the_first_midnight(old: str, new: str, instant: int) -> None:
    """Whatever the zones, and at any instant."""
    actual = Calendar.of(old).with_timezone(new, instant).zones[1:]

    assert (() if old == new else ((first_midnight(old, new, instant), new),)) == actual


def first_midnight(old: str, new: str, instant: int) -> int:
    """Where a walk on by minutes finds that a date later than the old zone's today begins."""
    today, minute = local_day(instant, old), instant // MINUTE * MINUTE + MINUTE
    while not local_day(minute - MINUTE, new) < local_day(minute, new) > today:
        minute += MINUTE
    return minute


@given(st.lists(st.tuples(zones, weekdays, st.integers(0, 5 * DAY)), max_size=5), instants())
@settings(max_examples=60)
def test_labels_follow_each_other_through_any_changes(
    changes: list[tuple[str, int, int]], instant: int
) -> None:
    """Whatever an admin changes, the previous day and week are those that came before."""
    calendar, first = Calendar.of("UTC"), instant - 20 * DAY
    for name, weekday, later in changes:
        calendar = calendar.with_timezone(name, instant).with_week_start(weekday, instant)
        instant += later

    seen = [calendar.periods(i) for i in range(first, instant + 20 * DAY, 15 * MINUTE)]

    for before, after in pairwise(seen):
        if before.today < after.today:
            assert before.today == after.yesterday
        if before.week < after.week:
            assert before.week == after.last_week
    assert all(p.last_week < p.week <= p.today > p.yesterday for p in seen)


@given(st.lists(st.tuples(zones, st.integers(0, 3 * DAY)), max_size=5), instants())
@settings(max_examples=60)
def test_dates_never_go_back_over_changes_of_timezone(
    changes: list[tuple[str, int]], instant: int
) -> None:
    """Between zones less than a day apart a change never begins a date a second time."""
    first = instant
    calendar = Calendar.of("UTC")
    for name, later in changes:
        if name not in ("Pacific/Niue", "Pacific/Apia"):
            calendar = calendar.with_timezone(name, instant)
        instant += later

    seen = [calendar.periods(i).today for i in range(first, instant + 4 * DAY, 15 * MINUTE)]

    assert sorted(seen) == seen

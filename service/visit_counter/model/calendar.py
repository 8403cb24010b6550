"""Which day, week, month and year an instant is in, by a site's own calendar.

A site's settings hold a `Calendar`: the history of its timezone and of the first day of its week,
because a changed setting must not move the days that were already counted. The recorder asks it for
the period labels of a hit, the reader for those of now. A label is the period's first day, as far
as it goes: `2026-11-16` (a day or a week), `2026-11`, `2026`.

Nothing here reads the clock, and no label that has been given out changes afterwards.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from datetime import date, datetime, timedelta
from functools import cache, lru_cache
from itertools import pairwise
from math import inf
from typing import NamedTuple, Self, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")

_DAY = timedelta(days=1)
_WEEK = timedelta(days=7)
_MINUTE_MS = 60_000

# right/ counts leap seconds, and posix/, posixrules and localtime differ from host to host.
_ZONE_NAME = re.compile(
    r"(?!right/|posix/|posixrules\Z|localtime\Z)[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*"
)

_From = TypeVar("_From", int, str)
_Rule = TypeVar("_Rule", int, str)


class Periods(NamedTuple):
    """The labels of the periods around one instant."""

    today: str
    yesterday: str
    week: str
    last_week: str
    month: str
    last_month: str
    year: str


class Calendar(msgspec.Struct, frozen=True, cache_hash=True):
    """The timezones and week starts of a site, each with the instant or date it holds from.

    The first of each holds from the beginning of time, and a last one may lie in the future.
    """

    zones: tuple[tuple[int, str], ...]
    week_starts: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, timezone: str, week_start: int = 0) -> Self:
        """A calendar without a past. ValueError if the timezone or the weekday is unknown."""
        zone(timezone)
        _check_weekday(week_start)
        return cls(((0, timezone),), (("1970-01-01", week_start),))

    def check(self) -> None:
        """Refuse what the types cannot, where a calendar was stored: raises ValueError as
        `field: what is wrong`."""
        _check_order("zones", self.zones)
        _check_order("week_starts", self.week_starts)
        try:
            for _, name in self.zones:
                zone(name)
        except ValueError as error:
            raise ValueError(f"zones: {error}") from None
        try:
            for begin, weekday in self.week_starts:
                _check_date(begin)
                _check_weekday(weekday)
        except ValueError as error:
            raise ValueError(f"week_starts: {error}") from None

    def periods(self, at: int) -> Periods:
        # All hits of a minute share: since 1973 clocks have only changed on whole minutes.
        return _periods(self, at // _MINUTE_MS)

    def last_days(self, at: int, number: int) -> list[str]:
        """The labels of so many dates, today's last."""
        today = _today(self, at)
        return [(today - n * _DAY).isoformat() for n in reversed(range(number))]

    def timezone_at(self, at: int) -> str:
        return _rules(self, at // _MINUTE_MS)[0]

    def week_start_at(self, at: int) -> int:
        return _rules(self, at // _MINUTE_MS)[1]

    def with_timezone(self, name: str, at: int) -> Self:
        """Change at `at` to a zone that takes over at its first midnight of a later date.

        A change that has not taken effect yet is dropped. ValueError if the zone is unknown.
        """
        tz = zone(name)
        zones = _until(self.zones, at)
        if zones[-1][1] != name:
            zones += ((_takeover(tz, _today(self, at), at), name),)
        return msgspec.structs.replace(self, zones=zones)

    def with_week_start(self, weekday: int, at: int) -> Self:
        """Change at `at` to weeks that begin on `weekday`, once the running week has ended.

        A change that has not taken effect yet is dropped. ValueError if there is no such weekday.
        """
        _check_weekday(weekday)
        today = _today(self, at)
        starts = _until(self.week_starts, today.isoformat())
        if starts[-1][1] != weekday:
            ended = _week(self, today) + _WEEK
            begin = ended + timedelta(days=(weekday - ended.weekday()) % 7)
            starts += ((begin.isoformat(), weekday),)
        return msgspec.structs.replace(self, week_starts=starts)


@cache
def zone(name: str) -> ZoneInfo:
    """The timezone of that IANA name. ValueError, with a sentence for its reader, if unknown."""
    unknown = f"unknown timezone {name!r}: use an IANA name such as 'Asia/Ho_Chi_Minh' or 'UTC'"
    if not _ZONE_NAME.fullmatch(name):
        raise ValueError(unknown)
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # a directory or a table is no zone either
        raise ValueError(unknown) from None


def _check_order(field: str, history: tuple[tuple[_From, _Rule], ...]) -> None:
    if not history:
        raise ValueError(f"{field}: there must be at least one")
    if any(first[0] >= later[0] for first, later in pairwise(history)):
        raise ValueError(f"{field}: each must begin later than the one before")


def _check_date(label: str) -> None:
    if date.fromisoformat(label).isoformat() != label:
        raise ValueError(f"{label!r} is not a date such as 1970-01-01")


def _check_weekday(weekday: int) -> None:
    if weekday not in range(7):
        raise ValueError(f"week_start must be from 0 (monday) to 6 (sunday), not {weekday!r}")


def _until(
    history: tuple[tuple[_From, _Rule], ...], when: _From
) -> tuple[tuple[_From, _Rule], ...]:
    """The history up to `when`: its last entry is the rule in force then."""
    return history[:1] + tuple(entry for entry in history[1:] if entry[0] <= when)


@lru_cache(maxsize=4096)
def _periods(calendar: Calendar, minute: int) -> Periods:
    return _periods_of_day(calendar, _today(calendar, minute * _MINUTE_MS))


@lru_cache(maxsize=4096)
def _rules(calendar: Calendar, minute: int) -> tuple[str, int]:
    """The timezone and the first day of the week in force then."""
    at = minute * _MINUTE_MS
    return _zone_at(calendar, at), _week_start(calendar, _today(calendar, at))


@lru_cache(maxsize=1024)
def _periods_of_day(calendar: Calendar, today: date) -> Periods:
    week = _week(calendar, today)
    return Periods(
        today=today.isoformat(),
        yesterday=_day_before(calendar, today).isoformat(),
        week=week.isoformat(),
        last_week=_week(calendar, _day_before(calendar, week)).isoformat(),
        month=today.isoformat()[:7],
        last_month=(today.replace(day=1) - _DAY).isoformat()[:7],
        year=today.isoformat()[:4],
    )


def _zone_at(calendar: Calendar, at: int) -> str:
    return _until(calendar.zones, at)[-1][1]


def _today(calendar: Calendar, at: int) -> date:
    return datetime.fromtimestamp(at // 1000, zone(_zone_at(calendar, at))).date()


def _week_start(calendar: Calendar, day: date) -> int:
    return _until(calendar.week_starts, day.isoformat())[-1][1]


def _week(calendar: Calendar, day: date) -> date:
    """The first day of the week that `day` is in."""
    return day - timedelta(days=(day.weekday() - _week_start(calendar, day)) % 7)


def _day_before(calendar: Calendar, day: date) -> date:
    """The last date before `day` that there was: Samoa, for one, had no 30 December 2011."""
    day -= _DAY
    while not _existed(calendar, day):
        day -= _DAY
    return day


def _existed(calendar: Calendar, day: date) -> bool:
    changes = [start for start, _ in calendar.zones[1:]]
    zones = (zone(name) for _, name in calendar.zones)
    return any(
        max(start, _midnight(tz, day)) < min(end, _midnight(tz, day + _DAY))
        for start, end, tz in zip([-inf, *changes], [*changes, inf], zones, strict=True)
    )


def _takeover(tz: ZoneInfo, today: date, at: int) -> int:
    """The first midnight of `tz` that is after `at` and begins a date after `today`."""
    day = today + _DAY
    while not (later := [midnight for midnight in _midnights(tz, day) if midnight > at]):
        day += _DAY
    return later[0]


def _midnights(tz: ZoneInfo, day: date) -> list[int]:
    """The instants at which `day`, or a later date where the zone skipped that one, follows an
    earlier date: two where clocks went back over midnight soon after it."""
    first = _midnight(tz, day)
    again = int(datetime(day.year, day.month, day.day, tzinfo=tz, fold=1).timestamp())
    before = datetime.fromtimestamp(again - 1, tz).date()
    return [first, again * 1000] if again * 1000 > first and before < day else [first]


def _midnight(tz: ZoneInfo, day: date) -> int:
    """The first instant whose date is `day`, or a later one where the zone skipped that day."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=tz)
    first, second = (int(midnight.replace(fold=fold).timestamp()) for fold in (0, 1))
    if first <= second:
        return first * 1000
    # In a gap the two readings stand in reverse, around the transition (PEP 495).
    seconds = range(second, first)
    into_gap = bisect_left(seconds, day, key=lambda s: datetime.fromtimestamp(s, tz).date())
    return (second + into_gap) * 1000

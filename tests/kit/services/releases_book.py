"""What releases were told to count: a book of every acknowledged hit and change, and what the API
must show for it.

The book follows the definitions in the README, not the code, so that it holds for every release.
It is exact but for visitors, which are sketched. A test's sites are in zones that are hours away
from their midnight (`quiet_zones`), and nobody is forgotten while it runs: visits stay open longer.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

DAY = timedelta(days=1)
METRICS = ("pageviews", "visits", "visitors")
PERIODS = ("today", "yesterday", "week", "last_week", "month", "last_month", "year", "total")
SEEDED = {"today": "day", "week": "week", "month": "month", "year": "year", "total": "total"}
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
FORGOTTEN = timedelta(days=1)  # no visit lasts so long
ZONES = (
    "Asia/Ho_Chi_Minh", "UTC", "America/New_York", "Pacific/Auckland", "Asia/Kathmandu",
    "America/Los_Angeles", "Europe/Berlin", "Australia/Adelaide", "Pacific/Honolulu",
    "Asia/Tokyo", "America/Sao_Paulo", "Asia/Karachi",
)  # fmt: skip


def quiet_zones(now: datetime) -> list[str]:
    """Zones where it is neither near midnight now nor an hour earlier or later, as after a change
    of summer time."""
    return [name for name in ZONES if 3 <= now.astimezone(ZoneInfo(name)).hour <= 19]


class Hit(NamedTuple):
    """What a page sends."""

    site: str
    visitor: int | None
    """None for one who does not want to be known (Sec-GPC)."""
    path: str = "/"
    kind: str = "view"
    drop: str = ""
    """Why it is not counted."""
    picture: bool = False
    """As dot.gif."""


class Label(NamedTuple):
    """A period by its kind and first day, as far as that goes."""

    kind: str
    name: str


@dataclass
class Day:
    pageviews: int = 0
    visits: int = 0
    visitors: set[int] = field(default_factory=set)


@dataclass
class Generation:
    """What a site counts from one reset to the next."""

    days: defaultdict[str, Day] = field(default_factory=lambda: defaultdict(Day))
    pages: Counter[str] = field(default_factory=Counter)
    drops: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    seeds: Counter[tuple[Label, str]] = field(default_factory=Counter)
    seen: set[int] = field(default_factory=set)
    left: set[int] = field(default_factory=set)
    peak: int = 0
    since: int = 0

    @property
    def online(self) -> int:
        return len(self.seen - self.left)

    def add(self, hit: Hit, day: str) -> None:
        if hit.drop:
            self.drops[day][hit.drop] += 1
        elif hit.kind == "view":
            self.days[day].pageviews += 1
            self.pages[hit.path] += 1
        if hit.visitor is not None and not hit.drop:
            self._attend(hit, hit.visitor, day)
        self.peak = max(self.peak, self.online)

    def _attend(self, hit: Hit, visitor: int, day: str) -> None:
        if hit.kind == "bye":
            self.left.add(visitor)
            return
        self.days[day].visits += visitor not in self.seen
        self.days[day].visitors.add(visitor)
        self.seen.add(visitor)
        self.left.discard(visitor)

    def merge(self, other: Generation) -> None:
        """What an undo brings back."""
        for label, day in other.days.items():
            ours = self.days[label]
            ours.pageviews += day.pageviews
            ours.visits += day.visits
            ours.visitors |= day.visitors
        for label, drops in other.drops.items():
            self.drops[label].update(drops)
        self.pages.update(other.pages)
        for seeded, amount in other.seeds.items():
            self.seeds[seeded] += amount
        self.seen |= other.seen
        self.left |= other.left
        self.peak = max(self.peak, other.peak)
        self.since = min(self.since, other.since)


class Rule(NamedTuple):
    """A time zone or a first weekday, and the site's date from which it holds."""

    begin: date
    value: str


def _with(rules: list[Rule], rule: Rule) -> list[Rule]:
    return rules if rules[-1].value == rule.value else [*rules, rule]


class Site:
    """A site's settings, calendar and numbers."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = dict(settings)
        self.id = str(settings["id"])
        self.zones = [Rule(date.min, settings["timezone"])]
        self.week_starts = [Rule(date.min, settings.get("week_start", "monday"))]
        self.now = Generation()
        self.moved: dict[str, Generation] = {}
        """Generations that resets took away, by the reset's id."""
        self.forgot_at = datetime.min.replace(tzinfo=UTC)

    @property
    def max_pages(self) -> int:
        return int(self.settings.get("max_pages", 10_000))

    # -- its calendar

    def zone_at(self, at: datetime) -> str:
        """A zone holds from its first midnight whose date is later than the old zone's date at the
        change."""
        return [rule for rule in self.zones if self._has_begun(rule, at)][-1].value

    def day_of(self, at: datetime) -> date:
        return at.astimezone(ZoneInfo(self.zone_at(at))).date()

    def week_start_on(self, day: date) -> str:
        return [value for begin, value in self.week_starts if begin <= day][-1]

    def week_of(self, day: date) -> date:
        return day - timedelta((day.weekday() - WEEKDAYS.index(self.week_start_on(day))) % 7)

    def change(self, at: datetime, **changes: Any) -> None:
        """What a PATCH changes. It drops earlier changes that have not taken effect yet."""
        self.settings |= changes
        today = self.day_of(at)
        if zone := changes.get("timezone"):
            there = at.astimezone(ZoneInfo(zone)).date()
            effective = [rule for rule in self.zones if self._has_begun(rule, at)]
            self.zones = _with(effective, Rule(max(today, there) + DAY, zone))
        if start := changes.get("week_start"):
            ended = self.week_of(today) + 7 * DAY
            begin = ended + timedelta((WEEKDAYS.index(start) - ended.weekday()) % 7)
            effective = [rule for rule in self.week_starts if rule.begin <= today]
            self.week_starts = _with(effective, Rule(begin, start))

    def _has_begun(self, zone: Rule, at: datetime) -> bool:
        return at.astimezone(ZoneInfo(zone.value)).date() >= zone.begin

    def labels(self, at: datetime) -> dict[str, Label]:
        """All periods around an instant."""
        today = self.day_of(at)
        yesterday, week = today - DAY, self.week_of(today)
        last_month = today.replace(day=1) - DAY
        return {
            "today": Label("day", str(today)),
            "yesterday": Label("day", str(yesterday)),
            "week": Label("week", str(week)),
            "last_week": Label("week", str(self.week_of(week - DAY))),
            "month": Label("month", str(today)[:7]),
            "last_month": Label("month", str(last_month)[:7]),
            "year": Label("year", str(today)[:4]),
            "total": Label("total", ""),
        }

    def _is_in(self, day: str, period: Label) -> bool:
        if period.kind == "week":
            return str(self.week_of(date.fromisoformat(day))) == period.name
        return day.startswith(period.name)

    # -- what happens to it

    def add(self, hit: Hit, at: datetime) -> None:
        self.forget(at)
        self.now.add(hit, str(self.day_of(at)))

    def forget(self, at: datetime) -> None:
        """Whoever was there long ago is a new visit when they come again."""
        if at - self.forgot_at > FORGOTTEN:
            for generation in (self.now, *self.moved.values()):
                generation.seen, generation.left = set(), set()
        self.forgot_at = at

    def seed(self, at: datetime, metric: str, add: Mapping[str, int]) -> None:
        labels = self.labels(at)
        for period, amount in add.items():
            self.now.seeds[labels[period], metric] += amount

    def reset(self, operation: str) -> None:
        self.moved[operation] = self.now
        self.now = Generation()

    def undo(self, operation: str) -> None:
        self.now.merge(self.moved.pop(operation))

    # -- what it must show

    def counts(self, at: datetime) -> dict[str, Any]:
        """As the API shows them; `visitors` are exact here, and sketched there."""
        self.forget(at)
        labels = self.labels(at)
        shown: dict[str, Any] = {name: self._numbers(labels[name]) for name in PERIODS}
        seeded: dict[str, dict[str, int]] = {}
        for name, label in labels.items():
            for metric in METRICS:
                if amount := self.now.seeds[label, metric]:
                    seeded.setdefault(name, {})[metric] = amount
        return {
            **shown,
            "site": self.id,
            "seeded": seeded,
            "online": self.now.online,
            "peak": {"online": self.now.peak},
            "since": self.now.since,
            "timezone": self.zone_at(at),
            "week_start": self.week_start_on(self.day_of(at)),
            **{name: self.settings[name] for name in SHOWN if name in self.settings},
        }

    def last_days(self, at: datetime, number: int, metric: str) -> list[int]:
        """Today's last."""
        today = self.day_of(at)
        labels = [Label("day", str(today - n * DAY)) for n in reversed(range(number))]
        return [self._numbers(label)[metric] for label in labels]

    def _numbers(self, period: Label) -> dict[str, int]:
        days = [day for label, day in self.now.days.items() if self._is_in(label, period)]
        visitors: set[int] = set().union(*(day.visitors for day in days))
        counted = {
            "pageviews": sum(day.pageviews for day in days),
            "visits": sum(day.visits for day in days),
            "visitors": len(visitors),
        }
        seeds = self.now.seeds
        return {name: max(0, number + seeds[period, name]) for name, number in counted.items()}


SHOWN = ("metric", "online_window", "visit_timeout", "identity")


class Book:
    """All sites that a test has made."""

    def __init__(self) -> None:
        self.sites: dict[str, Site] = {}
        self.zones = quiet_zones(datetime.now(UTC))
        """Those that its sites may be in, for as long as a test runs."""
        self.touched: set[str] = set()
        """Sites that have changed since this was emptied."""

    def site(self, settings: Mapping[str, Any]) -> Site:
        made = self.sites[settings["id"]] = Site(settings)
        return made

    def add(self, hits: Iterable[Hit], at: datetime) -> None:
        for hit in hits:
            self.sites[hit.site].add(hit, at)
            self.touched.add(hit.site)


def differences(expected: Mapping[str, Any], shown: Mapping[str, Any], where: str) -> list[str]:
    """What an answer shows otherwise, in sentences; it may show more."""
    found: list[str] = []
    for name, value in expected.items():
        at, got = f"{where}.{name}", shown.get(name)
        if isinstance(value, Mapping) and isinstance(got, Mapping) and name != "seeded":
            found += differences(value, got, at)
        elif name == "visitors" and isinstance(got, int):
            if abs(got - value) > max(3, 0.04 * value):
                found.append(f"{at}: {got} visitors, and {value} were there")
        elif got != value:
            found.append(f"{at}: {got!r}, not {value!r}")
    return found

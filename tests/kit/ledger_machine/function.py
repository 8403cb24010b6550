"""What our functions shall do, in plain Python: exact, in memory, for one partition with one site.

`Function` gives the answers of the store's functions, in the same words, and counts with dicts and
sets. Test machines run the service's ledger over it, or hold it beside a real server and compare
every answer and every number. It reads the packed batches, as the store does, and nothing else.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from tests.kit.ledger_machine.pages import MINUTE_MS, Pages
from visit_counter.model.counts import Numbers
from visit_counter.model.forms import NEWEST
from visit_counter.store.batch import BYE, KNOWN_ONLY

AHEAD_MS, LATE_MS, BYE_MS, TRIM_MS = 2000, 3_600_000, 2000, 60_000
METRICS = ("pageviews", "visits", "visitors")

Period = tuple[str, str]
"""Kind and label: ("day", "2026-03-10"), ("total", "")."""


class Answer(NamedTuple):
    """APPLIED, DUP or the error of a `record`; how many visitors in it were new, how many held."""

    text: str
    new: int = 0
    held: int = 0


class Part(msgspec.Struct, array_like=True):
    """What a batch holds of a site and a day, as it is packed."""

    site: str
    generation: int
    window: int
    timeout: int
    max_pages: int
    view: str
    asked: list[str] | None
    day: str
    week: str
    pageviews: int
    newest: int
    paths: list[str] | None
    views: list[int] | None
    drops: list[Any] | None
    visitors: int
    runs: list[int]
    whose: list[int] | None
    networks: list[int] | None

    def hits(self, ids: list[bytes]) -> list[tuple[int, int, bytes]]:
        """Flags, instant and visitor of each hit."""
        runs = [self.runs[n : n + 3] for n in range(0, len(self.runs), 3)]
        played = [(flags, at) for flags, at, hits in runs for _ in range(hits)]
        whose = self.whose or range(1, self.visitors + 1)
        return [(*hit, ids[who - 1]) for hit, who in zip(played, whose, strict=True)]

    @property
    def periods(self) -> list[Period]:
        month, year = self.day[:7], self.day[:4]
        named = [("day", self.day), ("week", self.week), ("month", month), ("year", year)]
        return [*named, ("total", "")]


def unpacked(payload: bytes) -> tuple[list[Part], bytes]:
    """A batch's parts, which are packed one behind the other after a version byte of their own, and
    the ids of their visitors."""
    parts, ids = msgspec.msgpack.decode(payload[1:], type=tuple[bytes, bytes])
    if payload[:1] != bytes((NEWEST,)) or parts[:1] != bytes((NEWEST,)):
        raise msgspec.DecodeError("another form")
    fields, size = msgspec.msgpack.decode(parts[1:], type=list), len(Part.__struct_fields__)
    each = [fields[n : n + size] for n in range(0, len(fields), size)]
    return msgspec.convert(each, list[Part]), ids


@dataclass
class Generation:
    """All that a site counted between two resets."""

    numbers: Counter[tuple[Period, str]] = field(default_factory=Counter)
    visitors: defaultdict[Period, set[bytes]] = field(default_factory=lambda: defaultdict(set))
    seeds: Counter[tuple[Period, str]] = field(default_factory=Counter)
    pages: Pages = field(default_factory=Pages)
    drops: Counter[tuple[str, str]] = field(default_factory=Counter)
    seen: dict[bytes, int] = field(default_factory=dict)
    trimmed: int = 0
    last: int = 0

    def count(self, part: Part, ids: list[bytes], now: int) -> Answer:
        new, held, visits, visitors = self._play(part, ids, now)
        if part.pageviews or visitors:
            for period in part.periods:
                self.numbers[period, "pageviews"] += part.pageviews
                self.numbers[period, "visits"] += visits
                self.visitors[period] |= visitors
            self._view(part, min(max(self.last, part.newest), now) // MINUTE_MS)
            self.last = max(self.last, min(part.newest, now))
        drops = part.drops or []
        for why, number in zip(drops[::2], drops[1::2], strict=True):
            self.drops[part.day, why] += number
        return Answer("APPLIED", new, held)

    def _view(self, part: Part, minute: int) -> None:
        views = dict(zip(part.paths or (), part.views or (), strict=True))
        if views:
            self.pages.add(views, part.networks or [], part.max_pages, minute)

    def _play(self, part: Part, ids: list[bytes], now: int) -> tuple[int, int, int, set[bytes]]:
        """How many were new, how many held, visits that began, and who was counted."""
        new = held = visits = newest = 0
        is_new = not self.seen
        counted: set[bytes] = set()
        for flags, sent, who in part.hits(ids):
            at, last = min(sent, now), self.seen.get(who)
            newest = max(newest, at)
            if flags & BYE:
                continue
            if last is None and flags & KNOWN_ONLY:
                held += 1
            else:
                new += last is None
                visits += last is None or at - last >= part.timeout
                counted.add(who)
                if last is None or last < at:
                    self.seen[who] = at
        if part.visitors:
            self._trim(newest, part, is_new)
        return new, held, visits, counted

    def _trim(self, newest: int, part: Part, is_new: bool) -> None:
        """Housekeeping: older ids are of no use to any hit, but one that is later than an hour."""
        if is_new or newest - self.trimmed >= TRIM_MS:
            gone = newest - part.timeout - LATE_MS
            self.seen = {who: at for who, at in self.seen.items() if at > gone}
            self.trimmed = newest if self.seen else 0

    def add(self, other: Generation, timeout: int) -> None:
        self.numbers.update(other.numbers)
        for period, visitors in other.visitors.items():
            self.visitors[period] |= visitors
        self.seeds.update(other.seeds)
        self.pages.merge(other.pages)
        self.drops.update(other.drops)
        oldest = max(self.last, other.last) - timeout - LATE_MS
        for who, at in other.seen.items():
            if who in self.seen or at >= oldest:
                self.seen[who] = max(at, self.seen.get(who, at))
        self.last = max(self.last, other.last)

    def counted(self, period: Period, metric: str) -> int:
        if metric == "visitors":
            return len(self.visitors.get(period, ()))
        return self.numbers[period, metric]

    def shown(self, period: Period) -> Numbers:
        exact = [self.counted(period, metric) for metric in METRICS]
        seeds = [self.seeds[period, metric] for metric in METRICS]
        return Numbers(*(max(0, n + seed) for n, seed in zip(exact, seeds, strict=True)))


class Function:
    """The functions of the store, and all that they know."""

    def __init__(self) -> None:
        self.ledger: dict[str, tuple[int, int]] = {}
        self.rejected: set[tuple[str, int]] = set()
        """Numbers of producers that counted nothing, whatever comes under them later."""
        self.begun: dict[str, tuple[int, bytes]] = {}
        """What processes said when they began."""
        self.generations = {1: Generation()}
        self.current = 1
        self.undone: set[int] = set()
        self.operations: dict[str, tuple[str, int]] = {}

    def record(
        self, producer: str, epoch: int, seq: int, payload: bytes, now: int, views: bytes = b""
    ) -> Answer:
        known, last = self.ledger.get(producer, (0, 0))
        if known > epoch:
            return Answer(f"FENCED {known}")
        if seq > last + 1 or known < epoch:
            return Answer(f"GAP {last}")
        if (producer, seq) in self.rejected:
            return Answer("REJECTED")
        try:
            found, ids = unpacked(payload)
        except msgspec.MsgspecError:
            self.ledger[producer] = (epoch, max(seq, last))
            self.rejected |= {(producer, seq)} if seq > last else set()
            return Answer("REJECTED")
        if seq <= last:
            return Answer("DUP")
        newest = max((part.newest for part in found), default=0)
        if newest > now + AHEAD_MS:
            if not views:
                return Answer(f"EARLY {now} {newest - AHEAD_MS}")
            now, *labels = msgspec.msgpack.decode(views)
            found = [
                msgspec.structs.replace(part, day=of[:10], week=of[20:30], newest=now)
                if part.newest > now
                else part
                for part, of in zip(found, labels, strict=True)
            ]
        self.ledger[producer] = (epoch, seq)
        return self._count(found, [ids[n : n + 8] for n in range(0, len(ids), 8)], now)

    def _count(self, parts: Iterable[Part], ids: list[bytes], now: int) -> Answer:
        new = held = 0
        for part in parts:
            into = self.generations[self.counted_in(part.generation)]
            of_part, ids = ids[: part.visitors], ids[part.visitors :]
            answer = into.count(part, of_part, now)
            new, held = new + answer.new, held + answer.held
        return Answer("APPLIED", new, held)

    def counted_in(self, accepted: int) -> int:
        """Hits count into the generation they were accepted under, if there is such a one."""
        there = accepted <= self.current and accepted not in self.undone
        return accepted if there else self.current

    def open(self, producer: str, epoch: int, passed: int | None = None) -> int | str:
        known, last = self.ledger.get(producer, (0, 0))
        if known > epoch or (known == epoch and passed is None):
            return f"FENCED {known}"
        self.ledger[producer] = (epoch, max(last, passed or 0))
        return self.ledger[producer][1]

    def last_seq(self, producer: str, epoch: int) -> int | str:
        known, last = self.ledger.get(producer, (0, 0))
        return f"FENCED {known}" if known > epoch else last

    def reset(self, operation: str) -> str:
        if operation in self.operations:
            return self._used(operation, "reset")
        self.operations[operation] = ("reset", self.current)
        self.current += 1
        self.generations[self.current] = Generation()
        return ""

    def undo(self, operation: str, timeout: int) -> str:
        kind, moved = self.operations.get(operation, ("", 0))
        if kind != "reset":
            return "NOOPERATION no such reset in the last 30 days"
        if moved in self.undone:
            return ""
        if not set(range(moved + 1, self.current)) <= self.undone:
            return "NEWER a newer reset must be undone first"
        self.generations[self.current].add(self.generations.pop(moved), timeout)
        self.undone.add(moved)
        return ""

    def seed(self, operation: str, metric: str, amounts: dict[Period, int]) -> str:
        if operation in self.operations:
            return self._used(operation, "seed")
        into = self.generations[self.current]
        for period, amount in amounts.items():
            shown = into.counted(period, metric) + into.seeds[period, metric]
            if amount < 0 and shown + amount < 0:
                return f"BELOW {period[0]} {max(0, shown)}"
        self.operations[operation] = ("seed", 0)
        into.seeds.update({(period, metric): amount for period, amount in amounts.items()})
        return ""

    def _used(self, operation: str, kind: str) -> str:
        """An operation is done once; its id cannot do another kind."""
        before, _ = self.operations[operation]
        return "" if kind == before else f"USED that operation was a {before}"

    def pages(self) -> Counter[str]:
        """Pageviews by path, of all generations."""
        return sum((each.pages.shown() for each in self.generations.values()), Counter[str]())

    def gone(self) -> Counter[str]:
        """Those of paths that have lost their place, and that the store tells no more."""
        return sum((each.pages.gone for each in self.generations.values()), Counter[str]())

    def others(self) -> int:
        """Pageviews of paths without a place."""
        return sum(each.pages.others for each in self.generations.values())

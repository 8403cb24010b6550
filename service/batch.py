"""A batch: the hits of one partition, packed for one call of counter.lua's `record`.

The recorder seals what has gathered; the store sends it; the reply is read back against the same
batch. What the function wants to know of a site (durations, the names of the periods) goes along,
so that it needs no settings of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from service.model import Counts, Drop, Hit, Kind, Site
from service.segment import Record

BYE, KNOWN_ONLY = 1, 2  # flags of a hit, as counter.lua reads them


class Outcome(NamedTuple):
    """What became of one hit or drop."""

    counts: Counts
    page: int | None
    """Pageviews of the hit's path, if it asked for them."""
    new: bool
    """The visitor was not among those seen."""
    held: bool
    """The visitor was held back."""


class Packed(NamedTuple):
    """A batch as it travels: all that is needed to send it again."""

    partition: int
    seq: int
    """Its number among its producer's batches of the partition: given once, never changed."""
    sites: bytes
    ids: bytes

    @property
    def size(self) -> int:
        return len(self.sites) + len(self.ids)

    def record(self, epoch: int) -> Record:
        """As it lies in a file."""
        payload = msgspec.msgpack.encode((self.sites, self.ids))
        return Record(self.partition, epoch, self.seq, payload)

    @classmethod
    def of(cls, record: Record) -> Packed:
        sites, ids = msgspec.msgpack.decode(record.payload, type=tuple[bytes, bytes])
        return cls(record.partition, record.seq, sites, ids)


class Applied(Struct, frozen=True, array_like=True):
    """The reply of `record`."""

    now: int
    new: list[int]
    held: list[int]
    counts: list[list[Any]]
    full: int
    """Hits held because a site's sets of visitors are full."""
    dup: int
    """1 for a batch that had been counted before: then nobody is new or held in it."""


class Batch:
    """Hits and drops of one partition, in the order in which they were accepted."""

    def __init__(self, partition: int, seq: int, entries: Sequence[Hit | Drop], now: int) -> None:
        self.entries = entries
        self._parts: dict[tuple[str, int], _SitePart] = {}
        self._places: dict[int, int] = {}
        for index, entry in enumerate(entries):
            self._part(entry.site).add(index, entry)
        visitors: list[bytes] = []
        sites = [part.pack(now, visitors, self._places) for part in self._parts.values()]
        packed = msgspec.msgpack.encode(sites)
        self.packed = Packed(partition, seq, packed, b"".join(visitors))

    def _part(self, site: Site) -> _SitePart:
        key = (site.id, site.generation)
        part = self._parts.get(key)
        if part is None:
            part = self._parts[key] = _SitePart(site)
        return part

    def clamp(self, now: int) -> None:
        """Make no hit later than now, where this machine's clock was ahead of the store's. Nothing
        of the batch may have been counted yet."""
        entries = [entry._replace(at=min(entry.at, now)) for entry in self.entries]
        self.__init__(self.packed.partition, self.packed.seq, entries, now)  # type: ignore[misc]

    def outcomes(self, reply: bytes) -> tuple[Applied, list[Outcome]]:
        """The reply, and what it means for each entry, in the entries' order."""
        applied = msgspec.msgpack.decode(reply, type=Applied)
        new, held = set(applied.new), set(applied.held)
        outcomes: list[Outcome | None] = [None] * len(self.entries)
        for part, sent in zip(self._parts.values(), applied.counts, strict=True):
            counts = Counts.of(sent)
            for index, entry in part.entries:
                place = self._places.get(index, -1)
                page = part.page_of(entry, counts)
                outcomes[index] = Outcome(counts, page, place in new, place in held)
        return applied, [outcome for outcome in outcomes if outcome is not None]


class _SitePart:
    """What a batch holds of one site, by day."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.entries: list[tuple[int, Hit | Drop]] = []
        self._sections: dict[tuple[str, str], _Section] = {}
        self._asked: dict[str, int] = {}

    def add(self, index: int, entry: Hit | Drop) -> None:
        self.entries.append((index, entry))
        periods = self.site.calendar.periods(entry.at)
        section = self._sections.setdefault((periods.today, periods.week), _Section())
        if isinstance(entry, Drop):
            section.drop(entry)
            return
        section.add(index, entry)
        if entry.wants_page:
            self._asked.setdefault(entry.path, len(self._asked))

    def page_of(self, entry: Hit | Drop, counts: Counts) -> int | None:
        if isinstance(entry, Drop) or not entry.wants_page:
            return None
        return counts.pages[self._asked[entry.path]]

    def pack(self, now: int, visitors: list[bytes], places: dict[int, int]) -> list[object]:
        settings = self.site.settings
        return [
            settings.id,
            self.site.generation,
            settings.online_window * 1000,
            settings.visit_timeout * 1000,
            settings.max_pages,
            view_of(self.site, now),
            list(self._asked),
            [
                section.pack(day, week, visitors, places)
                for (day, week), section in self._sections.items()
            ],
        ]


class _Section:
    """One site's hits of one day."""

    def __init__(self) -> None:
        self.pageviews = 0
        self.pages: dict[str, int] = {}
        self.drops: dict[str, int] = {}
        self.newest = 0
        self._hits: list[tuple[int, Hit]] = []

    def drop(self, drop: Drop) -> None:
        self.newest = max(self.newest, drop.at)
        self.drops[drop.reason] = self.drops.get(drop.reason, 0) + 1

    def add(self, index: int, hit: Hit) -> None:
        self.newest = max(self.newest, hit.at)
        if hit.kind is Kind.VIEW:
            self.pageviews += 1
            self.pages[hit.path] = self.pages.get(hit.path, 0) + 1
        if hit.visitor:
            self._hits.append((index, hit))

    def pack(
        self, day: str, week: str, visitors: list[bytes], places: dict[int, int]
    ) -> list[object]:
        hits: list[int] = []
        for index, hit in self._hits:
            places[index] = len(visitors)
            visitors.append(hit.visitor)
            hits += ((hit.kind is Kind.BYE) * BYE + hit.known_only * KNOWN_ONLY, hit.at)
        return [day, week, self.pageviews, self.pages, self.drops, hits, self.newest]


def view_of(site: Site, now: int) -> list[str]:
    """The names of a site's running and previous periods, as counter.lua reads them."""
    periods = site.calendar.periods(now)
    return [
        periods.today,
        periods.yesterday,
        periods.week,
        periods.last_week,
        periods.last_month,
    ]

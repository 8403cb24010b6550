"""A batch: the hits of one partition, packed for one call of the function `record`.

A flow seals what has gathered; the store sends it; the reply is read back against the same batch.
The function is sent what lies in the spool, as it is. What it wants to know of a site (durations,
the names of the periods) goes along, so that it needs no settings of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec

from visit_counter.disk.format import Record
from visit_counter.model import forms
from visit_counter.model.counts import Counts
from visit_counter.model.hit import Drop, Hit
from visit_counter.model.kinds import Kind
from visit_counter.model.site import Site

# What became of a hit, as counting.lua says it.
PLAIN: Final = ord("0")
NEW: Final = ord("1")
HELD: Final = ord("2")
# Flags of a hit, as it reads them.
BYE: Final = 1
KNOWN_ONLY: Final = 2
# Which networks have viewed a path: the codes of at most two in one number, 0 for none, or this.
EARNED: Final = -1
CODES: Final = 1 << 16

PART_FIELDS: Final = 18  # from form 6 on; before it no part told of networks
FIRST_NEWEST: Final = 10  # among the fields of the first part
FIRST_RUNS: Final = 15
MINUTE_MS: Final = 60_000
VIEW: Final = Kind.VIEW  # to find it in its enum takes longer
LEFT: Final = Kind.BYE


class Outcome:
    """What became of one hit or drop. Hits of a site that fared alike share one."""

    def __init__(self, counts: Counts, page: int | None, *, new: bool, held: bool) -> None:
        self.counts = counts
        self.page = page
        """Pageviews of the hit's path, if it asked for them."""
        self.new = new
        """The visitor was not among those seen."""
        self.held = held
        """The visitor was held back."""


class Batch:
    """Hits and drops of one partition, in the order in which they were accepted."""

    def __init__(
        self,
        partition: int,
        seq: int,
        entries: Sequence[Hit | Drop],
        now: int,
        form: int = forms.NEWEST,
        epoch: int = 0,
    ) -> None:
        """`seq`: its number among its producer's batches of the partition, given once and never
        changed; `epoch`: that producer's; `form`: the one that all write, see model/forms.py."""
        self.partition = partition
        self.seq = seq
        self._epoch = epoch
        self._form = form
        self.views = b""
        """See `count_as_of`; empty as long as the store has not found a hit later than its now."""
        self._pack(entries, now)

    def count_as_of(self, now: int) -> None:
        """Have hits that are later than the store's now, since this machine's clock was ahead,
        counted as of its now."""
        self.views = packed_views(now, [part.view(now) for part in self._parts.values()])

    def marked(self) -> list[int]:
        """Which entries are hits with a visitor, in the order in which the function answers what
        became of them."""
        return [n for part in self._parts.values() for n in part.marked]

    def outcomes(self, marks: Iterable[int], counts: Iterable[bytes]) -> list[Outcome]:
        """What became of each entry, in their order, as the function answered: `marks` of each hit
        with a visitor, packed counts of each part."""
        outcomes: list[Any] = [None] * len(self.entries)
        unread = iter(marks)
        for part, sent in zip(self._parts.values(), counts, strict=True):
            part.tell(Counts.of(sent), unread, outcomes)
        return outcomes

    def _pack(self, entries: Sequence[Hit | Drop], now: int) -> None:
        self.entries = entries
        self._parts: dict[tuple[str, int, str, str], _Part] = {}
        site, minute = None, -1
        for index, entry in enumerate(entries):
            # Most are of one site and one minute, and so of one part.
            if entry.site is not site or entry.at // MINUTE_MS != minute:
                site, minute = entry.site, entry.at // MINUTE_MS
                part = self._part(site, entry.at)
            part.add(index, entry)
        fields: list[object] = []
        visitors: list[bytes] = []
        for part in self._parts.values():
            fields += part.fields(now)
            visitors += part.visitors
        version = bytes((self._form,))
        pair = (version + msgspec.msgpack.encode(fields), b"".join(visitors))
        payload = version + msgspec.msgpack.encode(pair)
        self.record = Record(self.partition, self._epoch, self.seq, payload)

    def _part(self, site: Site, at: int) -> _Part:
        periods = site.calendar.periods(at)
        key = (site.id, site.generation, periods.today, periods.week)
        part = self._parts.get(key)
        if part is None:
            part = self._parts[key] = _Part(site, periods.today, periods.week)
        return part


def packed_views(now: int, views: Iterable[str]) -> bytes:
    """An instant and the labels of all periods then, for each part of a batch."""
    return msgspec.msgpack.encode([now, *views])


def sites_in(record: Record) -> list[str]:
    """The site of each part of a batch; raises MsgspecError for one that cannot be read."""
    form, fields = _fields_of(record.payload)
    return fields[:: PART_FIELDS if form >= 6 else PART_FIELDS - 1]


def first_instant(payload: bytes) -> int:
    """The instant of the hits that a batch begins with; 0 for a batch that cannot be read."""
    try:
        _, fields = _fields_of(payload)
        return int(min(fields[FIRST_RUNS][1::3], default=fields[FIRST_NEWEST]))
    except (msgspec.MsgspecError, LookupError, TypeError, ValueError):
        return 0


def _fields_of(payload: bytes) -> tuple[int, list[Any]]:
    """The form of a batch's parts, and the fields of all of them, one after the other."""
    packed, _ = msgspec.msgpack.decode(_unversioned(payload), type=tuple[bytes, bytes])
    return forms.form_of(packed), msgspec.msgpack.decode(_unversioned(packed))


def _unversioned(packed: bytes) -> bytes:
    """Without the version byte, which form 4 lacks."""
    return packed if forms.form_of(packed) == forms.UNVERSIONED else packed[1:]


class _Part:
    """What a batch holds of one site and one day."""

    def __init__(self, site: Site, day: str, week: str) -> None:
        self.visitors: dict[bytes, int] = {}
        """Each once, and numbered from 1."""
        self._site = site
        self._day = day
        self._week = week
        self._newest = 0
        self._pages: dict[str, int] = {}
        self._networks: dict[str, int] = {}
        """Of the same paths, see `with_network`."""
        self._drops: dict[str, int] = {}
        self._whose: list[int] = []
        self._runs: list[int] = []
        self._run = (0, 0)
        self.marked: list[int] = []
        """The entries with a visitor: of each the function tells what became of it."""
        self._unmarked: list[int] = []
        self._asking: dict[str, list[int]] = {}
        """The paths whose pageviews are wanted, and by which entries."""

    def add(self, index: int, entry: Hit | Drop) -> None:
        if entry.at > self._newest:
            self._newest = entry.at
        if isinstance(entry, Drop):
            self._unmarked.append(index)
            self._drops[entry.reason] = self._drops.get(entry.reason, 0) + 1
            return
        path = entry.path
        if entry.kind is VIEW:
            views = self._pages.get(path, 0)
            self._pages[path] = views + 1
            if not views:
                self._networks[path] = network_of(entry)
            elif (networks := self._networks[path]) != EARNED:
                self._networks[path] = with_network(networks, network_of(entry))
        if entry.wants_page:
            self._asking.setdefault(path, []).append(index)
        if entry.visitor:
            self.marked.append(index)
            self._play(entry)
        else:
            self._unmarked.append(index)

    def _play(self, hit: Hit) -> None:
        """Hits of the same instant, one behind the other, make a run."""
        visitors = self.visitors
        self._whose.append(visitors.setdefault(hit.visitor, len(visitors) + 1))
        run = ((hit.kind is LEFT) * BYE + hit.known_only * KNOWN_ONLY, hit.at)
        if run == self._run:
            self._runs[-1] += 1
        else:
            self._runs += (*run, 1)
            self._run = run

    def fields(self, now: int) -> tuple[object, ...]:
        settings = self._site.settings
        return (
            settings.id,
            self._site.generation,
            settings.online_window * 1000,
            settings.visit_timeout * 1000,
            settings.max_pages,
            self.view(now),
            list(self._asking) or None,
            self._day,
            self._week,
            sum(self._pages.values()),
            self._newest,
            list(self._pages) or None,
            list(self._pages.values()) or None,
            [of for drop in self._drops.items() for of in drop] or None,
            len(self.visitors),
            self._runs,
            None if len(self.visitors) == len(self._whose) else self._whose,
            list(self._networks.values()) or None,
        )

    def view(self, now: int) -> str:
        """The labels of all periods as of now."""
        return "".join(self._site.calendar.periods(now))

    def tell(self, counts: Counts, marks: Iterator[int], outcomes: list[Outcome]) -> None:
        """Set the outcomes of these entries; `marks` begins with those of these hits."""
        plain = Outcome(counts, None, new=False, held=False)
        others = {
            NEW: Outcome(counts, None, new=True, held=False),
            HELD: Outcome(counts, None, new=False, held=True),
        }
        for index in self._unmarked:
            outcomes[index] = plain
        for index in self.marked:
            outcomes[index] = others.get(next(marks, PLAIN), plain)
        for indexes, pageviews in zip(self._asking.values(), counts.pages, strict=True):
            for index in indexes:
                told = outcomes[index]
                outcomes[index] = Outcome(counts, pageviews, new=told.new, held=told.held)


def network_of(hit: Hit) -> int:
    """The code of the network that a view came from; EARNED for one that its site trusts; 0 where a
    view says nothing of who is there, as it has no visitor's id, or comes from a network that may
    bring no new visitors."""
    if hit.charged is None:
        return EARNED
    return hit.charged.code if hit.visitor and not hit.known_only else 0


def with_network(networks: int, network: int) -> int:
    """One more of the networks that have viewed a path: EARNED where they are three or one is
    trusted, which is enough for a place of its own."""
    if network == EARNED or not networks:
        return network
    if not network or network in (networks % CODES, networks // CODES):
        return networks
    return networks * CODES + network if networks < CODES else EARNED

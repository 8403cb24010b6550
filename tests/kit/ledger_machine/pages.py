"""Which paths have a place and how often each was viewed, in plain Python: what pages.lua does,
except for the bounds that only large sites meet."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from visit_counter.store.batch import CODES, EARNED

MINUTE_MS = 60_000
DAY = 1440
WAIT, IDLE = 90 * DAY, 30 * DAY
NEEDED = 3


@dataclass
class Candidate:
    """A path that waits for a place."""

    views: int = 0
    minute: int = 0
    networks: set[int] = field(default_factory=set)

    def see(self, networks: set[int]) -> None:
        self.networks |= networks

    @property
    def earned(self) -> bool:
        return EARNED in self.networks or len(self.networks) >= NEEDED


@dataclass
class Pages:
    """Of a generation."""

    kept: Counter[str] = field(default_factory=Counter)
    waiting: dict[str, Candidate] = field(default_factory=dict)
    others: int = 0
    gone: Counter[str] = field(default_factory=Counter)
    """Views among the others whose path nobody knows any more."""
    known: dict[str, tuple[int, int]] = field(default_factory=dict)
    """How many views pages had at an earlier look, and since when."""
    looked: int = 0
    sifted: int = -1

    def shown(self) -> Counter[str]:
        """Of each path, as it is answered."""
        return self.kept + Counter({path: each.views for path, each in self.waiting.items()})

    def add(self, views: dict[str, int], networks: list[int], most: int, minute: int) -> None:
        """Those of a part, whose networks are packed as in store/batch.py."""
        new = [path for path in views if path not in self.kept]
        self.kept.update({path: n for path, n in views.items() if path in self.kept})
        codes = dict(zip(views, networks, strict=True))
        if most == 0:
            self._lose(Counter({path: views[path] for path in new}))
            return
        placed: Counter[str] = Counter()
        places: int | None = None
        still_waiting = False
        for path in new:
            candidate = self.waiting.setdefault(path, Candidate())
            candidate.see(_unpacked(codes[path]))
            candidate.views, candidate.minute = candidate.views + views[path], minute
            self.others += views[path]
            if candidate.earned and places is None:
                places = most - len(self.kept)
            if candidate.earned and (places or 0) > 0:
                places = (places or 0) - 1
            elif not (candidate.earned and self._replace_idle(minute)):
                still_waiting = True
                continue
            else:
                places = max(0, places or 0)
            placed[path] = self.waiting.pop(path).views
        self.kept.update(placed)
        self.others -= placed.total()
        if still_waiting and self.sifted != minute // DAY:
            self._sift(minute)

    def merge(self, other: Pages) -> None:
        self.kept.update(other.kept)
        self.others += other.others
        self.gone.update(other.gone)
        for path, theirs in other.waiting.items():
            ours = self.waiting.setdefault(path, Candidate())
            ours.see(theirs.networks)
            ours.views, ours.minute = ours.views + theirs.views, max(ours.minute, theirs.minute)
        for path in [path for path in self.waiting if path in self.kept]:
            views = self.waiting.pop(path).views
            self.kept[path] += views
            self.others -= views
        self.sifted = -1

    def _replace_idle(self, minute: int) -> bool:
        if self.looked == minute:
            return False
        for page, views in sorted(self.kept.items(), key=lambda each: (each[1], each[0].encode())):
            known, since = self.known.get(page, (0, 0))
            if known == views and since <= minute - IDLE:
                del self.kept[page], self.known[page]
                self._lose(Counter({page: views}))
                return True
        for page, views in self.kept.items():
            known, since = self.known.get(page, (0, 0))
            if known != views or since > minute:
                self.known[page] = (views, minute)
        self.looked = minute
        return False

    def _sift(self, minute: int) -> None:
        self.sifted = minute // DAY
        for path, candidate in list(self.waiting.items()):
            if min(candidate.minute, minute) < minute - WAIT:
                self.gone[path] += self.waiting.pop(path).views

    def _lose(self, views: Counter[str]) -> None:
        self.others += views.total()
        self.gone.update(views)


def _unpacked(networks: int) -> set[int]:
    if networks == EARNED:
        return {EARNED}
    return {networks % CODES, networks // CODES} - {0}

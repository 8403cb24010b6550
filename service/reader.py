"""The reader: a site's counts for those who only look, at most a second old.

Whoever asks while a read is under way waits for that read. While the store is away the last counts
are given again; they carry the instant at which they were true.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import NamedTuple

from service.clock import Clock
from service.errors import StoreError, StoreUnavailable
from service.model import Counts, Site
from service.store import Store

FRESH_MS = 1000
MOST_KEPT = 10_000
MOST_FLIGHTS = 500


class Reading(NamedTuple):
    """Counts and the instant they are of."""

    counts: Counts
    as_of: int
    generation: int


class Reader:
    """Counts by site and path, with single flight."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._kept: OrderedDict[tuple[str, str | None], Reading] = OrderedDict()
        self._flights: dict[tuple[str, str | None], asyncio.Task[Reading]] = {}

    async def read(self, site: Site, path: str | None = None) -> Reading:
        """The counts, with that path's pageviews if one is named; raises StoreError if there are
        none to give."""
        key = (site.id, path)
        kept = self._kept.get(key)
        if kept and self._is_fresh(kept, site):
            return kept
        flight = self._flights.get(key)
        if flight is None and len(self._flights) >= MOST_FLIGHTS:
            raise StoreUnavailable("too many reads at once")
        if flight is None:
            flight = self._flights[key] = asyncio.create_task(self._fly(key, site, path))
        try:
            return await asyncio.shield(flight)
        except StoreError:
            if kept is None:
                raise
            return kept

    def fresh(self, site: Site) -> Reading | None:
        """The counts if they are fresh."""
        kept = self.kept(site)
        return kept if kept and self._is_fresh(kept, site) else None

    def kept(self, site: Site) -> Reading | None:
        """The last counts, however old."""
        return self._kept.get((site.id, None))

    def keep(self, site: Site, counts: Counts, now: int) -> None:
        """Counts that came with the answer to a hit: what there is to show if the store goes."""
        self._keep((site.id, None), Reading(counts, now, site.generation))

    def _is_fresh(self, kept: Reading, site: Site) -> bool:
        age = self._clock.now() - kept.as_of
        return 0 <= age < FRESH_MS and kept.generation == site.generation

    async def _fly(self, key: tuple[str, str | None], site: Site, path: str | None) -> Reading:
        try:
            now = self._clock.now()
            counts = await self._store.counts(site, now, () if path is None else (path,))
            self._keep(key, reading := Reading(counts, now, site.generation))
            return reading
        finally:
            del self._flights[key]

    def _keep(self, key: tuple[str, str | None], reading: Reading) -> None:
        self._kept[key] = reading
        self._kept.move_to_end(key)
        if len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)

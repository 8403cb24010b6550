"""The reader: a site's counts for those who only look, at most a second old.

Whoever asks while a read is under way waits for that read. Where the store does not answer soon the
last counts are given again; they carry the instant at which they were true. While it fails it is
asked now and then, and nobody waits for it who can be given the last counts.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple

from visit_counter import logs
from visit_counter.clock import Clock
from visit_counter.errors import StoreError, StoreUnavailable
from visit_counter.model.counts import Counts, Day
from visit_counter.model.site import Site
from visit_counter.store.store import Store

FRESH_MS = 1000
MOST_MORE = 10_000  # readings with a path or with days
MOST_FLIGHTS = 500
PATIENCE_S = 0.25  # of who can be given the last counts
AWAY_S = 5.0  # after it failed, a server is not waited for
AGAIN_S = 0.25  # but tried

DAYS = 30


class Asked(NamedTuple):
    """What somebody wants to know beside a site's counts."""

    path: str | None = None
    """This page's pageviews."""
    days: bool = False
    """The numbers of each of the last DAYS days."""


COUNTS = Asked()
"""Nothing but the counts."""


class Key(NamedTuple):
    """What is read at once for all who ask for it."""

    site: str
    asked: Asked


class Reading(NamedTuple):
    """Counts and the instant they are of."""

    counts: Counts
    as_of: int
    generation: int
    days: Mapping[str, Day] = {}
    """The numbers of the last DAYS days by their labels, where they were asked for."""


class Reader:
    """Counts by site and by what is asked beside them, with single flight."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._kept: dict[str, Reading] = {}
        """By site."""
        self._kept_more: OrderedDict[Key, Reading] = OrderedDict()
        """With what was asked beside: visitors name paths, which must not push out a site."""
        self._flights: dict[Key, asyncio.Task[Reading | StoreError]] = {}
        self._failed_s: dict[str, float] = {}
        """When a server that gave nothing the last time was tried (monotonic seconds)."""

    async def read(self, site: Site, asked: Asked = COUNTS, fresh_ms: int = FRESH_MS) -> Reading:
        """The counts, with what is asked beside them; raises StoreError if there are none."""
        key = Key(site.id, asked)
        kept = self.kept(site) if asked == COUNTS else self._kept_more.get(key)
        if kept is None:
            return await self._landed(self._flight(key, site))
        if self._is_fresh(kept, site, fresh_ms):
            return kept
        return await self._newer(key, site, kept)

    async def _newer(self, key: Key, site: Site, kept: Reading) -> Reading:
        """Newer counts if they come soon."""
        since_s = time.monotonic() - self._failed_s.get(self._server(site), -AWAY_S)
        try:
            if since_s < AGAIN_S:
                return kept
            flight = self._flight(key, site)
            if since_s < AWAY_S:
                return kept
            async with asyncio.timeout(PATIENCE_S):
                return await self._landed(flight)
        except (StoreError, TimeoutError):
            return kept

    async def _landed(self, flight: asyncio.Task[Reading | StoreError]) -> Reading:
        found = await asyncio.shield(flight)
        if isinstance(found, StoreError):
            raise found
        return found

    def fresh(self, site: Site) -> Reading | None:
        """The counts if they are fresh."""
        kept = self.kept(site)
        return kept if kept and self._is_fresh(kept, site) else None

    def kept(self, site: Site) -> Reading | None:
        """The last counts, however old."""
        return self._kept.get(site.id)

    def keep(self, site: Site, counts: Counts, now: int) -> None:
        """Counts that came with the answer to a hit: what there is to show if the store goes."""
        self._kept[site.id] = Reading(counts, now, site.generation)

    def renew(self, site: Site) -> None:
        """Read the counts anew for later, where the last ones are old and the store may answer."""
        since_s = time.monotonic() - self._failed_s.get(self._server(site), -AWAY_S)
        if self.fresh(site) is None and since_s >= AGAIN_S and len(self._flights) < MOST_FLIGHTS:
            _ = self._flight(Key(site.id, COUNTS), site)

    def _is_fresh(self, kept: Reading, site: Site, fresh_ms: int = FRESH_MS) -> bool:
        age = self._clock.now() - kept.as_of
        return 0 <= age < fresh_ms and kept.generation == site.generation

    def _flight(self, key: Key, site: Site) -> asyncio.Task[Reading | StoreError]:
        """The read that is under way, or a new one."""
        flight = self._flights.get(key)
        if flight is None:
            if len(self._flights) >= MOST_FLIGHTS:
                raise StoreUnavailable("too many reads at once")
            flight = self._flights[key] = asyncio.create_task(self._fly(key, site))
        return flight

    async def _fly(self, key: Key, site: Site) -> Reading | StoreError:
        server, asked = self._server(site), key.asked
        if server in self._failed_s:
            self._failed_s[server] = time.monotonic()
        try:
            now = self._clock.now()
            days = await self._days(site, now) if asked.days else {}
            paths = [] if asked.path is None else [asked.path]
            counts = await self._store.counts(site, now, paths)
        except StoreError as error:
            if server not in self._failed_s:
                logs.seldom(
                    logging.WARNING,
                    "the counts could not be read",
                    kind=("counts", server),
                    server=server,
                    reason=str(error),
                )
            self._failed_s[server] = time.monotonic()
            return error
        finally:
            del self._flights[key]
        self._failed_s.pop(server, None)
        self._keep(key, reading := Reading(counts, now, site.generation, days))
        return reading

    async def _days(self, site: Site, now: int) -> Mapping[str, Day]:
        return await self._store.days(site, site.calendar.last_days(now, DAYS))

    def _server(self, site: Site) -> str:
        return self._store.shard(site.partition)

    def _keep(self, key: Key, reading: Reading) -> None:
        if key.asked == COUNTS:
            self._kept[key.site] = reading
            return
        self._kept_more[key] = reading
        self._kept_more.move_to_end(key)
        if len(self._kept_more) > MOST_MORE:
            self._kept_more.popitem(last=False)

"""The sites this service counts for, as the store knows them, within half a second.

Hits ask for a `Site` here; admins change sites through here. Every change raises its partition's
version in the store, and each worker looks at the versions twice a second.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import NamedTuple, Self

import structlog

from service import metrics
from service.clock import Clock
from service.errors import Problem, StoreError
from service.hit import Site
from service.model import (
    PARTITIONS,
    SiteSettings,
    StoredSite,
    partition_of,
    weekday_number,
)
from service.periods import Calendar
from service.refusals import CHANGED, EXISTS, Refused
from service.store import PartitionSites, Store
from service.stored import decode_site, encode_site
from service.tasks import supervised

LOOK_S = 0.5
NEVER = "0"  # the version of a partition that never had a site

log = structlog.get_logger()


class Put(NamedTuple):
    """A site as it is after its settings were given."""

    site: Site
    created: bool
    now: bool
    """By this call, and not by an earlier one with the same operation id."""


class Sites:
    """All sites by id; entering reads them, and makes `demo` where there is none at all."""

    def __init__(self, store: Store, clock: Clock, timezone: str) -> None:
        self.timezone = timezone
        self._store = store
        self._clock = clock
        self.by_id: dict[str, Site] = {}
        """For those who look on the hit path; nobody else changes it."""
        self._versions = [""] * PARTITIONS
        self._looking = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.refresh()
        if not self.by_id:
            await self._make_demo()
        self._task = supervised(self._run(), "sites")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    @property
    def running(self) -> bool:
        return self._task is not None and not self._task.done()

    def get(self, site: str) -> Site | None:
        return self.by_id.get(site)

    def all(self) -> list[Site]:
        return sorted(self.by_id.values(), key=lambda site: site.id)

    async def create(self, settings: SiteSettings, operation: str = "") -> Put:
        """Make a site; Problem 409 if there is one of that id."""
        calendar = Calendar.of(settings.timezone, weekday_number(settings.week_start))
        raw = encode_site(StoredSite(settings, calendar))
        return await self._put(settings.id, raw, b"", operation)

    async def change(self, site: Site, settings: SiteSettings, operation: str = "") -> Put:
        """Give a site other settings; a change of its calendar keeps the calendar's history, and
        what this version does not know stays as it is."""
        calendar, now = site.calendar, self._clock.now()
        if settings.timezone != site.settings.timezone:
            calendar = calendar.with_timezone(settings.timezone, now)
        if settings.week_start != site.settings.week_start:
            calendar = calendar.with_week_start(weekday_number(settings.week_start), now)
        raw = encode_site(StoredSite(settings, calendar), site.unknown)
        return await self._put(site.id, raw, site.raw, operation)

    async def refresh(self) -> None:
        """Read what changed since the last look."""
        async with self._looking:
            changed = await self._store.sites_since(self._versions)
            for partition, found in changed.items():
                self._replace(partition, found)
            metrics.SITES.set(len(self.by_id))

    async def _make_demo(self) -> None:
        settings = SiteSettings(id="demo", name="Demo", origins=("self",), timezone=self.timezone)
        try:
            await self.create(settings)
        except Problem:  # another worker was faster
            await self.refresh()

    async def _put(self, site: str, raw: bytes, before: bytes, operation: str) -> Put:
        try:
            done = await self._store.put_site(partition_of(site), site, raw, before, operation)
        except Refused as refused:
            if refused.word not in (EXISTS, CHANGED):
                raise
            await self.refresh()
            raise _conflict(refused, site) from None
        await self.refresh()
        return Put(self.by_id[site], done.kind == "creation", done.now)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            with suppress(StoreError):  # the watch tells
                await self.refresh()

    def _replace(self, partition: int, found: PartitionSites) -> None:
        if found.version == NEVER and self._versions[partition] not in ("", NEVER):
            return  # the store was emptied: the watch says so, and we go on with what we know
        for site in [s.id for s in self.by_id.values() if s.partition == partition]:
            if site not in found.settings:
                del self.by_id[site]
        for site, raw in found.settings.items():
            try:
                stored, unknown = decode_site(raw)
                self.by_id[site] = Site(stored, found.generations[site], raw, unknown)
            except (ValueError, KeyError) as error:
                log.error("a site's settings in the store cannot be read", site=site, error=error)
        self._versions[partition] = found.version


def _conflict(refused: Refused, site: str) -> Problem:
    if refused.word == EXISTS:
        return Problem(409, "Site exists", f'There is a site "{site}" already: change it with PUT.')
    return Problem(409, "Site changed", f'"{site}" was changed meanwhile: read it again.')

"""The sites this service counts for, as the store knows them, within half a second.

Hits ask for a `Site` here; admins change sites through here. Every change raises its partition's
version in the store, and each worker looks at the versions twice a second. A site that cannot be
read, since a newer version wrote it or it is damaged, is `Unreadable` until it can: hits of it are
refused, and settings from before are not used for them.
"""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple, Self

import structlog

from visit_counter import metrics
from visit_counter.clock import Clock
from visit_counter.errors import Problem, StoreError
from visit_counter.model.calendar import Calendar, Periods
from visit_counter.model.site import Site
from visit_counter.model.site_settings import (
    PARTITIONS,
    SiteSettings,
    StoredSite,
    partition_of,
    weekday_number,
)
from visit_counter.model.stored_site import (
    MAX_REASON,
    Unreadable,
    decode_site,
    encode_site,
    remains,
)
from visit_counter.store.replies import CHANGED, EXISTS, Refused
from visit_counter.store.store import PartitionSites, Store
from visit_counter.tasks import supervised

LOOK_S = 0.5
OLD_S = 3.0  # after that it is told that the list is old
MOST_NAMED = 5  # unreadable sites in /readyz
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
        self.unreadable: dict[str, Unreadable] = {}
        """Sites of the store that are not in `by_id`, since they cannot be read."""
        self.as_of = 0
        """When all of this was read last (ms since the epoch)."""
        self._versions = [""] * PARTITIONS
        self._looking = asyncio.Lock()
        self._read_s = time.monotonic()
        """When the list was read last, and why not since."""
        self._not_read = ""
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.refresh()
        self._store.periods = self.periods
        if not (self.by_id or self.unreadable):
            await self._make_demo()
        self._task = supervised(self._run, "sites")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    @property
    def problems(self) -> list[str]:
        """Which sites cannot be read, why, and the remedy: some by name, and how many more."""
        ids = sorted(self.unreadable)
        problems = [self.unreadable[site].sentence for site in ids[:MOST_NAMED]]
        if more := len(ids) - len(problems):
            problems.append(f"And {more} more sites cannot be read: GET /api/v1/sites lists them.")
        return problems

    @property
    def not_read(self) -> list[str]:
        """Since when and why the list is not read anew, in a sentence, where that lasts."""
        old_s = time.monotonic() - self._read_s
        if not self._not_read or old_s < OLD_S:
            return []
        return [
            f"The store has not given the list of sites for {old_s:.0f} s: new sites are 404 "
            f"here, and changes of others are not known ({self._not_read})."
        ]

    def get(self, site: str) -> Site | None:
        return self.by_id.get(site)

    def periods(self, site: str, at: int) -> Periods:
        """The labels of a site's periods as of an instant; in UTC for a site that is gone."""
        known = self.by_id.get(site)
        return (known.calendar if known else Calendar.of("UTC")).periods(at)

    def all(self) -> list[Site]:
        return sorted(self.by_id.values(), key=lambda site: site.id)

    async def create(self, settings: SiteSettings, operation: str = "") -> Put:
        """Make a site; Problem 409 if there is one of that id, readable or not."""
        if settings.id in self.unreadable:
            await self.refresh()  # it may be readable again
        if settings.id in self.unreadable:
            raise self._exists(settings.id)
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

    async def replace(self, site: Unreadable, settings: SiteSettings, operation: str = "") -> Put:
        """Give an unreadable site settings that can be read. Its numbers stay, and so do its
        calendar and the fields that this version does not know, where they can be read."""
        calendar, unknown = remains(site.raw)
        week_start, now = weekday_number(settings.week_start), self._clock.now()
        if calendar is None:
            calendar = Calendar.of(settings.timezone, week_start)
        if settings.timezone != calendar.zones[-1][1]:
            calendar = calendar.with_timezone(settings.timezone, now)
        if week_start != calendar.week_starts[-1][1]:
            calendar = calendar.with_week_start(week_start, now)
        raw = encode_site(StoredSite(settings, calendar), unknown)
        return await self._put(site.id, raw, site.raw, operation)

    async def refresh(self) -> None:
        """Read what changed since the last look."""
        async with self._looking:
            now = self._clock.now()
            changed = await self._store.sites_since(self._versions)
            for partition, found in changed.items():
                self._replace(partition, found)
            self.as_of, self._read_s, self._not_read = now, time.monotonic(), ""
            metrics.SITES.set(len(self.by_id))
            metrics.UNREADABLE_SITES.set(len(self.unreadable))

    async def _make_demo(self) -> None:
        settings = SiteSettings(id="demo", name="Demo", origins=("self",), timezone=self.timezone)
        try:
            await self.create(settings)
        except Problem:  # another worker was faster
            await self.refresh()

    async def _put(self, site: str, raw: bytes, before: bytes, operation: str) -> Put:
        try:
            done = await self._store.put_site(partition_of(site), site, raw, before, operation)
        except Refused as reply_error:
            if reply_error.word not in (EXISTS, CHANGED):
                raise
            await self.refresh()
            raise self._exists(site) if reply_error.word == EXISTS else _changed(site) from None
        await self.refresh()
        if site in self.unreadable:  # a newer version has written it since
            raise self.unreadable[site].problem
        return Put(self.by_id[site], done.kind == "creation", done.now)

    def _exists(self, site: str) -> Problem:
        if unreadable := self.unreadable.get(site):
            return Problem(409, "Site exists", f"It exists already. {unreadable.sentence}")
        detail = f'There is a site "{site}" already: change it with PUT.'
        return Problem(409, "Site exists", detail)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self.refresh()
            except StoreError as error:
                self._not_read = str(error)

    def _replace(self, partition: int, found: PartitionSites) -> None:
        if found.version == NEVER and self._versions[partition] not in ("", NEVER):
            return  # the store was emptied: the watch says so, and we go on with what we know
        known = [site.id for site in self.by_id.values() if site.partition == partition]
        known += [site for site in self.unreadable if partition_of(site) == partition]
        for site in known:
            if site not in found.settings:
                self.by_id.pop(site, None)
                self.unreadable.pop(site, None)
        for site, raw in found.settings.items():
            generation, last = found.generations.get(site), self.by_id.get(site)
            if last is None or (last.raw, last.generation) != (raw, generation):
                self._read(site, raw, generation)
        self._versions[partition] = found.version

    def _read(self, site: str, raw: bytes, generation: int | None) -> None:
        try:
            self._know(_site(site, raw, generation))
        except ValueError as error:
            self._give_up(Unreadable(site, raw, str(error)[:MAX_REASON]))

    def _know(self, site: Site) -> None:
        self.by_id[site.id] = site
        if self.unreadable.pop(site.id, None):
            log.info("a site can be read again: its hits are counted", site=site.id)

    def _give_up(self, site: Unreadable) -> None:
        self.by_id.pop(site.id, None)
        if self.unreadable.get(site.id) != site:
            log.error("a site cannot be read", site=site.id, detail=site.sentence)
        self.unreadable[site.id] = site


def _site(name: str, raw: bytes, generation: int | None) -> Site:
    """Raises ValueError as `field: what is wrong`."""
    stored, unknown = decode_site(raw)
    if stored.settings.id != name:
        raise ValueError(f"settings.id: it is {stored.settings.id!r}")
    if generation is None:
        raise ValueError("generation: it is missing or not a number")
    return Site(stored, generation, raw, unknown)


def _changed(site: str) -> Problem:
    return Problem(409, "Site changed", f'"{site}" was changed meanwhile: read it again.')

"""Counting without HTTP: sites, hits and batches straight into a real store."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from tests.kit.services.in_process import namespace
from visit_counter.clock import Clock
from visit_counter.delivery.ledger import Ledger
from visit_counter.delivery.queues import fulfil
from visit_counter.delivery.recorder import Recorder
from visit_counter.disk.producer import Producer
from visit_counter.errors import StoreError
from visit_counter.model.calendar import Calendar
from visit_counter.model.counts import Counts
from visit_counter.model.hit import Drop, Hit
from visit_counter.model.kinds import Kind
from visit_counter.model.site import Site
from visit_counter.model.site_settings import SiteSettings, StoredSite, weekday_number
from visit_counter.store.batch import Batch, Outcome
from visit_counter.store.store import Store


def visitor(number: int) -> bytes:
    return number.to_bytes(8, "big")


def at(text: str, zone: str = "UTC") -> int:
    """The instant of a local time: at("2026-11-22 12:00", "Asia/Ho_Chi_Minh")."""
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000)


def recorded(recorder: Recorder, entry: Hit | Drop) -> asyncio.Future[Outcome | None]:
    """The future holds what becomes of it."""
    future: asyncio.Future[Outcome | None] = asyncio.get_running_loop().create_future()
    recorder.record(entry, partial(fulfil, future))
    return future


class Counted:
    """A site in a store, and short ways to count for it and to look."""

    def __init__(self, ledger: Ledger, site: Site) -> None:
        self.ledger = ledger
        self.store = store = ledger._store
        self.site = site
        self.clock = store._clock
        self.tag = store._tags[site.partition]
        self.shard = store._shards.of(self.tag)
        self.client = self.shard.client
        self.namespace = self.tag.partition(":")[0]

    async def record(self, *entries: Hit | Drop, now: int | None = None) -> list[Outcome]:
        """Count entries of this site as one batch."""
        result = await self.commit(*entries, now=now)
        assert isinstance(result, list), result
        return result

    async def commit(
        self, *entries: Hit | Drop, now: int | None = None
    ) -> list[Outcome] | StoreError:
        """The same, or why it is not confirmed."""
        (result,) = await self.ledger.commit([self.seal(*entries, now=now)])
        return result

    def seal(self, *entries: Hit | Drop, now: int | None = None) -> Batch:
        newest = max(entry.at for entry in entries)
        return self.ledger.seal(self.site.partition, entries, newest if now is None else now)

    async def view(self, who: int, when: int, path: str = "/") -> Outcome:
        (outcome,) = await self.record(self.hit(who, when, path=path))
        return outcome

    def hit(self, who: int, when: int, **fields: Any) -> Hit:
        kind = Kind(fields.pop("kind", "view"))
        return Hit(self.site, kind, when, visitor(who) if who else b"", **fields)

    async def counts(self, now: int, *paths: str) -> Counts:
        return await self.store.counts(self.site, now, paths)

    async def visits(self, now: int) -> dict[str, int]:
        """The visits of every period as of an instant."""
        counts = msgspec.structs.asdict(await self.counts(now))
        return {name: value[1] for name, value in _numbers(counts).items()}

    async def visitors(self, now: int) -> dict[str, int]:
        counts = msgspec.structs.asdict(await self.counts(now))
        return {name: value[2] for name, value in _numbers(counts).items()}

    def next_generation(self) -> None:
        """As the sites component does after a reset: later hits are of the next generation."""
        self.site = self._site(self.site.calendar, self.site.generation + 1)

    def with_calendar(self, calendar: Calendar) -> None:
        self.site = self._site(calendar, self.site.generation)

    def _site(self, calendar: Calendar, generation: int) -> Site:
        return Site(StoredSite(self.site.settings, calendar), generation)


def _numbers(counts: dict[str, Any]) -> dict[str, tuple[int, int, int]]:
    return {
        name: (value.pageviews, value.visits, value.visitors)
        for name, value in counts.items()
        if hasattr(value, "visitors")
    }


@asynccontextmanager
async def open_store(url: str, name: str | None = None) -> AsyncIterator[Ledger]:
    """A store of its own namespace, and the ledger of a new producer in it."""
    producer = Producer(secrets.token_hex(16), 1, None)
    async with Store(url, name or namespace(), Clock()) as store, Ledger(store, producer) as ledger:
        yield ledger


async def make_site(ledger: Ledger, site: str = "portal", **settings: Any) -> Counted:
    made = SiteSettings(id=site, origins=("*",), **settings)
    calendar = Calendar.of(made.timezone, weekday_number(made.week_start))
    stored = StoredSite(made, calendar)
    live = Site(stored, 1)
    await ledger._store.put_site(live.partition, site, msgspec.json.encode(stored), b"")
    return Counted(ledger, live)


@asynccontextmanager
async def counting(url: str, **settings: Any) -> AsyncIterator[Counted]:
    """A store of its own namespace with one site."""
    async with open_store(url) as ledger:
        yield await make_site(ledger, **settings)

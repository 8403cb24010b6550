"""A newer version of the service over the same store: it writes sites in forms of its own.

    async with newer_version(service) as newer:
        await newer.edit("portal", settings={"metric": "bounces"})

The service sees what was written before the call ends.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import Redis

from tests.kit.services.in_process import Service
from visit_counter.model.site_settings import partition_of


class Newer:
    """What it does to the sites of a service."""

    def __init__(self, service: Service, store: Redis) -> None:
        self._service = service
        self._store = store

    def key(self, site: str, name: str = "sites") -> str:
        namespace = self._service.parts.settings.namespace
        return f"{namespace}:{{p{partition_of(site):02}}}:{name}"

    async def stored(self, site: str) -> bytes:
        raw: Any = await self._store.hget(self.key(site), site)
        return bytes(raw)

    async def write(self, site: str, raw: bytes, *, seen: bool = True) -> None:
        """Store these bytes; `seen`: have the service look at once."""
        pipeline = self._store.pipeline(transaction=True)
        _ = pipeline.hset(self.key(site), site, raw)
        _ = pipeline.hincrby(self.key(site), "#", 1)
        await pipeline.execute()
        if seen:
            await self._service.parts.sites.refresh()

    async def edit(
        self,
        site: str,
        settings: Mapping[str, Any] | None = None,
        calendar: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> None:
        """Add or change fields at the three levels."""
        stored = json.loads(await self.stored(site))
        stored["settings"] |= settings or {}
        stored["calendar"] |= calendar or {}
        await self.write(site, json.dumps(stored | fields).encode())

    async def write_name(self, name: bytes, beside: str) -> None:
        """Store something under a name that may be no text, in the partition of a site."""
        await self._store.hset(self.key(beside), name, b"{}")
        await self._store.hincrby(self.key(beside), "#", 1)
        await self._service.parts.sites.refresh()

    async def remove(self, site: str) -> None:
        await self._store.hdel(self.key(site), site)
        await self._store.hincrby(self.key(site), "#", 1)
        await self._service.parts.sites.refresh()

    async def lose_generation(self, site: str, left: bytes | None = None) -> None:
        """Somebody removes the site's generation, or writes something else there."""
        key = self.key(site, "generations")
        await self._store.hdel(key, site)
        if left is not None:
            await self._store.hset(key, site, left)
        await self._store.hincrby(self.key(site), "#", 1)
        await self._service.parts.sites.refresh()


@asynccontextmanager
async def newer_version(service: Service) -> AsyncIterator[Newer]:
    async with Redis(unix_socket_path=service.parts.store.address) as store:
        yield Newer(service, store)

"""The service without one of its parts, to measure what the part costs: for benchmarks only.

Each function changes the service in this process before it starts. Without the ledger counting.lua
neither reads nor writes it, and nothing that was answered is kept: whatever goes wrong then loses
hits or counts them twice. Without the lane aiohttp has every connection from its beginning.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from visit_counter import serving
from visit_counter.delivery.ledger import Ledger
from visit_counter.errors import StoreError
from visit_counter.model.forms import NEWEST
from visit_counter.process.listeners import Listener
from visit_counter.serving import prepared, served
from visit_counter.store import libraries
from visit_counter.store.batch import Batch, Outcome
from visit_counter.web.components import Components

CHANGES = {
    "{entry_key(batch.tag, batch.producer)}": "{}",
    "    keys[n + 1] =": "    keys[n] =",
    "batch.found[n + 1])": "batch.found[n])",
    "  local entry = entry_of(batch.tag, batch.producer, batch.found and batch.found[1])\n": (
        "  local entry = {epoch = epoch, seq = seq - 1, rejected = ''}\n"
    ),
    "  touch_ledger(entry, batch.now)\n  for": "  for",
    "{batch.entry.key, packed_entry(batch.entry)}, 2": "{}, 0",
}


def without_ledger() -> None:
    with_ledger = libraries.library

    def library(namespace: str, writes: int = NEWEST, note: str = "") -> tuple[str, str]:
        name, source = with_ledger(namespace, writes, note)
        for before, after in CHANGES.items():
            assert source.count(before) == 1, f"counting.lua has changed: {before}"
            source = source.replace(before, after)
        return name, source

    async def commit(self: Ledger, batches: Sequence[Batch]) -> list[list[Outcome] | StoreError]:
        return await self._store.record(self._producer, batches)

    changed: Any = Ledger
    libraries.library = library
    changed.commit = commit


def without_lane() -> None:
    @asynccontextmanager
    async def in_aiohttp(
        parts: Components, application: web.Application, listener: Listener
    ) -> AsyncIterator[str]:
        async with (
            prepared(application, parts.settings.keepalive) as server,
            served(server, listener) as url,
        ):
            yield url

    changed: Any = serving
    changed.in_lane = in_aiohttp


def prelude(part: str) -> str:
    """Code that takes the ledger or the lane out of a service, for its `ServiceProcess`."""
    return f"from loadtests import without; without.without_{part}(); "

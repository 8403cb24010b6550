"""The service without one of its parts, to measure what the part costs: for benchmarks only.

Each function changes the service in this process before it starts. Without the ledger counter.lua
neither reads nor writes it, and nothing that was answered is kept: whatever goes wrong then loses
hits or counts them twice. Without the lane aiohttp has every connection from its beginning.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from service import app, functions
from service.app import Components, prepared, served
from service.batch import Batch, Outcome
from service.errors import StoreError
from service.ledger import Ledger
from service.values import Address

CHANGES = {
    "  local known_epoch, last, rejected = ledger_of(tag, producer)\n  local again =": (
        "  local known_epoch, last, rejected = epoch, seq - 1, ''\n  local again ="
    ),
    "    write_ledger(tag, producer, epoch, seq, rejected, now)\n    for n, site": (
        "    for n, site"
    ),
}


def without_ledger() -> None:
    with_ledger = functions.library

    def library(namespace: str) -> tuple[str, str]:
        name, source = with_ledger(namespace)
        for before, after in CHANGES.items():
            assert source.count(before) == 1, f"counter.lua has changed: {before}"
            source = source.replace(before, after)
        return name, source

    async def commit(self: Ledger, batches: Sequence[Batch]) -> list[list[Outcome] | StoreError]:
        return await self._store.record(self._producer, batches)

    changed: Any = Ledger
    functions.library = library
    changed.commit = commit


def without_lane() -> None:
    @asynccontextmanager
    async def in_aiohttp(
        _parts: Components, application: web.Application, address: Address
    ) -> AsyncIterator[str]:
        async with prepared(application) as server, served(server, address) as url:
            yield url

    changed: Any = app
    changed.in_lane = in_aiohttp


def prelude(part: str) -> str:
    """Code that takes the ledger or the lane out of a service, for its `ServiceProcess`."""
    return f"from loadtests import without; without.without_{part}(); "

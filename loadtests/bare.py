"""The service without its promise, to measure what the promise costs: for benchmarks only.

`take_out` changes the service in this process before it starts: counter.lua neither reads nor
writes the ledger, and nothing that was answered is kept. Whatever goes wrong then loses hits or
counts them twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from service import functions
from service.batch import Batch, Outcome
from service.errors import StoreError
from service.ledger import Ledger

CHANGES = {
    "  local known_epoch, last, rejected = ledger_of(tag, producer)\n  local again =": (
        "  local known_epoch, last, rejected = epoch, seq - 1, ''\n  local again ="
    ),
    "    write_ledger(tag, producer, epoch, seq, rejected, now)\n    for n, site": (
        "    for n, site"
    ),
}


def take_out() -> None:
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


PRELUDE = "from loadtests.bare import take_out; take_out(); "

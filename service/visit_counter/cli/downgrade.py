"""The way back to version 0.1: `visit-counter upgrade --put-back`.

It runs while no service counts in the store, which it finds as the service does: the one of the
settings, or the embedded Valkey in the data directory.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from visit_counter.app import store_at
from visit_counter.clock import Clock
from visit_counter.config.settings import Settings
from visit_counter.disk import migration_copy
from visit_counter.errors import StartError, StoreError
from visit_counter.process.startup import store_url
from visit_counter.store.versions import living


async def put_back(settings: Settings, copy: Path | None, *, really: bool) -> str:
    """Bring the store back into the form of 0.1, or only say what that would do, in a sentence.
    Raises StartError."""
    if not really:
        done = "This brings the store into the form of version 0.1, with the numbers of now."
        if copy is None:
            return done
        head, saved = await asyncio.to_thread(migration_copy.read, copy)
        return (
            f"{done} Keys that are damaged get the bytes of {copy}, which holds "
            f"{sum(1 for _ in saved)} keys as they were at {head.at}."
        )
    clock = Clock()
    try:
        async with (
            store_url(settings) as url,
            store_at(url, clock, settings, going_back=True) as store,
        ):
            if running := await living(store):
                hosts = ", ".join(sorted({seen.worker.host for seen in running}))
                raise StartError(
                    f"workers count in this store, on {hosts}: stop them first (one that was "
                    "killed counts as running for a minute)"
                )
            keys = await store.schema.put_back(copy)
    except StoreError as error:
        raise StartError(f"the store did not take it ({error}): run this again") from None
    return (
        f"Brought {keys} keys back into the form of version 0.1: start that. This version migrates "
        "the store again when it is started."
    )

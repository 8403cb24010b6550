"""The watch over the store: once a second it asks whether a hit could be counted now.

It is what /readyz and the gauges tell, and it logs each change of state once, so that a store that
is away for an hour is two lines. It never stands between a hit and the store.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Self

import structlog

from visit_counter import metrics
from visit_counter.errors import StoreError
from visit_counter.store.checks import Check
from visit_counter.store.store import Store
from visit_counter.tasks import supervised

LOOK_S = 1.0
EXAMINE_EVERY = 10  # looks

log = structlog.get_logger()


class Watch:
    """What is wrong with the store now: `fault` keeps it from counting, `checks` make it unsafe."""

    def __init__(self, store: Store) -> None:
        self.fault: str | None = None
        self.checks: tuple[Check, ...] = ()
        self._store = store
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        log.info("the store answers", address=self._store.address)
        await self._look(examine=True)
        self._task = supervised(self._run, "watch")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        looks = 0
        while True:
            await asyncio.sleep(LOOK_S)
            looks += 1
            await self._look(examine=looks % EXAMINE_EVERY == 0)

    async def _look(self, *, examine: bool) -> None:
        try:
            await self._store.probe()
            fault = None
        except StoreError as error:
            fault = str(error)
        self._tell(fault)
        if examine:
            with suppress(StoreError):  # a store that counts nothing may still tell why
                self._judge(await self._store.examine())

    def _tell(self, fault: str | None) -> None:
        if fault and not self.fault:
            log.error("the store cannot count", address=self._store.address, reason=fault)
        elif self.fault and not fault:
            log.info("the store counts again", address=self._store.address)
        self.fault = fault
        metrics.STORE_UP.set(fault is None)

    def _judge(self, checks: tuple[Check, ...]) -> None:
        known = {check.name: check.ok for check in self.checks}
        for check in checks:
            metrics.STORE_CHECK.labels(check.name).set(check.ok)
            if check.ok == known.get(check.name, True):
                continue
            if check.ok:
                log.info("the store is well again", check=check.name, detail=check.detail)
            else:
                log.warning("unsafe store", check=check.name, detail=check.detail)
        self.checks = checks

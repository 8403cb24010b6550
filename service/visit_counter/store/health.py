"""The watch over the store: once a second it asks whether a hit could be counted now.

It is what /readyz and the gauges tell, and it logs each change of state once, so that a store that
is away for an hour is two lines, and one more for each other reason that lasts. It also sees to it
that a server is left whose address leads to another one. It never stands between a hit and the
store.
"""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import suppress
from typing import Self

import structlog

from visit_counter import metrics
from visit_counter.errors import StoreError
from visit_counter.store.checks import Check
from visit_counter.store.store import Store
from visit_counter.tasks import supervised

LOOK_S = 1.0
EXAMINE_EVERY = 4  # looks
FOLLOW_EVERY = 3
LASTING = (
    3  # looks: what is logged of a reason that another one follows, and of a store that is back
)

log = structlog.get_logger()


class Watch:
    """What is wrong with the store now: `fault` keeps it from counting, `checks` make it unsafe."""

    def __init__(self, store: Store) -> None:
        self.fault: str | None = None
        self.since_s: float | None = None
        """When the fault began (monotonic seconds); of its first reason, if it has had several."""
        self.checks: tuple[Check, ...] = ()
        """What the last examination found; empty while the store cannot be examined, since nobody
        knows then whether it still holds."""
        self._not_examined = ""
        """Why."""
        self._known: dict[str, bool] = {}
        """Which checks were well, as the log has told."""
        self._told = Told(store.address)
        self._store = store
        self._looks = 1
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        log.info("the store answers", address=self._store.address)
        with suppress(StoreError):  # so that another server is known from this one from now on
            await self._store.follow()
        await self._look()
        self._task = supervised(self._run, "watch")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    @property
    def problems(self) -> list[str]:
        """What makes a store that counts unsafe, or keeps that from being known, in sentences."""
        if self._not_examined and not self.fault:
            return [
                "The store cannot be examined, so nobody knows whether it is safe: "
                f"{self._not_examined}"
            ]
        return [check.detail for check in self.checks if not check.ok] + self._store.problems

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            self._looks += 1
            await self._look()

    async def _look(self) -> None:
        self._learn(await self._fault())
        if self.fault or self._looks % FOLLOW_EVERY == 0:
            with suppress(StoreError):  # nobody at the address: the fault says so
                if await self._store.follow():
                    self._learn(await self._fault())
        if not self.checks or self._looks % EXAMINE_EVERY == 0:
            try:  # a store that counts nothing may still tell why
                self._judge(await self._store.examine())
                self._not_examined = ""
            except StoreError as error:
                self._forget_checks()
                self._not_examined = self._store.why(error) or str(error)
        self._told.hear(self.fault)

    async def _fault(self) -> str | None:
        try:
            await self._store.probe()
        except StoreError as error:
            return self._store.why(error) or str(error)
        return None

    def _learn(self, fault: str | None) -> None:
        if bool(fault) != bool(self.fault):
            self.since_s = time.monotonic() if fault else None
            self._forget_checks()  # what they said may be over: they are examined anew, now
        self.fault = fault
        metrics.STORE_UP.set(fault is None)

    def _forget_checks(self) -> None:
        self.checks = ()
        metrics.STORE_CHECK.clear()

    def _judge(self, checks: tuple[Check, ...]) -> None:
        for check in checks:
            metrics.STORE_CHECK.labels(check.name).set(check.ok)
            if check.ok == self._known.get(check.name, True):
                continue
            if check.ok:
                log.info("the store is well again", check=check.name, detail=check.detail)
            else:
                log.warning("unsafe store", check=check.name, detail=check.detail)
        self._known = {check.name: check.ok for check in checks}
        self.checks = checks


class Told:
    """What the log says of a fault: that it began and why, each other reason that lasts, once, and
    that it is over when it has been for some looks."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._reasons: set[str] = set()
        """Those that were logged since the fault began, without their numbers."""
        self._began_s = 0.0
        self._last, self._looks = "", 0
        """The reason of the last look, "" for none, and for how many looks it has been that."""

    def hear(self, fault: str | None) -> None:
        """What a look has found."""
        reason = re.sub(r"\d+", "#", fault or "")
        self._looks = self._looks + 1 if reason == self._last else 1
        self._last = reason
        lasts = self._looks >= LASTING
        if fault and not self._reasons:
            self._began_s = time.monotonic()
            self._reasons.add(reason)
            log.error("the store cannot count", address=self._address, reason=fault)
        elif fault and lasts and reason not in self._reasons:
            self._reasons.add(reason)
            log.error(
                "the store cannot count for another reason", address=self._address, reason=fault
            )
        elif not fault and lasts and self._reasons:
            self._reasons.clear()
            away_s = round(time.monotonic() - self._began_s)
            log.info("the store counts again", address=self._address, after_s=away_s)

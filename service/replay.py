"""Brings the spool's batches to the store, in their order, as soon as the store takes them.

While a partition has batches in the spool, the recorder puts its later ones there too, so that the
store gets them all in the order of their numbers. One round trip carries several of a partition.
"""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple, Self

import structlog

from service import metrics
from service.batch import Packed
from service.errors import StoreError
from service.ledger import Ledger
from service.spool import Spool
from service.tasks import supervised

AT_ONCE = 100  # batches in a round trip
PAUSE_S = 0.25
STUCK_S = 10.0

log = structlog.get_logger()


class Refusal(NamedTuple):
    """Since when (monotonic seconds) the store has not taken a partition's batch, and why."""

    since_s: float
    reason: str


class Replay:
    """Empties the spool; `away` says that the store did not take what was tried last."""

    def __init__(self, ledger: Ledger, spool: Spool) -> None:
        self.away = False
        self._reason = ""
        self._refused: dict[int, Refusal] = {}
        self._ledger = ledger
        self._spool = spool
        self._spooled = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = supervised(self._run(), "replay")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    @property
    def stuck(self) -> dict[int, str]:
        """Partitions whose oldest batch the store does not take while it takes others, and why."""
        oldest_s = time.monotonic() - STUCK_S
        refused = {} if self.away else self._refused
        return {n: each.reason for n, each in refused.items() if each.since_s <= oldest_s}

    def is_spooling(self, partition: int) -> bool:
        """Whether the partition's next batch belongs into the spool."""
        return not self.broken and (self.away or self._spool.pending(partition))

    async def spool(self, batches: list[Packed]) -> None:
        """Keep sealed batches until the store takes them; raises SpoolFull or SpoolBroken."""
        epoch = self._ledger.epoch
        await self._spool.append([packed.record(epoch) for packed in batches])
        if not self.away:
            log.warning("the store does not confirm in time: hits are kept in the spool")
        self.away = True
        self._spooled.set()

    @property
    def broken(self) -> bool:
        """The disk failed, or this task did: nothing more is kept until a restart."""
        return bool(self._spool.broken) or self._task is None or self._task.done()

    @property
    def room(self) -> int:
        return self._spool.room

    async def _run(self) -> None:
        while True:
            if not self._spool.records:
                self._spooled.clear()
                await self._spooled.wait()
            partitions = self._spool.partitions()
            refused = [each for each in partitions if not await self._bring_some(each)]
            self.away = bool(partitions) and len(refused) == len(partitions)
            metrics.SPOOL_RECORDS.set(self._spool.records)
            metrics.SPOOL_BYTES.set(self._spool.bytes)
            metrics.STUCK_PARTITIONS.set(len(self.stuck))
            if refused:
                await asyncio.sleep(PAUSE_S)
            elif not self._spool.records:
                log.info("the spool is empty: the store has all hits")

    async def _bring_some(self, partition: int) -> bool:
        """Bring the partition's oldest batches; says whether the store took them. One that it does
        not take keeps the others not."""
        records = self._spool.read_some(partition, AT_ONCE)
        try:
            await self._ledger.replay([Packed.of(record) for record in records])
        except StoreError as error:
            self._refused.setdefault(partition, Refusal(time.monotonic(), str(error)))
            self._tell(str(error))
            return False
        self._refused.pop(partition, None)
        await self._spool.ack(partition, records[-1].seq)
        self._tell("")
        return True

    def _tell(self, reason: str) -> None:
        if reason and not self._reason:
            log.warning("the store does not take spooled hits", reason=reason)
        self._reason = reason

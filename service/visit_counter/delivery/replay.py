"""Brings the spool's batches to the store, in their order, as soon as the store takes them.

While a partition has batches in the spool, the recorder puts its later ones there too, so that the
store gets them all in the order of their numbers. One round trip carries several of a partition.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import shuffle
from typing import NamedTuple, Self

import structlog

from visit_counter import metrics
from visit_counter.delivery.ledger import Ledger
from visit_counter.delivery.queues import MAX_BATCH
from visit_counter.disk import directories
from visit_counter.disk.format import Record
from visit_counter.disk.producer import Producer
from visit_counter.disk.spool import Spool
from visit_counter.errors import OutcomeUnknown, SpoolBroken, StoreError, UnknownForm
from visit_counter.model.site_settings import PARTITIONS
from visit_counter.store.replies import Early
from visit_counter.store.store import Store
from visit_counter.tasks import supervised

AT_ONCE = 100  # batches in a round trip
PAUSE_S = 0.25
STUCK_S = 10.0
# A hit takes at most its path and 8 bytes of id, and some more for a site's settings and periods.
MAX_BATCH_BYTES = MAX_BATCH * 2048
SPOOL_BYTES = 256 * 1024 * 1024
NOT_AWAY = (Early, UnknownForm)  # what keeps one partition's batches, and not a server's

log = structlog.get_logger()


@asynccontextmanager
async def replaying(store: Store, producer: Producer) -> AsyncIterator[tuple[Ledger, Replay]]:
    """The ledger of a producer with a directory, and what brings the store its spool."""
    assert producer.directory, "there is a place for a spool"
    directory = producer.directory / "spool"
    directories.make(directory, 0o700)
    async with Spool(directory, SPOOL_BYTES) as spool:
        spooled = [spool.last_seq(partition) for partition in range(PARTITIONS)]
        async with Ledger(store, producer, spooled) as ledger, Replay(ledger, spool) as replay:
            yield ledger, replay


class NotTaken(NamedTuple):
    """Since when (monotonic seconds) the store has not taken a partition's batch, and why."""

    since_s: float
    reason: str


class Replay:
    """Empties the spool, each server's partitions by themselves."""

    def __init__(self, ledger: Ledger, spool: Spool) -> None:
        self._ledger = ledger
        self._spool = spool
        self._spooled = asyncio.Event()
        self._away: set[str] = set()
        """Servers that took nothing of what was tried last."""
        self.in_use = True
        """Whether there may be batches in the spool, or are servers away; False costs no look."""
        self._not_taken: dict[int, NotTaken] = {}
        self._failed = False
        self._emptying: dict[str, asyncio.Task[None]] = {}
        self._emptied = asyncio.Event()
        self._records = metrics.Part(metrics.SPOOL_RECORDS)
        self._bytes = metrics.Part(metrics.SPOOL_BYTES)
        self._stuck = metrics.Part(metrics.STUCK_PARTITIONS)
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._spooled.set()  # what the last process has left
        self._task = supervised(self._run(), "replay")
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = {task for task in (self._task, *self._emptying.values()) if task}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for part in (self._records, self._bytes, self._stuck):
            part.set(0)

    @property
    def away(self) -> bool:
        """Whether a server took nothing of what was tried last."""
        return bool(self._away)

    @property
    def stuck(self) -> dict[int, str]:
        """Partitions whose oldest batch a server does not take while it takes others, and why."""
        oldest_s = time.monotonic() - STUCK_S
        return {
            partition: oldest.reason
            for partition, oldest in self._not_taken.items()
            if oldest.since_s <= oldest_s and self._ledger.shard(partition) not in self._away
        }

    @property
    def problems(self) -> list[str]:
        """Why hits in the spool stay there, or no more are kept, in sentences."""
        if self._spool.broken:
            return [self._spool.broken]
        if self._failed or self._task is None or self._task.done():
            return ["Spooled hits are no longer brought to the store: restart the service."]
        return [
            f"The store takes no batches of partition {partition} from the spool: {reason}"
            for partition, reason in self.stuck.items()
        ]

    @property
    def has_room(self) -> bool:
        """Whether the largest batch of all would be kept: a 503 is decided before a hit gets a
        number."""
        return self._spool.room > MAX_BATCH_BYTES

    def is_spooling(self, partition: int) -> bool:
        """Whether the partition's next batch belongs into the spool."""
        if self._spool.pending(partition):
            return True
        return bool(self._away) and self._ledger.shard(partition) in self._away

    async def spool(self, batches: list[Record]) -> None:
        """Keep sealed batches until the store takes them; raises SpoolFull or SpoolBroken."""
        self.in_use = True
        await self._spool.append(batches)
        for address in {self._ledger.shard(record.partition) for record in batches}:
            if address not in self._emptying:
                log.warning("hits are kept in the spool: no answer in time", store=address)
                self._away.add(address)
        self._spooled.set()

    async def until_empty(self) -> None:
        """Wait until the store has all that was in the spool at the start."""
        await self._emptied.wait()

    async def _run(self) -> None:
        """Start to empty what belongs to a server for which nobody does."""
        while True:
            await self._spooled.wait()
            self._spooled.clear()
            servers = {self._ledger.shard(partition) for partition in self._spool.partitions()}
            for address in servers - self._emptying.keys():
                self._emptying[address] = supervised(self._empty(address), f"replay to {address}")
            # A server whose batches another one's replay has brought meanwhile is asked by nobody.
            self._away.intersection_update(self._emptying)
            self._measure()

    async def _empty(self, address: str) -> None:
        told = False
        try:
            while partitions := self._partitions(address):
                try:
                    taken, errors = await self._bring(partitions)
                    away = not taken and not all(isinstance(each, NOT_AWAY) for each in errors)
                except SpoolBroken:
                    raise
                except Exception:  # a mistake of ours: the batches stay, and are sent again
                    log.exception("a replay failed", store=address)
                    away, errors = True, [StoreError("a mistake of ours")]
                (self._away.add if away else self._away.discard)(address)
                self._measure()
                if errors and not told:
                    log.warning("spooled hits are not taken", store=address, reason=str(errors[0]))
                told = bool(errors)
                if errors:
                    await asyncio.sleep(PAUSE_S)
            log.info("the store has all spooled hits", store=address)
            self._spooled.set()  # what is left is for another server
        except Exception:
            self._failed = True
            raise
        finally:
            self._away.discard(address)
            del self._emptying[address]

    def _partitions(self, address: str) -> list[int]:
        """Those of a server with batches in the spool, in any order."""
        found = [n for n in self._spool.partitions() if self._ledger.shard(n) == address]
        shuffle(found)
        return found

    async def _bring(self, partitions: list[int]) -> tuple[int, list[StoreError]]:
        """Bring the oldest batches of each partition; of how many they were taken, and why of
        others not. An error does not keep the rest from being tried, a silent server does."""
        taken = 0
        errors: list[StoreError] = []
        for partition in partitions:
            try:
                await self._bring_some(partition)
                taken += 1
            except StoreError as error:
                first = self._not_taken.get(partition, NotTaken(time.monotonic(), ""))
                self._not_taken[partition] = first._replace(reason=str(error))
                errors.append(error)
                if isinstance(error, OutcomeUnknown):
                    break
        return taken, errors

    async def _bring_some(self, partition: int) -> None:
        records = self._spool.read_some(partition, AT_ONCE)
        await self._ledger.replay(records)
        self._not_taken.pop(partition, None)
        await self._spool.ack(partition, records[-1].seq)

    def _measure(self) -> None:
        self.in_use = bool(self._spool.records or self._away)
        self._records.set(self._spool.records)
        self._bytes.set(self._spool.bytes)
        self._stuck.set(len(self.stuck))
        if not self._spool.records:
            self._emptied.set()

"""Brings the spool's batches to the store, in their order, as soon as the store takes them.

While a partition has batches in the spool, the recorder puts its later ones there too, so that the
store gets them all in the order of their numbers. One round trip carries several of a partition.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
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
from visit_counter.errors import (
    OutcomeUnknown,
    SpoolFull,
    SpoolGone,
    SpoolUnreadable,
    StoreError,
    UnknownForm,
)
from visit_counter.model.site_settings import PARTITIONS
from visit_counter.store.replies import Early, Failed, NotOurs
from visit_counter.store.store import Store
from visit_counter.tasks import once, supervised

AT_ONCE = 100  # batches in a round trip
PAUSE_S = 0.25
LOOK_S = 1.0  # between two looks whether an outage is over
QUIET_S = 3.0  # without another spooled hit, until it is
STUCK_S = 4.0
# A hit takes at most its path and 8 bytes of id, and some more for a site's settings and periods.
MAX_BATCH_BYTES = MAX_BATCH * 2048
SPOOL_BYTES = 256 * 1024 * 1024
# What keeps one partition's batches, and not a server's.
NOT_AWAY = (Early, UnknownForm, SpoolUnreadable, Failed, NotOurs)

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


class Outage:
    """A time in which a server's hits went into the spool. Outages less than QUIET_S apart are one,
    so that a store that is late every other moment is two lines of the log."""

    def __init__(self) -> None:
        self.began = time.time()
        """Seconds since the epoch."""
        self.began_s = self.last_s = time.monotonic()
        """When it began, and when a hit was spooled last."""
        self.hits = 0
        self.reason = ""
        """Why the server has not taken what was tried last."""


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
        self._outages: dict[str, Outage] = {}
        """By the server's address."""
        self._emptying: dict[str, asyncio.Task[None]] = {}
        self._emptied = asyncio.Event()
        self._records = metrics.Part(metrics.SPOOL_RECORDS)
        self._bytes = metrics.Part(metrics.SPOOL_BYTES)
        self._stuck = metrics.Part(metrics.STUCK_PARTITIONS)
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._spooled.set()  # what the last process has left
        self._task = supervised(self._run, "replay")
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
        problems = [self._spool.problem] if self._spool.problem else []
        for address, outage in self._outages.items():
            since = datetime.fromtimestamp(outage.began, UTC).isoformat(timespec="seconds")
            problems.append(
                f"The store at {address} has not taken hits in time since {since}: {outage.hits} "
                f"hits went into the spool, {self._spool.records} batches lie there and are "
                f"brought to it when it takes them{outage.reason and f' ({outage.reason})'}."
            )
        partitions: dict[str, list[str]] = {}
        for partition, reason in self.stuck.items():
            partitions.setdefault(reason, []).append(str(partition))
        for reason, stuck in partitions.items():
            which = f"partition{'s' * (len(stuck) > 1)} {', '.join(stuck)}"
            problems.append(f"Batches of {which} wait in the spool: {reason}")
        return problems

    @property
    def cannot_keep(self) -> str:
        """Why the largest batch of all would not be kept; empty if it would. A 503 is decided
        before a hit gets a number."""
        return self._spool.cannot_keep(MAX_BATCH_BYTES)

    def is_spooling(self, partition: int) -> bool:
        """Whether the partition's next batch belongs into the spool."""
        if self._spool.pending(partition):
            return True
        return bool(self._away) and self._ledger.shard(partition) in self._away

    async def spool(self, batches: list[Record], hits: int) -> None:
        """Keep sealed batches, of so many hits, until the store takes them; raises SpoolFull or
        SpoolBroken."""
        if why := self.cannot_keep:
            raise SpoolFull(why)
        self.in_use = True
        await self._spool.append(batches)
        for address in {self._ledger.shard(record.partition) for record in batches}:
            if address not in self._outages:
                log.warning("hits go into the spool: the store is late or away", store=address)
                self._outages[address] = Outage()
            if address not in self._emptying:
                self._away.add(address)
            self._outages[address].last_s = time.monotonic()
            self._outages[address].hits += hits
            hits = 0  # of several servers those of all are told with the first
        self._spooled.set()

    async def until_empty(self) -> None:
        """Wait until the store has all that was in the spool at the start."""
        await self._emptied.wait()

    async def _run(self) -> None:
        """Start to empty what belongs to a server for which nobody does."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._spooled.wait()
            self._spooled.clear()
            self._end_outages()
            servers = {self._ledger.shard(partition) for partition in self._spool.partitions()}
            for address in servers - self._emptying.keys():
                self._emptying[address] = once(self._empty(address), f"replay to {address}")
            # A server whose batches another one's replay has brought meanwhile is asked by nobody.
            self._away.intersection_update(self._emptying)
            self._measure()

    def _end_outages(self) -> None:
        """Those in which nothing has happened for a while, with nothing left in the spool."""
        now_s = time.monotonic()
        for address, outage in [*self._outages.items()]:
            if address not in self._emptying and now_s - outage.last_s >= QUIET_S:
                del self._outages[address]
                log.info(
                    "the store has all spooled hits",
                    store=address,
                    hits=outage.hits,
                    seconds=round(outage.last_s - outage.began_s, 1),
                )

    async def _empty(self, address: str) -> None:
        told = ""
        try:
            while partitions := self._partitions(address):
                try:
                    taken, errors = await self._bring(partitions)
                    away = not taken and not all(isinstance(each, NOT_AWAY) for each in errors)
                except Exception:  # a bug of this service: the batches stay, and are sent again
                    log.exception("a replay failed", store=address)
                    away, errors = True, [StoreError("a bug of this service, see the log")]
                (self._away.add if away else self._away.discard)(address)
                self._measure()
                reason = str(errors[0]) if errors else ""
                if outage := self._outages.get(address):
                    outage.reason = reason
                if errors and reason != told:
                    log.warning("spooled hits are not taken", store=address, reason=reason)
                    told = reason
                if errors:
                    await asyncio.sleep(PAUSE_S)
            self._spooled.set()  # what is left is for another server
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
                if isinstance(error, OutcomeUnknown) and not isinstance(error, Failed):
                    break
        return taken, errors

    async def _bring_some(self, partition: int) -> None:
        try:
            records = self._spool.read_some(partition, AT_ONCE)
        except SpoolGone as gone:
            passed = await self._spool.pass_by(partition)
            log.error("batches of the spool are lost", reason=str(gone), batches=passed)
            return
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

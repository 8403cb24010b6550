"""Brings the spool's batches to the store, in their order, as soon as the store takes them.

While a partition has batches in the spool, the recorder puts its later ones there too, so that the
store gets them all in the order of their numbers; so it does while another spool of the data
directory has older hits of the partition, see `order`. One round trip carries several batches.
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

from visit_counter import logs, metrics
from visit_counter.delivery.debts import Debts
from visit_counter.delivery.ledger import Ledger
from visit_counter.delivery.order import Heads, Order, number_of
from visit_counter.delivery.queues import MAX_BATCH
from visit_counter.disk import guarded
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
from visit_counter.rules.limits import Limits
from visit_counter.store.batch import first_instant
from visit_counter.store.replies import Early, Failed, NotOurs
from visit_counter.store.store import Store
from visit_counter.tasks import once, supervised

AT_FIRST, AT_ONCE = 8, 100  # batches of a partition in a round trip
AT_ONCE_BYTES = 4 << 20
ABREAST = 16  # partitions
PAUSE_S = 0.25
TURN_S = 0.01  # between two looks whether it is our turn
PROBE_S = 1.0  # between two looks whether the store takes hits, while it is not
LOOK_S = 0.25  # between two looks at what others have spooled, and whether an outage is over
QUIET_S = 3.0  # without another spooled hit, until it is
STUCK_S = 4.0
# A hit takes at most its path and 8 bytes of id, and some more for a site's settings and periods.
MAX_BATCH_BYTES = MAX_BATCH * 2048
SPOOL_BYTES = 256 * 1024 * 1024
# What keeps one partition's batches, and not a server's.
NOT_AWAY = (Early, UnknownForm, SpoolUnreadable, Failed, NotOurs)

log = structlog.get_logger()


@asynccontextmanager
async def replaying(
    store: Store, producer: Producer, heads: Heads | None = None, limits: Limits | None = None
) -> AsyncIterator[tuple[Ledger, Replay]]:
    """The ledger of a producer with a directory, and what brings the store its spool, in one order
    with all spools that `heads` know; `limits` charge for visitors in the spool."""
    assert producer.directory, "there is a place for a spool"
    order = Order(heads or Heads(), number_of(producer.directory), store.now)
    directory = producer.directory / "spool"
    guarded.directory(directory)
    async with Spool(directory, SPOOL_BYTES) as spool:
        spooled = [spool.last_seq(partition) for partition in range(PARTITIONS)]
        order.begin(await asyncio.to_thread(_heads, spool))
        async with (
            Ledger(store, producer, spooled) as ledger,
            Replay(ledger, spool, order, None if limits is None else Debts(limits)) as replay,
        ):
            yield ledger, replay


def _heads(spool: Spool) -> list[int]:
    """The instant of the oldest batch of each partition, 0 for none. It blocks."""
    heads = [0] * PARTITIONS
    for partition in spool.partitions():
        with suppress(SpoolUnreadable):  # the replay tells, and nobody is to wait for it
            if record := spool.read(partition):
                heads[partition] = first_instant(record.payload)
    return heads


def _is_silent(error: StoreError) -> bool:
    return isinstance(error, OutcomeUnknown) and not isinstance(error, Failed)


LATE = (
    "The store at {address} has not taken hits in time since {since}: {hits} hits went into the "
    "spool, {batches} batches lie there and are brought to it when it takes them{reason}."
)
TURN = (
    "Another process has older hits in its spool for the store at {address}: since {since} {hits} "
    "hits went into the spool of this one, {batches} batches lie there and wait for their turn."
)


class Outage:
    """A time in which a server's hits went into the spool. Outages less than QUIET_S apart are one,
    so that a store that is late every other moment is two lines of the log."""

    def __init__(self, problem: str) -> None:
        self.problem = problem
        """The sentence for operators: LATE or TURN."""
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

    def __init__(
        self,
        ledger: Ledger,
        spool: Spool,
        order: Order | None = None,
        debts: Debts | None = None,
    ) -> None:
        self.debts = debts
        self._ledger = ledger
        self._spool = spool
        self._order = order or Order(Heads(), -1, lambda: 0)
        self._spooled = asyncio.Event()
        self._away: set[str] = set()
        """Servers that took nothing of what was tried last."""
        self.in_use = True
        """Whether there may be batches in a spool of the data directory, or servers are away; False
        costs no look."""
        self._not_taken: dict[int, NotTaken] = {}
        self._outages: dict[str, Outage] = {}
        """By the server's address."""
        self._emptying: dict[str, asyncio.Task[None]] = {}
        self._emptied = asyncio.Event()
        self._at_once: dict[int, int] = {}
        """By partition: how many batches the next round trip carries at most."""
        self._probed_s: dict[str, float] = {}
        """By address: when it was asked last whether it takes hits."""
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
            said = {"address": address, "since": since, "hits": outage.hits}
            said["reason"] = outage.reason and f" ({outage.reason})"
            problems.append(outage.problem.format(**said, batches=self._spool.records))
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
        if self._away and self._ledger.shard(partition) in self._away:
            return True
        return self._order.holds(partition) and not self.cannot_keep

    async def spool(self, batches: list[Record], hits: int) -> None:
        """Keep sealed batches, of so many hits, until the store takes them; raises SpoolFull or
        SpoolBroken."""
        if why := self.cannot_keep:
            raise SpoolFull(why)
        self.in_use = True
        is_late = not all(self._order.holds(record.partition) for record in batches)
        self._publish(batches, there=True)  # first, so that nobody overtakes them meanwhile
        try:
            await self._spool.append(batches)
        finally:
            self._publish(batches, there=False)
        for address in {self._ledger.shard(record.partition) for record in batches}:
            if address not in self._outages:
                self._begin_outage(address, is_late)
            if is_late and address not in self._emptying:
                self._away.add(address)
            self._outages[address].last_s = time.monotonic()
            self._outages[address].hits += hits
            hits = 0  # of several servers those of all are told with the first
        self._spooled.set()

    def _begin_outage(self, address: str, is_late: bool) -> None:
        self._outages[address] = Outage(LATE if is_late else TURN)
        if is_late:
            log.warning("hits go into the spool: the store is late or away", store=address)
        else:
            log.warning(
                "hits go into the spool: another process has older ones there", store=address
            )

    def _publish(self, batches: list[Record], *, there: bool) -> None:
        """Tell the other producers of the oldest of these batches that lie in the spool, or will be
        `there`."""
        for record in batches:
            partition = record.partition
            if not (there or self._spool.pending(partition)):
                self._order.put(partition, 0)
            elif not self._order.head(partition):
                self._order.put(partition, first_instant(record.payload))

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
            self._order.look()
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
                self._order.look()
                turn, held = self._turns(partitions)
                try:
                    taken, errors = await self._bring(turn)
                    away = not taken and not all(isinstance(each, NOT_AWAY) for each in errors)
                except Exception as error:  # our bug: the batches stay, and are sent again
                    logs.mistake("a replay failed", error, store=address)
                    taken, away = 0, True
                    errors = [StoreError("a bug of this service, see the log")]
                if taken or errors:
                    (self._away.add if away else self._away.discard)(address)
                self._measure()
                reason = str(errors[0]) if errors else ""
                if outage := self._outages.get(address):
                    outage.reason = reason
                if errors and reason != told:
                    log.warning("spooled hits are not taken", store=address, reason=reason)
                    told = reason
                if held:
                    await self._wait(address, held[0], taken=taken > 0)
                if not taken:
                    await asyncio.sleep(PAUSE_S if errors else TURN_S)
            self._spooled.set()  # what is left is for another server
        finally:
            self._away.discard(address)
            del self._emptying[address]

    def _partitions(self, address: str) -> list[int]:
        """Those of a server with batches in the spool, in any order."""
        found = [n for n in self._spool.partitions() if self._ledger.shard(n) == address]
        shuffle(found)
        return found

    def _turns(self, partitions: list[int]) -> tuple[list[int], list[int]]:
        """Those whose turn it is, and those that have to wait for another producer."""
        turn = [n for n in partitions if self._order.is_turn(n, self._order.head(n))]
        return turn, [n for n in partitions if n not in turn]

    async def _wait(self, address: str, held: int, *, taken: bool) -> None:
        """A partition waits for another producer: not for ever, if the store takes hits."""
        now_s = time.monotonic()
        if now_s - self._probed_s.get(address, 0) < PROBE_S:
            return
        self._probed_s[address] = now_s
        partitions = [n for n in range(PARTITIONS) if self._ledger.shard(n) == address]
        try:
            if not taken:
                await self._ledger.probe(held)
        except StoreError:
            self._order.stop_waiting(partitions)
        else:
            self._order.wait(partitions)

    async def _bring(self, partitions: list[int]) -> tuple[int, list[StoreError]]:
        """Bring the oldest batches of each partition; of how many they were taken, and why of
        others not. An error does not keep the rest from being tried, a silent server does."""
        taken, began_s = 0, time.monotonic()
        errors: list[StoreError] = []
        for first in range(0, len(partitions), ABREAST):
            some = partitions[first : first + ABREAST]
            brought = await asyncio.gather(*map(self._bring_some, some), return_exceptions=True)
            for partition, each in zip(some, brought, strict=True):
                if isinstance(each, StoreError):
                    first_error = self._not_taken.get(partition, NotTaken(time.monotonic(), ""))
                    self._not_taken[partition] = first_error._replace(reason=str(each))
                    errors.append(each)
                elif isinstance(each, BaseException):
                    raise each
                else:
                    taken += each
            if any(map(_is_silent, errors)):
                break
        if taken and not errors:
            self._order.took(time.monotonic() - began_s)
        return taken, errors

    async def _bring_some(self, partition: int) -> bool:
        """Bring the oldest batches of a partition whose turn it is; whether there were any."""
        most = self._at_once.get(partition, AT_FIRST) if self._order.others else AT_ONCE
        try:
            records = self._spool.read_some(partition, most, AT_ONCE_BYTES)
        except SpoolGone as gone:
            passed = await self._spool.pass_by(partition)
            log.error("batches of the spool are lost", reason=str(gone), batches=passed)
            return True
        records, head = self._in_turn(partition, records)
        if not records:
            self._order.put(partition, head)
            return False
        marks = await self._ledger.replay(records)
        self._not_taken.pop(partition, None)
        if self.debts is not None:
            for seq, told in marks.items():
                self.debts.settle(partition, seq, told)
        last = records[-1].seq
        self._order.put(partition, head if self._spool.last_seq(partition) > last else 0)
        self._at_once[partition] = min(2 * len(records) + 1, AT_ONCE)
        await self._spool.ack(partition, last)
        return True

    def _in_turn(self, partition: int, records: list[Record]) -> tuple[list[Record], int]:
        """The batches whose turn it is; and the instant of the next one, or of the last."""
        at = 0
        for number, record in enumerate(records):
            at = first_instant(record.payload)
            if not self._order.is_turn(partition, at):
                return records[:number], at
        return records, at

    def _measure(self) -> None:
        self.in_use = bool(self._spool.records or self._away or self._order.others)
        self._records.set(self._spool.records)
        self._bytes.set(self._spool.bytes)
        self._stuck.set(len(self.stuck))
        if not self._spool.records:
            self._emptied.set()
            if self.debts is not None:
                self.debts.forget()

"""Our side of the ledger: numbers batches, and sees to it that each is counted once.

The store keeps, in one unit with the counts, the number of this producer's last batch in each
partition. A batch is sent with its number until the store has answered for it; what was answered
is kept a while, so that a store that was promoted without it (a gap) gets exactly what it lacks. A
hole that nothing can fill is counted as lost and passed, never guessed at.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple, Self

import structlog

from visit_counter import metrics
from visit_counter.delivery import fencing
from visit_counter.delivery.dead_letters import Aside
from visit_counter.delivery.fencing import Fencing
from visit_counter.disk.format import Record
from visit_counter.disk.producer import Producer
from visit_counter.errors import StartError, StoreError, StoreUnavailable
from visit_counter.model.hit import Drop, Hit
from visit_counter.model.site_settings import PARTITIONS
from visit_counter.store.batch import Batch, Outcome
from visit_counter.store.replies import Fenced, Gap, Rejected
from visit_counter.store.store import Store
from visit_counter.tasks import supervised

RETAIN_S = 60.0
RETAIN_BYTES = 64 * 1024 * 1024
VERIFY_S: Final = 4.0  # also until an idle service finds out that it is fenced
TOUCH_S: Final = 86_400.0
TELL_S: Final = 3600.0  # the store forgets a start after three days

_TAKEN: Final = StoreUnavailable("earlier batches of the partition are being sent again")
_BEHIND: Final = StoreUnavailable("an earlier batch of the partition was not answered for")

Marks = dict[int, bytes]
"""By the numbers of batches that the store has counted: what became of their hits, see
`Batch.marked`. Empty for one that it had counted before."""

log = structlog.get_logger()


class Gate:
    """A partition's readers-writer lock. Its readers are flushes, which pass together; its writer
    is one repair or replay, which enters alone: it waits for the flushes under way, and lets no
    other begin."""

    def __init__(self) -> None:
        self._flushes = 0
        self._wanted = 0
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._one = asyncio.Lock()

    async def __aenter__(self) -> Self:
        self._wanted += 1
        try:
            await self._one.acquire()
            try:
                await self._quiet.wait()
            except BaseException:
                self._one.release()
                raise
        except BaseException:
            self._wanted -= 1
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._one.release()
        self._wanted -= 1

    def begin_flush(self) -> bool:
        """Never waits; False: somebody has it alone, or will soon."""
        if self._wanted:
            return False
        self._flushes += 1
        self._quiet.clear()
        return True

    def end_flush(self) -> None:
        self._flushes -= 1
        if not self._flushes:
            self._quiet.set()


class Retained(NamedTuple):
    """A batch that the store has answered for, and when (monotonic seconds)."""

    at_s: float
    record: Record
    other: Producer | None
    """Under whose id it was sent, if not under ours."""


class Ledger:
    """The numbers of this producer's batches; entering opens its epoch in every partition."""

    def __init__(self, store: Store, producer: Producer, spooled: Sequence[int] = ()) -> None:
        """`spooled`: the number of the last batch in the spool, by partition, 0 for none."""
        self.fenced = False
        self.fault = ""
        """Why it counts nothing more, in a sentence with the remedy: it is fenced."""
        self._fencing = Fencing(producer)
        self._noting: asyncio.Task[None] | None = None
        self._aside = Aside(producer.directory and producer.directory / "rejected")
        self._spooled = spooled or [0] * PARTITIONS
        self._store = store
        self._producer = producer
        self._sealed = [0] * PARTITIONS
        self._confirmed = [0] * PARTITIONS
        self._kept: deque[Retained] = deque()
        self._kept_bytes = 0
        self._retained = metrics.Part(metrics.RETAINED_BYTES)
        self._touched_s = self._told_s = time.monotonic()
        self._began: Sequence[int] = ()
        """The last numbers that had been given, by partition, when our epoch began."""
        self._gates = [Gate() for _ in range(PARTITIONS)]
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        try:
            self._confirmed = opened = await self._open()
            self._sealed = [max(pair) for pair in zip(opened, self._spooled, strict=True)]
            self._began = tuple(self._sealed)
            await self._tell()
        except StoreError as error:
            raise StartError(f"the store does not open the ledger: {error}") from None
        except OSError as error:
            raise StartError(f"the producer's directory cannot be written: {error}") from None
        self._task = supervised(self._run, "ledger")
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = {task for task in (self._task, self._noting) if task}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._retained.set(0)

    @property
    def producer(self) -> str:
        """Its id."""
        return self._producer.id

    @property
    def epoch(self) -> int:
        return self._producer.epoch

    @property
    def problems(self) -> list[str]:
        """Which batches are not counted, and why, in sentences."""
        return self._aside.problems

    @property
    def routes(self) -> int:
        """Another number whenever a partition has gone to another server."""
        return self._store.routes

    def shard(self, partition: int) -> str:
        """Names the server that takes the partition's batches now."""
        return self._store.shard(partition)

    async def probe(self, partition: int) -> None:
        """Whether the store would take a batch of the partition now; raises StoreError."""
        await self._store.probe(partition)

    def seal(self, partition: int, entries: Sequence[Hit | Drop], now: int) -> Batch:
        """Number what has gathered."""
        seq, form = self._sealed[partition] + 1, self._store.writes
        batch = Batch(partition, seq, entries, now, form, self.epoch)
        self._sealed[partition] = seq
        return batch

    async def commit(
        self, batches: Sequence[Batch], before: asyncio.Future[Any] | None = None
    ) -> list[list[Outcome] | StoreError]:
        """Send batches, those of a partition in their order; for each its outcomes or why there are
        none. Rejected and Fenced are final; after any other error the same batch is to be sent
        again.

        `before`: an earlier commit that may still be under way to the same server.
        """
        mine = [batch for batch in batches if self._gate(batch).begin_flush()]
        try:
            committed = iter(await self._commit(mine, before))
        finally:
            for batch in mine:
                self._gate(batch).end_flush()
        sent = set(map(id, mine))
        return [next(committed) if id(batch) in sent else _TAKEN for batch in batches]

    def _gate(self, batch: Batch) -> Gate:
        return self._gates[batch.partition]

    async def _commit(
        self, batches: Sequence[Batch], before: asyncio.Future[Any] | None
    ) -> list[list[Outcome] | StoreError]:
        results = await self._store.record(self._producer, batches)
        if before is not None and not before.done():
            await asyncio.wait({before})
        return [await self._learn(*pair) for pair in zip(batches, results, strict=True)]

    async def _learn(
        self, batch: Batch, result: list[Outcome] | StoreError
    ) -> list[Outcome] | StoreError:
        """What the store's answer means to us, behind all that it means for earlier batches."""
        seq, confirmed = batch.seq, self._confirmed[batch.partition]
        if seq > confirmed + 1 and not isinstance(result, Fenced):
            return _BEHIND  # also where it counted: then it will be known when it comes again
        if isinstance(result, Gap):
            result = await self._after_gap(batch)
        if isinstance(result, list):
            self._confirm(batch.record)
        elif isinstance(result, Rejected):
            await self._reject(batch.record, result)
        elif isinstance(result, Fenced):
            self._fence()
        return result

    async def replay(self, batches: Sequence[Record]) -> Marks:
        """Send batches of one partition from the spool, in their order; raises StoreError."""
        async with self._gates[batches[0].partition]:
            batches = await self._replay_taken(batches)
            if not batches:
                return {}
            try:
                marks = await self._send_again(batches)
            except Gap:
                marks = await self._send_past_gaps(batches)
            except Fenced:
                self._fence()
                raise
            for record in batches:
                self._confirm(record)
            return marks

    async def _send_again(self, batches: Sequence[Record]) -> Marks:
        try:
            told = await self._store.replay(self._producer, batches)
        except Rejected:
            marks: Marks = {}
            for record in batches:
                marks.update(await self._send_or_reject(record))
            return marks
        return {record.seq: each for record, each in zip(batches, told, strict=True)}

    async def _send_or_reject(self, record: Record) -> Marks:
        try:
            (marks,) = await self._store.replay(self._producer, [record])
        except Rejected as rejected:
            await self._reject(record, rejected)
            return {}
        self._confirm(record)
        return {record.seq: marks}

    async def _reject(self, record: Record, rejected: Rejected) -> None:
        """What the store will never count is kept aside for people to look at."""
        metrics.REJECTED_BATCHES.inc()
        self._confirm(record)  # what fills a gap has no holes
        await self._aside.put(record, str(rejected))

    # -- repair

    async def _send_past_gaps(self, batches: Sequence[Record]) -> Marks:
        """A spool may lack numbers in its middle: records of an earlier run may come again."""
        marks: Marks = {}
        for record in batches:
            try:
                marks.update(await self._send_or_reject(record))
            except Gap:
                await self._fill(record.partition, record.seq - 1)
                marks.update(await self._send_or_reject(record))
        return marks

    async def _after_gap(self, batch: Batch) -> list[Outcome] | StoreError:
        """Fill the gap, and send the batch again."""
        try:
            await self._fill(batch.partition, batch.seq - 1)
        except StoreError as error:
            return error
        (result,) = await self._store.record(self._producer, [batch])
        return result

    async def _fill(self, partition: int, wanted: int) -> None:
        """Replay what the store lacks, up to `wanted`; pass what nobody has."""
        await self._store.probe(partition)  # an emptied or foreign store is not to be filled
        (last,) = await self._store.open(self._producer, {partition: 0})
        with suppress(OSError):  # a promoted store may lack it; on our disk it is
            await self._tell()
        if last > wanted:
            raise StoreUnavailable(
                "the store knows later batches of ours than we do, as after a restored backup: "
                "restart the service"
            )
        missing = [
            record
            for _, record, other in self._kept
            if other is None and record.partition == partition and last < record.seq <= wanted
        ]
        if lost := wanted - last - len(missing):
            await self._store.open(self._producer, {partition: wanted - len(missing)})
            metrics.LOST_BATCHES.inc(lost)
            log.error("the store has lost batches that we no longer hold", batches=lost)
        if missing:
            await self._send_again(missing)
            metrics.REPLAYED_BATCHES.inc(len(missing))
            log.warning("the store had lost batches; sent again", batches=len(missing))

    # -- a copy of the directory

    async def _open(self) -> list[int]:
        """Begin our epoch; under another id if a copy of the directory has taken this one over."""
        if not self._fencing.is_taken(self._producer):
            try:
                return await self._store.open(self._producer)
            except Fenced:
                await self._fencing.take(self._store, self._producer)
        before = self._producer.id
        fencing.begin_anew(self._producer)
        log.warning(
            "counting under another producer id: the data directory was copied or restored, and "
            "the id before is another service's by now",
            before=before,
            now=self._producer.id,
        )
        return await self._store.open(self._producer)

    async def _replay_taken(self, batches: Sequence[Record]) -> Sequence[Record]:
        """Send what may be in the ledger under an id that another service has by now; returns the
        rest, which is to be sent under ours."""
        for sent, record in enumerate(batches):
            taken = self._fencing.of(record)
            if taken is None:
                return batches[sent:]
            if taken.sealed is None:
                await self._set_aside(record)
            elif record.seq <= taken.sealed[record.partition]:
                other = Producer(taken.id, record.epoch, None)
                await self._send_as(other, record)
                self._retain(record, other)
            else:
                await self._begin_behind(record.partition, record.seq - 1)
                return batches[sent:]
            await self._begin_behind(record.partition, record.seq)
        return []

    async def _begin_behind(self, partition: int, seq: int) -> None:
        """Our numbers begin behind those that were given under another id."""
        if self._confirmed[partition] < seq:
            await self._store.open(self._producer, {partition: seq})
            self._confirmed[partition] = seq

    async def _send_as(self, other: Producer, record: Record) -> None:
        """Send a batch under the id that it was given, in whatever epoch that is by now."""
        try:
            await self._store.replay(other, [record])
        except Fenced as fenced:
            other.epoch = fenced.epoch
            await self._send_as(other, record)
        except Gap as gap:  # a failover has lost what was before it, as in `_fill`
            (last,) = await self._store.open(other, {record.partition: record.seq - 1})
            if lost := last - gap.last:
                metrics.LOST_BATCHES.inc(lost)
                log.error("the store has lost batches that we no longer hold", batches=lost)
            await self._store.replay(other, [record])
        except Rejected as rejected:
            metrics.REJECTED_BATCHES.inc()
            await self._aside.put(record, str(rejected))

    async def _set_aside(self, record: Record) -> None:
        metrics.LOST_BATCHES.inc()
        await self._aside.put(record, "nobody can tell whether a copy has counted it")

    async def _tell(self) -> None:
        """Tell the store that our epoch has begun; no other directory can be copied."""
        self._told_s = time.monotonic()
        if self._producer.directory is not None:
            await self._fencing.begin(self._store, self._producer, self._began)

    def _fence(self) -> None:
        if self.fenced:
            return
        self.fenced = True
        self.fault = fencing.sentence(self._producer, None)
        self._noting = supervised(self._note_fence, "fenced")

    async def _note_fence(self) -> None:
        """Find out who has fenced us, and keep it for the next start."""
        while True:
            try:
                other = await self._fencing.take(self._store, self._producer)
                self.fault = fencing.sentence(self._producer, other)
            except (StoreError, OSError):
                await asyncio.sleep(VERIFY_S)
                continue
            log.error(self.fault)
            return

    # -- retention

    def _confirm(self, record: Record) -> None:
        if record.seq <= self._confirmed[record.partition]:
            return  # it came again
        self._confirmed[record.partition] = record.seq
        self._retain(record)

    def _retain(self, record: Record, other: Producer | None = None) -> None:
        self._kept.append(Retained(time.monotonic(), record, other))
        self._kept_bytes += len(record.payload)
        self._let_go()

    def _let_go(self) -> None:
        oldest_s = time.monotonic() - RETAIN_S
        while self._kept and (self._kept_bytes > RETAIN_BYTES or self._kept[0].at_s < oldest_s):
            self._kept_bytes -= len(self._kept.popleft().record.payload)
        self._retained.set(self._kept_bytes)

    async def _run(self) -> None:
        """Look whether the store still has what it answered for: a store that was promoted without
        our last batch shows no gap until we send another."""
        while True:
            await asyncio.sleep(VERIFY_S)
            await self._verify()

    async def _verify(self) -> None:
        self._let_go()
        self._aside.settle()
        own = [record for _, record, other in self._kept if other is None]
        partitions = sorted({0, *(record.partition for record in own)})
        if time.monotonic() - self._touched_s > TOUCH_S:
            partitions, self._touched_s = [*range(PARTITIONS)], time.monotonic()
        expected = [self._confirmed[partition] for partition in partitions]
        try:
            if time.monotonic() - self._told_s > TELL_S:
                await self._tell()
            found = await self._store.last_seqs(self._producer, partitions)
            for partition, wanted, last in zip(partitions, expected, found, strict=True):
                if last < wanted:
                    await self._repair(partition)
            await self._verify_taken()
        except Fenced:
            self._fence()
        except (StoreError, OSError):
            pass  # the watch tells

    async def _verify_taken(self) -> None:
        """The same for batches that were sent under an id that another service has by now."""
        sent: dict[tuple[str, int], list[Retained]] = {}
        for each in self._kept:
            if each.other is not None:
                sent.setdefault((each.other.id, each.record.partition), []).append(each)
        for batches in sent.values():
            last = await self._last_as(batches[-1])
            for _, record, other in batches:
                if other is not None and record.seq > last:
                    await self._send_as(other, record)
                    metrics.REPLAYED_BATCHES.inc()
                    log.warning("the store had lost a batch; sent again", producer=other.id)

    async def _last_as(self, sent: Retained) -> int:
        """The number of the last batch of an id that another service has by now."""
        other, partition = sent.other, sent.record.partition
        assert other, "it was not sent under ours"
        try:
            (last,) = await self._store.last_seqs(other, [partition])
        except Fenced as fenced:  # the other service has restarted
            other.epoch = fenced.epoch
            (last,) = await self._store.last_seqs(other, [partition])
        return last

    async def _repair(self, partition: int) -> None:
        async with self._gates[partition]:  # a flush may have repaired it, and gone on
            await self._fill(partition, self._confirmed[partition])

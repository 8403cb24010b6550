"""The recorder: takes hits from handlers, hands batches to the ledger, answers after the commit.

Natural batching: while flushes to a server are under way, the hits that arrive for it form the next
one. With little load a hit is flushed at once, with much the batches grow by themselves; there is
no timer to tune. A batch that was sent is sent again, as it is, until the store has answered for
it. If that takes too long it goes into the spool, and so do its partition's later ones, until the
store has them all. Where there is no room either, later hits wait, and who has waited too long is
refused unnumbered.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, Self

import structlog

from visit_counter import deadlines, metrics
from visit_counter.clock import Clock
from visit_counter.delivery.flow import Flow, Flush
from visit_counter.delivery.ledger import Ledger
from visit_counter.delivery.queues import MAX_BATCH, Queue, Sealed, refuse
from visit_counter.delivery.replay import Replay
from visit_counter.delivery.waiters import Waiter, Waiting
from visit_counter.errors import (
    OutcomeUnknown,
    SpoolBroken,
    SpoolFull,
    StoreError,
    StoreUnavailable,
)
from visit_counter.model.hit import Drop, Hit
from visit_counter.model.site_settings import PARTITIONS
from visit_counter.store.batch import Outcome
from visit_counter.store.replies import Fenced, Rejected
from visit_counter.tasks import supervised

MAX_PENDING = 10_000
SPILL_S = 0.25  # for an answer of the store, before a batch goes into the spool
WAIT_S = 1.0  # for either, before the page gets an answer without it
LOOK_S = 0.05  # between two looks for those who have waited too long
# A hit takes at most its path and 8 bytes of id, and some more for a site's settings and periods.
MAX_BATCH_BYTES = MAX_BATCH * 2048

log = structlog.get_logger()


class Recorder:
    """Counts hits of a partition in the order in which they are recorded."""

    def __init__(self, ledger: Ledger, clock: Clock, replay: Replay | None = None) -> None:
        self._ledger = ledger
        self._replay = replay
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._queues = [Queue(partition) for partition in range(PARTITIONS)]
        self._flows: dict[str, Flow] = {}
        self._flow_of: list[Flow] = []
        self._routed = -1
        self._number_pending = 0
        self._looked_s = 0.0
        self._closing = False
        self._takes_hits = False

    async def __aenter__(self) -> Self:
        self._route()
        self._takes_hits = True
        metrics.PENDING.set_function(lambda: self._number_pending)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Flush what is pending, in bounded time; the rest is answered with an error."""
        self._closing, self._takes_hits = True, False
        tasks = {flow.task for flow in self._flows.values() if flow.task}
        for flow in self._flows.values():
            flow.stir()
        if tasks and (await asyncio.wait(tasks, timeout=deadlines.RECORDER_S))[1]:
            log.error("stopped before all hits were counted", hits=sum(map(len, self._queues)))
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for flow in self._flows.values():
            for flush in flow.flushes:
                flush.answers.cancel()
        self._give_up(waited_s=0)
        metrics.PENDING.set_function(lambda: 0)

    @property
    def producer(self) -> str:
        """The id of who numbers the batches."""
        return self._ledger.producer

    @property
    def running(self) -> bool:
        if not self._flows or any(flow.ended for flow in self._flows.values()):
            return False
        return not (self._ledger.fenced or (self._replay and self._replay.broken))

    @property
    def has_spool(self) -> bool:
        """Whether hits are kept while the store is away: a 503 is decided before a hit gets a
        number, so there must be room for the largest batch of all."""
        return self._replay is not None and self._replay.room > MAX_BATCH_BYTES

    @property
    def problems(self) -> list[str]:
        """What keeps hits in the spool while the store takes others, in sentences."""
        return [
            f"The store takes no batches of partition {partition} from the spool: {reason}"
            for partition, reason in (self._replay.stuck if self._replay else {}).items()
        ]

    def record(self, entry: Hit | Drop, waiter: Waiter) -> None:
        """Put a hit into the next batch.

        Never waits. Raises StoreUnavailable when nothing more can be kept.
        """
        if not self._takes_hits or self._number_pending >= MAX_PENDING:
            metrics.HITS.labels("refused").inc()
            raise StoreUnavailable("too many hits wait for the store, or the recorder has ended")
        partition = entry.site.partition
        queue = self._queues[partition]
        queue.pending.append(Waiting(entry, waiter, time.monotonic()))
        self._number_pending += 1
        self._flow_of[partition].add(queue)

    # -- flows

    def _route(self) -> None:
        """Each queue to the flow of the server that has its partition now."""
        self._routed = self._ledger.routes
        self._flow_of = [self._flow(self._ledger.shard(n)) for n in range(PARTITIONS)]
        for flow in self._flows.values():
            flow.queues.clear()
        for queue, flow in zip(self._queues, self._flow_of, strict=True):
            if queue:
                flow.add(queue)

    def _flow(self, address: str) -> Flow:
        flow = self._flows.get(address)
        if flow is None:
            flow = self._flows[address] = Flow(address)
            flow.task = supervised(self._run(flow), f"recorder to {address}")
            flow.task.add_done_callback(self._end)
        return flow

    def _end(self, _: asyncio.Task[None]) -> None:
        """A flow ended: nobody would answer the next hits."""
        self._takes_hits = False

    async def _run(self, flow: Flow) -> None:
        while not self._closing or flow.queues:
            self._look()
            try:
                while flush := flow.land():
                    self._learn(flush)
                self._flush(flow, self._due(flow))
                await self._spill(flow)
            except Exception:  # a mistake of ours: the batches stay, and are sent again
                log.exception("a flush failed")
                self._rest(flow.queues)
            if self._routed != self._ledger.routes:
                self._route()
            await flow.wait()

    def _rest(self, queues: Iterable[Queue]) -> None:
        now_s = time.monotonic()
        for queue in queues:
            queue.rest(now_s)

    # -- a flush

    def _due(self, flow: Flow) -> list[Queue]:
        """The queues with something to send, or to keep in the spool, now."""
        rested = flow.rested()
        if flow.has_room:
            return [queue for queue in rested if queue.may_send or self._is_spooling(queue)]
        return [queue for queue in rested if self._is_spooling(queue)]

    def _is_spooling(self, queue: Queue) -> bool:
        return self._replay is not None and self._replay.is_spooling(queue.partition)

    def _flush(self, flow: Flow, queues: Sequence[Queue]) -> None:
        for queue in queues:
            if queue.may_seal(for_spool=self._is_spooling(queue)):
                self._seal(queue)
        batches = [
            (queue, sealed)
            for queue in queues
            for sealed in queue.sealed
            if not (sealed.under_way or sealed.for_spool)
        ]
        if batches:
            self._send(flow, batches)

    def _seal(self, queue: Queue) -> None:
        """Number what has gathered, if there is a way for it."""
        spooling = self._is_spooling(queue)
        if spooling and not self.has_spool:
            queue.rest(time.monotonic())
            return
        waiting = queue.take()
        self._number_pending -= len(waiting)
        metrics.BATCH_HITS.note(len(waiting))
        entries = [each.entry for each in waiting]
        try:
            batch = self._ledger.seal(queue.partition, entries, self._clock.now())
        except Exception:
            refuse(waiting, StoreUnavailable("a batch could not be made of these hits"))
            raise
        queue.sealed.append(Sealed(batch, waiting, time.monotonic(), for_spool=spooling))

    def _send(self, flow: Flow, batches: list[tuple[Queue, Sealed]]) -> None:
        for _, sealed in batches:
            sealed.under_way = True
        before = flow.flushes[-1].answers if flow.flushes else None
        commit = self._ledger.commit([sealed.batch for _, sealed in batches], before)
        flow.leave(Flush(batches, self._loop.create_task(commit), time.perf_counter()))

    def _learn(self, flush: Flush) -> None:
        """What has become of the batches, where they are not in the spool meanwhile."""
        metrics.FLUSH_SECONDS.note(time.perf_counter() - flush.began_s)
        for _, sealed in flush.batches:
            sealed.under_way = False
        for (queue, sealed), result in zip(flush.batches, flush.answers.result(), strict=True):
            if sealed in queue.sealed:
                self._answer(queue, result)

    def _answer(self, queue: Queue, result: list[Outcome] | StoreError) -> None:
        if isinstance(result, list):
            queue.settle(result)
        elif isinstance(result, (Rejected, Fenced)):
            queue.refuse(result)
        else:
            queue.rest(time.monotonic())

    async def _spill(self, flow: Flow) -> None:
        """Keep in the spool what belongs there, and what the store has not confirmed in time."""
        if self._replay is None:
            return
        late_s = time.monotonic() - SPILL_S
        late = [
            (queue, sealed)
            for queue in flow.queues
            if any(sealed.for_spool or sealed.since_s <= late_s for sealed in queue.sealed)
            for sealed in queue.sealed  # all of them: they stay in their order
        ]
        if not late:
            return
        try:
            await self._looking(self._replay.spool([sealed.batch.packed for _, sealed in late]))
        except (SpoolFull, SpoolBroken):
            self._rest([queue for queue, _ in late])
            return
        for queue, sealed in late:
            if sealed in queue.sealed:  # and was not answered for meanwhile
                queue.settle([None] * len(sealed.waiting))

    # -- those who have waited too long

    async def _looking(self, keeping: Coroutine[Any, Any, None]) -> None:
        """Wait for a disk, which may never answer, and look meanwhile."""
        task = asyncio.create_task(keeping)
        task.add_done_callback(_ended)
        while not task.done():
            await asyncio.wait({task}, timeout=LOOK_S)
            self._look()
        task.result()

    def _look(self) -> None:
        now_s = time.monotonic()
        if now_s - self._looked_s >= LOOK_S:
            self._looked_s = now_s
            self._takes_hits = self.running and not self._closing
            self._give_up(waited_s=WAIT_S)

    def _give_up(self, waited_s: float) -> None:
        """Answer those who have waited that long. A pending hit is forgotten, it has no number yet;
        a sealed one may be counted later."""
        oldest_s = time.monotonic() - waited_s
        for queue in self._queues:
            refuse(queue.sealed_since(oldest_s), OutcomeUnknown("the store has not answered"))
            late = queue.pending_since(oldest_s)
            self._number_pending -= len(late)
            refuse(late, StoreUnavailable("the store does not answer"))


def _ended(work: asyncio.Future[Any]) -> None:
    """Takes note of an error, also where nobody waits for the result any more."""
    if not work.cancelled():
        work.exception()

"""The recorder: takes hits from handlers, hands batches to the ledger, answers after the commit.

Natural batching: while a flush to a server is in flight, the hits that arrive for it form the next
one. With little load a hit is flushed at once, with much the batches grow by themselves; there is
no timer to tune. A batch that was sent is sent again, as it is, until the store has answered for
it. If that takes too long it goes into the spool, and so do its partition's later ones, until the
store has them all. Where there is no room either, later hits wait, and who has waited too long is
refused unnumbered.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from typing import Any, Self

import structlog

from service import metrics
from service.batch import Outcome
from service.clock import Clock
from service.errors import OutcomeUnknown, SpoolBroken, SpoolFull, StoreError, StoreUnavailable
from service.ledger import Ledger
from service.model import PARTITIONS, Drop, Hit
from service.queues import MAX_BATCH, Queue, Sealed, Waiter, Waiting, refuse
from service.refusals import Fenced, Rejected
from service.replay import Replay
from service.tasks import supervised

MAX_PENDING = 10_000
SPILL_S = 0.25  # for an answer of the store, before a batch goes into the spool
WAIT_S = 1.0  # for either, before the page gets an answer without it
LOOK_S = 0.05  # between two looks for those who have waited too long
STOP_S = 1.5
# A hit takes at most its path and 8 bytes of id, and some more for a site's settings and periods.
MAX_BATCH_BYTES = MAX_BATCH * 2048

log = structlog.get_logger()


class Flow:
    """What goes to one server: the queues with something to send, and the flush in flight."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.queues: set[Queue] = set()
        self.arrived = asyncio.Event()
        self.sending: asyncio.Task[list[list[Outcome] | StoreError]] | None = None
        self.task: asyncio.Task[None] | None = None

    def add(self, queue: Queue) -> None:
        self.queues.add(queue)
        self.arrived.set()

    def ready(self, now_s: float) -> list[Queue]:
        """The queues that do not rest."""
        return [queue for queue in self.queues if queue.rests_until_s <= now_s]

    async def wait(self, now_s: float) -> None:
        """Until something arrives or a queue has rested."""
        until_s = min((queue.rests_until_s for queue in self.queues), default=None)
        try:
            async with asyncio.timeout(until_s and max(0, until_s - now_s)):
                await self.arrived.wait()
        except TimeoutError:
            pass
        self.arrived.clear()


class Recorder:
    """Counts hits of a partition in the order in which they are recorded."""

    def __init__(self, ledger: Ledger, clock: Clock, replay: Replay | None = None) -> None:
        self._ledger = ledger
        self._replay = replay
        self._clock = clock
        self._queues = [Queue(partition) for partition in range(PARTITIONS)]
        self._flows: dict[str, Flow] = {}
        self._flow_of: list[Flow] = []
        self._routed = -1
        self._number_pending = 0
        self._looked_s = 0.0
        self._closing = False

    async def __aenter__(self) -> Self:
        self._route()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Flush what is pending, in bounded time; the rest is answered with an error."""
        self._closing = True
        tasks = {flow.task for flow in self._flows.values() if flow.task}
        for flow in self._flows.values():
            flow.arrived.set()
        if tasks and (await asyncio.wait(tasks, timeout=STOP_S))[1]:
            log.error("stopped before all hits were counted", hits=sum(map(len, self._queues)))
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for flow in self._flows.values():
            if flow.sending is not None:
                flow.sending.cancel()
        self._give_up(waited_s=0)

    @property
    def running(self) -> bool:
        for flow in self._flows.values():
            if flow.task is None or flow.task.done():
                return False
        fenced_or_broken = self._ledger.fenced or (self._replay and self._replay.broken)
        return bool(self._flows) and not fenced_or_broken

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
        if self._closing or not self.running or self._number_pending >= MAX_PENDING:
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
        return flow

    async def _run(self, flow: Flow) -> None:
        while not self._closing or flow.queues:
            self._look()
            ready = flow.ready(time.monotonic())
            if not ready:
                await flow.wait(time.monotonic())
                continue
            flow.arrived.clear()
            try:
                await self._flush(flow, ready)
            except Exception:  # a mistake of ours: the batches stay, and are sent again
                log.exception("a flush failed")
                self._rest(ready)
            flow.queues.difference_update([queue for queue in ready if not queue])
            if self._routed != self._ledger.routes:
                self._route()

    def _rest(self, queues: Sequence[Queue]) -> None:
        now_s = time.monotonic()
        for queue in queues:
            queue.rest(now_s)

    # -- a flush

    async def _flush(self, flow: Flow, queues: Sequence[Queue]) -> None:
        for queue in queues:
            if not queue.sealed and queue.pending:
                self._seal(queue)
        await self._send(flow, [q for q in queues if q.sealed and not q.sealed.for_spool])
        await self._spill(queues)

    def _seal(self, queue: Queue) -> None:
        """Number what has gathered, if there is a way for it."""
        spooling = self._replay is not None and self._replay.is_spooling(queue.partition)
        if spooling and not self.has_spool:
            queue.rest(time.monotonic())
            return
        waiting = queue.take()
        self._number_pending -= len(waiting)
        metrics.BATCH_HITS.observe(len(waiting))
        entries = [each.entry for each in waiting]
        try:
            batch = self._ledger.seal(queue.partition, entries, self._clock.now())
        except Exception:
            refuse(waiting, StoreUnavailable("a batch could not be made of these hits"))
            raise
        queue.sealed = Sealed(batch, waiting, time.monotonic(), spooling)

    async def _send(self, flow: Flow, queues: Sequence[Queue]) -> None:
        if not queues:
            return
        began = time.perf_counter()
        batches = [queue.sealed.batch for queue in queues if queue.sealed]
        flow.sending = sending = asyncio.create_task(self._ledger.commit(batches))
        sending.add_done_callback(_ended)
        while not sending.done():
            await asyncio.wait({sending}, timeout=SPILL_S)
            if not sending.done():
                await self._spill(queues)
                self._look()
                if not any(queue.sealed for queue in queues):
                    return  # all of it is in the spool, from where it comes again and counts once
        metrics.FLUSH_SECONDS.observe(time.perf_counter() - began)
        for queue, batch, result in zip(queues, batches, sending.result(), strict=True):
            if queue.sealed and queue.sealed.batch is batch:  # and not in the spool meanwhile
                self._answer(queue, result)

    def _answer(self, queue: Queue, result: list[Outcome] | StoreError) -> None:
        if isinstance(result, list):
            queue.settle(result)
        elif isinstance(result, (Rejected, Fenced)):
            queue.refuse(result)
        else:
            queue.rest(time.monotonic())

    async def _spill(self, queues: Sequence[Queue]) -> None:
        """Keep in the spool what belongs there, and what the store has not confirmed in time."""
        if self._replay is None:
            return
        late_s = time.monotonic() - SPILL_S
        late = [
            (queue, queue.sealed)
            for queue in queues
            if queue.sealed and (queue.sealed.for_spool or queue.sealed.since_s <= late_s)
        ]
        if not late:
            return
        try:
            await self._looking(self._replay.spool([sealed.batch.packed for _, sealed in late]))
        except (SpoolFull, SpoolBroken):
            self._rest([queue for queue, _ in late])
            return
        for queue, sealed in late:
            if queue.sealed is sealed:  # and was not answered for meanwhile
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
        metrics.PENDING.set(self._number_pending)
        if now_s - self._looked_s >= LOOK_S:
            self._looked_s = now_s
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

"""The recorder: takes hits from handlers, hands batches to the ledger, answers after the commit.

Natural batching: while a flush is in flight, the hits that arrive form the next one. With little
load a hit is flushed at once, with much the batches grow by themselves; there is no timer to tune.
A batch that was sent is sent again, as it is, until the store has answered for it; meanwhile its
partition's later hits wait, and whoever has waited too long is refused before being numbered.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, Self

import structlog

from service import metrics
from service.batch import Batch, Outcome
from service.clock import Clock
from service.errors import OutcomeUnknown, StoreError, StoreUnavailable
from service.ledger import Ledger
from service.model import PARTITIONS, Drop, Hit
from service.refusals import Fenced, Rejected
from service.tasks import supervised

MAX_BATCH = 1000  # Lua unpacks fewer than 8,000 values, and a visitor may take two
MAX_PENDING = 10_000
WAIT_S = 1.0  # for an answer of the store, before the page gets one without it
AGAIN_MIN_S, AGAIN_MAX_S = 0.02, 0.5
STOP_S = 2.5

log = structlog.get_logger()


class Waiting(NamedTuple):
    """A hit or drop, who waits for its outcome, and since when (monotonic seconds)."""

    entry: Hit | Drop
    waiter: asyncio.Future[Outcome]
    since_s: float


class Unconfirmed(NamedTuple):
    """A batch that was sealed and not yet answered for, and who waits for it."""

    batch: Batch
    waiting: list[Waiting]


class Recorder:
    """Counts hits in the order in which they are recorded."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._pending: list[deque[Waiting]] = [deque() for _ in range(PARTITIONS)]
        self._number_pending = 0
        self._unconfirmed: dict[int, Unconfirmed] = {}
        self._arrived = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = supervised(self._run(), "recorder")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Flush what is pending, in bounded time; the rest is answered with an error."""
        self._closing = True
        self._arrived.set()
        if self._task is not None:
            unfinished = (await asyncio.wait({self._task}, timeout=STOP_S))[1]
            self._task.cancel()
            await asyncio.wait({self._task})
            if unfinished:
                log.error("stopped before all hits were counted", hits=self._number_pending)
        self._give_up(waited_s=0)

    @property
    def running(self) -> bool:
        return self._task is not None and not self._task.done() and not self._ledger.fenced

    def record(self, entry: Hit | Drop) -> asyncio.Future[Outcome]:
        """Put a hit into the next batch; the future holds its outcome or a StoreError.

        Never waits. Raises StoreUnavailable when nothing more can be kept.
        """
        if self._closing or not self.running or self._number_pending >= MAX_PENDING:
            metrics.HITS.labels("refused").inc()
            raise StoreUnavailable("too many hits wait for the store, or the recorder has ended")
        waiter: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._pending[entry.site.partition].append(Waiting(entry, waiter, time.monotonic()))
        self._count_pending(1)
        self._arrived.set()
        return waiter

    async def _run(self) -> None:
        pause_s = AGAIN_MIN_S
        while not self._closing or self._number_pending or self._unconfirmed:
            if not self._number_pending and not self._unconfirmed:
                await self._arrived.wait()
            self._arrived.clear()
            try:
                confirmed = await self._flush()
            except Exception:  # a mistake of ours: the batches stay, and are sent again
                log.exception("a flush failed")
                confirmed = False
            if confirmed:
                pause_s = AGAIN_MIN_S
                continue
            self._give_up(waited_s=WAIT_S)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, AGAIN_MAX_S)

    async def _flush(self) -> bool:
        """Send what is unconfirmed or pending; says whether all of it was answered for."""
        self._seal()
        sent = [*self._unconfirmed.values()]
        if not sent:
            return True
        began = time.perf_counter()
        results = await self._ledger.commit([each.batch for each in sent])
        metrics.FLUSH_SECONDS.observe(time.perf_counter() - began)
        answered = [self._answer(*pair) for pair in zip(sent, results, strict=True)]
        return all(answered)

    def _seal(self) -> None:
        """Make a batch of what waits, in each partition that has none under way."""
        room, now = MAX_BATCH, self._clock.now()
        for partition, pending in enumerate(self._pending):
            if not pending or partition in self._unconfirmed or not room:
                continue
            waiting = [pending.popleft() for _ in range(min(room, len(pending)))]
            room -= len(waiting)
            self._count_pending(-len(waiting))
            metrics.BATCH_HITS.observe(len(waiting))
            batch = self._ledger.seal(partition, [each.entry for each in waiting], now)
            self._unconfirmed[partition] = Unconfirmed(batch, waiting)

    def _answer(self, sent: Unconfirmed, result: list[Outcome] | StoreError) -> bool:
        if isinstance(result, StoreError) and not isinstance(result, (Rejected, Fenced)):
            return False
        del self._unconfirmed[sent.batch.packed.partition]
        if isinstance(result, StoreError):
            log.error("a batch is not counted", reason=str(result), hits=len(sent.waiting))
            self._refuse(sent.waiting, result)
            return True
        for each, outcome in zip(sent.waiting, result, strict=True):
            if not each.waiter.done():
                metrics.HITS.labels(_what_became(each.entry, outcome)).inc()
                each.waiter.set_result(outcome)
        return True

    def _give_up(self, waited_s: float) -> None:
        """Answer those who have waited that long. A pending hit is forgotten, it has no number yet;
        a sealed one may be counted later."""
        oldest_s = time.monotonic() - waited_s
        for sent in self._unconfirmed.values():
            late = [each for each in sent.waiting if each.since_s <= oldest_s]
            self._refuse(late, OutcomeUnknown("the store has not answered"))
        for pending in self._pending:
            late = []
            while pending and pending[0].since_s <= oldest_s:
                late.append(pending.popleft())
            self._count_pending(-len(late))
            self._refuse(late, StoreUnavailable("the store does not answer"))

    def _refuse(self, waiting: Sequence[Waiting], error: StoreError) -> None:
        for each in waiting:
            if not each.waiter.done():
                metrics.HITS.labels("refused").inc()
                each.waiter.set_exception(error)

    def _count_pending(self, change: int) -> None:
        self._number_pending += change
        metrics.PENDING.set(self._number_pending)


def _what_became(entry: Hit | Drop, outcome: Outcome) -> str:
    if isinstance(entry, Drop):
        return "dropped"
    return "held" if outcome.held else "counted"

"""The recorder: takes hits from handlers, hands batches to the ledger, answers after the commit.

Natural batching: while a flush is in flight, the hits that arrive form the next one. With little
load a hit is flushed at once, with much the batches grow by themselves; there is no timer to tune.
A batch that was sent is sent again, as it is, until the store has answered for it. If that takes
too long it goes into the spool, and so do its partition's later ones, until the store has them all.
Where there is no room either, later hits wait, and who has waited too long is refused unnumbered.
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
from service.errors import OutcomeUnknown, SpoolBroken, SpoolFull, StoreError, StoreUnavailable
from service.ledger import Ledger
from service.model import PARTITIONS, Drop, Hit
from service.refusals import Fenced, Rejected
from service.replay import Replay
from service.tasks import supervised

MAX_BATCH = 1000  # Lua unpacks fewer than 8,000 values, and a visitor may take two
MAX_PENDING = 10_000
SPILL_S = 0.25  # for an answer of the store, before a batch goes into the spool
WAIT_S = 1.0  # for either, before the page gets an answer without it
AGAIN_MIN_S, AGAIN_MAX_S = 0.02, 0.5
STOP_S = 2.5
# A hit takes at most its path and 8 bytes of id, and some more for a site's settings and periods.
MAX_BATCH_BYTES = MAX_BATCH * 2048

log = structlog.get_logger()


Waiter = asyncio.Future[Outcome | None]
"""Holds what became of a hit; None: it is in the spool, and will be counted."""


class Waiting(NamedTuple):
    """A hit or drop, who waits for its outcome, and since when (monotonic seconds)."""

    entry: Hit | Drop
    waiter: Waiter
    since_s: float


class Unconfirmed(NamedTuple):
    """A batch that was sealed and not yet answered for, who waits for it, and since when."""

    batch: Batch
    waiting: list[Waiting]
    since_s: float


class Recorder:
    """Counts hits in the order in which they are recorded."""

    def __init__(self, ledger: Ledger, clock: Clock, replay: Replay | None = None) -> None:
        self._ledger = ledger
        self._replay = replay
        self._clock = clock
        self._pending: list[deque[Waiting]] = [deque() for _ in range(PARTITIONS)]
        self._number_pending = 0
        self._unconfirmed: dict[int, Unconfirmed] = {}
        self._for_spool: dict[int, Unconfirmed] = {}
        self._sending: asyncio.Task[list[list[Outcome] | StoreError]] | None = None
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
            if self._sending is not None:
                self._sending.cancel()
            if unfinished:
                log.error("stopped before all hits were counted", hits=self._number_waiting())
        self._give_up(waited_s=0)

    @property
    def running(self) -> bool:
        ended = self._task is None or self._task.done()
        return not (ended or self._ledger.fenced or (self._replay and self._replay.broken))

    @property
    def has_spool(self) -> bool:
        """Whether hits are kept while the store is away."""
        return self._has_spool_room()

    def record(self, entry: Hit | Drop) -> Waiter:
        """Put a hit into the next batch; the future holds its outcome or a StoreError.

        Never waits. Raises StoreUnavailable when nothing more can be kept.
        """
        if self._closing or not self.running or self._number_pending >= MAX_PENDING:
            metrics.HITS.labels("refused").inc()
            raise StoreUnavailable("too many hits wait for the store, or the recorder has ended")
        waiter: Waiter = asyncio.get_running_loop().create_future()
        self._pending[entry.site.partition].append(Waiting(entry, waiter, time.monotonic()))
        self._count_pending(1)
        self._arrived.set()
        return waiter

    async def _run(self) -> None:
        pause_s = AGAIN_MIN_S
        while not self._closing or self._is_busy():
            if not self._is_busy():
                await self._arrived.wait()
            self._arrived.clear()
            try:
                confirmed = await self._flush()
            except Exception:  # a mistake of ours: the batches stay, and are sent again
                log.exception("a flush failed")
                confirmed = False
            self._give_up(waited_s=WAIT_S)
            if confirmed:
                pause_s = AGAIN_MIN_S
                continue
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, AGAIN_MAX_S)

    def _is_busy(self) -> bool:
        return bool(self._number_pending or self._unconfirmed or self._for_spool)

    async def _flush(self) -> bool:
        """Send what is unconfirmed or pending; says whether all of it was answered for or kept."""
        sealed = self._seal()
        sent = await self._send()
        return await self._spill() and sent and sealed

    async def _send(self) -> bool:
        sent = [*self._unconfirmed.values()]
        if not sent:
            return True
        began = time.perf_counter()
        sending = asyncio.create_task(self._ledger.commit([each.batch for each in sent]))
        sending.add_done_callback(_ended)
        self._sending = sending
        await asyncio.wait({sending}, timeout=SPILL_S)
        if not sending.done() and self._replay is not None and await self._spill():
            return True  # all of it is in the spool, from where it comes again and counts once
        results = await sending
        metrics.FLUSH_SECONDS.observe(time.perf_counter() - began)
        answered = [self._answer(*pair) for pair in zip(sent, results, strict=True)]
        return all(answered)

    def _seal(self) -> bool:
        """Make a batch of what waits, in each partition that has none under way; says whether there
        was room for all."""
        now, room = self._clock.now(), True
        for partition, pending in enumerate(self._pending):
            if partition in self._unconfirmed or partition in self._for_spool:
                continue
            spooling = self._replay is not None and self._replay.is_spooling(partition)
            if not pending:
                continue
            if spooling and not self._has_spool_room():
                room = False
                continue
            waiting = [pending.popleft() for _ in range(min(MAX_BATCH, len(pending)))]
            self._count_pending(-len(waiting))
            metrics.BATCH_HITS.observe(len(waiting))
            try:
                batch = self._ledger.seal(partition, [each.entry for each in waiting], now)
            except Exception:
                self._refuse(waiting, StoreUnavailable("a batch could not be made of these hits"))
                raise
            ways = self._for_spool if spooling else self._unconfirmed
            ways[partition] = Unconfirmed(batch, waiting, time.monotonic())
        return room

    def _has_spool_room(self) -> bool:
        """A 503 is decided before a hit gets a number: room for the largest batch of all."""
        return self._replay is not None and self._replay.room > MAX_BATCH_BYTES

    async def _spill(self) -> bool:
        """Keep in the spool what belongs there, and what the store has not confirmed in time."""
        if self._replay is None:
            return True
        late_s = time.monotonic() - SPILL_S
        late = {n: each for n, each in self._unconfirmed.items() if each.since_s <= late_s}
        kept = late | self._for_spool
        if not kept:
            return True
        try:
            await self._replay.spool([each.batch.packed for each in kept.values()])
        except (SpoolFull, SpoolBroken):
            return False
        for partition, each in kept.items():
            self._unconfirmed.pop(partition, None)
            self._for_spool.pop(partition, None)
            self._settle(each.waiting, [None] * len(each.waiting))
        return True

    def _answer(self, sent: Unconfirmed, result: list[Outcome] | StoreError) -> bool:
        if isinstance(result, StoreError) and not isinstance(result, (Rejected, Fenced)):
            return False
        del self._unconfirmed[sent.batch.packed.partition]
        if isinstance(result, StoreError):
            log.error("a batch is not counted", reason=str(result), hits=len(sent.waiting))
            self._refuse(sent.waiting, result)
            return True
        self._settle(sent.waiting, result)
        return True

    def _settle(self, waiting: Sequence[Waiting], outcomes: Sequence[Outcome | None]) -> None:
        for each, outcome in zip(waiting, outcomes, strict=True):
            if not each.waiter.done():
                metrics.HITS.labels(_what_became(each.entry, outcome)).inc()
                each.waiter.set_result(outcome)

    def _give_up(self, waited_s: float) -> None:
        """Answer those who have waited that long. A pending hit is forgotten, it has no number yet;
        a sealed one may be counted later."""
        oldest_s = time.monotonic() - waited_s
        for sent in (*self._unconfirmed.values(), *self._for_spool.values()):
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

    def _number_waiting(self) -> int:
        sealed = (*self._unconfirmed.values(), *self._for_spool.values())
        return self._number_pending + sum(len(each.waiting) for each in sealed)

    def _count_pending(self, change: int) -> None:
        self._number_pending += change
        metrics.PENDING.set(self._number_pending)


def _ended(sending: asyncio.Task[list[list[Outcome] | StoreError]]) -> None:
    """Takes note of an error, also where nobody waits for the result any more."""
    if not sending.cancelled():
        sending.exception()


def _what_became(entry: Hit | Drop, outcome: Outcome | None) -> str:
    if isinstance(entry, Drop):
        return "dropped"
    if outcome is None:
        return "spooled"
    return "held" if outcome.held else "counted"

"""The recorder: takes hits from the handlers, hands batches to the store, answers after the commit.

Natural batching: while a flush is in flight, the hits that arrive form the next one. With little
load a hit is flushed at once, with much the batches grow by themselves; there is no timer to tune.
What the store did not confirm is answered with its error and never sent again.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from typing import Self

import structlog

from service import metrics
from service.batch import Batch, Outcome
from service.clock import Clock
from service.errors import OutcomeUnknown, StoreError, StoreUnavailable
from service.model import Drop, Hit
from service.store import Store
from service.tasks import supervised

MAX_BATCH = 1000  # Lua unpacks fewer than 8,000 values, and a visitor may take two
MAX_PENDING = 10_000
STOP_S = 5.0

Waiter = asyncio.Future[Outcome]

log = structlog.get_logger()


class Recorder:
    """Counts hits in the order in which they are recorded."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._pending: deque[tuple[Hit | Drop, Waiter]] = deque()
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
                log.error("stopped before all hits were counted", hits=len(self._pending))
        self._refuse(self._take(len(self._pending)), StoreUnavailable("the service stops"))

    @property
    def running(self) -> bool:
        return self._task is not None and not self._task.done()

    def record(self, entry: Hit | Drop) -> Waiter:
        """Put a hit into the next batch; the future holds its outcome or a StoreError.

        Never waits. Raises StoreUnavailable when nothing more can be kept.
        """
        if self._closing or not self.running or len(self._pending) >= MAX_PENDING:
            metrics.HITS.labels("refused").inc()
            raise StoreUnavailable("too many hits wait for the store, or the recorder has ended")
        waiter: Waiter = asyncio.get_running_loop().create_future()
        self._pending.append((entry, waiter))
        self._arrived.set()
        return waiter

    async def _run(self) -> None:
        while not self._closing or self._pending:
            await self._arrived.wait()
            self._arrived.clear()
            while self._pending:
                try:
                    await self._flush(self._take(MAX_BATCH))
                except Exception:  # a mistake of ours: its hits are answered, the next ones count
                    log.exception("a flush failed")

    def _take(self, most: int) -> list[tuple[Hit | Drop, Waiter]]:
        taken = [self._pending.popleft() for _ in range(min(most, len(self._pending)))]
        metrics.PENDING.set(len(self._pending))
        return taken

    async def _flush(self, taken: Sequence[tuple[Hit | Drop, Waiter]]) -> None:
        partitions: dict[int, list[tuple[Hit | Drop, Waiter]]] = {}
        for pair in taken:
            partitions.setdefault(pair[0].site.partition, []).append(pair)
        now = self._clock.now()
        batches = [
            Batch(partition, [entry for entry, _ in pairs], now)
            for partition, pairs in partitions.items()
        ]
        began = time.perf_counter()
        try:
            results = await self._store.record(batches)
        except BaseException:
            self._refuse(taken, OutcomeUnknown("the flush was broken off"))
            raise
        metrics.FLUSH_SECONDS.observe(time.perf_counter() - began)
        for pairs, result in zip(partitions.values(), results, strict=True):
            metrics.BATCH_HITS.observe(len(pairs))
            self._answer(pairs, result)

    def _answer(
        self, pairs: Sequence[tuple[Hit | Drop, Waiter]], result: list[Outcome] | StoreError
    ) -> None:
        if isinstance(result, StoreError):
            self._refuse(pairs, result)
            return
        for (entry, waiter), outcome in zip(pairs, result, strict=True):
            if isinstance(entry, Drop):
                metrics.HITS.labels("dropped").inc()
            else:
                metrics.HITS.labels("held" if outcome.held else "counted").inc()
            if not waiter.done():
                waiter.set_result(outcome)

    def _refuse(self, pairs: Sequence[tuple[Hit | Drop, Waiter]], error: StoreError) -> None:
        metrics.HITS.labels("refused").inc(len(pairs))
        for _, waiter in pairs:
            if not waiter.done():
                waiter.set_exception(error)

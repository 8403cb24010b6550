"""What is on its way to one server: the queues with something to send, and the flushes.

Two flushes may be under way, so that there is always work: while the store syncs the first to its
disk, the second waits at its door. The second one leaves when it is worth its costs: with as many
hits as the first one has. With little load that is at once.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Final, NamedTuple

from visit_counter.delivery.queues import AHEAD, Queue, Sealed
from visit_counter.errors import StoreError
from visit_counter.store.batch import Outcome

MOMENT_S: Final = 0.02  # so often there is a look at what rests or waits too long

Answers = list[list[Outcome] | StoreError]


class Flush(NamedTuple):
    """Batches that were sent, and the answers that are to come."""

    batches: list[tuple[Queue, Sealed]]
    answers: asyncio.Task[Answers]
    began_s: float


class Flow:
    """What goes to the server at an address."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.queues: set[Queue] = set()
        self.flushes: deque[Flush] = deque()
        self.task: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._stirred = self._loop.create_future()
        self._moment: asyncio.TimerHandle | None = None
        self._gathered = 0
        self._enough = 1.0

    @property
    def ended(self) -> bool:
        return self.task is None or self.task.done()

    def add(self, queue: Queue) -> None:
        """It has one more hit."""
        self.queues.add(queue)
        self._gathered += 1
        if self._gathered >= self._enough:
            self.stir()

    def stir(self) -> None:
        """There may be something to do."""
        if not self._stirred.done():
            self._stirred.set_result(None)

    def rested(self) -> list[Queue]:
        now_s = time.monotonic()
        return [queue for queue in self.queues if queue.rests_until_s <= now_s]

    @property
    def has_room(self) -> bool:
        """Whether another flush may leave."""
        return not self.flushes or self._gathered >= self._enough

    def leave(self, flush: Flush) -> None:
        self.flushes.append(flush)
        flush.answers.add_done_callback(lambda _: self.stir())
        self._count()

    def land(self) -> Flush | None:
        """The oldest flush, if its answers have come."""
        if not (self.flushes and self.flushes[0].answers.done()):
            return None
        landed = self.flushes.popleft()
        self._count()
        return landed

    def _count(self) -> None:
        self._gathered = sum(len(queue.pending) for queue in self.queues)
        self._enough = 1.0
        if len(self.flushes) == AHEAD:
            self._enough = float("inf")
        elif self.flushes:
            hits = sum(len(sealed.waiting) for _, sealed in self.flushes[0].batches)
            self._enough = float(hits)
        if self._gathered >= self._enough:
            self.stir()

    async def wait(self) -> None:
        """Until something arrives or lands, and a moment at most while there is something."""
        self.queues = {queue for queue in self.queues if queue}
        if self.queues and self._moment is None:
            self._moment = self._loop.call_later(MOMENT_S, self._pass)
        await self._stirred
        self._stirred = self._loop.create_future()

    def _pass(self) -> None:
        """One timer for all waits of a moment, and not one for each."""
        self._moment = None
        self.stir()

"""What is on its way to one server: the queues with something to send, and the flushes.

Two flushes may be under way, so that there is always work: while the store syncs the first to its
disk, the second waits at its door. The second one leaves when it is worth its costs: with as many
hits as the first one has. With little load that is at once.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import NamedTuple

from service.batch import Outcome
from service.errors import StoreError
from service.queues import AHEAD, Queue, Sealed

PART = 1

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
        self._stirred = asyncio.Event()
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
            self._stirred.set()

    def stir(self) -> None:
        """There may be something to do."""
        self._stirred.set()

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
            self._enough = hits
        if self._gathered >= self._enough:
            self.stir()

    async def wait(self, at_most_s: float) -> None:
        """Until something arrives or lands, or a queue has rested."""
        self.queues = {queue for queue in self.queues if queue}
        try:
            async with asyncio.timeout(self._pause_s(at_most_s)):
                await self._stirred.wait()
        except TimeoutError:
            pass
        self._stirred.clear()

    def _pause_s(self, at_most_s: float) -> float | None:
        if not self.queues:
            return None
        now_s = time.monotonic()
        rests = (queue.rests_until_s - now_s for queue in self.queues)
        return min([at_most_s, *(rest_s for rest_s in rests if rest_s > 0)])

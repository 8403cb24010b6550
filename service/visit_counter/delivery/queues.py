"""A partition's hits on their way to the store: those that wait for a batch, and their batches.

The recorder has one queue for each partition. A queue holds at most two batches that were numbered
and not yet answered for: then the partition's later hits wait. It knows nothing of stores and
spools; what the recorder learns of a batch, it tells here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final

import structlog

from visit_counter import metrics
from visit_counter.delivery.waiters import Waiting
from visit_counter.errors import StoreError
from visit_counter.model.hit import Drop, Hit
from visit_counter.store.batch import Batch, Outcome

MAX_BATCH: Final = 1000  # Lua unpacks fewer than 8,000 values, and a visitor may take two
AHEAD: Final = 2  # batches of a partition, and flushes to a server
AGAIN_MIN_S: Final = 0.02
AGAIN_MAX_S: Final = 0.5

BECAME: Final = {
    what: metrics.HITS.labels(what) for what in ("counted", "held", "spooled", "dropped")
}

log = structlog.get_logger()


class Sealed:
    """A numbered batch that was not yet answered for, who waits for it, and since when."""

    def __init__(
        self, batch: Batch, waiting: list[Waiting], since_s: float, *, for_spool: bool
    ) -> None:
        self.batch = batch
        self.waiting = waiting
        self.since_s = since_s
        self.for_spool = for_spool
        """It stands behind batches in the spool, and goes there too."""
        self.under_way = False
        """It was sent, and no answer has come."""


class Queue:
    """What waits in one partition."""

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.pending: list[Waiting] = []
        self.sealed: deque[Sealed] = deque()
        self.rests_until_s = 0.0
        self._pause_s = AGAIN_MIN_S

    def __bool__(self) -> bool:
        return bool(self.pending or self.sealed)

    def __len__(self) -> int:
        """How many hits wait."""
        return len(self.pending) + sum(len(sealed.waiting) for sealed in self.sealed)

    @property
    def may_send(self) -> bool:
        """Whether there is something to send that does not overtake what comes again."""
        under_way = sum(sealed.under_way for sealed in self.sealed)
        if under_way == len(self.sealed):
            return self.may_seal()
        return not under_way

    def may_seal(self, *, for_spool: bool = False) -> bool:
        """Whether one more batch may get a number: to be sent, none while one comes again."""
        comes_again = self._pause_s > AGAIN_MIN_S
        most = 1 if comes_again and not for_spool else AHEAD
        return bool(self.pending) and len(self.sealed) < most

    def take(self) -> list[Waiting]:
        """The hits of the next batch."""
        taken, self.pending = self.pending[:MAX_BATCH], self.pending[MAX_BATCH:]
        return taken

    def settle(self, outcomes: Sequence[Outcome | None]) -> None:
        """The oldest batch is counted, or in the spool."""
        waiting = self.sealed.popleft().waiting
        self.rests_until_s, self._pause_s = 0.0, AGAIN_MIN_S
        # In two turns of the loop, not now: first the next batch is to be on its way.
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, _settle, waiting, outcomes)

    def refuse(self, error: StoreError) -> None:
        """The oldest batch will never be counted."""
        refuse(self.sealed.popleft().waiting, error)

    def rest(self, now_s: float) -> None:
        """It did not get on: try again after a pause, each one longer than the last."""
        if self.rests_until_s > now_s:
            return
        self.rests_until_s = now_s + self._pause_s
        self._pause_s = min(2 * self._pause_s, AGAIN_MAX_S)

    def pending_since(self, oldest_s: float) -> list[Waiting]:
        """Takes out those that have waited for a batch since then or longer."""
        if not self.pending or self.pending[0].since_s > oldest_s:
            return []
        late = [each for each in self.pending if each.since_s <= oldest_s]
        del self.pending[: len(late)]  # they stand in the order in which they came
        return late

    def sealed_since(self, oldest_s: float) -> list[Waiting]:
        """Those that wait for a batch's answer since then or longer; they stay in it."""
        return [
            each for sealed in self.sealed for each in sealed.waiting if each.since_s <= oldest_s
        ]


def refuse(waiting: Sequence[Waiting], error: StoreError) -> None:
    asyncio.get_running_loop().call_soon(_refuse, waiting, error)


def _settle(waiting: Sequence[Waiting], outcomes: Sequence[Outcome | None]) -> None:
    became: dict[str, int] = {}
    for each, outcome in zip(waiting, outcomes, strict=True):
        waiter, each.waiter = each.waiter, None
        if waiter is not None:
            what = _what_became(each.entry, outcome)
            became[what] = became.get(what, 0) + 1
            try:
                waiter.settled(outcome)
            except Exception:  # a mistake of ours: the others shall have their answers
                log.exception("an answer failed")
    for what, hits in became.items():
        BECAME[what].inc(hits)


def _refuse(waiting: Sequence[Waiting], error: StoreError) -> None:
    for each in waiting:
        waiter, each.waiter = each.waiter, None
        if waiter is not None:
            metrics.HITS.labels("refused").inc()
            try:
                waiter.refused(error)
            except Exception:
                log.exception("an answer failed")


def _what_became(entry: Hit | Drop, outcome: Outcome | None) -> str:
    if isinstance(entry, Drop):
        return "dropped"
    if outcome is None:
        return "spooled"
    return "held" if outcome.held else "counted"

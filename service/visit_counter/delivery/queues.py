"""A partition's hits on their way to the store: those that wait for a batch, and their batches.

The recorder has one queue for each partition. What is sent when, again or not, its flow decides;
here stands only what there is, and who is told what became of it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Final

from visit_counter import logs, metrics
from visit_counter.errors import StoreError
from visit_counter.model.hit import Drop, Hit
from visit_counter.store.batch import Batch, Outcome

MAX_BATCH: Final = 1000  # Lua unpacks fewer than 8,000 values, and a visitor may take two
AGAIN_MIN_S: Final = 0.02
AGAIN_MAX_S: Final = 0.5

Became = Outcome | StoreError | None
"""What became of a hit. None: the hit is in the spool and will be counted; an error: neither the
store nor the spool has confirmed the hit."""

Tell = Callable[[Became], None]
"""Who waits for what becomes of a hit: called once."""

BECAME: Final = {
    what: metrics.HITS.labels(what) for what in ("counted", "held", "spooled", "dropped", "refused")
}


class Waiting:
    """A hit or drop, who waits for what becomes of it, and since when (monotonic seconds)."""

    def __init__(self, entry: Hit | Drop, tell: Tell, since_s: float) -> None:
        self.entry = entry
        self.tell: Tell | None = tell
        """None once they were told."""
        self.since_s = since_s


class State(Enum):
    """Where a numbered batch stands."""

    TO_SEND = auto()
    """To be sent to the store, for the first time or again."""
    SENT = auto()
    """Sent, and no answer has come."""
    TO_SPOOL = auto()
    """Not to be sent: earlier batches of its partition are in the spool, and this one follows."""
    DONE = auto()
    """Counted, in the spool, or refused for good; an answer still to come says nothing new."""


class Sealed:
    """A numbered batch, who waits for it, and since when."""

    def __init__(self, batch: Batch, waiting: list[Waiting], since_s: float, state: State) -> None:
        self.batch = batch
        self.waiting = waiting
        self.since_s = since_s
        self.state = state


class Queue:
    """What waits in one partition."""

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.pending: list[Waiting] = []
        """Without a batch, in the order in which they came."""
        self.sealed: deque[Sealed] = deque()
        """Batches that are not done, in the order of their numbers."""
        self.refuses = ""
        """Why nothing more is taken: its batches get on neither to the store nor to the spool."""
        self.rests_until_s = 0.0
        self.pause_s = AGAIN_MIN_S
        """How long the next rest takes; longer than the least while a batch comes again."""

    def __bool__(self) -> bool:
        return bool(self.pending or self.sealed)

    def __len__(self) -> int:
        """How many hits wait."""
        return len(self.pending) + sum(len(sealed.waiting) for sealed in self.sealed)

    def take(self) -> list[Waiting]:
        """The hits of the next batch."""
        taken, self.pending = self.pending[:MAX_BATCH], self.pending[MAX_BATCH:]
        return taken

    def finish(self, became: Sequence[Became]) -> None:
        """The oldest batch is done: who waits for its hits learns what became of each."""
        sealed = self.sealed.popleft()
        sealed.state = State.DONE
        tell(sealed.waiting, became)

    def take_late(self, oldest_s: float) -> list[Waiting]:
        """Takes out those that have waited for a batch since then or longer."""
        if not self.pending or self.pending[0].since_s > oldest_s:
            return []
        late = [each for each in self.pending if each.since_s <= oldest_s]
        del self.pending[: len(late)]
        return late

    def late_in_batches(self, oldest_s: float) -> list[Waiting]:
        """Those that wait for a batch's answer since then or longer; they stay in it."""
        return [
            each
            for sealed in self.sealed
            if sealed.waiting[0].since_s <= oldest_s
            for each in sealed.waiting
            if each.since_s <= oldest_s
        ]


def fulfil(future: asyncio.Future[Outcome | None], became: Became) -> None:
    """Give the future what became of a hit: with the future bound, this is a Tell."""
    if future.done():
        return
    if isinstance(became, StoreError):
        future.set_exception(became)
    else:
        future.set_result(became)


def tell(waiting: Sequence[Waiting], became: Sequence[Became]) -> None:
    """In two turns of the loop, not now: first the next batch is to be on its way."""
    loop = asyncio.get_running_loop()
    loop.call_soon(loop.call_soon, _tell, waiting, became)


def refuse(waiting: Sequence[Waiting], error: StoreError) -> None:
    """Tell all of them the same error."""
    if waiting:
        tell(waiting, [error] * len(waiting))


def _tell(waiting: Sequence[Waiting], became: Sequence[Became]) -> None:
    hits: dict[str, int] = {}
    for each, outcome in zip(waiting, became, strict=True):
        told, each.tell = each.tell, None
        if told is not None:
            what = _what(each.entry, outcome)
            hits[what] = hits.get(what, 0) + 1
            try:
                told(outcome)
            except Exception as error:  # our bug: the others shall have their answers
                logs.mistake("an answer failed", error)
    for what, number in hits.items():
        BECAME[what].inc(number)


def _what(entry: Hit | Drop, became: Became) -> str:
    """As the metric names it."""
    if isinstance(became, StoreError):
        return "refused"
    if isinstance(entry, Drop):
        return "dropped"
    if became is None:
        return "spooled"
    return "held" if became.held else "counted"

"""Who waits for what becomes of a hit, and is told once."""

from __future__ import annotations

import asyncio
from typing import Protocol

from visit_counter.errors import StoreError
from visit_counter.model.hit import Drop, Hit
from visit_counter.store.batch import Outcome


class Waiter(Protocol):
    """Who waits for what becomes of a hit: is told once, by one of the two."""

    def settled(self, outcome: Outcome | None) -> None:
        """None: the hit is in the spool, and will be counted."""

    def refused(self, error: StoreError) -> None:
        """Neither was confirmed."""


class Awaited:
    """A waiter whose future holds the outcome or the error."""

    def __init__(self) -> None:
        self.future: asyncio.Future[Outcome | None] = asyncio.get_running_loop().create_future()

    def settled(self, outcome: Outcome | None) -> None:
        if not self.future.done():
            self.future.set_result(outcome)

    def refused(self, error: StoreError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class Nobody:
    """Waits for nothing."""

    def settled(self, outcome: Outcome | None) -> None:
        pass

    def refused(self, error: StoreError) -> None:
        pass


NOBODY = Nobody()


class Waiting:
    """A hit or drop, who waits for its outcome, and since when (monotonic seconds)."""

    def __init__(self, entry: Hit | Drop, waiter: Waiter, since_s: float) -> None:
        self.entry = entry
        self.waiter: Waiter | None = waiter
        """None once they were told."""
        self.since_s = since_s

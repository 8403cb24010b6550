"""Views by the ids that pages give them, so that a view that is sent again is counted once.

A page sends a view again, under the same id, when no answer came: the first one may have been
counted nevertheless. Whoever counts views remembers the ids of those that were accepted; a repeat
is answered as counted. Of several workers each remembers its own, and asks the others about a
repeat that it does not know. Nothing here counts: `Intake` does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from visit_counter import metrics
from visit_counter.errors import Problem

REMEMBERED_S: Final = 600.0
MOST: Final = 250_000
"""Ids that are remembered, twice: those of the last ten minutes at 400 views a second. An entry
takes 70 bytes."""
LOOK_EVERY: Final = 64  # views, for which the clock is read once
MOST_QUESTIONS: Final = 200

Ask = Callable[[str, str], Awaitable[bool | None]]
"""Asks the other workers whether one of them has accepted a view, by its site and id; None if one
did not answer."""


class Repeated(Exception):
    """The page says that it sent this view before, or the same id came before."""

    def __init__(self, view: str, path: str, *, wants_page: bool) -> None:
        super().__init__(view)
        self.view = view
        """The id."""
        self.path = path
        self.wants_page = wants_page


def key_of(site: str, view: bytes) -> int:
    """What is remembered of a view: never 0, and another number in each process."""
    return hash((site, view)) or 1


def unknown_elsewhere() -> Problem:
    """Made anew each time: an error that is raised again keeps the frames of each time."""
    metrics.HITS.labels("refused").inc()
    return Problem(
        503,
        "Outcome unknown",
        "A worker of this service did not say whether it has counted this view: send it again.",
    )


class Views:
    """Remembers which views were accepted, each for ten to twenty minutes."""

    def __init__(self, ask: Ask | None = None) -> None:
        """`ask`: None in a service of one process."""
        self._ask = ask
        self._questions = 0
        self._young: set[int] = set()
        self._old: set[int] = set()
        self._in_flight: set[int] = set()
        """Those of them that are on their way to the store."""
        self._begun = 0
        self._turn_s = time.monotonic() + REMEMBERED_S
        self._waiting: dict[int, list[asyncio.Future[bool]]] = {}
        """Who waits for what becomes of a view."""

    def knows(self, key: int) -> bool:
        """Whether the view was accepted here, or is on its way to the store."""
        return key in self._young or key in self._old

    def came_lately(self, key: int) -> bool:
        """Whether the view is known, without a look at the older half: what nobody says to come
        again is looked for in one place."""
        return key in self._young

    def begin(self, key: int) -> None:
        """The view is on its way."""
        self._begun += 1
        if self._begun % LOOK_EVERY == 0:
            self._turn()
        self._young.add(key)
        self._in_flight.add(key)

    def settle(self, key: int, *, accepted: bool) -> None:
        """It was counted or spooled; or refused, and may come again as if it were new."""
        self._in_flight.discard(key)
        if not accepted:
            self._young.discard(key)
            self._old.discard(key)
        if self._waiting:
            for each in self._waiting.pop(key, ()):
                if not each.done():
                    each.set_result(accepted)

    def _turn(self) -> None:
        """Forget what is old, once the others are old enough or too many."""
        if len(self._young) >= MOST or time.monotonic() >= self._turn_s:
            self._young, self._old = set(), self._young
            self._turn_s = time.monotonic() + REMEMBERED_S

    async def accepted_here(self, site: str, view: str) -> bool:
        """Whether this process has accepted the view; waits for one that is on its way."""
        key = key_of(site, view.encode())
        if key in self._in_flight:
            outcome: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(key, []).append(outcome)
            return await outcome
        return self.knows(key)

    async def accepted(self, site: str, view: str) -> bool:
        """Whether any process of the service has; Problem 503 if one does not say."""
        metrics.REPEATED.inc()
        if await self.accepted_here(site, view):
            return True
        if self._ask is None:
            return False
        if self._questions >= MOST_QUESTIONS:
            raise unknown_elsewhere()
        self._questions += 1
        try:
            found = await self._ask(site, view)
        finally:
            self._questions -= 1
        if found is None:
            raise unknown_elsewhere()
        return found

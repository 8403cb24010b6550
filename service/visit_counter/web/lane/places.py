"""Who gives up a place when one is needed: the order among connections that share a bound.

First who has sent nothing that could be answered, then who does not end what it began (a head, a
body) or does not read its answer, then who is kept for its next request, last who waits for an
answer; among equals who has been so for longest. See docs/adr/places.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import nsmallest
from typing import Final, Protocol

from visit_counter.rules.shares import Blocks

SILENT: Final = 0
UNFINISHED: Final = 1
IDLE: Final = 2
BUSY: Final = 3

PART: Final = 16  # of a group that is looked up at once: all are looked at for that


class Placed(Protocol):
    """A connection that holds a place."""

    blocks: Blocks
    """The client networks that it counts for."""
    since_s: float
    """Since when it is what `rank` says (seconds of the loop)."""

    def rank(self) -> int:
        """SILENT, UNFINISHED, IDLE or BUSY."""

    @property
    def held_bytes(self) -> int:
        """Of what it has sent and was not yet acted upon."""

    def abort(self) -> None:
        """End it now."""


class Group:
    """Connections that share a bound."""

    def __init__(self) -> None:
        self._members: dict[Placed, None] = {}
        self._next: list[tuple[int, float, Placed]] = []
        """Who is to go, the last one first, as it was when all were last looked at."""

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Placed]:
        return iter(self._members)

    def add(self, member: Placed) -> None:
        self._members[member] = None

    def discard(self, member: Placed) -> None:
        self._members.pop(member, None)

    def first_to_go(self) -> Placed | None:
        """None if there is nobody. To look at all takes some milliseconds for 10,000, so that gives
        the next ones too; they go only if nothing about them has changed."""
        while self._next:
            rank, since_s, member = self._next.pop()
            if member in self._members and (member.rank(), member.since_s) == (rank, since_s):
                self._next.append((rank, since_s, member))
                return member
        self._look_at_all()
        return self._next[-1][2] if self._next else None

    def _look_at_all(self) -> None:
        some = len(self._members) // PART or 1
        ranked = ((each.rank(), each.since_s, each) for each in self._members)
        self._next = nsmallest(some, ranked, key=lambda each: each[:2])[::-1]

"""One order of time for all spools of a data directory, so that visits stay exact after an outage.

Whether a hit begins a visit depends on the visitor's hit before, and several producers share a
visitor's hits, each with a spool of its own. So a producer sends a batch only when no other one has
hits of that partition in its spool that are more than a step older. That holds for live hits too:
they go into the spool and wait there for their turn. The oldest of all may always be sent.

What the producers know of each other is one table, in memory that all processes of the data
directory share: the instant of the oldest spooled hit, by producer and partition. No process has to
answer or to be asked; what a killed process has published stays, as its spool does, until whoever
adopts the spool goes on. With one process it is the same table, for spools that are adopted.

The order decides when a batch is sent, never whether: that each counts once is the ledger's matter.
So nobody waits for ever: see `Order.wait`. Nothing here does I/O.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import structlog

from visit_counter.disk.producer import MOST
from visit_counter.model.site_settings import PARTITIONS

STEP_MS = 1000
SLOW_STEPS = 4  # a step is at least so many times what the store takes for one
MOST_STEP_MS = 60_000
PATIENCE_S = 10.0  # more than an adoption takes

UNKNOWN, EMPTY, HOLDS = 0, 1, 2  # of a producer's spool
BYTES = MOST + MOST * PARTITIONS * 8

log = structlog.get_logger()


def shared_memory(data_dir: Path) -> int:
    """A descriptor of an empty table, for processes that inherit it: of memory, or where the system
    has none or forbids it, of a file without a name. Raises OSError."""
    try:
        memory = os.memfd_create("visit-counter-order")
    except (AttributeError, OSError):
        with tempfile.TemporaryFile(dir=data_dir) as file:
            memory = os.dup(file.fileno())
    os.ftruncate(memory, BYTES)
    return memory


def number_of(directory: Path) -> int:
    """The number of a producer's directory, by which the table knows it; -1 if it has no place."""
    number = int(directory.name) if directory.name.isdecimal() else -1
    return number if number < MOST else -1


class Heads:
    """The table. A producer's row is written by whoever has the producer's lock."""

    def __init__(self, memory: int = -1) -> None:
        """`memory`: of `shared_memory`; without it the table is this process's own."""
        table = memoryview(mmap.mmap(memory, BYTES))
        self._state = table[:MOST]
        self._heads = table[MOST:].cast("q")

    def is_known(self, producer: int) -> bool:
        """Whether anybody has published what that one's spool has."""
        return self._state[producer] != UNKNOWN

    def publish(self, producer: int, row: Sequence[int]) -> None:
        """All of a producer's row."""
        for partition, at in enumerate(row):
            self._heads[producer * PARTITIONS + partition] = at
        self._state[producer] = HOLDS if any(row) else EMPTY

    def get(self, producer: int, partition: int) -> int:
        """ms since the epoch; 0 if nothing is spooled."""
        return self._heads[producer * PARTITIONS + partition]

    def put(self, producer: int, partition: int, at: int) -> None:
        self._heads[producer * PARTITIONS + partition] = at
        self._state[producer] = HOLDS if at or any(self._row(producer)) else EMPTY

    def others(self, producer: int) -> Iterator[tuple[int, list[int]]]:
        """The rows of other producers that have something in their spools."""
        state = self._state.tobytes()
        at = state.find(HOLDS)
        while at >= 0:
            if at != producer:
                yield at, self._row(at)
            at = state.find(HOLDS, at + 1)

    def _row(self, producer: int) -> list[int]:
        return self._heads[producer * PARTITIONS : (producer + 1) * PARTITIONS].tolist()


class Order:
    """A producer's place in the order: what it may send now. Its view of the others is as old as
    the last `look`."""

    def __init__(self, heads: Heads, producer: int, now: Callable[[], int]) -> None:
        """`now`: ms since the epoch, by the store's clock."""
        self._heads = heads
        self._producer = producer
        self._now = now
        self._slow_s = 0.0
        self._oldest: dict[int, int] = {}
        """The oldest spooled hit of others, by partition."""
        self._passed: dict[tuple[int, int], int] = {}
        """By producer and partition: hits that do not get on, and are not waited for any more."""
        self._waits: dict[int, tuple[int, float, float]] = {}
        """By partition: which hit of others is the oldest, since when, and when that was noted last
        (monotonic seconds)."""

    # -- what others have

    def look(self) -> None:
        """Learn what others have spooled."""
        oldest: dict[int, int] = {}
        passed: dict[tuple[int, int], int] = {}
        for producer, row in self._heads.others(self._producer):
            for partition, at in enumerate(row):
                if not at:
                    continue
                if self._passed.get((producer, partition)) == at:
                    passed[producer, partition] = at
                else:
                    oldest[partition] = min(at, oldest.get(partition, at))
        self._oldest, self._passed = oldest, passed

    @property
    def others(self) -> bool:
        """Whether others have spooled anything."""
        return bool(self._oldest)

    def is_turn(self, partition: int, at: int) -> bool:
        """Whether a hit of this instant may be sent. A hit of the future counts as one of now."""
        oldest = self._oldest.get(partition)
        return oldest is None or min(at, self._now()) <= oldest + self.step_ms

    def holds(self, partition: int) -> bool:
        """Whether live hits have to wait for their turn."""
        return partition in self._oldest and not self.is_turn(partition, self._now())

    @property
    def step_ms(self) -> int:
        """How much older others' hits may be. Longer where the store is slow: hits come in as fast
        as ever, and the spools would not be emptied by steps that take longer than they are."""
        return min(max(STEP_MS, int(SLOW_STEPS * 1000 * self._slow_s)), MOST_STEP_MS)

    def took(self, seconds: float) -> None:
        """So long the store has taken for a step."""
        self._slow_s = max(seconds, 0.8 * self._slow_s)

    # -- what this one has

    def head(self, partition: int) -> int:
        """The instant of the oldest spooled hit, or an earlier one; 0 if nothing is spooled."""
        return self._heads.get(self._producer, partition) if self._producer >= 0 else 0

    def begin(self, heads: Sequence[int]) -> None:
        """Publish what the spool has, by partition."""
        if self._producer >= 0:
            self._heads.publish(self._producer, heads)

    def put(self, partition: int, at: int) -> None:
        """Publish what is the oldest now; 0 for nothing."""
        if self._producer >= 0:
            self._heads.put(self._producer, partition, at)

    # -- patience

    def wait(self, partitions: Iterable[int]) -> None:
        """Note, about once a second, that the store takes batches of these partitions. Hits of
        others that are the oldest and have not got on for PATIENCE_S are then not waited for any
        more, until they move: their process may hang, or their spool may be unreadable."""
        now_s, passed = time.monotonic(), set()
        for partition in partitions:
            oldest, own = self._oldest.get(partition, 0), self.head(partition)
            if not oldest or 0 < own <= oldest:
                continue  # it waits for us
            before, since_s, noted_s = self._waits.get(partition, (0, now_s, now_s))
            if oldest != before or now_s - noted_s > PATIENCE_S / 2:
                since_s = now_s
            self._waits[partition] = (oldest, since_s, now_s)
            if now_s - since_s >= PATIENCE_S:
                passed |= self._pass_over(partition, oldest)
        if passed:
            log.error(
                "hits in the spool of another process do not get on, and later ones go before them:"
                " visits of visitors who have hits in both may be counted wrongly",
                producers=sorted(passed),
                waited_s=PATIENCE_S,
            )
            self.look()

    def stop_waiting(self, partitions: Iterable[int]) -> None:
        """The store takes nothing there: that others do not get on says nothing of them."""
        for partition in partitions:
            self._waits.pop(partition, None)

    def _pass_over(self, partition: int, oldest: int) -> set[int]:
        """Ignore that hit; of which producers it was ignored."""
        slow = {
            producer
            for producer, row in self._heads.others(self._producer)
            if row[partition] == oldest
        }
        self._passed.update(dict.fromkeys(((each, partition) for each in slow), oldest))
        return slow

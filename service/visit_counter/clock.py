"""The one clock: this machine's time, corrected by the store's.

Every reply of the store carries its TIME, taken between our sending and our receiving: it proves
the offset within the round trip. The offset moves only where a reply proves it wrong, so a slow
network does not shake it, and on one machine it stays 0. Nothing else in the service reads the wall
clock.

No reply makes the corrected time's error larger, and after each the error is at most its round
trip. After a step of either clock by more than two round trips it is at most half of one, from the
first reply on that was asked for after the step.
"""

from __future__ import annotations

import time

from visit_counter import metrics


class Clock:
    """Instants in milliseconds since the epoch, by the store's time."""

    def __init__(self) -> None:
        self._offset = 0

    def now(self) -> int:
        return time.time_ns() // 1_000_000 + self._offset

    def local(self) -> int:
        return time.time_ns() // 1_000_000

    def observe(self, sent: int, store_time: int, received: int) -> None:
        """Learn from a reply; `sent` and `received` are this machine's instants around it."""
        # Where this machine's clock was set back meanwhile, `sent` is of the clock before.
        least, most = store_time - received, store_time - min(sent, received)
        middle = (least + most) // 2
        nearest = min(max(self._offset, least), most)
        # A small error is corrected as far as it is proved: a reply that was long on its way says
        # little. A large one is a step, and then the middle is the best guess.
        offset = middle if abs(nearest - self._offset) > most - middle else nearest
        if offset != self._offset:
            self._offset = offset
            metrics.CLOCK_SKEW.set(offset / 1000)


def skew(sent: int, store_time: int, received: int) -> int:
    """How far a server's clock is ahead of this machine's, as far as one reply proves it."""
    return max(0, store_time - received) + min(0, store_time - sent)

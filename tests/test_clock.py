"""The clock: what a reply of the store proves about it."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from visit_counter.clock import Clock, skew

HOUR = 3_600_000
NOON = 1_773_144_000_000

delays = st.integers(0, 5000)
"""Of a call on its way to the store, and of the reply on its way back."""
exchanges = st.lists(st.tuples(delays, delays, st.integers(0, 10_000)), max_size=10)
"""Each with what passes until the next."""
offsets = st.integers(-10 * 365 * 24 * HOUR, 10 * 365 * 24 * HOUR)


@pytest.mark.parametrize(
    ("store_time", "expected"),
    [(1000, 0), (1500, 0), (2000, 0), (2300, 300), (400, -600)],
    ids=["at sending", "between", "at receiving", "ahead", "behind"],
)
def test_only_what_a_reply_proves_is_skew(store_time: int, expected: int) -> None:
    """A time between sending and receiving says nothing against either clock."""
    assert expected == skew(1000, store_time, 2000)


class Machine:
    """A machine whose clock is behind a store's by `behind`, and what the service there learns."""

    def __init__(self, behind: int) -> None:
        self.now = NOON
        """By the store's clock."""
        self.behind = behind
        self.clock = Clock()

    @property
    def error(self) -> int:
        return abs(self.clock._offset - self.behind)

    def exchange(self, there: int, back: int, steps: int = 0) -> None:
        """A call and its reply; the machine's clock steps while the reply is on its way."""
        sent = self.now - self.behind
        self.now += there
        store_time = self.now
        self.now += back
        self.behind -= steps
        self.clock.observe(sent, store_time, self.now - self.behind)


@given(offsets, exchanges)
@example(0, [(0, 5000, 0), (5000, 0, 0)])
@example(100, [(150, 150, 0)])
def test_no_reply_makes_the_error_larger(behind: int, replies: list[tuple[int, int, int]]) -> None:
    """And after each the error is at most its round trip, however unlike the two ways are."""
    machine = Machine(behind)
    for there, back, pause in replies:
        before = machine.error
        machine.exchange(there, back)
        assert machine.error <= min(before, there + back)
        machine.now += pause


@given(exchanges, offsets, delays, delays)
@example([], 30_000, 300, 0)
@example([], -HOUR, 0, 300)
def test_after_a_step_the_error_is_half_a_round_trip(
    replies: list[tuple[int, int, int]], step: int, there: int, back: int
) -> None:
    """One reply is enough, wherever the store is, for a step of more than two round trips."""
    machine = Machine(0)
    for each in replies:
        machine.exchange(*each[:2])
    machine.behind -= step
    machine.exchange(there, back)

    assert machine.error <= (there + back) / 2 + 1 or abs(step) <= 2 * (there + back)


@given(offsets, delays, delays)
def test_a_step_while_a_reply_is_on_its_way_does_not_stay(step: int, there: int, back: int) -> None:
    """The next reply corrects what that one could not tell, and a step back is seen at once."""
    machine = Machine(0)
    machine.exchange(there, back, steps=step)
    if step < -(there + back):
        assert machine.error <= there + back
    machine.exchange(there, back)

    assert machine.error <= there + back


@given(exchanges)
def test_on_one_machine_nothing_is_corrected(replies: list[tuple[int, int, int]]) -> None:
    """A slow store, or a slow way to it, does not shake a clock that is right."""
    machine = Machine(0)
    for there, back, _ in replies:
        machine.exchange(there, back)
    assert machine.clock._offset == 0

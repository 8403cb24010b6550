"""The clock: what a reply of the store proves about it."""

from __future__ import annotations

import pytest

from visit_counter.clock import skew


@pytest.mark.parametrize(
    ("store_time", "expected"),
    [(1000, 0), (1500, 0), (2000, 0), (2300, 300), (400, -600)],
    ids=["at sending", "between", "at receiving", "ahead", "behind"],
)
def test_only_what_a_reply_proves_is_skew(store_time: int, expected: int) -> None:
    """A time between sending and receiving says nothing against either clock."""
    assert expected == skew(1000, store_time, 2000)

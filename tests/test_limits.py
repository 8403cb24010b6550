"""Token buckets: never more than burst + rate x time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.limits import Buckets, Limits

steps = st.lists(st.tuples(st.floats(0, 30), st.integers(1, 20)), max_size=80)


def test_grants_the_burst_and_then_the_rate() -> None:
    """A new key has its whole burst, after that one token for each 1/rate seconds."""
    buckets = Buckets(rate_per_s=50, burst=500)

    granted = sum(buckets.take("a", 1e6) for _ in range(600))
    later = sum(buckets.take("a", 1e6 + 1) for _ in range(600))

    assert (granted, later) == (500, 50)


@given(steps, st.sampled_from([(50.0, 500.0), (1.0, 10.0), (0.3, 7.0)]), st.floats(0, 1e7))
def test_never_grants_more(
    moves: list[tuple[float, int]], limit: tuple[float, float], now: float
) -> None:
    """Over any sequence, granted <= burst + rate x elapsed."""
    rate, burst = limit
    buckets, start, granted = Buckets(rate, burst), now, 0

    for pause, n in moves:
        now += pause
        granted += n if buckets.take("a", now, n) else 0
        assert granted <= burst + rate * (now - start) + 0.001


@given(st.integers(1, 50), st.integers(1, 50))
def test_a_refused_take_costs_nothing(burst: int, asked: int) -> None:
    """All or nothing: what was refused is still there."""
    buckets = Buckets(1, burst)

    granted = buckets.take("a", 0, asked)

    assert (asked <= burst) == granted
    assert buckets.take("a", 0, burst - asked if granted else burst)


def test_keys_do_not_share() -> None:
    """One key's use leaves the others alone."""
    buckets = Buckets(1, 1)

    assert [buckets.take(key, 0) for key in ("a", "b", "a")] == [True, True, False]


def test_a_charge_may_go_below_zero() -> None:
    """A charge is always taken, and has to be earned back before there is room."""
    buckets = Buckets(rate_per_s=1, burst=10)

    buckets.charge("a", 0, 15)

    assert [buckets.has_room("a", now) for now in (0, 5.9, 6)] == [False, False, True]


def test_debt_is_bounded() -> None:
    """However much is charged, twice the burst is earned back in 2 x burst / rate seconds."""
    buckets = Buckets(rate_per_s=1, burst=10)

    buckets.charge("a", 0, 1_000_000)

    assert (buckets.take("a", 10.5), buckets.take("a", 11)) == (False, True)


def test_asking_for_room_takes_nothing() -> None:
    """`has_room` neither takes a token nor keeps a bucket."""
    buckets = Buckets(1, 1)

    assert (buckets.has_room("a", 0), len(buckets)) == (True, 0)


def test_memory_is_bounded() -> None:
    """At most `capacity` buckets are kept."""
    buckets = Buckets(1, 1, capacity=10)

    for number in range(100):
        buckets.take(str(number), 0)
        assert len(buckets) <= 10


def test_forgets_no_bucket_that_is_touched() -> None:
    """A key that keeps trying is not forgotten, so hammering brings no new burst."""
    buckets = Buckets(1, 1, capacity=4)
    buckets.take("quiet", 0)
    buckets.take("hammering", 0)

    for number in range(5):
        assert not buckets.take("hammering", 0)
        buckets.take(str(number), 0)

    assert buckets.take("quiet", 0)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_workers_together_allow_what_one_would(workers: int) -> None:
    """An address that reaches all of them has its 500 views at once, and its 1,000 visitors."""
    several = [Limits(lambda: 0.0, workers) for _ in range(workers)]
    views = sum(each.allow("a", view=True) for each in several for _ in range(1000))
    visitors = 0
    for each in several:
        while each.may_bring_visitors("a"):
            each.charge_visitor("a")
            visitors += 1

    assert (views, visitors) == (500, 1000)


@pytest.mark.parametrize("wrong", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_refuses_limits_without_meaning(wrong: tuple[int, int, int]) -> None:
    """Rate, burst and capacity are greater than 0."""
    with pytest.raises(ValueError, match="greater than 0"):
        Buckets(*wrong)

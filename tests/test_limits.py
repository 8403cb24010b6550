"""Token buckets: never more than burst + rate x time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visit_counter.rules.addresses import Address
from visit_counter.rules.limits import AROUND, Limits, Rate

steps = st.lists(st.tuples(st.floats(0, 30), st.integers(1, 20)), max_size=80)


class Bucket:
    """A bucket that keeps its instant, and is asked at one."""

    def __init__(self, per_s: float, burst: float) -> None:
        self.rate = Rate(per_s, burst)
        self.full_at_s = 0.0

    def take(self, now_s: float, n: float = 1) -> bool:
        full_at_s = self.rate.take(self.full_at_s, now_s, n)
        self.full_at_s = full_at_s or self.full_at_s
        return full_at_s is not None

    def charge(self, now_s: float, n: float) -> None:
        self.full_at_s = self.rate.charge(self.full_at_s, now_s, n)


def network(name: str) -> Address:
    return Address(name, 4, 0)


def ipv6(n: int, of: int = 0) -> Address:
    """One of the 65,536 networks of a /48."""
    return Address(f"2001:db8:{of:x}:{n:x}::/64", 16, (0x20010DB8 << 32 | of << 16 | n) << 64)


def test_grants_the_burst_and_then_the_rate() -> None:
    """A new bucket has its whole burst, after that one token for each 1/rate seconds."""
    bucket = Bucket(per_s=50, burst=500)

    granted = sum(bucket.take(1e6) for _ in range(600))
    later = sum(bucket.take(1e6 + 1) for _ in range(600))

    assert (granted, later) == (500, 50)


@given(steps, st.sampled_from([(50.0, 500.0), (1.0, 10.0), (0.3, 7.0)]), st.floats(0, 1e7))
def test_never_grants_more(
    moves: list[tuple[float, int]], limit: tuple[float, float], now: float
) -> None:
    """Over any sequence, granted <= burst + rate x elapsed."""
    rate, burst = limit
    bucket, start, granted = Bucket(rate, burst), now, 0

    for pause, n in moves:
        now += pause
        granted += n if bucket.take(now, n) else 0
        assert granted <= burst + rate * (now - start) + 0.001


@given(st.integers(1, 50), st.integers(1, 50))
def test_a_refused_take_costs_nothing(burst: int, asked: int) -> None:
    """All or nothing: what was refused is still there."""
    bucket = Bucket(1, burst)

    granted = bucket.take(0, asked)

    assert (asked <= burst) == granted
    assert bucket.take(0, burst - asked if granted else burst)


def test_a_charge_may_go_below_zero() -> None:
    """A charge is always taken, and has to be earned back before there is room."""
    bucket = Bucket(per_s=1, burst=10)

    bucket.charge(0, 15)

    assert [bucket.take(now) for now in (0, 5.9, 6)] == [False, False, True]


def test_debt_is_bounded() -> None:
    """However much is charged, twice the burst is earned back in 2 x burst / rate seconds."""
    bucket = Bucket(per_s=1, burst=10)

    bucket.charge(0, 1_000_000)

    assert (bucket.take(10.5), bucket.take(11)) == (False, True)


def test_networks_and_kinds_do_not_share() -> None:
    """One network's views leave its signs of presence alone, and the other's views."""
    limits = Limits(lambda: 0.0)
    one, other = limits.of(network("a")), limits.of(network("b"))

    granted = sum(limits.allow(one, view=True) for _ in range(600))

    assert granted == 500
    assert limits.allow(one, view=False)
    assert limits.allow(other, view=True)


def test_a_48_has_not_the_bursts_of_all_its_networks() -> None:
    """One customer's 65,536 networks bring as many views and visitors as 64 of them may, however
    often each is forgotten; another /48 has its own."""
    limits = Limits(lambda: 0.0, capacity=20)
    views = visitors = presence = 0
    for n in (*range(50), *range(50)):
        allowance = limits.of(ipv6(n))
        presence += sum(limits.allow(allowance, view=False) for _ in range(501))
        views += sum(limits.allow(allowance, view=True) for _ in range(501))
        while limits.may_bring_visitors(allowance):
            limits.charge_visitor(allowance)
            visitors += 1
    other = limits.of(ipv6(1, of=1))

    assert (views, presence, visitors) == (AROUND * 500, AROUND * 500, AROUND * 1000)
    assert limits.allow(other, view=True)
    assert limits.may_bring_visitors(other)


def test_a_refused_network_takes_nothing_of_its_neighbours() -> None:
    """Who goes on behind the own burst does not use up that of the /48."""
    limits = Limits(lambda: 0.0)
    loud = limits.of(ipv6(0))
    for _ in range(AROUND * 600):
        limits.allow(loud, view=True)

    assert limits.allow(limits.of(ipv6(1)), view=True)


def test_a_48_gets_back_what_was_charged_in_vain() -> None:
    """As its network does, for visitors that the store knew."""
    limits = Limits(lambda: 0.0)
    networks = [limits.of(ipv6(n)) for n in range(AROUND + 1)]
    for each in networks[:-1]:
        for _ in range(1000):
            limits.charge_visitor(each)
    full = not limits.may_bring_visitors(networks[-1])
    limits.give_back_visitor(networks[0])

    assert full
    assert limits.may_bring_visitors(networks[-1])


def test_asking_for_room_takes_nothing() -> None:
    """Only a new visitor is charged for."""
    limits = Limits(lambda: 0.0)
    allowance = limits.of(network("a"))

    asked = [limits.may_bring_visitors(allowance) for _ in range(2000)]

    assert all(asked)


def test_memory_is_bounded() -> None:
    """At most `capacity` networks are remembered."""
    limits = Limits(lambda: 0.0, capacity=10)

    for number in range(100):
        limits.of(network(str(number)))
        assert len(limits) <= 10


def test_forgets_nobody_who_keeps_coming() -> None:
    """A network that keeps trying is not forgotten, so hammering brings no new burst."""
    limits = Limits(lambda: 0.0, capacity=4)
    quiet, hammering = limits.of(network("quiet")), limits.of(network("hammering"))

    for number in range(5):
        assert limits.of(network("hammering")) is hammering
        limits.of(network(str(number)))

    assert limits.of(network("quiet")) is not quiet


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_workers_together_allow_what_one_would(workers: int) -> None:
    """An address that reaches all of them has its 500 views at once, and its 1,000 visitors."""
    several = [Limits(lambda: 0.0, workers) for _ in range(workers)]
    views = visitors = 0
    for each in several:
        allowance = each.of(network("a"))
        views += sum(each.allow(allowance, view=True) for _ in range(1000))
        while each.may_bring_visitors(allowance):
            each.charge_visitor(allowance)
            visitors += 1

    assert (views, visitors) == (500, 1000)


@pytest.mark.parametrize("wrong", [(0, 1), (1, 0)])
def test_refuses_limits_without_meaning(wrong: tuple[int, int]) -> None:
    """Rate and burst are greater than 0."""
    with pytest.raises(ValueError, match="greater than 0"):
        Rate(*wrong)

"""What one client network may have, by itself and with the networks around it; and who goes first
of those who hold a place."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visit_counter.rules.addresses import parsed
from visit_counter.rules.shares import Blocks, Shares, blocks_of, share
from visit_counter.web.lane.places import BUSY, IDLE, SILENT, UNFINISHED, Group

MOST = 8


def blocks(text: str) -> Blocks:
    address = parsed(text)
    assert address
    return blocks_of(address)


def admitted(addresses: list[str]) -> int:
    """How many of them get in, one after the other."""
    shares, got_in = Shares(), 0
    for each in addresses:
        if shares.have_room(blocks(each), MOST):
            shares.take(blocks(each))
            got_in += 1
    return got_in


@pytest.mark.parametrize(
    ("first", "step", "most"),
    [
        ("192.0.2.1", 0, MOST),
        ("192.0.2.1", 1, 2 * MOST),  # addresses of a /24
        ("192.0.2.1", 256, 99),
        ("2001:db8::1", 1, MOST),  # of a /64
        ("2001:db8::", 1 << 64, MOST * 3 // 2),  # /64 of a /56
        ("2001:db8::", 1 << 72, 2 * MOST),  # /56 of a /48
        ("2001:db8::", 1 << 80, 99),
    ],
)
def test_a_wider_network_may_have_more_but_not_all(first: str, step: int, most: int) -> None:
    begin = ip_address(first)

    assert admitted([str(begin + n * step) for n in range(99)]) == most


def test_a_mapped_address_is_the_ipv4_address() -> None:
    assert blocks("::ffff:192.0.2.1") == blocks("192.0.2.1")


@given(st.integers(0, 2**128 - 1), st.integers(0, 2**128 - 1))
def test_two_addresses_share_what_their_prefixes_share(one: int, other: int) -> None:
    """And no network of one width is taken for one of another."""
    if any(number >> 32 == 0xFFFF for number in (one, other)):  # mapped
        return
    shared = set(blocks(str(IPv6Address(one)))) & set(blocks(str(IPv6Address(other))))

    assert len(shared) == sum(one >> 128 - width == other >> 128 - width for width in (64, 56, 48))


@given(st.lists(st.ip_addresses().map(str), max_size=20))
def test_what_is_given_back_is_free(addresses: list[str]) -> None:
    shares = Shares()
    for each in addresses:
        shares.take(blocks(each))
    for each in addresses:
        shares.give_back(blocks(each))

    assert not shares._held
    assert all(shares.have_room(blocks(each), 1) for each in addresses)


def test_a_share_is_of_what_one_address_may_have() -> None:
    assert [share(each, MOST) for each in blocks("192.0.2.1")] == [8, 16]
    assert [share(each, MOST) for each in blocks("2001:db8::1")] == [8, 12, 16]


# -- who goes first


class Holder:
    """Of a place."""

    blocks: Blocks = ()
    held_bytes = 0

    def __init__(self, rank: int, since_s: float) -> None:
        self.now, self.since_s = rank, since_s

    def rank(self) -> int:
        return self.now

    def abort(self) -> None: ...


def group_of(*holders: Holder) -> Group:
    group = Group()
    for each in holders:
        group.add(each)
    return group


def left(group: Group) -> list[Holder]:
    """All, in the order in which they go."""
    gone = []
    while first := group.first_to_go():
        group.discard(first)
        gone.append(first)
    return gone  # type: ignore[return-value] # what was added


@given(st.lists(st.tuples(st.sampled_from([SILENT, UNFINISHED, IDLE, BUSY]), st.floats(0, 99))))
def test_who_does_least_goes_first_and_then_who_has_for_longest(
    what: list[tuple[int, float]],
) -> None:
    holders = [Holder(*each) for each in what]

    assert [(each.now, each.since_s) for each in left(group_of(*holders))] == sorted(what)


def test_who_has_come_to_do_more_meanwhile_is_spared() -> None:
    """Several are looked up at once; each goes only if it is still what it was."""
    many = [Holder(IDLE, n) for n in range(64)]
    group = group_of(*many)
    assert group.first_to_go() is many[0]
    for each in many[:2]:
        each.now, each.since_s = BUSY, 99
    group.discard(many[2])

    assert left(group) == [*many[3:], *many[:2]]


def test_nobody_goes_of_an_empty_group() -> None:
    assert group_of().first_to_go() is None

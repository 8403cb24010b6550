"""The client's address behind trusted proxies."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visit_counter.rules.addresses import NOWHERE, Address, Networks, client_address, parsed


def found(peer: str, forwarded: list[str], trusted: Networks) -> str:
    """The client's network."""
    return looked_for(peer, forwarded, trusted)[0]


def looked_for(peer: str, forwarded: list[str], trusted: Networks) -> tuple[str, list[str]]:
    """The client's network, and whom it names beyond it."""
    named: list[str] = []

    def beyond(_: Address, hop: str) -> None:
        named.append(hop.strip())

    client = client_address(trusted.peer(peer), ",".join(forwarded), trusted, beyond)
    return client.network, named


def holds(networks: Networks, text: str) -> bool:
    address = parsed(text)
    return address is not None and networks.holds(address)


PROXIES = Networks.parse(["127.0.0.0/8", "::1", "10.0.0.0/8", "2001:db8:f::/48"])


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("198.51.100.7", [], "198.51.100.7"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", ["192.0.2.1"], "192.0.2.1"),
        ("10.0.0.1", ["203.0.113.9, 192.0.2.1"], "192.0.2.1"),
        ("10.0.0.1", ["192.0.2.1, 10.0.0.2"], "192.0.2.1"),
        ("10.0.0.1", ["192.0.2.1", "10.0.0.2"], "192.0.2.1"),
        ("10.0.0.1", ["10.0.0.4,10.0.0.3"], "10.0.0.4"),
        ("10.0.0.1", ["garbage, 192.0.2.1"], "192.0.2.1"),
        ("10.0.0.1", ["192.0.2.1, garbage"], "10.0.0.1"),
        ("10.0.0.1", ["192.0.2.1, unknown, 10.0.0.2"], "10.0.0.1"),
        ("10.0.0.1", [" , 192.0.2.1 ,"], "192.0.2.1"),
        ("10.0.0.1", ["192.0.2.1:5000"], "192.0.2.1"),
        ("10.0.0.1", ["[2001:DB8::1]:443"], "2001:db8::/64"),
        ("10.0.0.1", ["[2001:db8::1]"], "2001:db8::/64"),
        ("10.0.0.1", ["2001:db8:0:0::1%eth0"], "2001:db8::/64"),
        ("10.0.0.1", ["::ffff:192.0.2.1"], "192.0.2.1"),
        ("10.0.0.1", ["192.0.2.01"], "10.0.0.1"),
        ("::ffff:10.0.0.1", ["192.0.2.1"], "192.0.2.1"),
        ("2001:db8:f::7", ["2001:db8::9"], "2001:db8::/64"),
        ("fe80::1%eth0", [], "fe80::/64"),
        ("", [], NOWHERE),
    ],
)
def test_finds_the_client(peer: str, forwarded: list[str], address: str) -> None:
    """The first hop from the right that is not a trusted proxy is the client."""
    assert found(peer, forwarded, PROXIES) == address


@pytest.mark.parametrize(
    ("peer", "forwarded", "named"),
    [
        ("10.0.0.1", ["192.0.2.1"], []),
        ("10.0.0.1", ["198.51.100.1, 192.0.2.1"], ["198.51.100.1"]),
        ("10.0.0.1", ["203.0.113.9, 198.51.100.1, 192.0.2.1, 10.0.0.2"], ["198.51.100.1"]),
        ("10.0.0.1", ["2001:db8::9", "2001:db8:e::1"], ["2001:db8::9"]),
        ("10.0.0.1", ["10.0.0.4, 10.0.0.3"], []),
        ("10.0.0.1", ["198.51.100.1, garbage"], []),
        ("198.51.100.7", ["192.0.2.1, 192.0.2.2"], []),
    ],
)
def test_tells_whom_the_client_names_beyond_it(
    peer: str, forwarded: list[str], named: list[str]
) -> None:
    """Of a client that was found behind a trusted proxy, the next hop only."""
    assert looked_for(peer, forwarded, PROXIES)[1] == named


@pytest.mark.parametrize(
    ("peer", "network"),
    [("198.51.100.7", "198.51.100.7"), ("2001:db8::5", "2001:db8::/64"), ("", NOWHERE)],
)
def test_believes_no_stranger(peer: str, network: str) -> None:
    """A X-Forwarded-For from a peer that is not a trusted proxy is ignored."""
    assert found(peer, ["192.0.2.1"], PROXIES) == network


def test_a_unix_socket_is_trusted_where_it_is_listed() -> None:
    """0.0.0.0 in the trusted proxies means the peers of a unix socket."""
    assert found("", ["192.0.2.1"], Networks.parse([NOWHERE])) == "192.0.2.1"


@pytest.mark.parametrize(
    "header",
    ["203.0.113.9, " * 5000 + "192.0.2.1", "x" * 10_000 + ",192.0.2.1", "," * 9000 + "192.0.2.1"],
    ids=["hops", "junk", "blanks"],
)
def test_a_long_header_keeps_its_right_end(header: str) -> None:
    """What the trusted proxy appended counts, however much the client wrote before it."""
    assert found("10.0.0.1", [header], PROXIES) == "192.0.2.1"


def test_an_overlong_hop_is_no_address() -> None:
    """A header that is one endless word: the peer is taken."""
    assert found("10.0.0.1", ["x" * 9000], PROXIES) == "10.0.0.1"


def test_a_cut_hop_is_not_taken_for_an_address() -> None:
    """Where the length limit cuts through a hop, that hop is no address: the peer is taken."""
    hops = ["110.0.0.1", "10.0.0.2  " + " " * 1006]

    assert found("10.0.0.1", hops, PROXIES) == "10.0.0.1"


@given(st.text(max_size=60), st.lists(st.text("0123456789abf.:[]%, \x00ấ/", max_size=60)))
def test_never_raises(peer: str, forwarded: list[str]) -> None:
    """Any header gives an address."""
    assert found(peer, forwarded, PROXIES)


@given(st.text("0123456789.:, x", max_size=80), st.ip_addresses().map(str))
def test_the_client_cannot_choose_its_address(own: str, seen: str) -> None:
    """What a client writes into the header is never taken, only what the proxy saw."""
    proxies = Networks.parse(["10.0.0.1"])

    believed = found("10.0.0.1", [own, seen], proxies)

    assert seen == "10.0.0.1" or believed == found("10.0.0.1", [seen], proxies)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:0DB8:1:2::1%eth0", "2001:db8:1:2::/64"),
        ("::1", "::/64"),
    ],
)
def test_network(address: str, network: str) -> None:
    """IPv4 by address, IPv6 by /64."""
    assert found(address, [], PROXIES) == network


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
        (" 192.0.2.7 ", "192.0.2.7", "192.0.2.8"),
        ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::1"),
        ("::1", "::1", "::2"),
        ("fe80::1%eth0", "fe80::1", "fe80::2"),
        ("::ffff:10.0.0.0/104", "10.1.2.3", "11.1.2.3"),
        ("0.0.0.0/0", "8.8.8.8", "2001:db8::1"),
        ("::/0", "2001:db8::1", "8.8.8.8"),
        ("10.0.0.0/8", "::ffff:10.1.1.1", "nonsense"),
    ],
)
def test_networks_contain(text: str, inside: str, outside: str) -> None:
    """CIDRs and single addresses of both families."""
    networks = Networks.parse([text, ""])

    assert (holds(networks, inside), holds(networks, outside)) == (True, False)


@given(st.ip_addresses(v=4), st.integers(0, 32), st.ip_addresses(v=4))
def test_networks_agree_with_ipaddress(base: object, length: int, address: object) -> None:
    """Membership is what the standard library says."""
    from ipaddress import ip_address, ip_network

    network = ip_network(f"{base}/{length}", strict=False)

    assert (ip_address(str(address)) in network) == holds(
        Networks.parse([str(network)]), str(address)
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10.0.0.5/8", r"'10.0.0.5/8' is an address inside a network: write '10.0.0.0/8'"),
        ("10.0.0.0/33", r"'10.0.0.0/33' is not a network"),
        ("loopback", r"'loopback' is not a network: write an address or a CIDR"),
    ],
)
def test_refuses_what_is_no_network(text: str, message: str) -> None:
    """The message names the bad entry and says how to write it."""
    with pytest.raises(ValueError, match=message):
        Networks.parse(["127.0.0.0/8", text])

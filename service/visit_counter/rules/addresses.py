"""Finds the client's address behind trusted proxies, and the network it is limited by.

X-Forwarded-For is believed only from a peer in *trusted*, and read from the right: each proxy
appends whom it saw, so the first hop from the right that is not a trusted proxy is the client, and
whatever the client wrote itself stands further left and is never reached.
Bad headers never raise and never cost a hit. `inet_pton` does the parsing: `ipaddress` took a
quarter of a hit's time. The address goes into the visitor's id and the buckets, nowhere else.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import Final

NOWHERE = "0.0.0.0"
"""Stands for a peer without an address (a unix socket); trusted only where it is listed."""

MAX_FORWARDED: Final = 1024
MAX_ADDRESS: Final = 64  # longer than any

_MAPPED: Final = b"\0" * 10 + b"\xff\xff"
_MAPPED_NETWORK = ipaddress.IPv6Network("::ffff:0:0/96")


class Address:
    """An address: what one household or server holds of its kind, and its value."""

    def __init__(self, network: str, size: int, number: int) -> None:
        self.network = network
        """An IPv4 address itself, of an IPv6 address its /64; the one way to write it."""
        self.size = size
        """In bytes."""
        self.number = number


class Peer:
    """Who holds the other end of a connection."""

    def __init__(self, address: Address, *, trusted: bool) -> None:
        self.address = address
        self.trusted = trusted
        """Their X-Forwarded-For is believed."""


_NOWHERE: Final = Address(NOWHERE, 4, 0)


class Networks:
    """A set of IPv4 and IPv6 networks."""

    def __init__(self, networks: Iterable[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> None:
        # Bytes of an address -> mask -> networks of that mask: as many lookups as mask lengths.
        masks: dict[int, dict[int, set[int]]] = {4: {}, 16: {}}
        for network in networks:
            of_size = masks[network.max_prefixlen // 8]
            of_size.setdefault(int(network.netmask), set()).add(int(network.network_address))
        self._masks = {size: list(by_mask.items()) for size, by_mask in masks.items()}

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Networks:
        """From CIDRs (``10.0.0.0/8``) and single addresses; ValueError names the bad one."""
        return cls([_network(text.strip()) for text in texts if text.strip()])

    def peer(self, text: str) -> Peer:
        """Of these networks or not."""
        address = parsed(text) or _NOWHERE
        return Peer(address, trusted=self.holds(address))

    def holds(self, address: Address) -> bool:
        for mask, known in self._masks[address.size]:  # noqa: SIM110 - a generator costs thrice
            if address.number & mask in known:
                return True
        return False


Beyond = Callable[[Address, str], None]
"""Is told of a client that is not a trusted proxy and names another one beyond it: the client made
that one up, or is a proxy that is not listed."""


def client_address(peer: Peer, forwarded: str, trusted: Networks, beyond: Beyond) -> Address:
    """The client of a request from *peer* with this X-Forwarded-For, of several ones all in a row.

    All hops trusted: the left-most. A hop that is no address, reached from the right: the peer.
    """
    client = peer.address
    if not forwarded or not peer.trusted:
        return client
    alone = "," not in forwarded and len(forwarded) < MAX_ADDRESS
    if alone and (address := parsed(forwarded)):  # nearly always
        return address
    hops = _hops(forwarded)
    for n in range(len(hops) - 1, -1, -1):
        text = hops[n].strip()
        if not text:
            continue
        address = hop_address(text)
        if address is None:
            return peer.address
        client = address
        if not trusted.holds(client):
            if n:
                beyond(client, hops[n - 1])
            break
    return client


def hop_address(text: str) -> Address | None:
    return parsed(text) or parsed(_host(text))


def _hops(forwarded: str) -> list[str]:
    """Too long: the left end goes, the client's own writing. Ignoring the whole header instead
    would let a client hide in the proxy's bucket and empty it for everybody."""
    hops = forwarded[-MAX_FORWARDED:].split(",")
    if len(forwarded) > MAX_FORWARDED:
        hops[0] = "?"  # what was cut through may read like an address
    return hops


def _host(hop: str) -> str:
    """A hop without brackets and port: ``[2001:db8::1]:443``, ``192.0.2.1:5000``."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop


def parsed(text: str) -> Address | None:
    """None if *text* is no address; a mapped IPv4 address counts as IPv4, a zone id is dropped."""
    try:
        if ":" not in text:
            # Which takes no other way to write it.
            return Address(text, 4, int.from_bytes(inet_pton(AF_INET, text), "big"))
        packed = inet_pton(AF_INET6, text.partition("%")[0])
    except (OSError, ValueError):
        return None
    if packed.startswith(_MAPPED):
        return parsed(inet_ntop(AF_INET, packed[12:]))
    network = inet_ntop(AF_INET6, packed[:8] + bytes(8)) + "/64"
    return Address(network, 16, int.from_bytes(packed, "big"))


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        problem = f"{text!r} is not a network: write an address or a CIDR such as 10.0.0.0/8"
        raise ValueError(problem) from None
    if "/" in text and ipaddress.ip_interface(text).ip != network.network_address:
        raise ValueError(f"{text!r} is an address inside a network: write {str(network)!r}")
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED_NETWORK):
        mapped = network.network_address.packed[12:]
        return ipaddress.IPv4Network((mapped, network.prefixlen - 96))
    return network

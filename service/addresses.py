"""Finds the client's address behind trusted proxies, and the network it is limited by.

X-Forwarded-For is believed only from a peer in *trusted*, and read from the right: each proxy
appends whom it saw, so the first hop from the right that is no trusted proxy is the client, and
whatever the client wrote itself stands further left and is never reached.
Bad headers never raise and never cost a hit. `inet_pton` does the parsing: `ipaddress` took a
quarter of a hit's time. The address goes into the visitor's id and the buckets, nowhere else.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from functools import lru_cache
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton

import msgspec

NOWHERE = "0.0.0.0"
"""Stands for a peer without an address (a unix socket); trusted only where it is listed."""

MAX_HOPS = 32
MAX_HOP = 64
MAX_FORWARDED = 1024

_MAPPED = b"\0" * 10 + b"\xff\xff"
_MAPPED_NETWORK = ipaddress.IPv6Network("::ffff:0:0/96")


class Client(msgspec.Struct, frozen=True, gc=False):
    """Where a request comes from, and whether a X-Forwarded-For was not believed."""

    address: str
    ignored_forwarded: bool


class _Address(msgspec.Struct, frozen=True, gc=False):
    """An address: the one way to write it, its bytes, and its value."""

    text: str
    size: int
    number: int


_NOWHERE = _Address(NOWHERE, 4, 0)


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

    def __bool__(self) -> bool:
        return any(self._masks.values())

    def __contains__(self, address: object) -> bool:
        parsed = _parsed(address) if isinstance(address, str) else None
        return parsed is not None and self.holds(parsed)

    def holds(self, address: _Address) -> bool:
        for mask, known in self._masks[address.size]:  # noqa: SIM110 - a generator costs thrice
            if address.number & mask in known:
                return True
        return False


def client_address(peer: str, forwarded: Sequence[str], trusted: Networks) -> Client:
    """The client of a request from *peer* with these X-Forwarded-For headers, in their order.

    All hops trusted: the left-most. A hop that is no address, reached from the right: the peer.
    """
    near = _parsed(peer) or _NOWHERE
    hops = _hops(forwarded)
    if not hops:
        return Client(near.text, False)
    if not trusted.holds(near):
        return Client(near.text, True)
    client = near
    for hop in hops:
        address = _parsed(hop) or _parsed(_host(hop))
        client = address or near
        if address is None or not trusted.holds(address):
            break
    return Client(client.text, False)


def network_key(address: str) -> str:
    """What one household or server holds: an IPv4 address itself, of an IPv6 address its /64."""
    parsed = _parsed(address)
    if parsed is None:
        return address
    if parsed.size == 4:
        return parsed.text
    return _ipv6_network(parsed.number >> 64)


def _hops(forwarded: Sequence[str]) -> list[str]:
    """The hops from the right, blanks left out (RFC 9110, 5.6.1).

    Too long: the left end goes, the client's own writing. Refusing the whole header instead would
    let a client hide in the proxy's bucket and empty it for everybody.
    """
    if not forwarded:
        return []
    joined = ",".join(forwarded)
    hops = joined[-MAX_FORWARDED:].split(",")
    if len(joined) > MAX_FORWARDED:
        hops[0] = "?"  # what was cut through may read like an address
    return [text[:MAX_HOP] for hop in reversed(hops) if (text := hop.strip())][:MAX_HOPS]


def _host(hop: str) -> str:
    """A hop without brackets and port: ``[2001:db8::1]:443``, ``192.0.2.1:5000``."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop


@lru_cache(maxsize=16_384)
def _parsed(address: str) -> _Address | None:
    """None when *address* is none; a mapped IPv4 address counts as IPv4, a zone id is dropped."""
    try:
        if ":" not in address:
            return _address(AF_INET, inet_pton(AF_INET, address))
        packed = inet_pton(AF_INET6, address.partition("%")[0])
    except (OSError, ValueError):
        return None
    if packed.startswith(_MAPPED):
        return _address(AF_INET, packed[12:])
    return _address(AF_INET6, packed)


def _address(family: int, packed: bytes) -> _Address:
    return _Address(inet_ntop(family, packed), len(packed), int.from_bytes(packed, "big"))


@lru_cache(maxsize=16_384)
def _ipv6_network(upper: int) -> str:
    return inet_ntop(AF_INET6, upper.to_bytes(8, "big") + bytes(8)) + "/64"


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

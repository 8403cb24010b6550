"""X-Forwarded-For that leads nowhere: signs of a proxy that nobody has listed, for operators.

Then all visitors behind that proxy are one. It shows where a peer that is not trusted sends the
header, and where the header goes on beyond the hop that is taken for the client, as of a CDN before
a proxy that is trusted. Nothing here changes who the client is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from ipaddress import ip_network

import structlog

from visit_counter import metrics
from visit_counter.rules.addresses import Address, Networks, hop_address

HINT_S = 3600.0
MANY_BEYOND, MANY_HITS = 20, 100  # of one network within HINT_S: one who forges a header sends few
MOST_NETWORKS = 64
MOST_SHOWN = 3

log = structlog.get_logger()

IGNORED = (
    "X-Forwarded-For comes from a peer that is no trusted proxy and is ignored, so all its "
    "visitors are one. If that peer is your proxy, name it in VISIT_COUNTER_TRUSTED_PROXIES"
)
BEYOND = (
    "X-Forwarded-For names many visitors behind addresses that are no trusted proxies, so all "
    "visitors behind each of those are one. If they are of your CDN or load balancer, name its "
    "networks in VISIT_COUNTER_TRUSTED_PROXIES beside your proxy (docs/how-to/proxies.md)"
)
WRAPPED = (
    "A proxy speaks the PROXY protocol, which this service does not read: its requests are "
    "answered 400. Let it speak plain HTTP (no send-proxy, no proxy_protocol) with X-Forwarded-For"
)

# Whose visitors these are knows only who is inside: an office's own proxy names them, and is one
# visitor's address like any other.
INSIDE = Networks.parse(
    ("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
     "192.168.0.0/16", "224.0.0.0/3", "::/8", "fc00::/7", "fe80::/10", "ff00::/8")
)  # fmt: skip


class Chain:
    """What came lately from a network whose addresses name others beyond them."""

    def __init__(self, network: str) -> None:
        self.network = network
        self.began_s = 0.0
        self.hits = 0
        self.beyond: set[int] = set()
        """Hashes of those that were named, of this process only, and no more than MANY_BEYOND."""
        self.found_s = float("-inf")
        """When it last looked like a proxy."""


class Forwarding:
    """Remembers such signs: each is logged once, and hinted at for an hour."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._ignored_s = self._wrapped_s = self._found_s = float("-inf")
        self._chains: dict[tuple[int, int], Chain] = {}
        """By the networks of those who named others, those that began last at the end."""

    @property
    def hints(self) -> list[str]:
        since_s = self._monotonic() - HINT_S
        found = [chain for chain in self._chains.values() if chain.found_s > since_s]
        found.sort(key=lambda chain: -chain.hits)
        networks = ", ".join(chain.network for chain in found[:MOST_SHOWN])
        more = f" and {len(found) - MOST_SHOWN} more" if len(found) > MOST_SHOWN else ""
        return [
            *([IGNORED] if self._ignored_s > since_s else []),
            *([f"{BEYOND}. They are in {networks}{more}"] if found else []),
            *([WRAPPED] if self._wrapped_s > since_s else []),
        ]

    def ignore(self) -> None:
        """A peer that is not trusted sent the header."""
        metrics.FORWARDED_IGNORED.inc()
        self._ignored_s = self._once(self._ignored_s, IGNORED)

    def wrapped(self) -> None:
        """A connection began in the PROXY protocol."""
        self._wrapped_s = self._once(self._wrapped_s, WRAPPED)

    def beyond(self, client: Address, named: str) -> None:
        """A client that is no trusted proxy names another one beyond it."""
        address = hop_address(named.strip())
        if address is None or address.network == client.network or INSIDE.holds(address):
            return  # a proxy that found the client by itself may append it to itself
        metrics.FORWARDED_BEYOND.inc()
        now_s = self._monotonic()
        chain = self._chain(client, now_s)
        chain.hits += 1
        if len(chain.beyond) < MANY_BEYOND:
            chain.beyond.add(hash(address.network))
        elif chain.hits >= MANY_HITS:
            chain.found_s = now_s
            self._found_s = self._once(self._found_s, BEYOND)

    def _chain(self, client: Address, now_s: float) -> Chain:
        """The one of an address's network, begun anew each hour."""
        bits = 8 if client.size == 4 else 80
        key = (client.size, client.number >> bits)
        chain = self._chains.get(key)
        if chain is None or now_s - chain.began_s > HINT_S:
            if chain is None and len(self._chains) >= MOST_NETWORKS:
                del self._chains[next(iter(self._chains))]
            chain = self._chains.pop(key, None) or Chain(_network(client, bits))
            chain.began_s, chain.hits = now_s, 0
            chain.beyond.clear()
            self._chains[key] = chain
        return chain

    def _once(self, last_s: float, said: str) -> float:
        if last_s == float("-inf"):
            log.warning(said)
        return self._monotonic()


def _network(client: Address, bits: int) -> str:
    """As much of an address as may be shown: whoever forges a header has one too."""
    first = (client.number >> bits) << bits
    length = client.size * 8 - bits
    return str(ip_network((first.to_bytes(client.size, "big"), length)))

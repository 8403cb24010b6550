"""X-Forwarded-For that leads nowhere: signs of a proxy that nobody has listed, for operators.

Then all visitors behind that proxy have one address. It shows where a peer that is not trusted
sends the header, where the header goes on beyond the hop that is taken for the client, as of a CDN
before a proxy that is trusted, and where one address brings too many visitors, as behind a proxy
that throws the header away. Nothing here changes who the client is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from ipaddress import ip_network

import structlog

from visit_counter import metrics
from visit_counter.rules import addresses
from visit_counter.rules.addresses import Address, hop_address

HINT_S = 3600.0
MANY_BEYOND, MANY_HITS = 20, 100  # of one network within HINT_S: one who forges a header sends few
MOST_NETWORKS = 64
MOST_SHOWN = 3

log = structlog.get_logger()

IGNORED = (
    "X-Forwarded-For comes from a peer that is not a trusted proxy and is ignored, so all its "
    "visitors are one. If that peer is your proxy, name it in VISIT_COUNTER_TRUSTED_PROXIES"
)
BEYOND = (
    "X-Forwarded-For names many visitors behind addresses that are not trusted proxies, so all "
    "visitors behind each of those are one. If they are of your CDN or load balancer, name its "
    "networks in VISIT_COUNTER_TRUSTED_PROXIES beside your proxy (docs/how-to/proxies.md)"
)
HELD = (
    "More than 60 new visitors a minute come from one address, and further ones count as pageviews "
    "only. If such addresses are of your CDN or proxy, name them in VISIT_COUNTER_TRUSTED_PROXIES "
    "and let each proxy append to X-Forwarded-For; if of an office or a school, in the site's "
    "trusted_networks"
)
WRAPPED = (
    "A proxy speaks the PROXY protocol, which this service does not read: its requests are "
    "answered 400. Let it speak plain HTTP (no send-proxy, no proxy_protocol) with X-Forwarded-For"
)

# Whose visitors these are knows only who is inside: an office's own proxy names them, and is one
# visitor's address like any other.
INSIDE = addresses.Networks.parse(
    ("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
     "192.168.0.0/16", "224.0.0.0/3", "::/8", "fc00::/7", "fe80::/10", "ff00::/8")
)  # fmt: skip


class Seen:
    """What came lately from a network."""

    def __init__(self, network: str) -> None:
        self.network = network
        self.began_s = 0.0
        self.hits = 0
        self.beyond: set[int] = set()
        """Hashes of those that were named beyond it, of this process only; at most MANY_BEYOND."""
        self.found_s = float("-inf")
        """When it last looked like a proxy."""


class Networks:
    """What came within an hour, by networks, and which of them look like proxies."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, int], Seen] = {}
        """Those that began last at the end."""

    def __len__(self) -> int:
        return len(self._seen)

    def hit(self, client: Address, now_s: float) -> Seen:
        """One more from an address's network, which begins anew each hour."""
        self.forget(now_s - HINT_S)
        bits = 8 if client.size == 4 else 80
        key = (client.size, client.number >> bits)
        seen = self._seen.get(key)
        if seen is None or seen.began_s < now_s - HINT_S:
            if seen is None and len(self._seen) >= MOST_NETWORKS:
                del self._seen[next(iter(self._seen))]
            seen = self._seen.pop(key, None) or Seen(_shown(client, bits))
            seen.began_s, seen.hits = now_s, 0
            self._seen[key] = seen
        seen.hits += 1
        return seen

    def forget(self, before_s: float) -> None:
        """Whom each network named before that, and networks that looked like no proxy since."""
        for key, seen in [*self._seen.items()]:
            if seen.began_s >= before_s:
                break
            seen.beyond.clear()
            if seen.found_s <= before_s:
                del self._seen[key]

    def found(self, since_s: float) -> str:
        """Which look like proxies, those with most hits first; "" for none."""
        found = [seen for seen in self._seen.values() if seen.found_s > since_s]
        found.sort(key=lambda seen: -seen.hits)
        more = f" and {len(found) - MOST_SHOWN} more" if len(found) > MOST_SHOWN else ""
        return ", ".join(seen.network for seen in found[:MOST_SHOWN]) + more


class Forwarding:
    """Remembers such signs: each is logged once, and hinted at for an hour."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._said: dict[str, float] = {}
        """When each of these sentences was true last."""
        self.naming, self.crowded = Networks(), Networks()
        """Whose addresses name others beyond them; and who bring too many visitors."""

    @property
    def hints(self) -> list[str]:
        since_s = self._monotonic() - HINT_S
        for each in (self.naming, self.crowded):
            each.forget(since_s)
        networks = {BEYOND: self.naming.found(since_s), HELD: self.crowded.found(since_s)}
        return [
            f"{said}. They are in {networks[said]}" if said in networks else said
            for said, at_s in self._said.items()
            if at_s > since_s and networks.get(said, said)
        ]

    @property
    def lately_misled(self) -> bool:
        """Whether X-Forwarded-For has shown a proxy that is not listed."""
        since_s = self._monotonic() - HINT_S
        return any(self._said.get(said, since_s) > since_s for said in (IGNORED, BEYOND))

    def ignore(self) -> None:
        """A peer that is not trusted sent the header."""
        metrics.FORWARDED_IGNORED.inc()
        self._say(IGNORED)

    def wrapped(self) -> None:
        """A connection began in the PROXY protocol."""
        self._say(WRAPPED)

    def beyond(self, client: Address, named: str) -> None:
        """A client that is not a trusted proxy names another one beyond it."""
        address = hop_address(named.strip())
        if address is None or address.network == client.network or INSIDE.holds(address):
            return  # a proxy that found the client by itself may append it to itself
        metrics.FORWARDED_BEYOND.inc()
        seen = self.naming.hit(client, self._monotonic())
        if len(seen.beyond) < MANY_BEYOND:
            seen.beyond.add(hash(address.network))
        elif seen.hits >= MANY_HITS:
            seen.found_s = self._say(BEYOND)

    def held(self, client: Address) -> None:
        """A network has used up its new visitors."""
        seen = self.crowded.hit(client, self._monotonic())
        if seen.hits >= MANY_HITS:
            seen.found_s = self._say(HELD)

    def _say(self, said: str) -> float:
        if said not in self._said:
            log.warning(said)
        self._said[said] = now_s = self._monotonic()
        return now_s


def _shown(client: Address, bits: int) -> str:
    """As much of an address as may be shown: whoever forges a header has one too."""
    first = (client.number >> bits) << bits
    length = client.size * 8 - bits
    return str(ip_network((first.to_bytes(client.size, "big"), length)))

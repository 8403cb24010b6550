"""Makes the eight bytes that stand for a visitor, and the two that stand for a network.

The hash is keyed with the installation's secret: without it nobody can compute ids, so nobody can
choose user agents that inflate a HyperLogLog (Reviriego et al., arXiv 2011.10355), nor find out
from an id whose it was. What goes in is neither stored nor logged. The caller passes an address's
`network`, so that an IPv6 household is one network, not 2^64 addresses.
"""

from __future__ import annotations

from hashlib import blake2b
from struct import Struct

from visit_counter.rules.addresses import Address

ID_BYTES = 8
CODE_BYTES = 2
MAX_USER_AGENT = 512
MAX_LANGUAGE = 256

_LENGTH = Struct(">I")


def browser_hash(secret: bytes, site: str, user_agent: str, language: str) -> blake2b:
    """What the ids of all visitors of *site* with one browser and language have in common, to be
    kept between hits; the caps are bytes. The secret has 1 to 64 bytes."""
    fields = (
        _encoded(site),
        _encoded(user_agent)[:MAX_USER_AGENT],
        _encoded(language)[:MAX_LANGUAGE],
    )
    message = b"".join(map(_prefixed, fields))
    return _keyed(secret, b"visitor", ID_BYTES, message)


def visitor_id(browser: blake2b, address: str, first_party: str = "") -> bytes:
    """The id of the visitor with this browser at an address."""
    mine = browser.copy()
    mine.update(f"{len(address)}:{address}{first_party}".encode("utf-8", "surrogatepass"))
    return mine.digest()


def network_hash(secret: bytes) -> blake2b:
    """What the codes of all networks have in common, to be kept; the secret has 1 to 64 bytes."""
    return _keyed(secret, b"network", CODE_BYTES)


def network_code(keyed: blake2b, client: Address) -> int:
    """Returns the code of a client's network, 1 to 65,535: of an IPv4 address its /24, of an IPv6
    address its /48, which is about what one customer can have of addresses.

    Paths that nobody knows yet are told by it whose views they have. Two bytes are enough to tell a
    few networks apart, and too few to find out which one it was: many have the same code.
    """
    number, size = (client.number >> 8, 3) if client.size == 4 else (client.number >> 80, 6)
    mine = keyed.copy()
    mine.update(number.to_bytes(size, "big"))
    return int.from_bytes(mine.digest(), "big") or 1


def _keyed(secret: bytes, person: bytes, size: int, message: bytes = b"") -> blake2b:
    if not secret:
        raise ValueError("the visitor secret is empty: ids made without one can be forged")
    return blake2b(message, digest_size=size, key=secret, person=person)


def _prefixed(field: bytes) -> bytes:
    """With its length first: ("ab", "c") and ("a", "bc") differ."""
    return _LENGTH.pack(len(field)) + field


def _encoded(text: str) -> bytes:
    # Headers that are no UTF-8 arrive with lone surrogates, which plain UTF-8 does not encode.
    return text.encode("utf-8", "surrogatepass")

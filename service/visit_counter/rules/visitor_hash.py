"""Makes the eight bytes that stand for a visitor.

The hash is keyed with the installation's secret: without it nobody can compute ids, so nobody can
choose user agents that inflate a HyperLogLog (Reviriego et al., arXiv 2011.10355), nor find out
from an id whose it was. What goes in is neither stored nor logged. The caller passes an address's
`network`, so that an IPv6 household is one network, not 2^64 addresses.
"""

from __future__ import annotations

from hashlib import blake2b
from struct import Struct

ID_BYTES = 8
MAX_USER_AGENT = 512
MAX_LANGUAGE = 256

_LENGTH = Struct(">I")


def browser_hash(secret: bytes, site: str, user_agent: str, language: str) -> blake2b:
    """What the ids of all visitors of *site* with one browser and language have in common, to be
    kept between hits; the caps are bytes. The secret has 1 to 64 bytes."""
    if not secret:
        raise ValueError("the visitor secret is empty: ids made without one can be forged")
    fields = (
        _encoded(site),
        _encoded(user_agent)[:MAX_USER_AGENT],
        _encoded(language)[:MAX_LANGUAGE],
    )
    message = b"".join(map(_prefixed, fields))
    return blake2b(message, digest_size=ID_BYTES, key=secret, person=b"visitor")


def visitor_id(browser: blake2b, address: str, first_party: str = "") -> bytes:
    """The id of the visitor with this browser at an address."""
    mine = browser.copy()
    mine.update(f"{len(address)}:{address}{first_party}".encode("utf-8", "surrogatepass"))
    return mine.digest()


def _prefixed(field: bytes) -> bytes:
    """With its length first: ("ab", "c") and ("a", "bc") differ."""
    return _LENGTH.pack(len(field)) + field


def _encoded(text: str) -> bytes:
    # Headers that are no UTF-8 arrive with lone surrogates, which plain UTF-8 does not encode.
    return text.encode("utf-8", "surrogatepass")

"""Makes the eight bytes that stand for a visitor.

The hash is keyed with the installation's secret: without it nobody can compute ids, so nobody can
choose user agents that inflate a HyperLogLog (Reviriego et al., arXiv 2011.10355), nor find out
from an id whose it was. What goes in is neither stored nor logged. The caller passes the address
as `addresses.network_key` gives it, so that an IPv6 household is one network, not 2^64 addresses.
"""

from __future__ import annotations

from hashlib import blake2b
from struct import Struct

ID_BYTES = 8
MAX_USER_AGENT = 512
MAX_LANGUAGE = 256

_LENGTHS = Struct(">5I")


def visitor_id(
    secret: bytes,
    site: str,
    address: str,
    user_agent: str,
    language: str,
    first_party: str = "",
) -> bytes:
    """The id of a visitor of *site*; the caps are bytes. The secret has 1 to 64 bytes."""
    if not secret:
        raise ValueError("the visitor secret is empty: ids made without one can be forged")
    fields = (
        _encoded(site),
        _encoded(address),
        _encoded(user_agent)[:MAX_USER_AGENT],
        _encoded(language)[:MAX_LANGUAGE],
        _encoded(first_party),
    )
    # All lengths first: ("ab", "c") and ("a", "bc") differ.
    message = _LENGTHS.pack(*map(len, fields)) + b"".join(fields)
    return blake2b(message, digest_size=ID_BYTES, key=secret, person=b"visitor").digest()


def _encoded(text: str) -> bytes:
    # Headers that are no UTF-8 arrive with lone surrogates, which plain UTF-8 refuses.
    return text.encode("utf-8", "surrogatepass")

"""What a request says before its body: which it is, and whether and as whom it may count.

The lane makes a head from bytes, the routes from aiohttp's request; what judges hits knows neither.
"""

from __future__ import annotations

from aiohttp import web
from msgspec import Struct

PREFETCH = ("Sec-Purpose", "Purpose", "X-Moz")


class Head(Struct, frozen=True, eq=False, gc=False):
    """Values as they were sent; what was not sent is empty."""

    host: str
    origin: str
    referer: str
    user_agent: str
    language: str
    fetch_mode: str
    fetch_dest: str
    prefetch: bool
    no_identity: bool
    """DNT or Global Privacy Control."""
    kept: bool = False
    """The same head comes again with every request that says the same."""


class Request(Struct, frozen=True, gc=False):
    """What a head asks for."""

    method: bytes
    target: bytes
    """As it was sent: whoever answers must know exactly this."""
    length: int
    """Bytes of the body."""
    head: Head
    if_none_match: str
    forwarded: str
    """All X-Forwarded-For headers, in their order."""


def head_of(request: web.Request) -> Head:
    headers = request.headers
    get = headers.get
    return Head(
        get("Host", ""),
        get("Origin", ""),
        get("Referer", ""),
        get("User-Agent", ""),
        get("Accept-Language", ""),
        get("Sec-Fetch-Mode", ""),
        get("Sec-Fetch-Dest", ""),
        any("prefetch" in get(name, "").lower() for name in PREFETCH),
        get("DNT") == "1" or get("Sec-GPC") == "1",
    )

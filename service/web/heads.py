"""What the headers of a hit say, as far as they decide whether and as whom it counts.

The lane makes a head from bytes, the routes from aiohttp's request; what judges hits knows neither.
"""

from __future__ import annotations

from aiohttp import web
from msgspec import Struct

PREFETCH = ("Sec-Purpose", "Purpose", "X-Moz")


class Head(Struct, frozen=True, gc=False):
    """Values as they were sent; what was not sent is empty."""

    peer: str
    """The address of whoever holds the other end of the connection."""
    host: str
    origin: str
    referer: str
    user_agent: str
    language: str
    fetch_mode: str
    fetch_dest: str
    forwarded: str
    """All X-Forwarded-For headers, in their order."""
    prefetch: bool
    no_identity: bool
    """DNT or Global Privacy Control."""


def head_of(request: web.Request) -> Head:
    headers = request.headers
    get = headers.get
    return Head(
        request.remote or "",
        get("Host", ""),
        get("Origin", ""),
        get("Referer", ""),
        get("User-Agent", ""),
        get("Accept-Language", ""),
        get("Sec-Fetch-Mode", ""),
        get("Sec-Fetch-Dest", ""),
        ",".join(headers.getall("X-Forwarded-For", [])),
        any("prefetch" in get(name, "").lower() for name in PREFETCH),
        get("DNT") == "1" or get("Sec-GPC") == "1",
    )

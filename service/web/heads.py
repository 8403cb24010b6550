"""What the headers of a hit say, as far as they decide whether and as whom it counts.

The lane makes a head from bytes, the routes from aiohttp's request; what judges hits knows neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aiohttp import web
from msgspec import Struct

PREFETCH = ("sec-purpose", "purpose", "x-moz")


class Head(Struct, frozen=True, gc=False):
    """Values as they were sent; what was not sent is empty."""

    peer: str
    """The address of whoever holds the other end of the connection."""
    forwarded: Sequence[str]
    """All X-Forwarded-For headers, in their order."""
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


def head_of(request: web.Request) -> Head:
    headers = request.headers
    return head_from(request.remote or "", headers, headers.getall("X-Forwarded-For", []))


def head_from(peer: str, headers: Mapping[str, str], forwarded: Sequence[str]) -> Head:
    """Of headers by their names in small letters, or of a mapping that does not care."""
    get = headers.get
    return Head(
        peer,
        forwarded,
        get("host", ""),
        get("origin", ""),
        get("referer", ""),
        get("user-agent", ""),
        get("accept-language", ""),
        get("sec-fetch-mode", ""),
        get("sec-fetch-dest", ""),
        any("prefetch" in get(name, "").lower() for name in PREFETCH),
        get("dnt") == "1" or get("sec-gpc") == "1",
    )

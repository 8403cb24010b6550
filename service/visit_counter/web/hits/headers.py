"""What a request says before its body: which it is, and whether and as whom it may count.

The lane makes a head from bytes, the routes from aiohttp's request; what judges hits knows neither.
"""

from __future__ import annotations

from aiohttp import web

PREFETCH = ("Sec-Purpose", "Purpose", "X-Moz")


class Head:
    """Values as they were sent; what was not sent is empty."""

    def __init__(
        self,
        host: str,
        origin: str,
        referer: str,
        user_agent: str,
        language: str,
        fetch_mode: str,
        fetch_dest: str,
        prefetch: bool,
        no_identity: bool,
        kept: bool = False,
    ) -> None:
        self.host = host
        self.origin = origin
        self.referer = referer
        self.user_agent = user_agent
        self.language = language
        self.fetch_mode = fetch_mode
        self.fetch_dest = fetch_dest
        self.prefetch = prefetch
        self.no_identity = no_identity
        """DNT or Global Privacy Control."""
        self.kept = kept
        """The same head comes again with every request that says the same."""


class Request:
    """What a head asks for."""

    def __init__(
        self,
        method: bytes,
        target: bytes,
        length: int,
        head: Head,
        if_none_match: str,
        forwarded: str,
    ) -> None:
        self.method = method
        self.target = target
        """As it was sent: whoever answers must know exactly this."""
        self.length = length
        """Bytes of the body."""
        self.head = head
        self.if_none_match = if_none_match
        self.forwarded = forwarded
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

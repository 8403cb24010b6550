"""A request of the fast lane, as httptools reads it: what is asked, by whom, and where it ends.

Requests that no page sends, and those of which two parsers could disagree, are `odd`: the lane
leaves them to aiohttp. Headers that nobody reads are not kept. One object serves a connection's
requests, one after another; it knows neither sockets nor sites.
"""

from __future__ import annotations

from httptools import HttpRequestParser

from service.web.client import MAX_BODY
from service.web.heads import Head, head_from

MAX_HEAD = 8 * 1024
MAX_HEADERS = 100

# Headers that are read: each may be sent once, but for X-Forwarded-For.
READ = (
    *("host", "origin", "referer", "user-agent", "accept-language", "x-forwarded-for"),
    *("sec-fetch-mode", "sec-fetch-dest", "sec-purpose", "purpose", "x-moz", "dnt", "sec-gpc"),
    *("content-type", "content-length", "if-none-match"),
)
# Headers that no page sends with a hit: the request is aiohttp's.
ODD = (
    *("transfer-encoding", "expect", "upgrade", "content-encoding", "authorization", "server"),
    *("content-location", "content-range", "etag", "max-forwards"),
)
IGNORED = (
    *("accept", "accept-encoding", "connection", "sec-fetch-site", "cookie", "cache-control"),
    *("pragma", "priority", "x-real-ip", "x-forwarded-proto"),
)
KNOWN = {name: name for name in READ} | dict.fromkeys(ODD, "odd") | dict.fromkeys(IGNORED)
# As they are mostly written.
NAMES: dict[bytes, str | None] = {
    written.encode(): key for name, key in KNOWN.items() for written in (name, name.title())
}


class Request:
    """What is known so far of the request that is being read."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Forget the last one."""
        self.parser = HttpRequestParser(self)
        self.url = self.body = b""
        self.headers: dict[str, str] = {}
        self.forwarded: list[str] = []
        self.end = self.length = 0
        """Bytes of its head once that is whole, and of its body as the head says."""
        self.complete = self.odd = False
        self._begun = self._number = 0

    def read_head(self, head: bytes) -> None:
        """Raises what httptools raises."""
        self.end = len(head)
        self.parser.feed_data(head)
        # Another parser shall see this head end here too, and no body before its time.
        ends_here = self._begun == 1 and not self.body and self.complete == (not self.length)
        self.odd |= not ends_here or self.end > MAX_HEAD or self.length > MAX_BODY
        if self.odd:
            self.length = 0

    def read_body(self, body: bytes) -> None:
        """All of it; raises what httptools raises."""
        self.parser.feed_data(body)
        self.odd |= not self.complete or self._begun > 1

    def is_usual(self) -> bool:
        """Whether the lane may answer it, if it has something to say."""
        parser = self.parser
        return (
            not self.odd
            and "host" in self.headers
            and self._number <= MAX_HEADERS
            and parser.should_keep_alive()
            and parser.get_http_version() == "1.1"
        )

    def head(self, peer: str) -> Head:
        return head_from(peer, self.headers, self.forwarded)

    # -- what httptools calls

    def on_message_begin(self) -> None:
        self._begun += 1

    def on_url(self, url: bytes) -> None:
        if self._begun == 1:
            self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._begun > 1:
            return
        self._number += 1
        key = NAMES[name] if name in NAMES else KNOWN.get(name.decode("latin-1").lower())
        if key is None:
            return
        text = value.decode("utf-8", "surrogateescape").strip(" \t")
        if key == "x-forwarded-for":
            self.forwarded.append(text)
        elif key == "content-length":
            self.length = int(text)
        elif key == "odd" or key in self.headers:
            self.odd = True
        else:
            self.headers[key] = text

    def on_body(self, body: bytes) -> None:
        if self._begun == 1:
            self.body += body

    def on_message_complete(self) -> None:
        self.complete = True

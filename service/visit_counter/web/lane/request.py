"""A plain request: the head of a hit or a look, read from its bytes, or not read at all.

What browsers and proxies send is plain: one spelling of everything, no header twice that matters,
nothing that two parsers could read in two ways. Whatever is not, `read_request` leaves to aiohttp.
All of a head but the visitor's address comes again with other requests, so what it says is kept;
and so are its lines, for heads that differ. Only ASCII is kept: one other character makes each
character of a text take up to four bytes. Nothing here knows sockets or sites.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from visit_counter.web.hits.intake import Head, fetched_ahead

METHODS: Final = (b"POST", b"GET")
MAX_HEADERS: Final = 100
MAX_KNOWN: Final = 1536  # bytes of a head that is worth keeping: browsers send some 700

# What proxies write of each client, as they spell it or in lower case. The second is not read.
FORWARDED: Final = (b"\r\nX-Forwarded-For:", b"\r\nx-forwarded-for:")
REAL_IP: Final = (b"\r\nX-Real-IP:", b"\r\nx-real-ip:")

NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
VALUE: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
LENGTH: Final = re.compile(r"[0-9]{1,5}")

# Headers that are read, in the order of their values; each may be sent once, but for one.
READ: Final = (
    *("host", "origin", "referer", "user-agent", "accept-language", "sec-fetch-mode"),
    *("sec-fetch-dest", "x-forwarded-for", "sec-purpose", "purpose", "x-purpose", "x-moz"),
    *("dnt", "sec-gpc", "content-type", "content-length", "if-none-match"),
)
SLOTS: Final = {name.encode(): slot for slot, name in enumerate(READ)}
NOTHING: Final = [""] * len(READ)
IGNORED: Final = -1
ODD: Final = -2
# Headers that no page sends with a hit.
ODD_HEADERS: Final = frozenset(
    name.encode()
    for name in (
        *("transfer-encoding", "expect", "upgrade", "content-encoding", "authorization", "server"),
        *("content-location", "content-range", "etag", "max-forwards", "proxy-connection"),
    )
)


Line = tuple[int, str]
"""Where the value of a header line goes, and the value."""


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


def read_request(head: bytes) -> Request | None:
    """From the bytes before the empty line; None for what is not plain."""
    if len(head) > MAX_KNOWN or not head.isascii():
        return _read(head, read_line, kept=False)
    head, real_ip = _cut(head, REAL_IP)
    common, forwarded = _cut(head, FORWARDED)
    request = _known(common)
    if request is None or not VALUE.fullmatch(real_ip or b""):
        return None
    if forwarded is None:
        return request
    value = forwarded.strip(b" \t").decode("utf-8", "surrogateescape")
    is_plain = value.isascii() and value.isprintable()  # nearly always
    if not value or not (is_plain or VALUE.fullmatch(forwarded)):
        return None
    if request.forwarded:  # there are two
        return _read(head, _known_line, kept=False)
    return Request(
        request.method,
        request.target,
        request.length,
        request.head,
        request.if_none_match,
        value,
    )


def _cut(head: bytes, spelled: tuple[bytes, bytes]) -> tuple[bytes, bytes | None]:
    """Without the header of this name, and what stood behind the name; None where there is none."""
    name, lower = spelled
    begins = head.find(name)
    if begins < 0:
        begins = head.find(lower)
        if begins < 0:
            return head, None
    value = begins + len(name)
    ends = head.find(b"\r\n", value)
    if ends < 0:
        return head[:begins], head[value:]
    return head[:begins] + head[ends:], head[value:ends]


def _read(head: bytes, line_of: Callable[[bytes], Line], *, kept: bool) -> Request | None:
    lines = head.split(b"\r\n")
    first = lines.pop(0).split(b" ")
    if len(first) != 3 or first[0] not in METHODS or first[2] != b"HTTP/1.1":
        return None
    if len(lines) > MAX_HEADERS:
        return None
    values = NOTHING.copy()
    for line in lines:
        slot, value = line_of(line)
        if slot < 0:
            if slot == ODD:
                return None
        elif not values[slot]:
            values[slot] = value
        elif slot == SLOTS[b"x-forwarded-for"]:
            values[slot] += "," + value
        else:
            return None
    return _request(first[0], first[1], values, kept)


def _request(method: bytes, target: bytes, values: list[str], kept: bool) -> Request | None:
    host, origin, referer, user_agent, language, mode, dest, forwarded, *others = values
    sec_purpose, purpose, x_purpose, x_moz, dnt, gpc, _, length, if_none_match = others
    if not host:
        return None
    prefetch = fetched_ahead(sec_purpose, purpose, x_purpose, x_moz)
    no_identity = dnt == "1" or gpc == "1"
    page = (host, origin, referer, user_agent, language)
    head = (_kept_head if kept else Head)(*page, mode, dest, prefetch, no_identity, kept)
    return Request(method, target, int(length or 0), head, if_none_match, forwarded)


# One Head for all requests that say the same, however the rest of their heads differs (a proxy's id
# of each request): web/hits/intake.py keeps its judgement by the object.
_kept_head = lru_cache(maxsize=4096)(Head)


def read_line(line: bytes) -> Line:
    name, colon, rest = line.partition(b":")
    if not colon or not NAME.fullmatch(name) or not VALUE.fullmatch(rest):
        return ODD, ""
    name, value = name.lower(), rest.strip(b" \t").decode("utf-8", "surrogateescape")
    if name == b"connection":
        return IGNORED if value.lower() == "keep-alive" else ODD, ""
    if name not in SLOTS:
        return ODD if name in ODD_HEADERS else IGNORED, ""
    if not value or (name == b"content-length" and not LENGTH.fullmatch(value)):
        return ODD, ""
    return SLOTS[name], value


# A head that is not known differs from others in one or two of its lines.
_known_line = lru_cache(maxsize=2048)(read_line)


# Visitors with the same browser, language and length of the body send the same; to read it takes as
# long as all else before the recorder.
@lru_cache(maxsize=4096)
def _known(head: bytes) -> Request | None:
    return _read(head, _known_line, kept=True)

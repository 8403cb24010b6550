"""Cases: requests made of usual parts and odd ones, for every route, parameter and field there is.

Routes come from the URL table and fields from the types that read them, so a new one is fuzzed by
itself; the parameters of URLs are listed in PARAMETERS, and tests/test_fuzz.py finds a missing one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, NamedTuple
from urllib.parse import quote

from loadtests.fuzz import values
from tests.kit.services.in_process import PERSON, TOKEN
from visit_counter.web.api.numbers import Reset, SeedOrder
from visit_counter.web.api.sites import GivenSettings
from visit_counter.web.hits.beacon import Beacon
from visit_counter.web.lane.request import ODD_HEADERS, READ
from visit_counter.web.routes import ops_routes, page_routes

OPEN, PRIVATE = "open", "private"
SITES = (OPEN, PRIVATE, "demo", "no-such-site")
CHANGED = ("f0", "f1", "f2", "f3")
"""The sites that admin cases make and change."""

PARAMETERS = (
    *("path", "p", "url", "format", "maxwidth", "maxheight", "lang", "script", "site", "page"),
    *("theme", "period", "rows", "metric", "number-format", "set", "zero-pad", "color"),
    *("label-color", "label", "shape", "title", "refresh", "paused", "how", "preview"),
    *("from", "to", "i"),
)
HEADERS = tuple(name.decode() for name in ODD_HEADERS) + READ + ("x-forwarded-proto", "range")
BODIES = {
    "sites": (*GivenSettings.__struct_fields__, "operation"),
    "reset": Reset.__struct_fields__,
    "seed": SeedOrder.__struct_fields__,
}
FRAMING = (
    *(
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: xchunked",
        b"Transfer-Encoding:\tchunked",
    ),
    *(
        b"Content-Length: 5",
        b"Content-Length: -1",
        b"Content-Length: 5, 5",
        b"Content-Length: 99999",
    ),
    *(
        b"Expect: 100-continue",
        b"Expect: x",
        b"Upgrade: websocket",
        b"Upgrade: h2c",
        b"TE: trailers",
    ),
    *(
        b"Connection: upgrade",
        b"Connection: keep-alive",
        b"Connection: close",
        b": x",
        b" folded: x",
    ),
    *(
        b"Host:",
        b"Host: a\r\nHost: b",
        b"Content-Encoding: gzip",
        b"X: " + b"a" * 9000,
        b"\x00: \x00",
    ),
)
GREETINGS = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
    b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n",
    b"\r\n\r\n\x00\r\nQUIT\nT\x00\x00" + bytes(20),
    b"GET /\r\n",
    b"CONNECT a.vn:443 HTTP/1.1\r\nHost: a.vn\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET http://a.vn/w/open HTTP/1.1\r\nHost: b.vn\r\n\r\n",
    b"GET /w/open HTTP/1.0\r\n\r\n",
    b"GET /w/open HTTP/1.1\r\n\r\n",
    b"\n" * 3000,
    b"SSH-2.0-x\r\n",
    b"*1\r\n$4\r\nPING\r\n",
)


class Case(NamedTuple):
    """What one connection sends."""

    kind: str
    number: int
    pieces: Sequence[bytes]
    well_formed: bool
    """Two parsers would agree where the request ends, so it must be answered."""
    ops: bool = False
    """Sent to the address for admins and Prometheus."""
    resets: bool = False
    """The client goes away without waiting for the answer."""

    @property
    def sent(self) -> bytes:
        return b"".join(self.pieces)


def case_of(kind: str, seed: int, number: int) -> Case:
    """The case of this number; the same each time."""
    rng = Random(f"{seed}/{kind}/{number}")
    if kind == "raw":
        ops, resets = number % 3 == 0, rng.random() < 0.15
        return Case(kind, number, _pieces(rng, _bent(rng)), False, ops, resets)
    made, plain = MAKERS[kind](rng)
    return Case(kind, number, [made], plain, ops=kind == "admin")


def _public(rng: Random) -> tuple[bytes, bool]:
    """A request of any route that pages use."""
    method, target = _route(rng, page_routes(""))
    names = rng.sample(PARAMETERS, rng.choice((0, 1, 1, 2, 5)))
    query = "&".join(f"{name}={_quoted(values.of_name(rng, name))}" for name in names)
    body = b""
    if method == "POST":
        body = values.json_of(rng, _fields(rng, Beacon.__struct_fields__))
    return _request(rng, method, f"{target}?{query}" if query else target, body)


def _admin(rng: Random) -> tuple[bytes, bool]:
    """A request of any route of the API, with the token."""
    method, target = _route(rng, ops_routes(""), CHANGED)
    names = rng.sample(("preview", "from", "to", "limit", "cursor", "q"), rng.choice((0, 0, 1, 3)))
    query = "&".join(f"{name}={_quoted(values.of_name(rng, name))}" for name in names)
    body = b""
    if method in ("POST", "PUT", "PATCH"):
        fields = _fields(rng, BODIES.get(target.rpartition("/")[2], BODIES["sites"]))
        if target == "/api/v1/sites":  # a site of any other name would stay
            fields["id"] = rng.choice((*CHANGED, values.text(rng) + "\n"))
        body = values.json_of(rng, fields)
    return _request(rng, method, f"{target}?{query}" if query else target, body, token=True)


MAKERS: Mapping[str, Callable[[Random], tuple[bytes, bool]]] = {
    "public": _public,
    "admin": _admin,
}
KINDS = ("raw", *MAKERS)


def _route(rng: Random, routes: Sequence[Any], sites: Sequence[str] = SITES) -> tuple[str, str]:
    route = rng.choice(routes)
    method = route.method if rng.random() < 0.9 else rng.choice(("HEAD", "OPTIONS", "PUT", "X"))

    def filled(place: re.Match[str]) -> str:
        if place[1] == "site":
            return rng.choice(sites) if rng.random() < 0.9 else _quoted(values.text(rng))
        if place[1] == "version":
            return f"{rng.getrandbits(64):016x}"
        return "fuzz-operation-1" if rng.random() < 0.5 else _quoted(values.text(rng))

    return method, re.sub(r"\{(\w+)(?::[^}]*\})?[^}/]*\}?", filled, route.path)


def _fields(rng: Random, names: Sequence[str]) -> dict[str, Any]:
    fields = {name: values.of_name(rng, name) for name in names if rng.random() < 0.4}
    if rng.random() < 0.1:
        fields[values.text(rng)[:40]] = values.value(rng)
    return fields


def _quoted(value: Any) -> str:
    return quote(str(value)[:3000].encode(errors="surrogatepass"), safe="/:,*")


def _request(
    rng: Random, method: str, target: str, body: bytes, *, token: bool = False
) -> tuple[bytes, bool]:
    """The bytes, and whether its framing is beyond doubt."""
    headers = {"Host": b"127.0.0.1", "User-Agent": PERSON.encode(), "Connection": b"close"}
    if token:
        headers["Authorization"] = f"Bearer {TOKEN}".encode()
    if body or method == "POST":
        headers["Content-Length"] = str(len(body)).encode()
    plain = True
    for name in rng.sample(HEADERS, rng.choice((0, 0, 1, 2, 4))):
        headers[name] = rng.choice(values.HEADER_VALUES).encode("latin-1")
        plain = plain and name not in ("content-length", "transfer-encoding", "upgrade", "expect")
    lines = [f"{method} {target} HTTP/1.1".encode()]
    lines += [name.encode() + b": " + value for name, value in headers.items()]
    return b"\r\n".join([*lines, b"", body]), plain


def _bent(rng: Random) -> bytes:
    """Requests of which some bytes, lines or ends were changed, or what is no HTTP at all."""
    if rng.random() < 0.1:
        return rng.choice(GREETINGS) + (rng.randbytes(30) if rng.random() < 0.3 else b"")
    requests = [
        rng.choice((_public, _public, _admin))(rng)[0] for _ in range(rng.choice((1, 1, 3)))
    ]
    if rng.random() < 0.5:
        requests = [each.replace(b"Connection: close\r\n", b"") for each in requests]
    sent = b"".join(requests)
    for _ in range(rng.choice((1, 1, 2, 6))):
        sent = rng.choice(BENDS)(rng, sent)
    return sent[: 1 << 18]


def _flip(rng: Random, sent: bytes) -> bytes:
    bent = bytearray(sent)
    for _ in range(rng.choice((1, 1, 8))):
        if bent:
            bent[rng.randrange(len(bent))] = rng.randrange(256)
    return bytes(bent)


def _cut(rng: Random, sent: bytes) -> bytes:
    return sent[: rng.randint(0, len(sent))]


def _without(rng: Random, sent: bytes) -> bytes:
    begins = rng.randint(0, len(sent))
    return sent[:begins] + sent[begins + rng.choice((1, 2, 30)) :]


def _twice(rng: Random, sent: bytes) -> bytes:
    begins = rng.randint(0, len(sent))
    return sent[:begins] + sent[begins : begins + 60] * rng.choice((2, 50)) + sent[begins + 60 :]


def _line_more(rng: Random, sent: bytes) -> bytes:
    lines = sent.split(b"\r\n")
    lines.insert(rng.randint(1, len(lines)), rng.choice(FRAMING))
    return b"\r\n".join(lines)


def _other_ends(rng: Random, sent: bytes) -> bytes:
    return sent.replace(
        b"\r\n", rng.choice((b"\n", b"\r", b"\r\r\n", b"\r\n\r\n")), rng.choice((1, -1))
    )


def _chunks(rng: Random, sent: bytes) -> bytes:
    """A body in chunks, of which not each is one."""
    head, _, body = sent.partition(b"\r\n\r\n")
    size = rng.choice((b"%x" % len(body), b"5", b"-5", b"5;x=y", b"ffffffffffffffff", b"g", b""))
    ends = rng.choice((b"\r\n0\r\n\r\n", b"0\r\n", b"", b"\r\n0\r\nX: y\r\n\r\n"))
    head = re.sub(rb"(?i)\r\ncontent-length:[^\r\n]*", b"", head)
    return head + b"\r\nTransfer-Encoding: chunked\r\n\r\n" + size + b"\r\n" + body + ends


BENDS = (_flip, _cut, _without, _twice, _line_more, _line_more, _other_ends, _chunks)


def _pieces(rng: Random, sent: bytes) -> list[bytes]:
    """As it arrives: at once, or in several parts."""
    if rng.random() < 0.6 or not sent:
        return [sent]
    cuts = sorted(rng.randint(0, len(sent)) for _ in range(rng.choice((1, 2, 5))))
    return [sent[a:b] for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True)]

"""Bad input over real HTTP: it gets a clear answer at once, and harms nothing.

Most tests talk to one service in a process of its own through raw sockets, because no client
library would send what they send. The fixture `service` looks at it before and after each test: no
count and no site has changed, and nothing was logged as an error. The site `portal` belongs to
https://a.vn; what is odd but no reason to refuse a hit goes to the open site `odd`.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPMessage, HTTPResponse
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
import structlog
from prometheus_client import REGISTRY

from tests.kit.services.in_process import PERSON, TOKEN, Service, namespace, run_service
from tests.kit.services.process import ServiceProcess, call, serving, until
from tests.kit.stores.server import Server
from visit_counter.web import client as bounds

ANSWER_S = 2.0
"""The promise is a second; another one is for tests that run beside."""

ORIGIN = "Origin: https://a.vn"
PERSON_SAYS = (f"User-Agent: {PERSON}", ORIGIN)
BOUND = bounds.MAX_BODY


@dataclass(frozen=True)
class Answer:
    status: int
    headers: HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def problem(self) -> Any:
        """The body, which must be a problem of the same status with a sentence."""
        assert self.headers["Content-Type"] == "application/problem+json", self.body
        problem = self.json
        assert problem["status"] == self.status
        assert len(problem["detail"]) > 10
        assert "Traceback" not in problem["detail"]
        return problem


def head(method: str, target: str | bytes, *headers: str | bytes) -> bytes:
    lines = [method.encode() + b" " + _bytes(target) + b" HTTP/1.1", b"Host: counter.vn"]
    return b"\r\n".join([*lines, b"Connection: close", *map(_bytes, headers), b"", b""])


def post(body: bytes = b"{}", *headers: str | bytes, target: str = "/w/portal") -> bytes:
    """A hit with its length, as a person's browser would send it."""
    said = headers or PERSON_SAYS
    return head("POST", target, f"Content-Length: {len(body)}", *said) + body


def chunked(body: bytes, size: int = 32_768) -> bytes:
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    framed = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    return head("POST", "/w/portal", "Transfer-Encoding: chunked", *PERSON_SAYS) + framed


def exchange(service: ServiceProcess, request: bytes) -> Answer:
    """Send bytes, read the answer; it must come in time and be no mistake of ours."""
    since = time.monotonic()
    with connect(service) as connection:
        with suppress(ConnectionError):  # it may have answered before all was sent
            connection.sendall(request)
        method = "HEAD" if request.startswith(b"HEAD ") else "GET"
        with HTTPResponse(connection, method=method) as response:
            response.begin()
            answer = Answer(response.status, response.headers, response.read())
    assert time.monotonic() - since < ANSWER_S
    assert answer.status < 500
    return answer


def connect(service: ServiceProcess) -> socket.socket:
    address = urlsplit(service.url)
    return socket.create_connection((str(address.hostname), address.port or 0), timeout=10)


def drops(service: ServiceProcess, site: str = "portal") -> dict[str, int]:
    """A site's drops by reason."""
    days: dict[str, dict[str, int]] = service.api("GET", f"/sites/{site}/drops")
    reasons: dict[str, int] = {}
    for day in days.values():
        for reason, hits in day.items():
            reasons[reason] = reasons.get(reason, 0) + hits
    return reasons


def added(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {name: n - before.get(name, 0) for name, n in after.items() if n != before.get(name, 0)}


def series(service: ServiceProcess, name: str) -> float:
    with urlopen(f"{service.url}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))


def complaints(log: str) -> list[str]:
    bad = ("Traceback", '"level": "error"', '"level": "critical"')
    return [line for line in log.splitlines() if any(word in line for word in bad)]


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


@pytest.fixture(scope="module")
def running(valkey: Server) -> Iterator[ServiceProcess]:
    """One service for this file, with a hit on its site."""
    with serving(REDIS_URL=valkey.url, NAMESPACE=namespace()) as service:
        service.site("portal", origins=["https://a.vn"])
        service.site("odd")
        assert exchange(service, post()).json["counted"]
        yield service
        assert service.terminate() == 0


@pytest.fixture
def service(running: ServiceProcess) -> Iterator[ServiceProcess]:
    """The service, which the test leaves as it was but for the drops, and without complaints."""
    before = (running.counts(), running.api("GET", "/sites"))
    said = len(running.errors)
    yield running
    assert before == (running.counts(), running.api("GET", "/sites"))
    assert complaints(running.errors[said:]) == []


# -- hits that cannot be read


@pytest.mark.parametrize(
    ("body", "field"),
    [
        pytest.param(b"hello", None, id="no-json"),
        pytest.param(b'{"k":', None, id="cut-off"),
        pytest.param(b"{}{}", None, id="two-objects"),
        pytest.param(b"\0" * 100, None, id="nul-bytes"),
        pytest.param(b'{"k":NaN}', None, id="nan"),
        pytest.param(b'{"p":"/\xff\xfe"}', None, id="invalid-utf-8"),
        pytest.param(b'{"p":"/\xed\xa0\x80"}', None, id="surrogate-in-utf-8"),
        pytest.param('{"p":"/"}'.encode("utf-16"), None, id="utf-16"),
        pytest.param(b'{"p":"/\\ud800"}', None, id="lone-surrogate"),
        pytest.param(b'{"p":"/\\udc00x\\ud800"}', None, id="surrogates-in-wrong-order"),
        pytest.param(b"[" * BOUND, None, id="deep-arrays"),
        pytest.param((b'{"a":' * BOUND)[:BOUND], None, id="deep-objects"),
        pytest.param(b'{"a":' + b"[" * 8000 + b"]" * 8000 + b"}", None, id="deep-and-closed"),
        pytest.param(b'{"k":' + b"9" * 16_000 + b"}", "k", id="huge-number"),
        pytest.param(b"[]", None, id="array"),
        pytest.param(b'"view"', None, id="string"),
        pytest.param(b"null", None, id="null"),
        pytest.param(b"1", None, id="number"),
        pytest.param(b'{"k":1}', "k", id="k-number"),
        pytest.param(b'{"k":null}', "k", id="k-null"),
        pytest.param(b'{"k":"visit"}', "k", id="k-unknown"),
        pytest.param(b'{"p":1}', "p", id="p-number"),
        pytest.param(b'{"p":{}}', "p", id="p-object"),
        pytest.param(b'{"p":""}', "p", id="p-empty"),
        pytest.param(b'{"p":"https://b.vn/a"}', "p", id="p-of-another-host"),
        pytest.param(b'{"p":"//b.vn/a"}', "p", id="p-of-another-host-without-a-scheme"),
        pytest.param(b'{"p":"mailto:a@a.vn"}', "p", id="p-no-page"),
        pytest.param(b'{"p":"/a\\u0000b"}', "p", id="p-nul"),
        pytest.param(b'{"p":"/a\\nb"}', "p", id="p-newline"),
        pytest.param(b'{"p":"/a\\u001b[2Jb"}', "p", id="p-escape"),
        pytest.param(b'{"p":"/\xc2\x85"}', "p", id="p-control-beyond-ascii"),
        pytest.param(b'{"p":"/\\u2028"}', "p", id="p-line-separator"),
        pytest.param(b'{"p":"/a\0b"}', None, id="p-nul-raw"),
        pytest.param(b'{"p":"/' + b"a" * 8192 + b'"}', "p", id="p-long"),
        pytest.param(b'{"v":1}', "v", id="v-number"),
        pytest.param(b'{"v":null}', "v", id="v-null"),
        pytest.param(b'{"v":"' + b"a" * 129 + b'"}', "v", id="v-long"),
        pytest.param(b'{"page":1}', "page", id="page-number"),
        pytest.param(b'{"page":"true"}', "page", id="page-string"),
    ],
)
def test_a_hit_that_cannot_be_read_is_malformed(
    service: ServiceProcess, body: bytes, field: str | None
) -> None:
    """400 says what is wrong and in which field; the site's owner sees it among the drops."""
    before = drops(service)

    answer = exchange(service, post(body))

    assert answer.status == 400
    assert answer.problem().get("field") == field
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert added(before, drops(service)) == {"malformed": 1}


@pytest.mark.parametrize(
    ("request_", "status", "words"),
    [
        pytest.param(post(b" " * (BOUND + 1)), 413, f"{BOUND} bytes", id="a-byte-too-many"),
        pytest.param(post(b"x" * 10_000_000), 413, f"{BOUND} bytes", id="10-MB"),
        pytest.param(chunked(b"x" * 10_000_000), 413, f"{BOUND} bytes", id="10-MB-in-chunks"),
        pytest.param(chunked(b" " * (BOUND + 1), 7), 413, f"{BOUND} bytes", id="tiny-chunks"),
        pytest.param(
            head("POST", "/w/portal", f"Content-Length: {10**18}", *PERSON_SAYS),
            413,
            f"{BOUND} bytes",
            id="absurd-length",
        ),
        pytest.param(
            post(gzip.compress(bytes(10_000_000))[:BOUND], "Content-Encoding: gzip", *PERSON_SAYS),
            415,
            "Content-Encoding",
            id="gzip-bomb",
        ),
        pytest.param(
            post(b"{}", "Content-Encoding: gzip", *PERSON_SAYS),
            415,
            "Content-Encoding",
            id="no-gzip",
        ),
        pytest.param(
            post(b"{}", "Content-Encoding: br, x", *PERSON_SAYS),
            415,
            "Content-Encoding",
            id="codings",
        ),
    ],
)
def test_a_body_that_is_too_much_is_refused(
    service: ServiceProcess, request_: bytes, status: int, words: str
) -> None:
    """Neither a large body nor a packed one is read; the answer names the bound."""
    before = drops(service)

    answer = exchange(service, request_)

    assert answer.status == status
    assert words in answer.problem()["detail"]
    assert added(before, drops(service)) == {"malformed": 1}


def test_a_body_without_a_length_is_no_body(service: ServiceProcess) -> None:
    """10 MB behind a request that announces none are never read as one."""
    with connect(service) as connection, suppress(ConnectionError):
        connection.sendall(head("POST", "/w/odd", *PERSON_SAYS) + b"x" * 10_000_000)

    assert call("GET", f"{service.url}/healthz") == (200, {"status": "ok"})


@pytest.mark.parametrize("framing", ["Content-Length: 20", "Transfer-Encoding: chunked"])
def test_a_client_that_goes_away_in_its_body_is_a_drop(
    service: ServiceProcess, framing: str
) -> None:
    """Half a hit does not count and is no error of ours."""
    before = drops(service)

    with connect(service) as connection:
        connection.sendall(head("POST", "/w/portal", framing, *PERSON_SAYS) + b"2\r\n{}\r\n")

    until(lambda: added(before, drops(service)) == {"malformed": 1}, ANSWER_S)


def test_an_admin_who_goes_away_changes_nothing(service: ServiceProcess) -> None:
    """Half an order is none."""
    token = f"Authorization: Bearer {service.token}"
    with connect(service) as connection:
        connection.sendall(head("POST", "/api/v1/sites", "Content-Length: 90", token) + b'{"id":')

    assert call("GET", f"{service.url}/healthz") == (200, {"status": "ok"})


# -- URLs


@pytest.mark.parametrize(
    ("path", "status"),
    [
        pytest.param("%00", 400, id="nul"),
        pytest.param("/a%00b", 400, id="nul-inside"),
        pytest.param("/a%0d%0aX:1", 400, id="newline"),
        pytest.param("/a%1b%5b2J", 400, id="escape"),
        pytest.param("/%c2%85", 400, id="control-beyond-ascii"),
        pytest.param("a", 200, id="relative"),
        pytest.param("https://b.vn/a", 400, id="another-host"),
        pytest.param("https://a.vn/a", 200, id="with-the-host"),
        pytest.param("", 400, id="empty"),
        pytest.param("/%ff%fe", 200, id="invalid-utf-8"),
        pytest.param("/%ed%a0%80", 200, id="surrogate"),
        pytest.param("/%", 200, id="bare-percent"),
        pytest.param("/" + "a" * 7000, 200, id="long"),
    ],
)
def test_a_path_in_the_url_is_read_or_refused(
    service: ServiceProcess, path: str, status: int
) -> None:
    """Whoever asks for a page's count by a path that is none is told so; the rest is harmless."""
    answer = exchange(service, head("GET", f"/w/portal?path={path}"))

    assert answer.status == status
    if status == 400:
        assert answer.problem()["field"] == "path"


@pytest.mark.parametrize("path", ["%00", "/a%0ab", "//b.vn/a", "/%1b"])
def test_a_pixel_with_a_bad_path_is_a_drop(service: ServiceProcess, path: str) -> None:
    """The picture comes in any case: an <img> shows no sentence."""
    before = drops(service)

    answer = exchange(service, head("GET", f"/w/portal/dot.gif?p={path}", *PERSON_SAYS))

    assert (answer.status, answer.body[:6]) == (200, b"GIF89a")
    assert added(before, drops(service)) == {"malformed": 1}


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
@pytest.mark.parametrize(
    "name",
    [
        "nowhere",
        "PORTAL",
        "portal%00",
        "%ff%fe",
        "%ed%a0%80",
        "..%2fportal",
        "portal%20",
        "a" * 7000,
    ],
)
def test_an_unknown_site_is_said_to_be_unknown(
    service: ServiceProcess, method: str, name: str
) -> None:
    """404 with CORS, so that the page's console shows the reason."""
    answer = exchange(service, head(method, f"/w/{name}", *PERSON_SAYS))

    assert answer.status == 404
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    if method != "HEAD":
        assert answer.problem()["title"] == "Unknown site"


def test_unknown_sites_leave_a_metric_and_no_key(service: ServiceProcess, valkey: Server) -> None:
    """Strangers can invent any number of names: none gets into the store."""
    dropped = 'visitcounter_hits_dropped_total{reason="unknown_site"}'
    before, keys = series(service, dropped), valkey.call("DBSIZE")

    exchange(service, post(target="/w/nowhere"))
    exchange(service, post(b'{"k":1}', target="/w/nowhere"))
    exchange(service, head("GET", "/w/nowhere/dot.gif", *PERSON_SAYS))
    exchange(service, head("GET", "/w/nowhere"))

    assert series(service, dropped) - before == 3
    assert valkey.call("DBSIZE") == keys


# -- broken HTTP


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n", id="tls"),
        pytest.param(b"hello\r\n\r\n", id="no-http"),
        pytest.param(b"\xff" * 100 + b"\r\n\r\n", id="bytes"),
        pytest.param(head("GET", b"/w/portal?path=/\xff"), id="url-bytes"),
        pytest.param(head("GET", b"/w/portal?path=/\0"), id="url-nul"),
        pytest.param(head("POST", b"/w/portal?p=/\x01"), id="url-control"),
        pytest.param(head("GET", "/w/portal?path=/" + "a" * 20_000), id="url-long"),
        pytest.param(head("GET", "http://[/w/portal"), id="url-absolute"),
        pytest.param(head("BREW", "/w/portal"), id="method"),
        pytest.param(b"GET /w/portal HTTP/9.9\r\nHost: a\r\n\r\n", id="version"),
        pytest.param(b"POST /w/portal HTTP/1.1\r\nContent-Length: 0\r\n\r\n", id="no-host"),
        pytest.param(post(b"{}", ORIGIN, b"User-Agent: a\0b"), id="user-agent-nul"),
        pytest.param(post(b"{}", ORIGIN, b"User-Agent: a\x01b"), id="user-agent-control"),
        pytest.param(post(b"{}", ORIGIN, "User-Agent: " + "a" * 10_000), id="user-agent-10-kB"),
        pytest.param(post(b"{}", *(f"X-{n}: 1" for n in range(200))), id="200-headers"),
        pytest.param(post(b"{}", "Content-Length: 3", *PERSON_SAYS), id="two-lengths"),
        pytest.param(post(b"{}", "Content-Length: 2", *PERSON_SAYS), id="one-length-twice"),
        pytest.param(
            post(b"{}", "Transfer-Encoding: chunked", *PERSON_SAYS), id="length-and-chunks"
        ),
        pytest.param(
            head("POST", "/w/portal", "Content-Length: -1", *PERSON_SAYS), id="length-sign"
        ),
        pytest.param(
            head("POST", "/w/portal", "Content-Length: 2x", *PERSON_SAYS), id="length-text"
        ),
        pytest.param(
            head("POST", "/w/portal", "Transfer-Encoding: xchunked", *PERSON_SAYS) + b"2\r\n{}\r\n",
            id="unknown-coding",
        ),
        pytest.param(
            head("POST", "/w/portal", "Transfer-Encoding: chunked, x", *PERSON_SAYS)
            + b"2\r\n{}\r\n",
            id="chunked-not-last",
        ),
        pytest.param(
            head("POST", "/w/portal", "Transfer-Encoding: chunked", *PERSON_SAYS) + b"zz\r\n{}\r\n",
            id="chunk-size",
        ),
        pytest.param(
            head("POST", "/w/portal", "Transfer-Encoding: chunked", *PERSON_SAYS)
            + b"f" * 18
            + b"\r\n{}\r\n",
            id="chunk-size-overflow",
        ),
    ],
)
def test_broken_http_is_answered_and_logged_as_nobodys_mistake(
    service: ServiceProcess, request_: bytes
) -> None:
    """The server's own 400: a sentence without a stack, and no line in the log."""
    before, said = drops(service), len(service.errors)

    answer = exchange(service, request_)

    assert answer.status == 400
    assert answer.body
    assert b"Traceback" not in answer.body
    assert service.errors[said:] == ""
    assert drops(service) == before


# -- hits that can be read and do not count


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        pytest.param([PERSON_SAYS[0], "Origin: https://b.vn"], "origin", id="foreign-origin"),
        pytest.param([PERSON_SAYS[0], "Origin: https://a.vn.b.vn"], "origin", id="likeness"),
        pytest.param([PERSON_SAYS[0], "Origin: http://a.vn"], "origin", id="other-scheme"),
        pytest.param([PERSON_SAYS[0], "Origin: null"], "origin", id="null-origin"),
        pytest.param([PERSON_SAYS[0], b"Origin: https://\xff.vn"], "origin", id="bytes-origin"),
        pytest.param([PERSON_SAYS[0], "Origin: " + "a" * 8000], "origin", id="long-origin"),
        pytest.param([PERSON_SAYS[0]], "origin", id="no-origin"),
        pytest.param([PERSON_SAYS[0], "Referer: https://b.vn/"], "origin", id="foreign-referer"),
        pytest.param(
            [PERSON_SAYS[0], "Referer: https://a.vn@b.vn/"], "origin", id="user-in-referer"
        ),
        pytest.param(
            [PERSON_SAYS[0], "Origin: https://b.vn", "Referer: https://a.vn/"],
            "origin",
            id="origin-before-referer",
        ),
        pytest.param([*PERSON_SAYS, "Sec-Fetch-Mode: navigate"], "origin", id="navigation"),
        pytest.param([*PERSON_SAYS, "Sec-Fetch-Dest: document"], "origin", id="document"),
        pytest.param([*PERSON_SAYS, "Sec-Purpose: prefetch;prerender"], "prefetch", id="prerender"),
        pytest.param([*PERSON_SAYS, "Purpose: prefetch"], "prefetch", id="prefetch"),
        pytest.param([*PERSON_SAYS, "X-Moz: prefetch"], "prefetch", id="prefetch-of-firefox"),
        pytest.param([*PERSON_SAYS, "X-Purpose: preview"], "prefetch", id="preview-of-safari"),
        pytest.param([ORIGIN], "bot", id="no-user-agent"),
        pytest.param([ORIGIN, "User-Agent:"], "bot", id="empty-user-agent"),
        pytest.param([ORIGIN, "User-Agent: curl/8.5.0"], "bot", id="program"),
    ],
)
def test_a_hit_that_does_not_count_is_a_drop_with_its_reason(
    service: ServiceProcess, headers: list[str | bytes], reason: str
) -> None:
    """It is answered with the counts like a hit: nobody loses the number because of it."""
    before = drops(service)

    answer = exchange(service, post(b"{}", *headers))

    assert answer.status == 200
    assert (answer.json["counted"], answer.json["reason"]) == (False, reason)
    assert answer.json["total"] == service.counts()["total"]
    assert added(before, drops(service)) == {reason: 1}


def test_looking_counts_nothing(service: ServiceProcess) -> None:
    """HEAD of the pixel, GET and HEAD of the counts change no number and no drop."""
    before = drops(service)

    for request in (
        head("HEAD", "/w/portal/dot.gif", *PERSON_SAYS),
        head("HEAD", "/w/portal", *PERSON_SAYS),
        head("GET", "/w/portal", *PERSON_SAYS),
    ):
        assert exchange(service, request).status == 200

    assert drops(service) == before


def test_hits_beyond_the_rate_are_drops(service: ServiceProcess) -> None:
    """One address may send 500 views at once; of more than 50 a second the rest are dropped."""
    flood = (*PERSON_SAYS, "X-Forwarded-For: 198.51.100.7")
    odd = post(b"{}", *flood, target="/w/odd").replace(b"Connection: close", b"X: y")
    answers: list[bytes] = []

    with connect(service) as connection:
        while b"rate_limit" not in b"".join(answers) and len(answers) < 200:
            connection.sendall(odd * 20)
            answers.append(b"")
            while answers[-1].count(b'"counted":') < 20:
                answers[-1] += connection.recv(65_536)

    assert 500 // 20 <= len(answers) < 200
    until(lambda: "rate_limit" in drops(service, "odd"), 10)  # from the spool, on a busy machine


# -- odd headers that are no reason to refuse a hit


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(b"User-Agent: " + PERSON.encode() + b"\xff\xfe\x80", id="user-agent-bytes"),
        pytest.param("User-Agent: " + PERSON + "a" * 8000, id="user-agent-8-kB"),
        pytest.param("User-Agent: Mozilla/5.0 Trình duyệt 🦆", id="user-agent-unicode"),
        pytest.param(b"Accept-Language: \xff\xfe", id="language-bytes"),
        pytest.param("Accept-Language: " + "vi," * 2500, id="language-long"),
        pytest.param(b"Referer: https://a.vn/\xff\xfe", id="referer-bytes"),
        pytest.param(b"Referer: https://a.vn/a\tb", id="referer-tab"),
        pytest.param("Referer: http://a.vn\\[/x", id="referer-bracket"),
        pytest.param("Referer: https://[a.vn/", id="referer-no-host"),
        pytest.param("Referer: " + "x" * 8000, id="referer-long"),
        pytest.param("Content-Type: \\", id="content-type"),
        pytest.param(b"Content-Type: text/plain; charset=\xff", id="charset-bytes"),
        pytest.param("DNT: maybe", id="dnt"),
        pytest.param("Upgrade: websocket", id="upgrade"),
        pytest.param("Cookie: " + "a=b;" * 1500, id="cookies"),
        pytest.param("X-Forwarded-For: junk", id="forwarded-junk"),
        pytest.param(b"X-Forwarded-For: \xff\xfe", id="forwarded-bytes"),
        pytest.param("X-Forwarded-For: ,,, ,", id="forwarded-blanks"),
        pytest.param("X-Forwarded-For: 192.0.2.1:5000", id="forwarded-port"),
        pytest.param("X-Forwarded-For: [2001:db8::1]:443", id="forwarded-ipv6-port"),
        pytest.param("X-Forwarded-For: ::ffff:192.0.2.1, fe80::1%eth0", id="forwarded-ipv6"),
        pytest.param("X-Forwarded-For: 999.1.1.1, 1.2.3", id="forwarded-no-address"),
        pytest.param("X-Forwarded-For: " + "192.0.2.1," * 700, id="forwarded-700-hops"),
        pytest.param("X-Forwarded-For: junk\r\nX-Forwarded-For: 192.0.2.1", id="forwarded-twice"),
    ],
)
@pytest.mark.parametrize("way", ["post", "pixel"])
def test_an_odd_header_costs_nobody_a_hit(
    service: ServiceProcess, header: str | bytes, way: str
) -> None:
    """What browsers, proxies and extensions put into headers may be anything."""
    before = service.counts("odd")["total"]["pageviews"]
    given = _bytes(header)
    headers: list[str | bytes] = [header]
    headers += [PERSON_SAYS[0]] if not given.startswith(b"User-Agent") else []

    request = (
        post(b"{}", *headers, target="/w/odd")
        if way == "post"
        else head("GET", "/w/odd/dot.gif", *headers)
    )
    answer = exchange(service, request)

    assert answer.status == 200
    assert service.counts("odd")["total"]["pageviews"] == before + 1


async def test_a_foreign_forwarded_for_is_ignored_and_told(valkey: Server) -> None:
    """From a peer that is not a trusted proxy: no new visitors, a metric, one warning, a hint."""
    ignored = "visitcounter_forwarded_ignored_total"
    before = REGISTRY.get_sample_value(ignored) or 0.0
    with structlog.testing.capture_logs() as log:
        async with run_service(valkey.url, trusted_proxies="10.0.0.0/8") as strict:
            await strict.site()
            for forged in (
                "192.0.2.1",
                "10.0.0.1",
                "2001:db8::1",
                "junk, 192.0.2.9:80",
                "x" * 5000,
            ):
                answer = await strict.hit(headers={"X-Forwarded-For": forged})
            status, told = await strict.ready()

    assert answer["total"] == {"pageviews": 5, "visits": 1, "visitors": 1}
    assert (REGISTRY.get_sample_value(ignored) or 0.0) - before >= 5
    assert (status, told["status"]) == (200, "ok")
    assert "VISIT_COUNTER_TRUSTED_PROXIES" in told["hints"][0]
    assert len([line for line in log if "VISIT_COUNTER_TRUSTED_PROXIES" in line["event"]]) == 1


async def test_a_malformed_hit_is_noted_once(valkey: Server) -> None:
    """It passes the fast lane and then aiohttp: neither counts what the other has."""
    ignored = "visitcounter_forwarded_ignored_total"
    dropped = "visitcounter_hits_dropped_total"
    reason = {"reason": "malformed"}
    before = [REGISTRY.get_sample_value(ignored), REGISTRY.get_sample_value(dropped, reason)]
    async with run_service(valkey.url, trusted_proxies="10.0.0.0/8") as strict:
        await strict.site()
        for body in (b"{", b'{"k":"nothing"}', b'{"p":"mailto:a"}'):
            await strict.hit(body=body, headers={"X-Forwarded-For": "192.0.2.1"}, status=400)
    after = [REGISTRY.get_sample_value(ignored), REGISTRY.get_sample_value(dropped, reason)]

    assert [(now or 0) - (then or 0) for now, then in zip(after, before, strict=True)] == [3, 3]


# -- bodies that never come


@pytest.mark.parametrize("framing", ["Content-Length: 5", "Transfer-Encoding: chunked"])
async def test_a_body_that_stalls_is_cut_off(
    service_here: Service, monkeypatch: pytest.MonkeyPatch, framing: str
) -> None:
    """After a few seconds the answer comes without it, the connection ends, and it is a drop."""
    assert bounds.BODY_S == 5.0
    monkeypatch.setattr(bounds, "BODY_S", 0.2)

    status, body = await stall(
        service_here, head("POST", "/w/portal", framing, *PERSON_SAYS) + b"2"
    )

    assert (status, json.loads(body)["title"]) == (408, "Malformed hit")
    (day,) = (await service_here.api("GET", "/sites/portal/drops")).values()
    assert day == {"malformed": 1}
    assert (await service_here.counts())["total"]["pageviews"] == 0


async def test_an_admins_body_that_stalls_is_cut_off(
    service_here: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The token is no licence to hold a connection for ever."""
    monkeypatch.setattr(bounds, "BODY_S", 0.2)
    token = f"Authorization: Bearer {TOKEN}"

    status, body = await stall(
        service_here, head("POST", "/api/v1/sites", "Content-Length: 9", token)
    )

    assert (status, json.loads(body)["title"]) == (408, "Malformed body")


@pytest.fixture
async def service_here(service: ServiceProcess, valkey: Server) -> Any:
    """A service in this process, whose bounds a test can change."""
    async with run_service(valkey.url) as here:
        await here.site()
        yield here


async def stall(service: Service, begun: bytes) -> tuple[int, bytes]:
    """Send the beginning of a request and wait; status and body of what comes until the end."""
    port = urlsplit(service.url).port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(begun)
    async with asyncio.timeout(5):
        answer = await reader.read()
    writer.close()
    return int(answer.split(b" ")[1]), answer.partition(b"\r\n\r\n")[2]


# -- methods


@pytest.mark.parametrize("target", ["/w/portal", "/w/nowhere", "/w/portal/dot.gif", "/embed.js"])
def test_a_preflight_is_allowed_for_two_hours(service: ServiceProcess, target: str) -> None:
    """OPTIONS 204; no credentials are ever allowed."""
    asks = ("Origin: https://a.vn", "Access-Control-Request-Method: POST")

    answer = exchange(service, head("OPTIONS", target, *asks))

    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["Access-Control-Max-Age"] == "7200"
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert answer.headers["Access-Control-Allow-Credentials"] is None


@pytest.mark.parametrize(
    ("method", "target", "allowed"),
    [
        ("DELETE", "/w/portal", {"GET", "HEAD", "POST"}),
        ("PUT", "/w/portal", {"GET", "HEAD", "POST"}),
        ("POST", "/w/portal/dot.gif", {"GET", "HEAD"}),
        ("POST", "/embed.js", {"GET", "HEAD"}),
        ("POST", "/healthz", {"GET", "HEAD"}),
        ("DELETE", "/api/v1/sites/portal", {"GET", "HEAD", "PUT", "PATCH"}),
        ("GET", "/api/v1/sites/portal/reset", {"POST"}),
        ("OPTIONS", "/api/v1/sites", {"GET", "HEAD", "POST"}),
    ],
)
def test_a_wrong_method_is_told_the_right_ones(
    service: ServiceProcess, method: str, target: str, allowed: set[str]
) -> None:
    """405 with Allow, and the same in words."""
    answer = exchange(service, head(method, target, "Content-Length: 0", *PERSON_SAYS))

    assert answer.status == 405
    assert set(answer.headers["Allow"].replace(" ", "").split(",")) == allowed
    assert all(name in answer.problem()["detail"] for name in allowed)


@pytest.mark.parametrize(
    "target", ["/", "/nothing", "/w", "/w/", "/w/portal/x", "/api/v1", "//", "*"]
)
def test_an_address_without_anything_says_so(service: ServiceProcess, target: str) -> None:
    """404 as a problem, or the way to the demo page."""
    answer = exchange(service, head("GET" if target != "*" else "OPTIONS", target))

    assert answer.status == (302 if target == "/" else 404)
    if answer.status == 404:
        assert answer.problem()["title"] == "Not found"


# -- the admin API


@pytest.mark.parametrize(
    "header",
    [
        pytest.param("X: y", id="none"),
        pytest.param("Authorization:", id="empty"),
        pytest.param("Authorization: Bearer", id="no-token"),
        pytest.param("Authorization: Bearer wrong-token-of-some-length", id="wrong"),
        pytest.param(f"Authorization: Bearer {TOKEN}x", id="longer"),
        pytest.param("Authorization: Bearer mật-khẩu", id="non-ascii"),
        pytest.param(b"Authorization: Bearer \xff\xfe", id="bytes"),
        pytest.param("Authorization: Basic " + TOKEN, id="other-scheme"),
        pytest.param(TOKEN, id="no-header"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_without_the_admin_token_nothing_is_told(
    service: ServiceProcess, request: pytest.FixtureRequest, method: str, header: str | bytes
) -> None:
    """401 says which token is needed; a body is not even looked at."""
    # Each from an address of its own: wrong tokens are limited by address.
    address = f"X-Forwarded-For: 203.0.113.{abs(hash(request.node.name)) % 250}"
    given = header if b":" in _bytes(header) else f"X-Token: {_bytes(header).decode()}"

    answer = exchange(service, head(method, "/api/v1/sites", "Content-Length: 0", given, address))

    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert "Authorization: Bearer" in answer.problem()["detail"]


def test_wrong_tokens_are_counted_and_lock_nobody_out(service: ServiceProcess) -> None:
    """Each guess is 401 and counted; whoever shares the guesser's address still gets in."""
    before = service.metric("visitcounter_wrong_tokens_total")
    wrong = ("Authorization: Bearer guess", "X-Forwarded-For: 198.51.100.8")
    tries = [exchange(service, head("GET", "/api/v1/sites", *wrong)) for _ in range(11)]
    right = (f"Authorization: Bearer {service.token}", "X-Forwarded-For: 198.51.100.8")

    assert [answer.status for answer in tries] == [401] * 11
    assert exchange(service, head("GET", "/api/v1/sites", *right)).status == 200
    assert service.metric("visitcounter_wrong_tokens_total") - before == 11


NEW = {"id": "new", "origins": ["*"]}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "field"),
    [
        pytest.param("POST", "", [NEW], 400, None, id="array"),
        pytest.param("POST", "", "new", 400, None, id="string"),
        pytest.param("POST", "", None, 400, None, id="nothing"),
        pytest.param("POST", "", {"origins": ["*"]}, 400, "id", id="no-id"),
        pytest.param("POST", "", {"id": "new"}, 400, "origins", id="no-origins"),
        pytest.param("POST", "", {**NEW, "colour": 1}, 400, "colour", id="unknown-field"),
        pytest.param("POST", "", {**NEW, "id": 5}, 400, "id", id="id-number"),
        pytest.param("POST", "", {**NEW, "id": ""}, 400, "id", id="id-empty"),
        pytest.param("POST", "", {**NEW, "id": "New"}, 400, "id", id="id-upper-case"),
        pytest.param("POST", "", {**NEW, "id": "a\n"}, 400, "id", id="id-newline"),
        pytest.param("POST", "", {**NEW, "id": "a" * 64}, 400, "id", id="id-long"),
        pytest.param("POST", "", {**NEW, "origins": "*"}, 400, "origins", id="origins-string"),
        pytest.param("POST", "", {**NEW, "origins": []}, 400, "origins", id="origins-none"),
        pytest.param("POST", "", {**NEW, "origins": [5]}, 400, "origins", id="origins-number"),
        pytest.param("POST", "", {**NEW, "origins": ["a.vn"]}, 400, "origins", id="origins-host"),
        pytest.param("POST", "", {**NEW, "origins": ["null"]}, 400, "origins", id="origins-null"),
        pytest.param("POST", "", {**NEW, "timezone": 7}, 400, "timezone", id="timezone-number"),
        pytest.param("POST", "", {**NEW, "timezone": "Hue"}, 400, "timezone", id="timezone"),
        pytest.param(
            "POST", "", {**NEW, "timezone": "../UTC"}, 400, "timezone", id="timezone-path"
        ),
        pytest.param("POST", "", {**NEW, "timezone": "a\0"}, 400, "timezone", id="timezone-nul"),
        pytest.param(
            "POST", "", {**NEW, "timezone": "a" * 400}, 400, "timezone", id="timezone-long"
        ),
        pytest.param(
            "POST", "", {**NEW, "timezone": "Asia"}, 400, "timezone", id="timezone-folder"
        ),
        pytest.param("POST", "", {**NEW, "week_start": "mon"}, 400, "week_start", id="week-start"),
        pytest.param(
            "POST", "", {**NEW, "online_window": 9}, 400, "online_window", id="window-short"
        ),
        pytest.param(
            "POST", "", {**NEW, "online_window": "9"}, 400, "online_window", id="window-text"
        ),
        pytest.param(
            "POST",
            "",
            {**NEW, "online_window": 1801},
            400,
            "online_window",
            id="window-beyond-timeout",
        ),
        pytest.param(
            "PATCH",
            "/portal",
            {"visit_timeout": 299},
            400,
            "online_window",
            id="timeout-below-window",
        ),
        pytest.param(
            "POST", "", {**NEW, "visit_timeout": 10**9}, 400, "visit_timeout", id="timeout"
        ),
        pytest.param("POST", "", {**NEW, "identity": "cookie"}, 400, "identity", id="identity"),
        pytest.param("POST", "", {**NEW, "metric": "hits"}, 400, "metric", id="metric"),
        pytest.param("POST", "", {**NEW, "public": 1}, 400, "public", id="public-number"),
        pytest.param("POST", "", {**NEW, "max_pages": -1}, 400, "max_pages", id="max-pages"),
        pytest.param("POST", "", {**NEW, "name": "a" * 201}, 400, "name", id="name-long"),
        pytest.param("POST", "", {**NEW, "path_style": "file"}, 400, "path_style", id="path-style"),
        pytest.param("POST", "", {**NEW, "query_keys": ["a=b"]}, 400, "query_keys", id="key"),
        pytest.param("POST", "", {**NEW, "query_keys": ["p", "p"]}, 400, "query_keys", id="twice"),
        pytest.param("POST", "", {**NEW, "query_keys": ["a" * 33]}, 400, "query_keys", id="long"),
        pytest.param(
            "POST", "", {**NEW, "query_keys": [*"abcdefghi"]}, 400, "query_keys", id="many-keys"
        ),
        pytest.param(
            "POST", "", {**NEW, "ignored_networks": ["10/8"]}, 400, "ignored_networks", id="ignored"
        ),
        pytest.param(
            "POST", "", {**NEW, "trusted_networks": ["10/8"]}, 400, "trusted_networks", id="network"
        ),
        pytest.param(
            "POST",
            "",
            {**NEW, "trusted_networks": ["10.0.0.1/8"]},
            400,
            "trusted_networks",
            id="network-with-host",
        ),
        pytest.param("POST", "", {**NEW, "id": "portal"}, 409, None, id="exists"),
        pytest.param("PUT", "/portal", {**NEW, "id": "other"}, 400, "id", id="put-other-id"),
        pytest.param("PATCH", "/portal", {"id": "other"}, 400, "id", id="patch-other-id"),
        pytest.param("PUT", "/portal", {}, 400, "origins", id="put-without-origins"),
        pytest.param("PUT", "/Bad%20Id", {"origins": ["*"]}, 400, "id", id="put-bad-id"),
        pytest.param("PATCH", "/nowhere", {}, 404, None, id="patch-unknown"),
        pytest.param("GET", "/%00%ff", None, 404, None, id="show-unknown"),
        pytest.param("POST", "/portal/reset", {}, 400, "confirm", id="reset-unconfirmed"),
        pytest.param("POST", "/portal/reset", {"confirm": "odd"}, 400, "confirm", id="reset-other"),
        pytest.param("POST", "/portal/reset", {"confirm": True}, 400, "confirm", id="reset-yes"),
        pytest.param("POST", "/portal/reset", None, 400, None, id="reset-without-body"),
        pytest.param("POST", "/portal/reset?preview=0", None, 400, None, id="reset-no-preview"),
        pytest.param(
            "POST", "/nowhere/reset", {"confirm": "nowhere"}, 404, None, id="reset-unknown"
        ),
        pytest.param("POST", "/portal/undo/0123456789abcdef", None, 404, None, id="undo-unknown"),
        pytest.param("POST", "/portal/undo/%00%ff", None, 404, None, id="undo-bytes"),
        pytest.param("POST", "/portal/undo/" + "a" * 7000, None, 404, None, id="undo-long"),
        pytest.param("POST", "/portal/seed", {}, 400, "metric", id="seed-nothing"),
        pytest.param("POST", "/portal/seed", {"metric": "visits"}, 400, "add", id="seed-no-add"),
        pytest.param(
            "POST", "/portal/seed", {"metric": "visits", "add": {}}, 400, "add", id="seed-no-period"
        ),
        pytest.param(
            "POST",
            "/portal/seed",
            {"metric": "visits", "add": {"decade": 1}},
            400,
            "decade",
            id="seed-unknown-period",
        ),
        pytest.param(
            "POST",
            "/portal/seed",
            {"metric": "hits", "add": {"total": 1}},
            400,
            "metric",
            id="seed-unknown-metric",
        ),
        pytest.param(
            "POST",
            "/portal/seed",
            {"metric": "visits", "add": {"total": 10**14 + 1}},
            400,
            "add.total",
            id="seed-too-much",
        ),
        pytest.param(
            "POST",
            "/portal/seed",
            {"metric": "visits", "add": {"total": -(10**40)}},
            400,
            "add.total",
            id="seed-far-too-little",
        ),
        pytest.param(
            "POST",
            "/portal/seed",
            {"metric": "visits", "add": {"total": 1.5}},
            400,
            "add.total",
            id="seed-fraction",
        ),
        pytest.param("GET", "/portal/drops?from=yesterday", None, 400, "from", id="drops-day"),
        pytest.param("GET", "/portal/drops?from=2000-01-01", None, 400, "from", id="drops-range"),
        pytest.param("GET", "/portal/drops?to=9999-99-99", None, 400, "from", id="drops-no-day"),
    ],
)
def test_a_bad_order_is_refused_by_its_field(
    service: ServiceProcess, method: str, path: str, body: Any, status: int, field: str | None
) -> None:
    """Nothing is made, changed or reset, and the answer names the field and what is wrong."""
    data = b"" if body is None else json.dumps(body).encode()
    token = f"Authorization: Bearer {service.token}"
    length = f"Content-Length: {len(data)}"

    answer = exchange(service, head(method, f"/api/v1/sites{path}", token, length) + data)

    assert (answer.status, answer.problem().get("field")) == (status, field)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        pytest.param(b"{", 400, id="no-json"),
        pytest.param(b'{"id":"\xff"}', 400, id="invalid-utf-8"),
        pytest.param(b'{"id":"\\ud800"}', 400, id="lone-surrogate"),
        pytest.param(b"[" * BOUND, 400, id="deep-arrays"),
        pytest.param((b'{"a":' * BOUND)[:BOUND], 400, id="deep-objects"),
        pytest.param(b"x" * 10_000_000, 413, id="10-MB"),
    ],
)
def test_an_order_that_cannot_be_read_is_refused(
    service: ServiceProcess, data: bytes, status: int
) -> None:
    """Bodies of the admin API have the same bounds as hits."""
    token = f"Authorization: Bearer {service.token}"
    length = f"Content-Length: {len(data)}"

    answer = exchange(service, head("POST", "/api/v1/sites", token, length) + data)

    assert answer.status == status
    assert answer.problem()


def test_undoing_twice_is_harmless(service: ServiceProcess) -> None:
    """The second undo of a reset adds nothing: what was there is there once."""
    before = service.counts("odd")["total"]
    exchange(service, post(target="/w/odd"))
    undo = service.api("POST", "/sites/odd/reset", {"confirm": "odd"})["undo"]

    url = f"{service.url}/api/v1/sites/odd/undo/{undo}"
    answers = [call("POST", url, token=service.token)[0] for _ in range(2)]

    assert answers == [200, 200]
    assert service.counts("odd")["total"]["pageviews"] == before["pageviews"] + 1

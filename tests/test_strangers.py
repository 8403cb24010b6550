"""What strangers send is answered, and is nobody's mistake: no traceback, no 5xx in the metrics,
and of each kind of line in the log one, and once a minute how many more there were.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
from aiohttp import web, web_urldispatcher
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from tests.kit.services.in_process import PERSON, namespace, run_service, until
from tests.kit.services.process import ServiceProcess, holding, serving
from tests.kit.services.process import until as until_true
from tests.kit.stores.server import Server
from visit_counter import logs
from visit_counter import serving as servers
from visit_counter.adapters import aiohttp_private
from visit_counter.model.reasons import Reason
from visit_counter.store.migration import Progress
from visit_counter.web.client import read_body
from visit_counter.web.hits.beacon import Malformed
from visit_counter.web.migrating import starting_app
from visit_counter.web.routes import health_routes, ops_routes, page_routes

PATHS = sorted({route.path for route in (*page_routes(""), *ops_routes(""))})
SITES = ("demo", "nowhere", "%ff", "a%0ab", "%E2%80%AE")
HOSTS = (
    b"a.vn",
    b"\xff.vn",
    b"a[b",
    b"[::1",
    b"a:b:c",
    b"",
    b"a b",
    b"u@h",
    b"a?\xff",
    b"a" * 4000,
)
QUERIES = (
    "",
    "?path=%ff&page=%ff&lang=%ff&url=%ff&site=%ff&theme=%ff&title=%ff",
    "?path=/%ed%a0%80&page=https://[a&title=%ed%a0%80",
    "?url=http://a.vn/w/demo/frame?x=%25ff%26title=%E2%80%AE",
    "?url=http://[::1/w/demo/frame&format=xml",
    "?maxwidth=-1&page=https://a%0a.vn/&from=%D9%A2%D9%A0%D9%A2%D9%A6-01-01",
)


@pytest.fixture(scope="module")
def service(valkey: Server) -> Iterator[ServiceProcess]:
    with serving(REDIS_URL=valkey.url, NAMESPACE=namespace()) as running:
        until_said(running, "admin token")
        yield running


def until_said(service: ServiceProcess, words: str) -> None:
    """Until its log has them."""
    until_true(lambda: words in service.errors, 5)


def said(service: ServiceProcess, request: bytes) -> bytes:
    """What comes first, for a request's bytes."""
    with connect(service) as connection:
        connection.sendall(request)
        return connection.recv(65536)


def connect(service: ServiceProcess) -> socket.socket:
    address = urlsplit(service.url)
    return socket.create_connection((str(address.hostname), address.port or 0), 5)


def requested(method: str, target: str, host: bytes = b"a.vn", more: bytes = b"") -> bytes:
    return b"%b %b HTTP/1.1\r\nHost: %b\r\nUser-Agent: %b\r\nConnection: close\r\n%b\r\n" % (
        method.encode(), target.encode(), host, PERSON.encode(), more,
    )  # fmt: skip


def failures(service: ServiceProcess) -> list[str]:
    """Series of answers that are booked as failures of the service."""
    series = r'visitcounter_request_seconds_count\{[^}]*status="5xx"[^}]*\} [1-9]'
    return re.findall(series, service.metrics())


@pytest.mark.parametrize("path", PATHS)
def test_no_request_is_a_failure_of_the_service(service: ServiceProcess, path: str) -> None:
    """Any site, query, host and method; the lane and aiohttp."""
    before = len(service.errors)
    answers: list[tuple[str | bytes, bytes]] = []
    for target in dict.fromkeys(
        path.replace("{site}", site).replace("{version:[0-9a-f]{16}}", "0" * 16).replace(
            "{operation}", "x")
        for site in SITES
    ):  # fmt: skip
        answers += [(target + query, said(service, requested("GET", target + query)))
                    for query in QUERIES]  # fmt: skip
        answers += [(host, said(service, requested("GET", target, host))) for host in HOSTS]
        answers += [
            (method, said(service, requested(method, target, more=b"Content-Length: 0\r\n")))
            for method in ("HEAD", "POST", "OPTIONS", "DELETE", "TRACE")
        ]

    bad = [(asked, got[:300]) for asked, got in answers if not re.match(rb"HTTP/1.1 [234]", got)]
    assert bad == []
    assert service.errors[before:] == ""
    assert "Traceback" not in service.errors
    assert failures(service) == []


def test_labels_of_metrics_are_no_strangers_to_choose(service: ServiceProcess) -> None:
    """Neither by paths and sites, nor by methods, nor by what is dropped."""
    for method in ("GET", "BREW", "DELETE", "X" * 50):
        for target in ("/w/invented", "/invented", "/w/invented/frame", "/w/demo/dot.gif?p=%00"):
            said(service, requested(method, target))
    labels: dict[str, set[str]] = {}
    for name, value in re.findall(r'(\w+)="([^"]*)"', service.metrics()):
        labels.setdefault(name, set()).add(value)

    templates = {re.sub(r":[^/]*}(?=\.js)", "}", path) for path in PATHS}
    assert labels["route"] <= {*templates, "other"}
    assert labels["method"] <= {"GET", "HEAD", "POST", "PUT", "PATCH", "OPTIONS", "other"}
    assert labels["status"] <= {"2xx", "3xx", "4xx", "5xx"}
    assert labels["reason"] <= {*map(str, Reason), "unknown_site"}
    assert "invented" not in str(labels)


def test_a_redirect_is_booked_as_one(service: ServiceProcess) -> None:
    series = 'visitcounter_request_seconds_count{method="GET",route="/",status="3xx"}'
    before = service.metric(series)

    answer = said(service, requested("GET", "/"))

    assert answer.startswith(b"HTTP/1.1 302 ")
    assert b"\r\nLocation: demo\r\n" in answer
    assert service.metric(series) - before == 1


@pytest.mark.parametrize("expects", [b"", b"Expect: 100-continue\r\n"])
def test_a_client_that_has_gone_is_no_line_of_the_log(
    service: ServiceProcess, expects: bytes
) -> None:
    """In the middle of a body, and before it was told to go on."""
    before = len(service.errors)
    for framing in (b"Content-Length: 20\r\n", b"Transfer-Encoding: chunked\r\n"):
        with holding([service.process.pid]):
            for target in ("/w/demo", "/api/v1/sites", "/nothing"):
                begun = requested("POST", target, more=framing + expects) + b"2\r\n{}\r\n"
                with connect(service) as connection:
                    connection.sendall(begun)
        said(service, requested("GET", "/healthz"))

    assert service.errors[before:] == ""


async def test_a_body_that_is_read_after_its_connection_has_ended_broke_off() -> None:
    """The head has come, and the handler has not begun; aiohttp raises no error of a connection."""
    faults: list[Exception] = []

    async def handler(request: web.BaseRequest) -> web.Response:
        try:
            await read_body(request)  # type: ignore[arg-type]
        except Exception as fault:
            faults.append(fault)
        return web.Response()

    ours, theirs = socket.socketpair()
    with theirs:
        protocol = web.Server(handler)()
        await asyncio.get_running_loop().create_connection(lambda: protocol, sock=ours)
        await asyncio.sleep(0)
        protocol.data_received(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{")
        await asyncio.sleep(0)
        protocol.connection_lost(None)
        await until(lambda: faults)

    assert isinstance(faults[0], Malformed)


# -- what all answers say


def head_of(answer: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = answer.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(first.split()[1]), headers


BROKEN = b"GET /w/demo HTTP/1.1\r\nHost: a\r\nX\x00: 1\r\n\r\n"
ASKED = {
    **{path: (200, requested("GET", path)) for path in ("/w/demo", "/embed.js", "/demo", "/embed")},
    "a look in aiohttp": (200, requested("GET", "/w/demo?path=/")),
    "health": (200, requested("GET", "/healthz")),
    "a hit": (200, requested("POST", "/w/demo", more=b"Content-Length: 0\r\n")),
    "the API": (401, requested("GET", "/api/v1/sites")),
    "a redirect": (302, requested("GET", "/")),
    "a preflight": (204, requested("OPTIONS", "/w/demo")),
    "nothing": (404, requested("GET", "/nothing")),
    "no site": (404, requested("GET", "/w/nowhere")),
    "a method": (405, requested("DELETE", "/w/demo")),
    "a malformed hit": (400, requested("POST", "/w/demo", more=b"Content-Length: 1\r\n") + b"{"),
    "an expectation": (417, requested("POST", "/w/demo", more=b"Expect: tea\r\n")),
    "broken HTTP": (400, BROKEN),
    "a head that is too long": (431, b"GET /w/demo HTTP/1.1\r\nX: " + b"x" * 70_000),
}


@pytest.mark.parametrize(("status", "request_"), ASKED.values(), ids=ASKED)
def test_every_answer_has_safe_headers_and_no_version(
    service: ServiceProcess, status: int, request_: bytes
) -> None:
    """Those of the lane, of handlers, of errors, and of aiohttp itself; of what is for pages, all
    may read it."""
    found, headers = head_of(said(service, request_))

    assert found == status
    assert headers.get("server", "visit-counter") == "visit-counter"
    assert headers["x-content-type-options"] == "nosniff"
    assert "cache-control" in headers
    if b" /w/" in request_ or b" /embed.js" in request_:
        assert headers["access-control-allow-origin"] == "*"
    if status >= 400 and status != 431:
        assert headers["content-type"].startswith("application/problem+json")


@asynccontextmanager
async def migrating() -> AsyncIterator[str]:
    """What answers while the store's data is migrated, before any other application is made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            web_urldispatcher, "_default_expect_handler", aiohttp_private._expect_of_aiohttp
        )
        app = starting_app(Progress(4, 5), "")
    async with servers.prepared(app, 75.0) as server:
        listening = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
        async with listening:
            yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"


async def test_the_ops_address_and_a_migration_say_no_version_either(valkey: Server) -> None:
    """They are applications of their own."""
    async with run_service(valkey.url, ops_listen="127.0.0.1:0") as split, migrating() as url:
        asked = [f"{split.ops_url}{route.path}" for route in health_routes("")]
        headers = [
            (await split.client.get(each)).headers
            for each in (*asked, f"{url}/readyz", f"{url}/w/demo")
        ]

    assert [each["Server"] for each in headers] == ["visit-counter"] * 4
    assert {each["X-Content-Type-Options"] for each in headers} == {"nosniff"}


async def test_an_odd_expectation_is_no_failure_during_a_migration_either() -> None:
    async with migrating() as url:
        address = urlsplit(url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(requested("POST", "/w/demo", more=b"Expect: \xff\r\nContent-Length: 0\r\n"))
        answer = await reader.readline()
        writer.close()

    assert answer.startswith(b"HTTP/1.1 417 ")


# -- lines of the log


async def test_a_kind_of_line_is_written_at_once_and_then_summed_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without anybody who comes later; when nothing more comes it is forgotten."""
    monkeypatch.setattr(logs, "QUIET_S", 0.05)
    with capture_logs() as lines:
        for n in range(50):
            logs.seldom(logging.WARNING, "something", by=n)
        await until(lambda: not logs._kinds)

    assert [(line["event"], line["by"], line.get("more")) for line in lines] == [
        ("something", 0, None),
        ("something", 49, 49),
    ]


def test_no_loop_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a thread: then the next line of its kind says how many there were."""
    with capture_logs() as lines:
        for _ in range(3):
            logs.seldom(logging.WARNING, "something")
        for kind in logs._kinds.values():
            kind.until_s = 0.0
        logs.seldom(logging.WARNING, "something")

    assert [line.get("more") for line in lines] == [None, 2, None]


def test_the_number_of_kinds_is_bounded() -> None:
    """Were they strangers' to choose."""
    with capture_logs() as lines:
        for n in range(10 * logs.MOST_KINDS):
            logs.seldom(logging.WARNING, f"something {n}")

    assert len(lines) == logs.MOST_KINDS + 1
    assert len(logs._kinds) == logs.MOST_KINDS + 1


def test_kinds_of_threads_do_not_stay() -> None:
    """Else each later kind would be one of the others, which are a line a minute all together."""
    with capture_logs() as lines:
        for n in range(logs.MOST_KINDS):
            logs.seldom(logging.WARNING, f"something {n}")
        logs.seldom(logging.WARNING, "something 0")
        for kind in logs._kinds.values():
            kind.until_s = 0.0
        for n in range(2):
            logs.seldom(logging.WARNING, f"new {n}")

    said = [(line["event"], line.get("more")) for line in lines[logs.MOST_KINDS :]]
    assert said == [("something 0", 1), ("new 0", None), ("new 1", None)]
    assert len(logs._kinds) == 2


def test_libraries_lines_are_bounded_too() -> None:
    """Of asyncio with another number each, and of one mistake with its stack; clients that went
    away are nobody's."""
    handler = logs._ToStructlog()
    with capture_logs() as lines:
        gone = raised(RuntimeError("Connection closed."))
        for n in range(20):
            for name, text, fault in (
                ("asyncio", f"Task exception was never retrieved\nfuture: <Task {n}>", None),
                ("aiohttp.server", "Error handling request", raised(ZeroDivisionError())),
                ("aiohttp.server", "Error handling request", raised(ConnectionResetError())),
                ("aiohttp.server", "Unhandled exception", gone),
            ):
                info = (type(fault), fault, fault.__traceback__) if fault else None
                record = logging.LogRecord(name, logging.ERROR, "", 0, text, None, info)
                handler.handle(record)

    assert [line["source"] for line in lines] == ["asyncio", "aiohttp.server"]


def raised(fault: Exception) -> Exception:
    try:
        raise fault
    except Exception as caught:
        return caught


async def test_wrong_tokens_and_mistakes_of_ours_are_a_line_each(
    valkey: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often they come, from aiohttp's path and from the lane's; metrics have the number."""
    before = REGISTRY.get_sample_value("visitcounter_wrong_tokens_total") or 0

    def fail(*_: object) -> None:
        raise ZeroDivisionError("of ours")

    def fail_too(*_: object) -> None:
        raise ZeroDivisionError("of ours")

    async with run_service(valkey.url) as service:
        await service.site()
        with capture_logs() as lines:
            for _ in range(20):
                wrong = {"Authorization": "Bearer wrong"}
                await service.client.get(f"{service.ops_url}/api/v1/sites", headers=wrong)
            monkeypatch.setattr("visit_counter.web.pages.checker._counted", fail)
            monkeypatch.setattr(service.parts.intake, "read", fail_too)
            for _ in range(20):
                asked = await service.client.get(f"{service.url}/w/portal/check")
                hit = await service.client.post(f"{service.url}/w/portal", data=b"{}")

    assert (asked.status, hit.status) == (500, 500)
    assert [(line["event"], line.get("route")) for line in lines] == [
        ("a wrong admin token was sent", None),
        ("a request failed", "/w/{site}/check"),
        ("a request failed", "/w/{site}"),
    ]
    assert (REGISTRY.get_sample_value("visitcounter_wrong_tokens_total") or 0) - before == 20

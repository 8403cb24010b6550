"""The fast lane answers and counts as aiohttp's routes do, byte for byte of what matters."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from tests.kit.raw_http import (
    GOOD,
    HOST,
    LOOK,
    Ports,
    connected,
    exchange,
    plain_hit,
    ports,
    timeless,
)
from tests.kit.services.in_process import until
from tests.kit.stores.server import Server, run_server, server_binaries
from visit_counter.web.lane.connection import MAX_HELD, Connection

METHODS = ["POST"] * 20 + ["GET"] * 10 + ["HEAD", "OPTIONS", "PUT", "get"]
TARGETS = ["/w/portal"] * 60 + [
    *("/w/portal?path=/a", "/w/private", "/w/nobody", "/w/Portal", "/w/%70ortal", "/w/portal/"),
    *("http://count.example/w/portal", "//w/portal", "/w/portal/dot.gif?p=/b", "/healthz", "*"),
    *("/w/portal/live", "/w/portal/live?path=a", "/w/private/live", "/w/nobody/live"),
]
BODIES = [b"{}"] * 20 + [
    *(b"", b'{"k":"here"}', b'{"k":"bye"}', b'{"p":"/a","page":true}', b'{"p":"/a?b#c","v":"x"}'),
    *(b'{"k":"other"}', b'{"p":7}', b"[]", b"{", b"\xff", b'{"p":"\\u0000"}', b"[" * 2000),
    b'{"p":"/' + b"a" * 9000 + b'"}',
    b" " * 17_000,
]
SOMETIMES = [
    *("Referer: https://a.example/b?c", "Referer: https://b.example/", "Referer: ://", "DNT: 1"),
    *("Origin: https://b.example", "Origin: null", "Sec-Fetch-Mode: navigate", "Sec-GPC: 1"),
    *("Sec-Fetch-Dest: image", "Sec-Purpose: prefetch", "Purpose: Prefetch", "X-Purpose: preview"),
    *(
        "Cookie: a=b",
        "X-Forwarded-For: 192.0.2.1",
        "X-Forwarded-For: 192.0.2.2, 10.0.0.1",
        "X-Forwarded-For: ,",
    ),
    *("Accept-Language: vi", "Accept-Language: \xe9", "User-Agent: curl/8", "User-Agent:"),
    *("Content-Encoding: gzip", "Content-Encoding: identity", "Authorization: Bearer x"),
    *("Connection: close", "Connection: keep-alive", "If-None-Match: *", "Content-Type: a/b"),
    *("Upgrade: websocket", "X-Long: " + "a" * 7000, "Host: other.example", "uSER-aGENT: x"),
]
BROKEN = [
    *(b"X: a\n", b"X : a\r\n", b" folded\r\n", b"X: a\r\n folded\r\n", b"X: \x00\r\n", b"X\r\n"),
    *(b"Content-Length: 1\r\nContent-Length: 2\r\n", b"Content-Length: 2, 2\r\n"),
    *(b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", b"Content-Length: -1\r\n"),
    *(b"Transfer-Encoding: chunked, gzip\r\n", b"Transfer-Encoding : chunked\r\n"),
    *(b"Transfer-Encoding: \x0bchunked\r\n", b"Content-Length: +2\r\n", b"Content-Length: 0x2\r\n"),
    b"X: a\rContent-Length: 9\r\n",
]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with run_server(server_binaries()["valkey"]) as own:
        yield own


# -- requests


@st.composite
def requests(draw: st.DrawFn) -> list[bytes]:
    """One request in pieces, mostly a hit or a look, often with something odd in it."""
    method, target = draw(st.sampled_from(METHODS)), draw(st.sampled_from(TARGETS))
    version = draw(st.sampled_from(["HTTP/1.1"] * 40 + ["HTTP/1.0"]))
    some = draw(st.lists(st.sampled_from(SOMETIMES), max_size=1))
    lines = [*draw(st.sampled_from([[HOST]] * 40 + [[]])), *GOOD, *some]
    body = draw(st.sampled_from(BODIES)) if method in ("POST", "PUT") else b""
    head = f"{method} {target} {version}\r\n" + "".join(f"{line}\r\n" for line in lines)
    framing = draw(
        st.sampled_from(["length"] * 30 + ["chunked", "short", "long", "none", "broken"])
    )
    request = head.encode("latin-1") + framed(framing, body, draw)
    if framing in ("short", "broken"):  # what aiohttp says to these depends on the packets
        return [request]
    cuts = sorted(draw(st.lists(st.integers(1, 400), max_size=2, unique=True)))
    pieces = [request[a:b] for a, b in zip([0, *cuts], [*cuts, None], strict=True)]
    return [piece for piece in pieces if piece]


def framed(framing: str, body: bytes, draw: st.DrawFn) -> bytes:
    """The end of the head, and the body."""
    if framing == "chunked":
        chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
        return b"Transfer-Encoding: chunked\r\n\r\n" + chunk + b"0\r\n\r\n"
    if framing == "broken":
        return draw(st.sampled_from(BROKEN)) + b"\r\n" + body
    if framing == "none" or (framing == "length" and not body):
        return b"\r\n"
    length = len(body) + {"long": 3, "short": -1}.get(framing, 0)
    return b"Content-Length: %d\r\n\r\n%b" % (max(length, 0), body)


# -- the same answers


async def compare(url: str, run: Any) -> None:
    """Runs examples over the same two services, which at the end have counted the same."""
    async with ports(url) as both:
        await run(both)
        for site in ("portal", "private"):
            counted = [timeless(json.dumps(await each.counts(site)).encode()) for each in both]
            dropped = [await each.api("GET", f"/sites/{site}/drops") for each in both]
            assert counted[0] == counted[1]
            assert dropped[0] == dropped[1]


def lane_requests(outcome: str) -> float:
    name = "visitcounter_lane_requests_total"
    return REGISTRY.get_sample_value(name, {"outcome": outcome}) or 0


def test_generated_requests_are_answered_and_counted_alike(server: Server) -> None:
    """Valid, odd and malformed ones, whole and split anywhere; and most of them by the lane."""
    examples: list[list[bytes]] = []

    @settings(
        max_examples=2000, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(requests())
    def collect(request: list[bytes]) -> None:
        examples.append(request)

    collect()

    async def run(both: Ports) -> None:
        for request in examples:
            lane, plain = await asyncio.gather(*(exchange(each, request) for each in both))
            assert lane == plain, request

    before = lane_requests("answered"), lane_requests("handed over")
    asyncio.run(compare(server.url, run))
    answered = lane_requests("answered") - before[0]
    handed_over = lane_requests("handed over") - before[1]
    assert len(examples) >= 2000
    assert answered / (answered + handed_over) >= 0.4


async def test_a_hit_split_anywhere_is_one_hit(server: Server) -> None:
    """At every byte the packet may end."""
    hit = plain_hit(b'{"p":"/a"}')
    async with ports(server.url) as both:
        for at_byte in range(1, len(hit)):
            (answer,) = await exchange(both.lane, [hit[:at_byte], hit[at_byte:]])
            assert (answer.status, answer.body["total"]["pageviews"]) == (200, at_byte)


async def test_pipelined_requests_are_answered_in_their_order(server: Server) -> None:
    """A thousand in one packet, hits and looks mixed; one that is aiohttp's ends the connection."""
    async with ports(server.url) as both:
        many = (plain_hit() + LOOK) * 20 + LOOK * 960
        odd = plain_hit() + plain_hit(b"{", "Referer: https://a.example/x") + plain_hit()
        for service in both:
            answers = await exchange(service, [many], 1000)
            assert [answer.status for answer in answers] == [200] * 1000
            hits = [a.body["total"]["pageviews"] for a in answers if "counted" in a.body]
            assert hits == list(range(1, 21))
        answers = await exchange(both.lane, [odd], 3)

    assert [answer.status for answer in answers] == [200, 400]


async def test_a_client_that_reads_nothing_holds_up_nobody(server: Server) -> None:
    """Its answers wait with it, bounded; others are answered."""
    async with ports(server.url) as both, connected(both.lane, limit=1) as (_, writer):
        writer.write(LOOK * 20_000)
        (answer,) = await exchange(both.lane, [plain_hit()])

    assert answer.status == 200


def connections() -> list[Connection]:
    """Those in the lane now."""
    found = [each for each in gc.get_objects() if isinstance(each, Connection)]
    return [each for each in found if not each._gone]


async def test_a_connection_holds_little_of_what_it_is_sent(server: Server) -> None:
    """Whoever sends faster than it is answered waits with its bytes, also while it reads."""
    async with ports(server.url) as both, connected(both.lane) as (reader, writer):
        await until(connections)
        (connection,) = connections()
        writer.write(LOOK * 20_000)
        held = 0
        for _ in range(20_000):
            await reader.readuntil(b"HTTP/1.1 200")
            held = max(held, len(connection._held))

    assert held <= MAX_HELD + 256 * 1024  # what uvloop reads at once

"""A client that sends no more (`nc -N`, some probes and libraries) is answered all that it sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from loadtests.service_process import free_port
from tests.kit.raw_http import LOOK, end_of, plain_hit
from tests.kit.services.in_process import Service, run_service, until
from tests.kit.stores.server import Server

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: count.example\r\n\r\n"
LIVE = b"GET /w/portal/live HTTP/1.1\r\nHost: count.example\r\n\r\n"
METRICS = b"GET /metrics HTTP/1.1\r\nHost: count.example\r\n\r\n"
CHUNKED = plain_hit(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")


@pytest.fixture
async def apart(valkey: Server) -> AsyncIterator[Service]:
    """A service with an address for admins."""
    async with run_service(valkey.url, ops_listen=f"127.0.0.1:{free_port()}") as service:
        await service.site()
        yield service


async def sent_all(url: str, *pieces: bytes) -> bytes:
    """What comes back, to the end, for a client that sends this and then no more."""
    where = urlsplit(url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        writer.write_eof()
        return await end_of(reader)
    finally:
        writer.transport.abort()


@pytest.mark.parametrize(
    ("request_", "answers"),
    [
        (plain_hit(), 1),
        (LOOK, 1),
        (plain_hit() + LOOK + plain_hit(), 3),
        (plain_hit() * 200, 200),
        (b"\r\n" + LOOK, 1),
        (LOOK + LOOK[:-2], 1),
        (HEALTH, 1),
        (LOOK + HEALTH, 2),
        (CHUNKED + b"2\r\n{}\r\n0\r\n\r\n", 1),
    ],
    ids=[
        *("hit", "look", "pipelined", "many", "empty line", "half behind", "handed over"),
        *("handed over behind", "chunked"),
    ],
)
async def test_what_was_sent_whole_is_answered(
    apart: Service, request_: bytes, answers: int
) -> None:
    """In the lane, while the hit waits for its commit, and by aiohttp; then the connection ends."""
    got = await sent_all(apart.url, request_)

    assert got.count(b"HTTP/1.1 200 ") == got.count(b"HTTP/1.1 ") == answers


@pytest.mark.parametrize("request_", [HEALTH, METRICS])
async def test_so_it_is_on_the_ops_address(apart: Service, request_: bytes) -> None:
    got = await sent_all(apart.ops_url, request_)

    assert got.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nConnection: close\r\n" in got


@pytest.mark.parametrize("rest", [b"", b"G", LOOK[:-2], b"\r\n", b"GET /\n"])
async def test_what_was_not_sent_whole_ends(apart: Service, rest: bytes) -> None:
    """At once, without an answer."""
    assert await sent_all(apart.url, rest) == b""
    assert await sent_all(apart.ops_url, rest) == b""


@pytest.mark.parametrize("begun", [plain_hit()[:-1], CHUNKED, CHUNKED + b"2\r\n{}\r\n"])
async def test_a_body_that_broke_off_is_no_hit(apart: Service, begun: bytes) -> None:
    """It is dropped as malformed, and the connection ends at once, not when time is over."""
    got = await sent_all(apart.url, begun)
    async with asyncio.timeout(5):  # nobody waits for a drop's commit
        while not (drops := await apart.api("GET", "/sites/portal/drops")):
            pass

    assert b" 200 " not in got
    assert [day["malformed"] for day in drops.values()] == [1]
    assert (await apart.counts())["total"]["pageviews"] == 0


async def test_a_viewer_who_sends_no_more_sees_the_counts_once(apart: Service) -> None:
    """It may have gone as well, which nobody would notice later; a browser's stream goes on."""
    got = await sent_all(apart.url, LIVE)
    await until(lambda: not [*apart.parts.hub._channels])

    assert got.count(b"data: ") == 1

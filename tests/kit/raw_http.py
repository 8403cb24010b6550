"""HTTP by hand, for requests that no client sends: bytes in, and what came back for them.

`ports` runs a service whose connections begin in the lane, and one without it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from tests.kit.counting import at
from tests.kit.services.in_process import PERSON, Service, StoppedClock, run_service
from visit_counter import serving
from visit_counter.process.listeners import Listener
from visit_counter.serving import prepared, served
from visit_counter.web.components import Components

NOON = at("2026-03-10 12:00")
ANSWER_S = 5.0
TOLD = {"content-type", "cache-control", "access-control-allow-origin", "retry-after", "allow"}
TIMES = {"since", "at"}  # by the store's clock, of which there are two

HOST = "Host: count.example"
GOOD = [f"User-Agent: {PERSON}", "Origin: https://a.example", "Accept: */*"]


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: Any


class Ports(NamedTuple):
    """A service whose connections begin in the lane, and one without it."""

    lane: Service
    plain: Service


@asynccontextmanager
async def without_lane(
    parts: Components, application: web.Application, listener: Listener
) -> AsyncIterator[str]:
    async with (
        prepared(application, parts.settings.keepalive) as server,
        served(server, listener) as url,
    ):
        yield url


@asynccontextmanager
async def ports(url: str) -> AsyncIterator[Ports]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("visit_counter.web.client.BODY_S", 0.3)
        patch.setattr("visit_counter.web.lane.connection.BODY_S", 0.1)
        patch.setattr("visit_counter.web.lane.lane.SWEEP_S", 0.05)
        async with run_service(url, clock=StoppedClock(NOON)) as lane:
            patch.setattr(serving, "in_lane", without_lane)
            async with run_service(url, clock=StoppedClock(NOON)) as plain:
                both = Ports(lane, plain)
                for service in both:
                    own = ["https://a.example"]
                    await service.site(origins=own, trusted_networks=["0.0.0.0/0"])
                    await service.site("private", public=False, trusted_networks=["0.0.0.0/0"])
                yield both


def plain_hit(body: bytes = b"{}", *lines: str) -> bytes:
    head = "".join(f"{line}\r\n" for line in (HOST, *GOOD, *lines))
    return b"POST /w/portal HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (
        head.encode(),
        len(body),
        body,
    )


LOOK = b"GET /w/portal HTTP/1.1\r\nHost: count.example\r\n\r\n"


@asynccontextmanager
async def connected(
    service: Service, **options: Any
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    url = urlsplit(service.url)
    assert url.port
    reader, writer = await asyncio.open_connection(url.hostname, url.port, **options)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def end_of(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the other end closes."""
    got = b""
    try:
        async with asyncio.timeout(ANSWER_S):
            while piece := await reader.read(65536):
                got += piece
    except ConnectionError:
        pass
    return got


async def exchange(service: Service, parts: Sequence[bytes], most: int = 1) -> list[Answer]:
    """What comes back for these pieces of bytes, until the connection ends or `most` answers."""
    answers: list[Answer] = []
    async with connected(service) as (reader, writer):
        try:
            async with asyncio.timeout(ANSWER_S):
                for part in parts:
                    writer.write(part)
                    await writer.drain()
                    if len(parts) > 1:
                        await asyncio.sleep(0)  # so that it may arrive by itself
                while len(answers) < most:
                    answers.append(await read(reader, no_body=parts[0].startswith(b"HEAD")))
        except (ConnectionError, TimeoutError, asyncio.IncompleteReadError):
            pass
    return answers


async def read(reader: asyncio.StreamReader, no_body: bool) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    status = int(first.split()[1])
    length = 0 if no_body or status in (204, 304) else int(headers.get("content-length", 0))
    body = await reader.readexactly(length)
    told = {name: value for name, value in headers.items() if name in TOLD}
    told["etag"] = str("etag" in headers)
    return Answer(status, told, timeless(body))


def timeless(body: bytes) -> Any:
    """The body without the instants that the two stores' clocks gave."""
    try:
        return json.loads(body, object_hook=lambda each: {k: each[k] for k in each.keys() - TIMES})
    except ValueError:
        return None  # aiohttp's own words for broken HTTP, which depend on the packets

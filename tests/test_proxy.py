"""The chaos run's proxy, between a plain client and a server that answers each line by itself."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import pytest

from loadtests.proxy import Cut, Proxy

CALL = b"count 1\n"
REPLY = b"counted 1\n"


@dataclass
class Upstream:
    """What the server behind the proxy has received."""

    received: list[bytes] = field(default_factory=list)
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: set[asyncio.Task[None] | None] = field(default_factory=set)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tasks.add(asyncio.current_task())
        try:
            while line := await reader.readline():
                self.received.append(line)
                self.heard.set()
                if line.endswith(b"\n"):
                    writer.write(b"counted" + line[5:])
        except ConnectionError:
            pass
        finally:
            writer.close()


@pytest.fixture
async def upstream() -> Upstream:
    """A server that has received nothing."""
    return Upstream()


@pytest.fixture
async def proxy(upstream: Upstream) -> AsyncIterator[Proxy]:
    """A proxy before that server."""
    with tempfile.TemporaryDirectory(prefix="vc-", dir="/tmp") as directory:
        path = str(Path(directory) / "s")
        server = await asyncio.start_unix_server(upstream.answer, path)
        async with server, Proxy(path) as proxy:
            yield proxy
        await asyncio.gather(*(task for task in upstream.tasks if task))


@asynccontextmanager
async def connected(
    proxy: Proxy,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A client's connection through the proxy."""
    host, port = proxy.url.removeprefix("redis://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.close()


async def what_comes(reader: asyncio.StreamReader) -> bytes:
    """Everything until the connection ends."""
    got = b""
    try:
        while piece := await asyncio.wait_for(reader.read(100), 5):
            got += piece
    except ConnectionError:
        pass
    return got


async def test_bytes_pass_both_ways(proxy: Proxy) -> None:
    """Where nothing is to be broken, nothing is."""
    async with connected(proxy) as (reader, writer):
        for n in range(3):
            writer.write(b"count %d\n" % n)
            assert await reader.readline() == b"counted %d\n" % n


@pytest.mark.parametrize(
    ("where", "received", "comes"),
    [
        (Cut.BEFORE_SEND, [], b""),
        (Cut.IN_CALL, [CALL[: len(CALL) // 2]], b""),
        (Cut.AFTER_SEND, [CALL], b""),
        (Cut.SENT_LATE, [CALL], b""),
        (Cut.IN_REPLY, [CALL], REPLY[: len(REPLY) // 2]),
    ],
    ids=lambda value: value.name.lower() if isinstance(value, Cut) else "",
)
async def test_a_call_is_cut_where_it_was_said(
    proxy: Proxy, upstream: Upstream, where: Cut, received: list[bytes], comes: bytes
) -> None:
    """The store receives all, half or nothing of the call, the client half of the reply or none."""
    async with connected(proxy) as (reader, writer):
        cutting = asyncio.create_task(proxy.cut(where, b"count"))
        await asyncio.sleep(0)
        writer.write(CALL)
        assert await what_comes(reader) == comes
        await cutting
    if received:
        await asyncio.wait_for(upstream.heard.wait(), 5)
    assert upstream.received == received


async def test_only_the_marked_call_is_cut(proxy: Proxy, upstream: Upstream) -> None:
    """Other calls pass before it, and after it a new connection works."""
    async with connected(proxy) as (reader, writer):
        cutting = asyncio.create_task(proxy.cut(Cut.BEFORE_SEND, b"count 2"))
        await asyncio.sleep(0)
        writer.write(CALL)
        assert await reader.readline() == REPLY
        writer.write(b"count 2\n")
        assert await what_comes(reader) == b""
        await cutting
    async with connected(proxy) as (reader, writer):
        writer.write(b"count 2\n")
        assert await reader.readline() == b"counted 2\n"
    assert upstream.received == [CALL, b"count 2\n"]


async def test_a_stalled_connection_goes_on_where_it_was(proxy: Proxy, upstream: Upstream) -> None:
    """Nothing arrives meanwhile, and nothing is lost."""
    proxy.flowing.clear()
    async with connected(proxy) as (reader, writer):
        writer.write(CALL)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(upstream.heard.wait(), 0.1)
        proxy.flowing.set()
        assert await reader.readline() == REPLY


async def test_a_trickle_takes_its_time(proxy: Proxy) -> None:
    """Two bytes at a time, with a pause between them in both directions."""
    proxy.pace = (2, 0.01)
    began = monotonic()
    async with connected(proxy) as (reader, writer):
        writer.write(CALL)
        assert await reader.readline() == REPLY
    assert monotonic() - began >= 0.05  # three pauses in the call, four in the reply


async def test_a_store_that_is_away_ends_the_connection(proxy: Proxy) -> None:
    """The client is not left waiting for a store that nobody can reach."""
    proxy.upstream = "/nowhere"
    async with connected(proxy) as (reader, _):
        assert await what_comes(reader) == b""

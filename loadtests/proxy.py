"""A proxy of ours between the service and its store, which breaks connections at chosen places.

    async with Proxy(server.socket_path) as proxy:
        ...                      # the service speaks to proxy.url
        await proxy.cut(Cut.IN_REPLY, marker=b"_record")

It carries bytes and understands none of them: a call is what arrives in one piece and contains the
marker. Upstream is a unix socket, downstream a port on loopback. It never speaks by itself.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from typing import Self

CHUNK = 1 << 20
REPLY_S = 5.0
LATE_S = 0.3


class Cut(Enum):
    """Where a call's connection is cut."""

    BEFORE_SEND = "before send"
    IN_CALL = "in mid-call"
    AFTER_SEND = "after send"
    SENT_LATE = "after send, arriving late"
    """The store gets the call when the service has long sent it again, or given it up."""
    IN_REPLY = "in mid-reply"


class Proxy:
    """Listens while it is entered; `url` is for the service."""

    def __init__(self, upstream: str) -> None:
        self.url = ""
        self.upstream = upstream
        self.pace: tuple[int, float] | None = None
        """Trickle: at most so many bytes, then so many seconds of pause, in either direction."""
        self.late_s: Callable[[], float] = lambda: 0.0
        """How late the next reply is passed on; those behind it wait too."""
        self.flowing = asyncio.Event()
        """Cleared: nothing passes, connections stay open."""
        self.flowing.set()
        self._armed: tuple[Cut, bytes, asyncio.Future[None]] | None = None
        self._links: set[Link] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=CHUNK)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"redis://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        self.drop()
        await asyncio.gather(*(link.ended.wait() for link in self._links))

    async def cut(self, where: Cut, marker: bytes = b"", within_s: float = 5.0) -> None:
        """Cut the connection of the next call with the marker, and return when that is done."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._armed = (where, marker, done)
        try:
            await asyncio.wait_for(done, within_s)
        finally:
            self._armed = None

    def drop(self) -> None:
        """Cut every connection there is."""
        for link in self._links:
            link.end()

    def cut_for(self, call: bytes) -> Cut | None:
        """Whether this call is the one to be cut; it is so once."""
        if self._armed is None or self._armed[1] not in call:
            return None
        where, _, done = self._armed
        self._armed = None
        done.set_result(None)
        return where

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = Link(self, reader, writer)
        self._links.add(link)
        try:
            with suppress(OSError, asyncio.CancelledError):
                await link.run()
        finally:
            self._links.discard(link)
            link.ended.set()


class Link:
    """One connection of the service, and ours to the store for it."""

    def __init__(
        self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._proxy = proxy
        self._reader = reader
        self._writer = writer
        self.ended = asyncio.Event()
        self._task = asyncio.current_task()
        self._cut: Cut | None = None
        self._answered = asyncio.Event()

    def end(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def run(self) -> None:
        try:
            store = await asyncio.open_unix_connection(self._proxy.upstream, limit=CHUNK)
        except OSError:
            self._abort()
            return
        tasks = {
            asyncio.create_task(self._carry_calls(store[1])),
            asyncio.create_task(self._carry_replies(store[0])),
        }
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._writer.close()
            store[1].close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _carry_calls(self, store: asyncio.StreamWriter) -> None:
        while call := await self._reader.read(CHUNK):
            self._cut = self._proxy.cut_for(call)
            if self._cut is None or self._cut is Cut.IN_REPLY:
                await self._pass(store, call)
                continue
            await self._cut_call(store, call, self._cut)
            return

    async def _cut_call(self, store: asyncio.StreamWriter, call: bytes, where: Cut) -> None:
        if where is Cut.IN_CALL:
            call = call[: len(call) // 2]
        self._answered.clear()
        if where is Cut.SENT_LATE:
            self._abort()
            await asyncio.sleep(LATE_S)
        if where is not Cut.BEFORE_SEND:
            await self._pass(store, call)
        self._abort()
        if where in (Cut.AFTER_SEND, Cut.SENT_LATE):
            # Until then ours stays open: a store may drop the call of a connection that was reset.
            with suppress(TimeoutError):
                await asyncio.wait_for(self._answered.wait(), REPLY_S)

    async def _carry_replies(self, store: asyncio.StreamReader) -> None:
        while reply := await store.read(CHUNK):
            self._answered.set()
            if late_s := self._proxy.late_s():
                await asyncio.sleep(late_s)
            if self._cut is Cut.IN_REPLY:
                await self._pass(self._writer, reply[: len(reply) // 2])
                return
            if self._cut is None:
                await self._pass(self._writer, reply)

    async def _pass(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        while data:
            await self._proxy.flowing.wait()
            size, pause_s = self._proxy.pace or (len(data), 0.0)
            writer.write(data[:size])
            await writer.drain()
            data = data[size:]
            if pause_s:
                await asyncio.sleep(pause_s)

    def _abort(self) -> None:
        """Reset the service's connection, as a host that has forgotten it does."""
        if not self._writer.is_closing():
            peer = self._writer.get_extra_info("socket")
            with socket.socket(fileno=os.dup(peer.fileno())) as own:
                own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

"""A client's connection in the fast lane: bytes come in, whole requests go on, answers go out.

One request at a time is with whoever answers, the next ones wait here, a few; who sends more, or
does not read its answers, is not read from meanwhile. A request goes on when all of it is there and
it is plain, so no two parsers can disagree where it ends. What cannot be answered here becomes
aiohttp's, with the connection and all that was not yet acted upon.
"""

from __future__ import annotations

import asyncio
from typing import cast

from aiohttp import web

from service import metrics
from service.web.client import MAX_BODY
from service.web.request import Request, read_request

HEAD_ENDS = b"\r\n\r\n"
MAX_HEAD = 8 * 1024
MAX_HELD = 64 * 1024
IN_A_ROW = 20  # requests of one connection
REQUEST_S = 10.0  # for a request's head
BODY_S = 1.0  # for its body
IDLE_S = 75.0
STALL_S = 30.0  # for a client to read its answer


class Connections:
    """Those in the lane; `aiohttp` takes the ones that leave it, and there are `most` in all."""

    def __init__(self, aiohttp: web.Server, most: int) -> None:
        self.open: set[Connection] = set()
        self.aiohttp = aiohttp
        self.stopping = False
        self.empty = asyncio.Event()
        """Set when we stop and the last one has gone."""
        self._most = most

    @property
    def full(self) -> bool:
        return self.stopping or len(self.open) + len(self.aiohttp.connections) >= self._most

    def leave(self, connection: Connection) -> None:
        self.open.discard(connection)
        if self.stopping and not self.open:
            self.empty.set()


class Connection(asyncio.Protocol):
    """What a connection does; the class that answers its requests is made from it."""

    def __init__(self, connections: Connections) -> None:
        self.until_s = 0.0
        """When its time is over (seconds of the loop)."""
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._peer = ""
        self._held = b""
        """What was not yet acted upon."""
        self._needed = 0
        """Bytes of the request whose head is there and whose body is not."""
        self._busy = False
        """Its request waits for an answer."""
        self._stalled = False
        """The client does not read its answer."""
        self._gone = self._running = self._waiting = self._paused = False

    def answer_request(self, request: Request, body: bytes) -> bool:
        """Call `send` with the answer, now or behind `wait_for_answer`; False if that cannot be."""
        raise NotImplementedError

    def broken_off(self, request: Request) -> None:
        """The client went away in the middle of a body."""
        raise NotImplementedError

    def wait_for_answer(self) -> None:
        self._busy, self.until_s = True, float("inf")

    def send(self, answer: bytes) -> None:
        """The answer, and on to the next request."""
        if not self._gone:
            self._transport.write(answer)
        self._busy = False
        if self._connections.stopping:
            self._transport.close()
        elif not self._stalled:
            self.until_s = self._loop.time() + IDLE_S
            if self._held:
                self._run()

    # -- its life

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._connections.full:
            metrics.CONNECTIONS_REFUSED.inc()
            self._transport.abort()
            return
        self._connections.open.add(self)
        self._transport.set_write_buffer_limits(0)  # so that a pause means an answer not taken
        peer = transport.get_extra_info("peername")
        self._peer = peer[0] if isinstance(peer, tuple) else ""
        self._wait(REQUEST_S)

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone = True
        self._connections.leave(self)
        if self._needed and not self._connections.stopping:
            request = read_request(self._held.partition(HEAD_ENDS)[0], self._peer)
            if request is not None:
                self.broken_off(request)

    def pause_writing(self) -> None:
        self._stalled = True
        self._wait(STALL_S)

    def resume_writing(self) -> None:
        self._stalled = False
        self._wait(IDLE_S)
        self._run()

    def stop(self) -> None:
        """End it, behind the answer that it waits for."""
        if not self._busy:
            self._transport.close()

    def expire(self) -> None:
        if self._stalled:
            self._transport.abort()
        elif self._needed:  # a body that takes its time is aiohttp's, and may still come
            self._hand_over()
        else:
            self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def _wait(self, seconds: float) -> None:
        self.until_s = self._loop.time() + seconds

    # -- its requests

    def data_received(self, data: bytes) -> None:
        self._held = self._held + data if self._held else data
        if not (self._busy or self._stalled):
            self._run()
        if len(self._held) > MAX_HELD and not self._gone:
            self._paused = True
            self._transport.pause_reading()

    def _run(self) -> None:
        """Take what is held, request by request, and let others have their turn in between."""
        if self._running:  # it is an answer given at once that calls
            return
        self._running = True
        for _ in range(IN_A_ROW):
            if not self._held or self._busy or self._stalled or self._gone or not self._take():
                break
        else:
            self._loop.call_soon(self._run)
        self._running = False
        if self._paused and len(self._held) <= MAX_HELD and not self._gone:
            self._paused = False
            self._transport.resume_reading()

    def _take(self) -> bool:
        """Act on the first request that is held; False if not all of it is there."""
        held = self._held
        if len(held) < self._needed:
            return False
        ends = held.find(HEAD_ENDS)
        if ends < 0 and self._may_become_plain():
            return False
        request = read_request(held[:ends], self._peer) if 0 <= ends <= MAX_HEAD else None
        if request is None or request.length > MAX_BODY:
            self._hand_over()
            return True
        begins = ends + len(HEAD_ENDS)
        whole = begins + request.length
        if len(held) < whole:
            self._needed = whole
            self._wait(BODY_S)  # once: pieces of a body gain no time
            return False
        self._held, self._needed, self._waiting = held[whole:], 0, False
        if not self.answer_request(request, held[begins:whole]):
            self._held = held
            self._hand_over()
        return True

    def _may_become_plain(self) -> bool:
        """Whether more of a head may follow that is ours."""
        held = self._held
        if len(held) > MAX_HEAD or held.count(b"\n") != held.count(b"\r\n"):
            return False
        if not self._waiting:
            self._waiting = True
            self._wait(REQUEST_S)
        return True

    def _hand_over(self) -> None:
        """The connection is aiohttp's from here on."""
        metrics.LANE_REQUESTS.labels("handed over").inc()
        self._connections.leave(self)
        handler = self._connections.aiohttp()
        self._gone = True
        self._transport.resume_reading()
        self._transport.set_write_buffer_limits()
        self._transport.set_protocol(handler)
        handler.connection_made(self._transport)
        handler.data_received(self._held)

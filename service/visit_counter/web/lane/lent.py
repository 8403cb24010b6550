"""A connection that is aiohttp's: its bytes pass through here, so that it counts and ends.

The lane lends a connection at the first request that it does not answer, and the first answer ends
it, also an answer that aiohttp gives before any handler (400, 417): the next request begins in the
lane again, and no proxy's kept connections drift away from it. On an address without a lane
(`Bounded`) aiohttp keeps connections.
"""

from __future__ import annotations

import asyncio
from typing import cast

from aiohttp import web
from aiohttp.typedefs import Handler

from visit_counter.rules.shares import Blocks
from visit_counter.web.lane.connections import STALL_S, Connections
from visit_counter.web.lane.places import BUSY, IDLE, SILENT, UNFINISHED

REQUEST_S = 10.0  # for the head of a first request
HALF_CLOSED_S = 0.5  # in which a request begins to be handled that came before the client's end


class Lent(asyncio.Protocol):
    """A connection of aiohttp's, `within_s` of which its first request must begin to be handled."""

    is_kept = False
    """aiohttp may keep it for another request."""

    def __init__(self, connections: Connections, within_s: float | None = None) -> None:
        self.blocks: Blocks = ()
        self.half_closed = False
        """The client sends no more."""
        self._loop = asyncio.get_running_loop()
        self.since_s = self._loop.time()
        self._connections = connections
        self._handler = connections.aiohttp()
        self._request: web.Request | None = None
        """What is being handled."""
        self._answered = self._stalled = False
        self.held_bytes = 0
        """All that came since the last answer, of which aiohttp may hold as much."""
        self._timer: asyncio.TimerHandle | None = None
        self._within_s = REQUEST_S if within_s is None else within_s

    # -- what asyncio says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._wait(self._within_s)
        self._handler.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self.held_bytes += len(data)
        self._connections.hold_more(len(data))
        self._handler.data_received(data)

    def eof_received(self) -> bool:
        """Whether to keep the other direction open: for an answer that is owed, as far as can be
        told. A body that was not whole never will be."""
        self.half_closed = True
        if self._waits_for_body:
            return False
        self._loop.call_later(HALF_CLOSED_S, self._end_half_closed)
        return True

    def pause_writing(self) -> None:
        self._stalled = True
        self._wait(STALL_S)
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        self._stalled = False
        self._stop_waiting()
        self._handler.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._connections.leave(self)
        self._handler.connection_lost(exc)

    # -- what its requests say

    def begin(self, request: web.Request) -> None:
        self._stop_waiting()
        self._request = request
        self.since_s = self._loop.time()
        if self.half_closed and self._waits_for_body:
            self._transport.close()

    def end(self) -> None:
        """The answer to the request is known, and about to be sent."""
        self._request, self._answered, self.held_bytes = None, True, 0
        self.since_s = self._loop.time()

    @property
    def is_last(self) -> bool:
        """Whether the next answer ends it."""
        return self.half_closed or not self.is_kept

    # -- its end

    def rank(self) -> int:
        if self._request is not None and not (self._stalled or self._waits_for_body):
            return BUSY
        if self._answered and self._request is None and not self._stalled:
            return IDLE if self.is_kept else SILENT
        return UNFINISHED

    @property
    def _waits_for_body(self) -> bool:
        return self._request is not None and not self._request.content.is_eof()

    def abort(self) -> None:
        self._transport.abort()

    def _end_half_closed(self) -> None:
        if self._request is not None or self._stalled:
            self._loop.call_later(HALF_CLOSED_S, self._end_half_closed)
        else:
            self._transport.close()

    def _wait(self, seconds: float) -> None:
        self._stop_waiting()
        self._timer = self._loop.call_later(seconds, self.abort)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Bounded(Lent):
    """A connection that is aiohttp's from its beginning, where no lane bounds their number."""

    is_kept = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._connections.enter_settled(self, self._connections.peer(transport)):
            self._transport.set_write_buffer_limits(0)  # so that a pause means an answer not taken
            super().connection_made(transport)
        else:
            self._transport.abort()


def lent_of(request: web.BaseRequest) -> Lent | None:
    """The connection of a request; None if it has ended, or begun without bounds."""
    transport = request.transport
    protocol = None if transport is None else transport.get_protocol()
    return protocol if isinstance(protocol, Lent) else None


def watch(app: web.Application) -> None:
    """Have an application tell its connections what they do."""
    app.middlewares.insert(0, note_request)
    app.on_response_prepare.append(end_connection)


@web.middleware
async def note_request(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Tell the connection that a request is being handled."""
    lent = lent_of(request)
    if lent is None:
        return await handler(request)
    lent.begin(request)
    try:
        return await handler(request)
    finally:
        lent.end()


async def end_connection(request: web.Request, response: web.StreamResponse) -> None:
    """A signal of aiohttp before any answer, with aiohttp's Connection header there already. Not
    before that to broken HTTP, which ends the connection anyhow."""
    lent = lent_of(request)
    if lent is not None and lent.is_last:
        response.force_close()
        response.headers["Connection"] = "close"

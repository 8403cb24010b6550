"""A client's connection in the fast lane: bytes come in, whole requests go on, answers go out.

One request at a time is with whoever answers, the next ones wait here, a few; who sends more, or
does not read its answers, is not read from meanwhile. A request goes on when all of it is there and
it is plain, so no two parsers can disagree where it ends. What cannot be answered here becomes
aiohttp's, with the connection and all that was not yet acted upon; but not before its head is whole
or beyond repair, since aiohttp would wait too long for the rest.
"""

from __future__ import annotations

import asyncio
from typing import Final, cast

from visit_counter import logs, metrics
from visit_counter.rules.addresses import Peer
from visit_counter.rules.shares import Blocks
from visit_counter.web.client import MAX_BODY
from visit_counter.web.lane.connections import STALL_S, Connections
from visit_counter.web.lane.lent import Lent
from visit_counter.web.lane.places import BUSY, IDLE, SILENT, UNFINISHED
from visit_counter.web.lane.request import Request, read_request

HEAD_ENDS: Final = b"\r\n\r\n"
MAX_HEAD: Final = 8 * 1024  # of what is answered here
MAX_HELD: Final = 64 * 1024  # a longer head is nobody's
MUCH_HELD: Final = 4 * 1024  # more than usual heads have, and small bodies
REQUEST_S = 10.0  # for a request's head
BODY_S = 1.0  # for its body
FOREVER_S: Final = float("inf")
PROXY_PROTOCOL: Final = (b"PROXY ", b"\0\r\nQUIT\n")  # of its version 2 without empty lines before
TOO_LONG: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"X-Content-Type-Options: nosniff\r\n"
    b"Access-Control-Allow-Origin: *\r\n"
    b"Cache-Control: no-store\r\n"
    b"Content-Length: 0\r\n\r\n"
)


class Connection(asyncio.Protocol):
    """What a connection does; the class that answers its requests is made from it."""

    def __init__(self, connections: Connections) -> None:
        self.until_s = self.since_s = 0.0
        self.blocks: Blocks = ()
        self._connections = connections
        self._idle_s = connections.idle_s
        self._loop = asyncio.get_running_loop()
        self.peer: Peer
        self._held = b""
        """What was not yet acted upon."""
        self._needed = 0
        """Bytes of the request whose head is there and whose body is not."""
        self._busy = False
        """Its request waits for an answer."""
        self._stalled = False
        """The client does not read its answer."""
        self._known = False
        """It has sent a whole request."""
        self._last = False
        """The next answer ends it."""
        self._half_closed = False
        """The client sends no more."""
        self._gone = self._running = self._waiting = self._paused = False

    def answer_request(self, request: Request, body: bytes) -> bool:
        """Call `send` with the answer, now or behind `wait_for_answer`; False if that cannot be."""
        raise NotImplementedError

    def broken_off(self, request: Request) -> None:
        """The client went away in the middle of a body."""
        raise NotImplementedError

    def wrapped(self) -> None:
        """It began in the PROXY protocol, which nobody here reads."""
        raise NotImplementedError

    def answer_mistake(self) -> None:
        """Call `send` with the answer behind a mistake of ours."""
        raise NotImplementedError

    def wait_for_answer(self) -> None:
        self._busy, self.until_s = True, FOREVER_S

    def send(self, answer: bytes) -> None:
        """The answer, and on to the next request."""
        if self._last:
            answer = answer.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
        if not self._gone:
            self._transport.write(answer)
        self._busy = False
        if self._last or (self._half_closed and not self._held):
            self._close()
        elif not self._stalled:
            self.since_s = self._loop.time()
            self.until_s = self.since_s + self._idle_s
            if self._held:
                self._run()

    def fail(self, error: Exception) -> None:
        """A mistake of ours is told, and ends the connection."""
        logs.mistake("a request failed", error, route="/w/{site}")
        self._last = True
        self.answer_mistake()

    # -- its life

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.peer = self._connections.peer(transport)
        self._wait(REQUEST_S)
        if self._connections.enter(self, self.peer):
            self._transport.set_write_buffer_limits(0)  # so that a pause means an answer not taken
        else:
            self._gone = True
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone = True
        self._connections.leave(self)
        if self._needed and not self._connections.stopping:
            request = read_request(self._held.partition(HEAD_ENDS)[0])
            if request is not None:
                self.broken_off(request)

    def eof_received(self) -> bool:
        """Whether to keep the other direction open, for answers that are owed."""
        self._half_closed = True
        if self._busy:
            self._last = self._last or not self._held
        elif not self._stalled:
            self._run()
        return self._busy or bool(self._held) or self._gone

    def pause_writing(self) -> None:
        self._stalled = True
        self._wait(STALL_S)

    def resume_writing(self) -> None:
        self._stalled = False
        self._wait(self._idle_s)
        self._run()

    def finish(self) -> None:
        self._last = True

    @property
    def held_bytes(self) -> int:
        return len(self._held)

    def stop(self) -> None:
        if not self._busy:
            self._close()

    def expire(self) -> None:
        if self._stalled:
            self._transport.abort()
        elif self._needed:  # a body that takes its time is aiohttp's, and may still come
            self._hand_over()
        else:
            self._close()

    def rank(self) -> int:
        if self._busy:
            return BUSY
        if self._needed or self._stalled:
            return UNFINISHED
        if not self._known:
            return SILENT
        return UNFINISHED if self._held else IDLE

    def abort(self) -> None:
        # Thousands may be aborted before one of them is told that it has ended.
        self._held = self._held[: MAX_HEAD + len(HEAD_ENDS)] if self._needed else b""
        self._transport.abort()

    def _close(self) -> None:
        """Once the client has what was written; what is held is nobody's."""
        self._held, self._needed = b"", 0
        self._wait(STALL_S)
        self._transport.close()

    def _wait(self, seconds: float) -> None:
        self.since_s = self._loop.time()
        self.until_s = self.since_s + seconds

    # -- its requests

    def data_received(self, data: bytes) -> None:
        self._held = self._held + data if self._held else data
        self._run()
        if len(self._held) > MUCH_HELD and not self._gone:
            self._connections.hold_more(len(data))
            if len(self._held) > MAX_HELD and not self._gone:
                self._paused = True
                self._transport.pause_reading()

    def _run(self) -> None:
        """Act on the first request that is held. The next one waits until others have had their
        turn, so that nobody gets more of it who sends many at once."""
        if self._running or self._busy or self._stalled or self._gone or not self._held:
            return
        self._running = True  # until then an answer given at once calls in vain
        more = False
        try:
            more = self._take()
        except Exception as error:
            self.fail(error)
        self._running = False
        if self._held or self._paused or self._half_closed:
            self._go_on(more)

    def _go_on(self, more: bool) -> None:
        """`more`: what is held may hold a request."""
        if self._gone:
            return
        if self._half_closed and not (self._busy or (more and self._held)):
            self._transport.close()  # the rest of what is held will never come
            return
        if more and not (self._busy or self._stalled):
            self._loop.call_soon(self._run)
        if self._paused and len(self._held) <= MAX_HELD:
            self._paused = False
            self._transport.resume_reading()

    def _take(self) -> bool:
        """Act on the first request that is held; False if not all of it is there."""
        held = self._held
        if len(held) < self._needed:
            return False
        ends = held.find(HEAD_ENDS)
        request = read_request(held[:ends]) if 0 <= ends <= MAX_HEAD else None
        if request is None or request.length > MAX_BODY:
            return self._take_odd(whole=ends >= 0)
        begins = ends + len(HEAD_ENDS)
        whole = begins + request.length
        if len(held) < whole:
            self._needed = whole
            self._wait(BODY_S)  # once: pieces of a body gain no time
            return False
        if not self._known:
            self._known, self._last = True, not self._connections.may_stay(self)
        self._held, self._needed, self._waiting = held[whole:], 0, False
        if not self.answer_request(request, held[begins:whole]):
            self._held = held
            self._hand_over()
        return True

    def _take_odd(self, whole: bool) -> bool:
        """What is not plain is aiohttp's; `whole`: all of its head is there."""
        held = self._held
        if held[0] in b"\r\n":  # empty lines before a request are no part of it
            self._held = held.lstrip(b"\r\n")
        elif whole or held.count(b"\n") != held.count(b"\r\n"):  # or it will never be whole
            self._hand_over()
        elif len(held) > MAX_HELD:
            self._last = True
            self.send(TOO_LONG)
        else:
            if not self._waiting:
                self._waiting = True
                self._wait(REQUEST_S)
            return False
        return True

    def _hand_over(self) -> None:
        """The connection is aiohttp's from here on."""
        metrics.LANE_REQUESTS.labels("handed over").inc()
        if self._held.startswith(PROXY_PROTOCOL):
            self.wrapped()
        lent = Lent(self._connections, REQUEST_S)
        self._connections.lend(self, lent)
        self._gone = True
        self._transport.resume_reading()
        self._transport.set_protocol(lent)
        lent.connection_made(self._transport)
        lent.data_received(self._held)
        if self._half_closed and not lent.eof_received():
            self._transport.close()

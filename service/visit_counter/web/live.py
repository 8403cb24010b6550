"""A site's counts as they change: Server-Sent Events for as long as somebody watches.

A stream begins as a request like any other, with aiohttp's checks and head. Then its connection is
taken from aiohttp and given to a `Stream`, which is all that is left of it in memory; the hub tells
it what is new. The body ends where the connection ends.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from random import randrange

from aiohttp import web

from visit_counter import metrics
from visit_counter.adapters.aiohttp_private import Unframed, take_transport
from visit_counter.errors import Problem
from visit_counter.model.site import Site
from visit_counter.reading.hub import Hub, Mailbox, Message, Watched
from visit_counter.reading.reader import Reading
from visit_counter.web.auth import require_visible
from visit_counter.web.client import asked_path, client_of, known_site
from visit_counter.web.components import parts_of
from visit_counter.web.counts import show

DEAD_MS = 30_000  # without a sign of the peer while there is something to send
RETRY_MS = (2_000, 10_000)  # spread, for when all streams of a service end at once
BEAT = b":\n\n"
HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
}


async def get_live(request: web.Request) -> web.StreamResponse:
    """GET /w/{site}/live: what GET /w/{site} answers, now and whenever it changes."""
    site = known_site(request)
    require_visible(site, request)
    path, hub = asked_path(request), parts_of(request).hub
    first = await hub.look(site, path)
    client = client_of(request)
    network = "" if site.trusted.holds(client) else client.network
    if not hub.takes(network):
        metrics.LIVE_REFUSED.inc()
        raise Problem(503, "Too many viewers", "Ask GET /w/{site} from time to time instead.")
    if request.method == "HEAD":
        return web.Response(headers=HEADERS)
    watched = Watched(site.id, path, hidden=not site.settings.public)
    return Live(request, Stream(hub, watched, network), first)


def event(site: Site, reading: Reading, path: str | None, stale: bool) -> Message:
    """The counts; behind stale ones a second event says so, with their instant."""
    shown = show(site, reading, path)
    data = b"data: %b\n\n" % shown.body
    if stale:
        data += b'event: stale\ndata: {"as_of":%d}\n\n' % (reading.as_of // 1000)
    return Message(shown.etag + stale * " stale", data)


class Live(Unframed):
    """An answer whose body is a stream's: with the head sent, aiohttp's part is over."""

    def __init__(self, request: web.Request, stream: Stream, first: Message) -> None:
        super().__init__(headers=HEADERS)
        self.force_close()
        self._request = request
        self._stream = stream
        self._first = first

    async def write_eof(self, data: bytes = b"") -> None:
        transport = take_transport(self._request)
        if transport is not None:
            transport.set_protocol(self._stream)
            self._stream.begin(transport, self._first)


class Stream(asyncio.Protocol):
    """One viewer's connection. What it does not read: one message under way, and the newest."""

    __slots__ = ("_hub", "_mailbox", "_told", "_transport", "_watched", "network")

    def __init__(self, hub: Hub, watched: Watched, network: str) -> None:
        self.network = network
        self._hub = hub
        self._watched = watched
        self._mailbox = Mailbox()

    def begin(self, transport: asyncio.Transport, first: Message) -> None:
        self._transport = transport
        self._told = first.tag
        self._hub.join(self._watched, self)
        transport.write(b"retry: %d\n%b" % (randrange(*RETRY_MS), first.data))
        transport.set_write_buffer_limits(0)  # so that a pause means a message not taken
        own = transport.get_extra_info("socket")
        with suppress(OSError):  # where a sandbox has no such option, dead viewers stay longer
            own.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_MS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._hub.leave(self._watched, self)

    def tell(self, message: Message) -> None:
        if message.tag != self._told:
            self._told = message.tag
            self._send(self._mailbox.put(message.data))

    def beat(self) -> None:
        if not self._mailbox.stalled:
            self._transport.write(BEAT)

    def end(self) -> None:
        if self._mailbox.stalled:
            self._transport.abort()
        else:
            self._transport.close()

    def pause_writing(self) -> None:
        self._mailbox.stalled = True

    def resume_writing(self) -> None:
        self._send(self._mailbox.take())

    def _send(self, data: bytes | None) -> None:
        if data is not None:
            self._transport.write(data)

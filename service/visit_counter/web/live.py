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
from visit_counter.rules.shares import Blocks, blocks_of
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
INSTEAD = "Ask GET /w/{site} from time to time instead."
WHY_NOT = {
    "all": f"There is no room for another viewer. {INSTEAD}",
    "network": f"Your network has as many viewers as one may have. {INSTEAD}",
    "pages": f"Too many different pages are watched; this site's own counts may be. {INSTEAD}",
    "network_pages": "Your network watches as many different pages as one may; this site's own "
    f"counts may be watched. {INSTEAD}",
}
REFUSED = {limit: metrics.LIVE_REFUSED.labels(limit) for limit in WHY_NOT}


async def get_live(request: web.Request) -> web.StreamResponse:
    """GET /w/{site}/live: what GET /w/{site} answers, now and whenever it changes."""
    site = known_site(request)
    require_visible(site, request)
    path, hub = asked_path(request, site), parts_of(request).hub
    client = client_of(request)
    blocks = () if site.trusted.holds(client) else blocks_of(client)
    watched = Watched(site.id, path, hidden=not site.settings.public)
    require_room(hub, watched, blocks)  # before anything is read for it
    first = await hub.look(site, path)
    require_room(hub, watched, blocks)  # which others may have taken meanwhile
    if request.method == "HEAD":
        return web.Response(headers=HEADERS)
    return Live(request, Stream(hub, watched, blocks), first)


def require_room(hub: Hub, watched: Watched, blocks: Blocks) -> None:
    """Problem 503 if there is none."""
    if limit := hub.limit(watched, blocks):
        REFUSED[limit].inc()
        raise Problem(503, "Too many viewers", WHY_NOT[limit])


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
        if transport is None:
            return
        if sends_no_more(transport):  # then nobody would notice when it goes
            transport.write(self._first.data)
            transport.close()
        else:
            transport.set_protocol(self._stream)
            self._stream.begin(transport, self._first)


def sends_no_more(transport: asyncio.Transport) -> bool:
    """Whether the client has closed its sending side, as web/lane/lent.py has noted."""
    return bool(getattr(transport.get_protocol(), "half_closed", False))


class Stream(asyncio.Protocol):
    """One viewer's connection. What it does not read: one message under way, and the newest."""

    __slots__ = ("_hub", "_joined", "_mailbox", "_told", "_transport", "_watched", "blocks")

    def __init__(self, hub: Hub, watched: Watched, blocks: Blocks) -> None:
        self.blocks = blocks
        self._hub = hub
        self._watched = watched
        self._mailbox = Mailbox()

    def begin(self, transport: asyncio.Transport, first: Message) -> None:
        self._transport = transport
        self._told = first.tag
        self._joined = self._hub.join(self._watched, self)
        transport.write(b"retry: %d\n%b" % (randrange(*RETRY_MS), first.data))
        if not self._joined:  # it comes again, and is told why not
            transport.close()
            return
        transport.set_write_buffer_limits(0)  # so that a pause means a message not taken
        own = transport.get_extra_info("socket")
        with suppress(OSError):  # where a sandbox has no such option, dead viewers stay longer
            own.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_MS)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._joined:
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

"""The fast lane: `POST /w/{site}` and `GET /w/{site}` answered without aiohttp's request path.

Every connection begins here. As long as it sends hits and looks at counts, httptools parses them,
the same `Intake` judges them, and they are answered as the routes answer. At the first request that
is anything else, or unusual, the connection becomes aiohttp's with all that was not yet acted upon,
and aiohttp's answer ends it: so the kept connections of a proxy never drift away from the lane.
A request is acted upon when all of it is there and nothing else is, so no two parsers can disagree
where it ends.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from email.utils import formatdate
from functools import partial
from time import perf_counter
from typing import Self, cast

import orjson
from aiohttp import web
from aiohttp.http import SERVER_SOFTWARE
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from service import metrics
from service.errors import StoreError, StoreUnavailable
from service.model import Drop, Hit, Reason, Site
from service.queues import Waiter
from service.reader import Reader, Reading
from service.sites import Sites
from service.tasks import supervised
from service.web.client import MAX_BODY, Malformed
from service.web.collect import Intake
from service.web.counts import HitAnswers, Shown, show
from service.web.heads import Head, head_from
from service.web.middleware import problem_json, store_problem

MAX_HEAD = 8 * 1024
MAX_HELD = 64 * 1024
MAX_HEADERS = 100
IN_A_ROW = 20  # requests of one connection
REQUEST_S = 10.0  # for a request's head
BODY_S = 1.0  # for its body
IDLE_S = 75.0
STALL_S = 30.0  # for a client to read its answer
SWEEP_S = 1.0
STOP_S = 1.5

# Headers that are read: each may be sent once, but for X-Forwarded-For.
READ = (
    *("host", "origin", "referer", "user-agent", "accept-language", "x-forwarded-for"),
    *("sec-fetch-mode", "sec-fetch-dest", "sec-purpose", "purpose", "x-moz", "dnt", "sec-gpc"),
    *("content-type", "content-length", "if-none-match"),
)
# Headers that no page sends with a hit: the request is aiohttp's.
ODD = (
    *("transfer-encoding", "expect", "upgrade", "content-encoding", "authorization", "server"),
    *("content-location", "content-range", "etag", "max-forwards"),
)
IGNORED = (
    *("accept", "accept-encoding", "connection", "sec-fetch-site", "cookie", "cache-control"),
    *("pragma", "priority", "x-real-ip", "x-forwarded-proto"),
)
KNOWN = {name: name for name in READ} | dict.fromkeys(ODD, "odd") | dict.fromkeys(IGNORED)
# As they are mostly written.
NAMES: dict[bytes, str | None] = {
    written.encode(): key for name, key in KNOWN.items() for written in (name, name.title())
}

STATUS = {
    200: b"HTTP/1.1 200 OK\r\n",
    202: b"HTTP/1.1 202 Accepted\r\n",
    304: b"HTTP/1.1 304 Not Modified\r\n",
    503: b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\n",
}
COMMON = (
    b"X-Content-Type-Options: nosniff\r\n"
    b"Access-Control-Allow-Origin: *\r\n"
    b"Cross-Origin-Resource-Policy: cross-origin\r\n"
    b"Server: " + SERVER_SOFTWARE.encode() + b"\r\n"
)
JSON = b"Content-Type: application/json\r\n"
PROBLEM = b"Content-Type: application/problem+json\r\n"
NO_STORE = b"Cache-Control: no-store\r\n"
SHORTLY = b"Cache-Control: public, max-age=1\r\n"


class Lane:
    """All connections that are not aiohttp's, and what they work with."""

    def __init__(
        self,
        base_path: str,
        sites: Sites,
        intake: Intake,
        answers: HitAnswers,
        reader: Reader,
        aiohttp: web.Server,
        most: int,
    ) -> None:
        """`aiohttp` takes the connections that are handed over; there are at most `most` in all."""
        self.intake = intake
        self.answers = answers
        self.reader = reader
        self.aiohttp = aiohttp
        self.stopping = False
        self.connections: set[Connection] = set()
        self.common = b""
        self._empty = asyncio.Event()
        self._prefix = f"{base_path}/w/".encode()
        self._sites = sites
        self._most = most
        self._shown: dict[str, tuple[Site, Reading, Shown]] = {}
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._tell_the_time()
        self._task = supervised(self._sweep(), "lane")
        return self

    async def __aexit__(self, *_: object) -> None:
        """End idle connections at once, the others behind their answer, in bounded time."""
        self.stopping = True
        for connection in [*self.connections]:
            connection.stop()
        if not self.connections:
            self._empty.set()
        try:
            async with asyncio.timeout(STOP_S):
                await self._empty.wait()
        except TimeoutError:
            for connection in [*self.connections]:
                connection.abort()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def leave(self, connection: Connection) -> None:
        self.connections.discard(connection)
        if self.stopping and not self.connections:
            self._empty.set()

    @property
    def full(self) -> bool:
        return self.stopping or len(self.connections) + len(self.aiohttp.connections) >= self._most

    def site(self, url: bytes) -> Site | None:
        """Whose counts the URL means; None for all that is not exactly a known site's."""
        if not url.startswith(self._prefix):
            return None
        return self._sites.get(url[len(self._prefix) :].decode("latin-1"))

    def show(self, site: Site, reading: Reading) -> Shown:
        """Rendered once for all who look at the same counts."""
        last = self._shown.get(site.id)
        if last is None or last[0] is not site or last[1] is not reading:
            last = self._shown[site.id] = (site, reading, show(site, reading))
        return last[2]

    async def _sweep(self) -> None:
        """End the connections whose time is over."""
        while True:
            await asyncio.sleep(SWEEP_S)
            self._tell_the_time()
            now_s = asyncio.get_running_loop().time()
            for connection in [each for each in self.connections if each.until_s < now_s]:
                connection.expire()

    def _tell_the_time(self) -> None:
        self.common = COMMON + b"Date: " + formatdate(usegmt=True).encode() + b"\r\n"


class Connection(asyncio.Protocol):
    """A client's connection: one request at a time, the next ones wait in `_held`."""

    def __init__(self, lane: Lane) -> None:
        self.until_s = 0.0
        """When its time is over (seconds of the loop)."""
        self._lane = lane
        self._loop = asyncio.get_running_loop()
        self._peer = ""
        self._held = b""
        self._busy = False
        """Its request is being counted."""
        self._stalled = False
        """The client does not read its answer."""
        self._gone = self._running = False
        self._began_s = 0.0
        self._raw = b""
        self._parser = HttpRequestParser(self)
        self._url = self._body = b""
        self._headers: dict[str, str] = {}
        self._forwarded: list[str] = []
        self._end = self._length = self._begun = self._number = 0
        self._complete = self._odd = self._waiting = False

    # -- the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._lane.full:
            metrics.CONNECTIONS_REFUSED.inc()
            self._transport.abort()
            return
        self._lane.connections.add(self)
        self._transport.set_write_buffer_limits(0)  # so that a pause means an answer not taken
        peer = transport.get_extra_info("peername")
        self._peer = peer[0] if isinstance(peer, tuple) else ""
        self._wait(REQUEST_S)

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone = True
        self._lane.leave(self)
        if self._end and not (self._busy or self._complete or self._lane.stopping):
            self._break_off()

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
        elif self._length:  # a body that takes its time is aiohttp's, and may still come
            self._hand_over()
        else:
            self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def _wait(self, seconds: float) -> None:
        self.until_s = self._loop.time() + seconds

    # -- requests

    def data_received(self, data: bytes) -> None:
        self._held = self._held + data if self._held else data
        if not (self._busy or self._stalled):
            self._run()
        if len(self._held) > MAX_HELD and not self._gone:
            self._transport.pause_reading()

    def _run(self) -> None:
        """Take what is held, request by request, and let others have their turn in between."""
        if self._running:  # it is an answer given at once that calls
            return
        self._running = True
        try:
            for _ in range(IN_A_ROW):
                if not self._held or self._busy or self._stalled or self._gone:
                    return
                self._take()
                if len(self._held) <= MAX_HELD and not self._gone:
                    self._transport.resume_reading()
        finally:
            self._running = False
        self._loop.call_soon(self._run)

    def _take(self) -> None:
        """Take from what is held one request, whole or as much as there is of it."""
        self._raw, self._held = self._raw + self._held, b""
        try:
            if not self._end and not self._read_head():
                return
            whole = self._end + self._length
            if len(self._raw) < whole:
                return
            self._raw, self._held = self._raw[:whole], self._raw[whole:]
            self._parser.feed_data(self._raw[self._end :])
        except (HttpParserError, HttpParserUpgrade):
            self._odd = True
        if self._odd or not self._complete or self._begun > 1:
            self._hand_over()
        else:
            self._act()

    def _read_head(self) -> bool:
        """Whether all of the head is there, or so much that it is not ours."""
        end = self._raw.find(b"\r\n\r\n") + 4
        if end < 4:
            bare = self._raw.count(b"\n") != self._raw.count(b"\r\n")  # so there may be no end
            self._odd = bare or len(self._raw) > MAX_HEAD
            if not self._waiting:
                self._waiting = True
                self._wait(REQUEST_S)
            return self._odd
        self._end = end
        self._wait(BODY_S)  # once: pieces of a body gain no time
        self._parser.feed_data(self._raw[:end])
        # Another parser shall see this head end here too, and no body before its time.
        ends_here = self._begun == 1 and not self._body and self._complete == (not self._length)
        self._odd |= not ends_here or end > MAX_HEAD or self._length > MAX_BODY
        if self._odd:
            self._length = 0
        return True

    def _act(self) -> None:
        lane, method = self._lane, self._parser.get_method()
        site = None if self._is_unusual() else lane.site(self._url)
        if site is None:
            self._hand_over()
        elif method == b"POST":
            self._count(site)
        elif method == b"GET" and site.settings.public and not self._body:
            self._look(site)
        else:
            self._hand_over()

    def _is_unusual(self) -> bool:
        parser = self._parser
        return (
            "host" not in self._headers
            or self._number > MAX_HEADERS
            or not parser.should_keep_alive()
            or parser.get_http_version() != "1.1"
        )

    def _hand_over(self) -> None:
        """The connection is aiohttp's from here on."""
        metrics.LANE_REQUESTS.labels("handed over").inc()
        self._lane.leave(self)
        handler = self._lane.aiohttp()
        self._gone = True
        self._transport.resume_reading()
        self._transport.set_write_buffer_limits()
        self._transport.set_protocol(handler)
        handler.connection_made(self._transport)
        handler.data_received(self._raw + self._held)

    # -- a hit

    def _count(self, site: Site) -> None:
        self._began_s = perf_counter()
        try:
            entry = self._lane.intake.read(site, self._head(), self._body)
        except Malformed:
            self._hand_over()
            return
        self._busy, self.until_s = True, float("inf")
        try:
            waiter = self._lane.intake.record(entry)
        except StoreError as error:
            self._refuse(error)
            return
        waiter.add_done_callback(partial(self._counted, site, entry))

    def _break_off(self) -> None:
        """The client went away in the middle of a body: what it began is no hit."""
        site = self._lane.site(self._url) if self._length else None
        if site is not None and self._parser.get_method() == b"POST":
            drop = Drop(site, Reason.MALFORMED, self._lane.intake.clock.now())
            with suppress(StoreError):
                self._lane.intake.record(drop).add_done_callback(_ended)

    def _counted(self, site: Site, entry: Hit | Drop, waiter: Waiter) -> None:
        if waiter.cancelled():
            self._refuse(StoreUnavailable("the recorder has ended"))
        elif error := waiter.exception():
            self._refuse(error)
        else:
            outcome = waiter.result()
            self._lane.intake.settle(entry, outcome)
            answer = self._lane.answers.of(site, entry, outcome)
            self._answer(answer.status, JSON + NO_STORE, answer.body)

    # -- a look

    def _look(self, site: Site) -> None:
        self._began_s = perf_counter()
        reading = self._lane.reader.fresh(site)
        if reading is not None:
            self._show(site, reading)
            return
        self._busy, self.until_s = True, float("inf")
        reader = asyncio.ensure_future(self._lane.reader.read(site))
        reader.add_done_callback(partial(self._read, site))

    def _read(self, site: Site, reader: asyncio.Future[Reading]) -> None:
        if reader.cancelled():
            self._refuse(StoreUnavailable("the service stops"))
        elif error := reader.exception():
            self._refuse(error)
        else:
            self._show(site, reader.result())

    def _show(self, site: Site, reading: Reading) -> None:
        shown = self._lane.show(site, reading)
        headers = b"ETag: " + shown.etag.encode() + b"\r\n" + SHORTLY
        if shown.etag in self._headers.get("if-none-match", ""):
            self._answer(304, headers, None)
        else:
            self._answer(200, headers + JSON, shown.body)

    # -- answers

    def _refuse(self, error: BaseException) -> None:
        store_error = error if isinstance(error, StoreError) else StoreUnavailable(str(error))
        problem = store_problem(store_error)
        self._answer(problem.status, PROBLEM + NO_STORE, orjson.dumps(problem_json(problem)))

    def _answer(self, status: int, headers: bytes, body: bytes | None) -> None:
        route = "POST" if self._parser.get_method() == b"POST" else "GET"
        ANSWERED[route, status // 100].observe(perf_counter() - self._began_s)
        metrics.LANE_REQUESTS.labels("answered").inc()
        length = b"" if body is None else b"Content-Length: %d\r\n" % len(body)
        ends = b"Connection: close\r\n" if self._lane.stopping else b""
        if not self._gone:
            head = STATUS[status] + headers + self._lane.common + ends + length + b"\r\n"
            self._transport.write(head + body if body else head)
        self._busy = False
        self._forget()
        if self._lane.stopping:
            self._transport.close()
        elif not self._stalled:
            self._wait(IDLE_S)
            self._run()

    # -- what httptools calls

    def _forget(self) -> None:
        """Begin a request."""
        self._raw = b""
        self._parser = HttpRequestParser(self)
        self._url = self._body = b""
        self._headers, self._forwarded = {}, []
        self._end = self._length = self._begun = self._number = 0
        self._complete = self._odd = self._waiting = False

    def on_message_begin(self) -> None:
        self._begun += 1

    def on_url(self, url: bytes) -> None:
        if self._begun == 1:
            self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._begun > 1:
            return
        self._number += 1
        key = NAMES[name] if name in NAMES else KNOWN.get(name.decode("latin-1").lower())
        if key is None:
            return
        text = value.decode("utf-8", "surrogateescape").strip(" \t")
        if key == "x-forwarded-for":
            self._forwarded.append(text)
        elif key == "content-length":
            self._length = int(text)
        elif key == "odd" or key in self._headers:
            self._odd = True
        else:
            self._headers[key] = text

    def on_body(self, body: bytes) -> None:
        if self._begun == 1:
            self._body += body

    def on_message_complete(self) -> None:
        self._complete = True

    def _head(self) -> Head:
        return head_from(self._peer, self._headers, self._forwarded)


def _ended(waiter: Waiter) -> None:
    """Nobody waits for it."""
    if not waiter.cancelled():
        waiter.exception()


ANSWERED = {
    (method, hundreds): metrics.REQUEST_SECONDS.labels("/w/{site}", method, f"{hundreds}xx")
    for method in ("POST", "GET")
    for hundreds in (2, 3, 5)
}

"""The answers of the fast lane: a hit is counted, a look is shown, as the routes do it.

`Answering` is a connection that asks the same `Intake` and the same `Reader`, and writes what they
say as bytes. All connections share one `Desk`, with what they work with.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from email.utils import formatdate
from functools import partial
from time import perf_counter

import orjson
from aiohttp.http import SERVER_SOFTWARE

from service import metrics
from service.errors import StoreError, StoreUnavailable
from service.model import Drop, Hit, Reason, Site
from service.queues import Waiter
from service.reader import Reader, Reading
from service.sites import Sites
from service.web.client import Malformed
from service.web.collect import Intake
from service.web.connection import Connection, Connections
from service.web.counts import HitAnswers, Shown, show
from service.web.middleware import problem_json, store_problem

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


class Desk:
    """What all connections answer with."""

    def __init__(
        self, base_path: str, sites: Sites, intake: Intake, answers: HitAnswers, reader: Reader
    ) -> None:
        self.intake = intake
        self.answers = answers
        self.reader = reader
        self.common = b""
        """Headers of every answer."""
        self._prefix = f"{base_path}/w/".encode()
        self._sites = sites
        self._shown: dict[str, tuple[Site, Reading, Shown]] = {}

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

    def tell_the_time(self) -> None:
        """To be called every second."""
        self.common = COMMON + b"Date: " + formatdate(usegmt=True).encode() + b"\r\n"


class Answering(Connection):
    """A connection whose hits are counted and whose looks are shown."""

    def __init__(self, connections: Connections, desk: Desk) -> None:
        super().__init__(connections)
        self._desk = desk
        self._method = b""
        self._began_s = 0.0

    def answer_request(self) -> bool:
        request = self.request
        site = self._desk.site(request.url)
        if site is None:
            return False
        self._began_s = perf_counter()
        self._method = method = request.parser.get_method()
        if method == b"POST":
            return self._count(site)
        if method == b"GET" and site.settings.public and not request.body:
            self._look(site)
            return True
        return False

    def request_broken_off(self) -> None:
        """What it began is no hit."""
        site = self._desk.site(self.request.url) if self.request.length else None
        if site is not None and self.request.parser.get_method() == b"POST":
            drop = Drop(site, Reason.MALFORMED, self._desk.intake.clock.now())
            with suppress(StoreError):
                self._desk.intake.record(drop).add_done_callback(_ended)

    # -- a hit

    def _count(self, site: Site) -> bool:
        request, intake = self.request, self._desk.intake
        try:
            entry = intake.read(site, request.head(self.peer), request.body)
        except Malformed:
            return False
        self.wait_for_answer()
        try:
            waiter = intake.record(entry)
        except StoreError as error:
            self._refuse(error)
        else:
            waiter.add_done_callback(partial(self._counted, site, entry))
        return True

    def _counted(self, site: Site, entry: Hit | Drop, waiter: Waiter) -> None:
        if waiter.cancelled():
            self._refuse(StoreUnavailable("the recorder has ended"))
        elif error := waiter.exception():
            self._refuse(error)
        else:
            outcome = waiter.result()
            self._desk.intake.settle(entry, outcome)
            answer = self._desk.answers.of(site, entry, outcome)
            self._answer(answer.status, JSON + NO_STORE, answer.body)

    # -- a look

    def _look(self, site: Site) -> None:
        reading = self._desk.reader.fresh(site)
        if reading is not None:
            self._show(site, reading)
            return
        self.wait_for_answer()
        reader = asyncio.ensure_future(self._desk.reader.read(site))
        reader.add_done_callback(partial(self._read, site))

    def _read(self, site: Site, reader: asyncio.Future[Reading]) -> None:
        if reader.cancelled():
            self._refuse(StoreUnavailable("the service stops"))
        elif error := reader.exception():
            self._refuse(error)
        else:
            self._show(site, reader.result())

    def _show(self, site: Site, reading: Reading) -> None:
        shown = self._desk.show(site, reading)
        headers = b"ETag: " + shown.etag.encode() + b"\r\n" + SHORTLY
        if shown.etag in self.request.headers.get("if-none-match", ""):
            self._answer(304, headers, None)
        else:
            self._answer(200, headers + JSON, shown.body)

    # -- the bytes

    def _refuse(self, error: BaseException) -> None:
        store_error = error if isinstance(error, StoreError) else StoreUnavailable(str(error))
        problem = store_problem(store_error)
        self._answer(problem.status, PROBLEM + NO_STORE, orjson.dumps(problem_json(problem)))

    def _answer(self, status: int, headers: bytes, body: bytes | None) -> None:
        SECONDS[self._method, status // 100].observe(perf_counter() - self._began_s)
        ANSWERED.inc()
        length = b"" if body is None else b"Content-Length: %d\r\n" % len(body)
        ends = b"Connection: close\r\n" if self._connections.stopping else b""
        head = STATUS[status] + headers + self._desk.common + ends + length + b"\r\n"
        self.send(head + body if body else head)


def _ended(waiter: Waiter) -> None:
    """Nobody waits for it."""
    if not waiter.cancelled():
        waiter.exception()


ANSWERED = metrics.LANE_REQUESTS.labels("answered")
SECONDS = {
    (method, hundreds): metrics.REQUEST_SECONDS.labels(
        "/w/{site}", method.decode(), f"{hundreds}xx"
    )
    for method in (b"POST", b"GET")
    for hundreds in (2, 3, 5)
}

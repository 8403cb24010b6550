"""The answers of the fast lane: a hit is counted, a look is shown, as the routes do it.

A `LaneConnection` asks the same `Intake` and the same `Reader`, and writes what they say as bytes.
All connections share one `Desk`, with what they work with.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from email.utils import formatdate
from functools import partial
from time import perf_counter
from typing import Final

import orjson

from visit_counter import metrics
from visit_counter.delivery.queues import Became
from visit_counter.errors import Problem, StoreError, StoreUnavailable
from visit_counter.model.hit import Drop, Hit
from visit_counter.model.reasons import Reason
from visit_counter.model.site import Site
from visit_counter.model.site_settings import MAX_SITE_ID
from visit_counter.reading.reader import Reading
from visit_counter.store.batch import Outcome
from visit_counter.web.components import Components
from visit_counter.web.counts import Shown, show
from visit_counter.web.hits.answers import MOST_RENDERED
from visit_counter.web.hits.beacon import Malformed
from visit_counter.web.hits.views import Repeated
from visit_counter.web.lane.connection import Connection
from visit_counter.web.lane.connections import Connections
from visit_counter.web.lane.request import Request
from visit_counter.web.middleware import OUR_MISTAKE, problem_json, store_problem
from visit_counter.web.responses import SERVER, SHARED, matches

STATUS: Final = {
    200: b"HTTP/1.1 200 OK\r\n",
    202: b"HTTP/1.1 202 Accepted\r\n",
    304: b"HTTP/1.1 304 Not Modified\r\n",
    500: b"HTTP/1.1 500 Internal Server Error\r\n",
    503: b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\n",
}
COMMON: Final = (
    b"X-Content-Type-Options: nosniff\r\n"
    b"Access-Control-Allow-Origin: *\r\n"
    b"Cross-Origin-Resource-Policy: cross-origin\r\n"
    b"Server: " + SERVER.encode() + b"\r\n"
)
JSON: Final = b"Content-Type: application/json\r\n"
PROBLEM: Final = b"Content-Type: application/problem+json\r\n"
NO_STORE: Final = b"Cache-Control: no-store\r\n"
SHORTLY: Final = f"Cache-Control: {SHARED}\r\n".encode()


class Desk:
    """What all connections answer with."""

    def __init__(self, parts: Components) -> None:
        self.intake = parts.intake
        self.answers = parts.answers
        self.reader = parts.reader
        self._common = b""
        """Headers of every answer."""
        self._prefix = f"{parts.settings.base_path}/w/".encode()
        self._sites = parts.sites.by_id
        self._shown: dict[str, tuple[Site, Reading, Shown]] = {}
        self._took: dict[tuple[bytes, int], list[float]] = {key: [] for key in SECONDS}
        self._telling = False

    def site(self, target: bytes) -> Site | None:
        """Whose counts are meant; None for all that is not exactly a known site's."""
        if len(target) > len(self._prefix) + MAX_SITE_ID:
            return None
        if not target.startswith(self._prefix):
            return None
        return self._sites.get(target[len(self._prefix) :].decode("latin-1"))

    def show(self, site: Site, reading: Reading) -> Shown:
        """Rendered once for all who look at the same counts."""
        last = self._shown.get(site.id)
        if last is None or last[0] is not site or last[1] is not reading:
            if len(self._shown) >= MOST_RENDERED:
                self._shown.clear()
            last = self._shown[site.id] = (site, reading, show(site, reading))
        return last[2]

    def write(self, status: int, headers: bytes, body: bytes | None) -> bytes:
        """An answer, all of it."""
        length = b"" if body is None else b"Content-Length: %d\r\n" % len(body)
        return STATUS[status] + headers + self._common + length + b"\r\n" + (body or b"")

    def note(self, method: bytes, status: int, seconds: float) -> None:
        """How long an answer took: the metrics learn of it soon, of many at once."""
        self._took[method, status // 100].append(seconds)
        if not self._telling:
            self._telling = True
            asyncio.get_running_loop().call_soon(self._tell)

    def tell_the_time(self) -> None:
        """To be called every second."""
        self._common = COMMON + b"Date: " + formatdate(usegmt=True).encode() + b"\r\n"

    def _tell(self) -> None:
        self._telling = False
        for key, took in self._took.items():
            if took:
                SECONDS[key].note_all(took)
                ANSWERED.inc(len(took))
                took.clear()


class LaneConnection(Connection):
    """A connection whose hits are counted and whose looks are shown."""

    def __init__(self, connections: Connections, desk: Desk) -> None:
        super().__init__(connections)
        self._desk = desk
        self._method = b"GET"
        self._began_s = perf_counter()
        self._entry: Hit | Drop

    def answer_request(self, request: Request, body: bytes) -> bool:
        site = self._desk.site(request.target)
        if site is None:
            return False
        self._began_s, self._method = perf_counter(), request.method
        if request.method == b"POST":
            return self._count(site, request, body)
        if request.method == b"GET" and site.settings.public and not body:
            self._look(site, request.if_none_match)
            return True
        return False

    def wrapped(self) -> None:
        self._desk.intake.forwarding.wrapped()

    def broken_off(self, request: Request) -> None:
        """What it began is no hit."""
        site = self._desk.site(request.target)
        if site is not None and request.method == b"POST":
            drop = Drop(site, Reason.MALFORMED, self._desk.intake.clock.now())
            with suppress(StoreError):
                self._desk.intake.record(drop, lambda _: None)

    # -- a hit

    def _count(self, site: Site, request: Request, body: bytes) -> bool:
        intake = self._desk.intake
        try:
            entry = intake.read(site, request.head, self.peer, request.forwarded, body)
        except (Malformed, Repeated):  # which the route notes and answers
            return False
        self._entry = entry
        self.wait_for_answer()
        try:
            intake.record(entry, self.told)
        except StoreError as error:
            self._refuse(error)
        return True

    def told(self, became: Became) -> None:
        """What became of the hit, for its answer."""
        if isinstance(became, StoreError):
            self._desk.intake.forget(self._entry)
            self._refuse(became)
        else:
            self._tell_outcome(became)

    def _tell_outcome(self, outcome: Outcome | None) -> None:
        entry, desk = self._entry, self._desk
        try:
            desk.intake.settle(entry, outcome)
            answer = desk.answers.of(entry, outcome)
            if not answer.http:
                answer.http = desk.write(answer.status, JSON + NO_STORE, answer.body)
            self._answer(answer.status, answer.http)
        except Exception as error:  # nobody else would end the waiting
            self.fail(error)

    def _refuse(self, error: StoreError) -> None:
        self._tell(store_problem(error))

    # -- a look

    def _look(self, site: Site, known: str) -> None:
        """`known`: If-None-Match, the tags of what the client has already."""
        reading = self._desk.reader.fresh(site)
        if reading is not None:
            self._show(site, known, reading)
            return
        self.wait_for_answer()
        reader = asyncio.ensure_future(self._desk.reader.read(site))
        reader.add_done_callback(partial(self._read, site, known))

    def _read(self, site: Site, known: str, reader: asyncio.Future[Reading]) -> None:
        try:
            if reader.cancelled():
                self._refuse(StoreUnavailable("the service stops"))
            elif isinstance(error := reader.exception(), StoreError):
                self._refuse(error)
            else:
                self._show(site, known, reader.result())
        except Exception as error:
            self.fail(error)

    def _show(self, site: Site, known: str, reading: Reading) -> None:
        shown = self._desk.show(site, reading)
        headers = b"ETag: " + shown.etag.encode() + b"\r\n" + SHORTLY
        if known and matches(known, shown.etag):
            self._answer(304, self._desk.write(304, headers, None))
        else:
            self._answer(200, self._desk.write(200, headers + JSON, shown.body))

    # -- the bytes

    def answer_mistake(self) -> None:
        self._tell(OUR_MISTAKE)

    def _tell(self, problem: Problem) -> None:
        body = orjson.dumps(problem_json(problem))
        self._answer(problem.status, self._desk.write(problem.status, PROBLEM + NO_STORE, body))

    def _answer(self, status: int, answer: bytes) -> None:
        self._desk.note(self._method, status, perf_counter() - self._began_s)
        self.send(answer)


ANSWERED: Final = metrics.LANE_REQUESTS.labels("answered")
SECONDS: Final = {
    (method, hundreds): metrics.REQUEST_SECONDS.labels(
        "/w/{site}", method.decode(), f"{hundreds}xx"
    )
    for method in (b"POST", b"GET")
    for hundreds in (2, 3, 5)
}

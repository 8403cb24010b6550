"""Clients that note of each hit whether it was acknowledged: each hit views a page of its own.

A site's pages are numbered, so that what a site was sent is two compact arrays. The clients keep
their connections, go on through refusals and lost connections, and never send a hit twice.
"""

from __future__ import annotations

import asyncio
import resource
import time
from array import array
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Self

from loadtests.beacons import hit, read_answer

ANSWER_S = 15.0
THINK_S = 0.004
PAUSE_S = 0.02  # after a refusal, or before another try to connect
MAX_HITS = 90_000  # a site takes at most 100,000 pages
AT_ONCE = 100  # connections that are opened
KNOWN_PART = 0.3  # of the hits come from a visitor who has been there
UNCLEAR_S = 2.0  # on both sides of the silence that ends a visit


class SiteHits:
    """What one site was sent; hit n views the page /n. A visit ends with `visit_s` of silence."""

    def __init__(self, name: str, visit_s: int = 1800) -> None:
        self.name = name
        self.visit_s = visit_s
        self.visitors = array("L")
        self.sent_s = array("d")
        self.answered = bytearray()
        self._last_s: dict[int, float] = {}

    def next(self, visitor: int) -> int:
        now_s = time.monotonic()
        self.visitors.append(visitor)
        self.sent_s.append(now_s)
        self.answered.append(0)
        self._last_s[visitor] = now_s
        return len(self.visitors) - 1

    def may_come(self, visitor: int) -> bool:
        """Whether a hit now would plainly begin a visit, or plainly not: when the service accepts
        it is not known to the client."""
        silent_s = time.monotonic() - self._last_s[visitor]
        return abs(silent_s - self.visit_s) > UNCLEAR_S

    def visits(self, hits: Iterable[int]) -> int:
        """How many visits began with these hits, which are in the order in which they were sent."""
        last_s: dict[int, float] = {}
        begun = 0
        for n in hits:
            visitor, sent_s = self.visitors[n], self.sent_s[n]
            begun += visitor not in last_s or sent_s - last_s[visitor] >= self.visit_s
            last_s[visitor] = sent_s
        return begun

    @property
    def sent(self) -> int:
        return len(self.visitors)

    @property
    def acknowledged(self) -> int:
        return sum(self.answered)


class Load:
    """Hits on sites over several connections, while it is entered."""

    def __init__(self, port: int, sites: Sequence[SiteHits], rng: Random, connections: int) -> None:
        self.unexpected: list[str] = []
        self.refused = 0
        """Connections."""
        self.broken = 0
        """Connections on which a hit was not answered."""
        self.sites = sites
        self._port = port
        self._told: dict[int, float] = {}
        """By status, when the latest hit was sent that was answered so."""
        self._rng = rng
        self._connections = connections
        self._ending = False
        self._new_visitors = rng.randrange(1 << 23)
        self._back: dict[str, float] = {}
        self._since: float | None = None
        self._moved = asyncio.Condition()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._client()) for _ in range(self._connections)]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Wait for the answers that are under way."""
        self._ending = True
        await asyncio.gather(*self._tasks)

    async def until_counting(self, since: float, within_s: float) -> float:
        """Wait until each site has acknowledged a hit that was sent after an instant; answers how
        many seconds behind it the last of them did. All that was sent before is settled then, for
        each worker counts in order; but for what a killed one has left in its spool."""
        self._since, self._back = since, {}
        async with asyncio.timeout(within_s), self._moved:
            await self._moved.wait_for(lambda: len(self._back) == len(self.sites))
        self._since = None
        return max(self._back.values()) - since

    async def until_told(self, status: int, within_s: float) -> None:
        """Wait until a hit that is sent from now on is answered so."""
        since = time.monotonic()
        async with asyncio.timeout(within_s), self._moved:
            await self._moved.wait_for(lambda: self._told.get(status, 0.0) > since)

    async def _client(self) -> None:
        while not self._ending:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:
                self.refused += 1
                await asyncio.sleep(PAUSE_S)
                continue
            try:
                await self._hit_on(reader, writer)
            except (OSError, EOFError, TimeoutError):
                self.broken += 1  # nobody knows what became of the hit
            finally:
                writer.transport.abort()

    async def _hit_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hits on one connection, until either side ends it."""
        while not (self._ending or reader.at_eof()):
            await self._hit(reader, writer)

    async def _hit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        site = self._rng.choice(self.sites)
        if site.sent >= MAX_HITS:
            await asyncio.sleep(PAUSE_S)
            return
        visitor = self._visitor(site)
        page, sent_s = site.next(visitor), time.monotonic()
        view = f"{self._rng.getrandbits(64):016x}"
        writer.write(hit(site.name, f"127.0.0.1:{self._port}", visitor, f"/{page}", view))
        answer = await asyncio.wait_for(read_answer(reader), ANSWER_S)
        if answer.status in (200, 202) and b'"counted":true' in answer.body:
            site.answered[page] = 1
            await self._note(site, sent_s, answer.status)
        elif answer.status == 503:
            await self._note(site, sent_s, answer.status)
        else:
            self.unexpected.append(f"{answer.status} {answer.body[:200]!r}")
        await asyncio.sleep(self._rng.random() * THINK_S if answer.status == 200 else PAUSE_S)

    def _visitor(self, site: SiteHits) -> int:
        if self._rng.random() < KNOWN_PART and site.visitors:
            visitor = self._rng.choice(site.visitors)
            if site.may_come(visitor):
                return visitor
        self._new_visitors += 1
        return self._new_visitors

    async def _note(self, site: SiteHits, sent_s: float, status: int) -> None:
        self._told[status] = max(sent_s, self._told.get(status, 0.0))
        if status == 200 and self._since is not None and sent_s >= self._since:
            self._back.setdefault(site.name, time.monotonic())
        async with self._moved:
            self._moved.notify_all()


@asynccontextmanager
async def idle_connections(port: int, number: int) -> AsyncIterator[None]:
    """So many connections that have been answered once and are kept, as browsers keep them."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    streams: list[asyncio.StreamWriter] = []
    try:
        for start in range(0, number, AT_ONCE):
            some = range(start, min(start + AT_ONCE, number))
            streams += await asyncio.gather(*(_idle_connection(port) for _ in some))
        yield
    finally:
        for stream in streams:
            stream.transport.abort()


async def _idle_connection(port: int) -> asyncio.StreamWriter:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    await asyncio.wait_for(read_answer(reader), ANSWER_S)
    return writer

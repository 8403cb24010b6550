"""Live viewers of one site beside as many hits as there can be: memory, and the time of a tick.

Every viewer must have been told the counts as they were at the end, and its stream must have ended
with the service; else the figures are void.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.request import urlopen

from loadtests.bench.closed_loop import Void, Window, closed_loop
from loadtests.bench.requests import site_name
from loadtests.bench.servers import Server, service
from loadtests.bench.verify import verify
from loadtests.service_process import ServiceProcess
from loadtests.viewers import Viewer, wait_for_all, watching

TOLD_S = 15.0
SITE = site_name(0)
TICK = re.compile(r"^visitcounter_live_tick_seconds_(sum|count) (\S+)$", re.M)


class Streams(NamedTuple):
    """What they cost."""

    kb_each: float
    tick_ms: float
    """Of one that tells all of them."""
    alone: Window
    """Hits without them."""
    beside: Window


def streams(number: int, connections: int, seconds: float) -> Streams:
    with service() as server:
        alone = hits(server, connections, seconds)
        verify(server, alone.hits)
    with service() as server:  # another one, which has no memory to spare
        assert server.service, "it is one"
        before = server.service.memory_mb
        with watching(server.port, SITE, number) as viewers:
            kb_each = 1024 * (server.service.memory_mb - before) / number
            ticks = Ticks.of(server.service)
            beside = hits(server, connections, seconds)
            tick_ms = Ticks.of(server.service).since(ticks)
            verify(server, beside.hits)
            see_them_told(server.service, viewers)
            see_them_end(server.service, viewers)
    return Streams(kb_each, tick_ms, alone, beside)


def hits(server: Server, connections: int, seconds: float) -> Window:
    return closed_loop(server.port, server.requests, connections, seconds, (server.pid,))


class Ticks(NamedTuple):
    """How many there were, and how long they took in all."""

    number: float
    seconds: float

    @classmethod
    def of(cls, process: ServiceProcess) -> Ticks:
        with urlopen(f"{process.url}/metrics", timeout=10) as answer:
            found = dict(TICK.findall(answer.read().decode()))
        return cls(float(found["count"]), float(found["sum"]))

    def since(self, before: Ticks) -> float:
        """Milliseconds of one, on average."""
        return 1000 * (self.seconds - before.seconds) / (self.number - before.number)


def see_them_told(process: ServiceProcess, viewers: list[Viewer]) -> None:
    total = process.call(f"/{SITE}/reset?preview=1", {})["would_reset"]["total"]
    if not wait_for_all(viewers, lambda viewer: viewer.counts["total"] == total, TOLD_S):
        raise Void("not every viewer was told the counts")


def see_them_end(process: ServiceProcess, viewers: list[Viewer]) -> None:
    if process.terminate() or not wait_for_all(viewers, lambda viewer: viewer.ended, TOLD_S):
        raise Void("SIGTERM did not end every stream, and the service with exit code 0")

"""What is measured in a round: each measure starts what it needs, and adds its figures by name.

A rate's name is followed by what it is per CPU-second of the process under test: "lane 64" and
"lane 64 cpu". The measures of a round take turns, so that a machine that changes its pace changes
it for all of them.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from statistics import median
from time import perf_counter
from typing import Literal, NamedTuple

from loadtests.bench import cores, store
from loadtests.bench.closed_loop import Void, closed_loop
from loadtests.bench.open_loop import Times
from loadtests.bench.restart import restart
from loadtests.bench.servers import Server, bare_aiohttp, behind_nginx, nginx, service
from loadtests.bench.standstill import standstill_s
from loadtests.bench.start import starts
from loadtests.bench.streams import streams
from loadtests.bench.verify import verify
from loadtests.without import prelude
from tests.kit.services.process import ROOT
from tests.kit.stores.server import server_binaries
from visit_counter.web.pages.scripts import counting, embedding

CONNECTIONS = (64, 256)
MOST = 256
PEAK = f"lane {MOST}"
PARTS = (25, 50, 75)  # per cent of it
SIZES = (1, 10, 100, 1000)
HITS = 100_000  # of each size
SYNCS = 100
VIEWERS = 10_000

Found = dict[str, float]
"""The figures of a round, by their names."""


class Extent(NamedTuple):
    """How long and how much."""

    seconds: float
    """Of each window."""
    quick: bool
    """Less of all that takes long: to see that it runs, not for figures."""


class Measure(NamedTuple):
    """Adds figures to those that a round has found."""

    name: str
    run: Callable[[Extent, Found], None]
    once: bool = False
    """It is the same in each round."""
    needs: tuple[str, ...] = ()
    """Measures whose figures it builds upon."""


def rate(
    name: str,
    make: Callable[[], AbstractContextManager[Server]],
    connections: int,
    extent: Extent,
    found: Found,
    *,
    send: Literal["hits", "looks"] = "hits",
    mixed: bool = False,
) -> None:
    """Requests per second in a closed loop, and per CPU-second."""
    with make() as server:
        watched = (server.pid, *server.along)
        window = closed_loop(
            server.port,
            server.requests,
            connections,
            extent.seconds,
            watched,
            send=send,
            mixed=mixed,
        )
        verify(server, window.hits if send == "hits" else 0)
    found[name] = window.per_s
    found[f"{name} cpu"] = window.per_s / window.cpu_s[server.pid]
    found[f"{name} used"] = window.cpu_s[server.pid]
    if server.service and send == "hits":
        found[f"{name} store cpu"] = window.per_s / window.cpu_s[server.along[0]]
    found[f"{name} strangers"] = window.strangers_s


def rates(name: str, make: Callable[[], AbstractContextManager[Server]]) -> Iterator[Measure]:
    for connections in CONNECTIONS:
        full = f"{name} {connections}"
        yield Measure(full, partial(rate, full, make, connections))


def workers(number: int, extent: Extent, found: Found) -> None:
    """Hits of several workers, per CPU-second of them all; they share their cores with the load
    and the store where there are not enough."""
    with service(WORKERS=str(number)) as server:
        assert server.service, "it is one"
        pids = server.service.workers
        cores.spread(pids)
        watched = (*pids, *server.along)
        window = closed_loop(server.port, server.requests, MOST, extent.seconds, watched)
        verify(server, window.hits)
    found[f"workers {number}"] = window.per_s
    found[f"workers {number} cpu"] = window.per_s / sum(window.cpu_s[pid] for pid in pids)


def latency(extent: Extent, found: Found) -> None:
    """Time to acknowledge at parts of the peak, under open arrival."""
    for part in PARTS:
        with service() as server:
            per_s = found[PEAK] * part / 100
            command = [*cores.load(), sys.executable, "-m", "loadtests.bench.open_loop"]
            arguments = [str(server.port), str(per_s), str(extent.seconds)]
            run = subprocess.run([*command, *arguments], capture_output=True, text=True, cwd=ROOT)
            if run.returncode:
                raise Void(f"open arrival at {part} %: {run.stderr.strip()[-300:]}")
            times = Times(**json.loads(run.stdout))
            verify(server, times.acknowledged)
        if times.refused:
            raise Void(f"open arrival at {part} %: {times.refused} hits were refused")
        for name, share in (("p50", 0.5), ("p99", 0.99), ("p999", 0.999)):
            found[f"{name} at {part}"] = 1000 * quantile(times.to_answer, share)
        found[f"late at {part}"] = 1000 * quantile(times.to_send, 0.99)


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[int(len(values) * share)]


def batch(size: int, extent: Extent, found: Found) -> None:
    """CPU time of Valkey for batches of a size."""
    hits = (HITS if size > 1 else HITS // 10) // (20 if extent.quick else 1)
    new, known = store.batch_cost(size, hits)
    for kind, cost in (("new", new), ("known", known)):
        found[f"batch {size} {kind} us"] = 1e6 * cost
        found[f"batch {size} {kind} hits"] = size / cost


def alone(extent: Extent, found: Found) -> None:
    """The same of batches that come one by one, and are synced."""
    new, known = store.synced_cost(50 if extent.quick else 1000)
    found["alone new us"], found["alone known us"] = 1e6 * new, 1e6 * known


def memory(extent: Extent, found: Found) -> None:
    visitors = 10_000 if extent.quick else 100_000  # midway between two sizes of the tables
    for name in ("valkey", "redis"):
        if name in server_binaries():
            found[f"{name} id"] = store.bytes_per_id(name, visitors)
    found["quiet site"], found["sketches"] = store.bytes_per_quiet_site()
    found["year"], found["drops"] = store.bytes_per_year()


def viewers(extent: Extent, found: Found) -> None:
    """Live ones, and hits beside them."""
    costs = streams(500 if extent.quick else VIEWERS, MOST, extent.seconds)
    found["viewer kb"], found["tick ms"] = costs.kb_each, costs.tick_ms
    for name, window in (("without viewers", costs.alone), ("beside viewers", costs.beside)):
        found[name] = window.per_s
        found[f"{name} cpu"] = window.per_s / sum(window.cpu_s.values())


def start(_extent: Extent, found: Found) -> None:
    found["first start"], found["restart"], found["killed"], found["start cpu"] = starts()


def restarts(_extent: Extent, found: Found) -> None:
    """Under load, with the address kept by a service manager and without one."""
    for name, kept in (("kept", True), ("alone", False)):
        seen = restart(kept=kept)
        if seen.pageviews != seen.acknowledged:
            raise Void(f"{seen.pageviews} were counted of {seen.acknowledged} acknowledged")
        found[f"restart {name} refused"] = seen.refused + sum(seen.others.values())
        found[f"restart {name} gap"] = seen.gap_s


def scripts(_extent: Extent, found: Found) -> None:
    """Bytes that a page loads."""
    for name, script in (("counting", counting()), ("embed.js", embedding(("vi",)))):
        found[name] = len(gzip.compress(script.text.encode(), mtime=0))


def disk(_extent: Extent, found: Found) -> None:
    """What a commit waits for at least: a small write, synced."""
    with tempfile.NamedTemporaryFile(dir="/tmp") as file:
        times = []
        for _ in range(SYNCS):
            began = perf_counter()
            _ = file.write(bytes(512))
            file.flush()
            os.fdatasync(file.fileno())
            times.append(perf_counter() - began)
    found["sync"] = 1000 * median(times)


def standstill(extent: Extent, found: Found) -> None:
    lost = standstill_s(extent.seconds)
    found["lost"] = 1000 * sum(lost) / extent.seconds
    found["longest"] = 1000 * max(lost, default=0)


plain = partial(service, prelude=prelude("lane"))

MEASURES = [
    Measure("disk", disk),
    Measure("standstill", standstill),
    *rates("nginx", nginx),
    *rates("bare aiohttp", bare_aiohttp),
    *rates("lane", service),
    Measure("looks", partial(rate, "looks", service, MOST, send="looks")),
    Measure("without lane", partial(rate, "without lane", plain, 64)),
    Measure("behind nginx", partial(rate, "behind nginx", behind_nginx, 64, mixed=True)),
    *(
        Measure(f"sites {n}", partial(rate, f"sites {n}", partial(service, n), MOST))
        for n in (100, 10_000)
    ),
    Measure("workers", partial(workers, 2)),
    Measure("viewers", viewers),
    Measure("latency", latency, needs=(PEAK,)),
    *(Measure(f"batch {size}", partial(batch, size)) for size in SIZES),
    Measure("alone", alone),
    Measure("start", start),
    Measure("restart", restarts),
    Measure("memory", memory, once=True),
    Measure("scripts", scripts, once=True),
]

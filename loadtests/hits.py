"""A closed loop of hits: every connection sends its next hit when the last one is answered.

    .venv/bin/python -m loadtests.hits --connections 64 --seconds 5

It starts a service of its own on an embedded Valkey (append-only file, fsync always), plays a proxy
in front of many distinct visitors with real beacon headers, and prints hits per second and the time
to acknowledge. Then the counts must equal what was acknowledged; else the figure is void, and the
exit code 1. Everything stays on loopback, is bounded in time, and ends by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from loadtests.beacons import ORIGIN, hit, read_answer
from loadtests.service_process import ServiceProcess

SITE = "load"


@dataclass
class Tally:
    """What the clients saw."""

    acknowledged: int = 0
    refused: int = 0
    seconds: list[float] = field(default_factory=list)


@contextmanager
def running_service(prelude: str = "") -> Iterator[ServiceProcess]:
    """A service that answers, ended with SIGTERM; `prelude` is code that runs before it starts."""
    with tempfile.TemporaryDirectory(prefix="vc-load-", dir="/tmp") as scratch:
        service = ServiceProcess(Path(scratch), prelude=prelude)
        try:
            service.start()
            yield service
        finally:
            service.terminate()


async def client(port: int, visitors: Iterator[int], until: float, tally: Tally) -> None:
    """One connection's hits, one after the other."""
    host = f"127.0.0.1:{port}"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while time.perf_counter() < until:
            began, visitor = time.perf_counter(), next(visitors)
            writer.write(hit(SITE, host, visitor, f"/page/{visitor % 100}"))
            answer = await read_answer(reader)
            tally.seconds.append(time.perf_counter() - began)
            if answer.status == 200:
                tally.acknowledged += 1
            else:
                tally.refused += 1
    finally:
        writer.close()


async def load(port: int, connections: int, seconds: float) -> Tally:
    tally, visitors = Tally(), count(1)
    until = time.perf_counter() + seconds
    await asyncio.gather(*(client(port, visitors, until, tally) for _ in range(connections)))
    return tally


def report(tally: Tally, seconds: float, counted: int) -> str:
    times = sorted(tally.seconds)
    p50, p99 = (1000 * times[int(len(times) * part)] for part in (0.5, 0.99))
    return (
        f"{tally.acknowledged / seconds:,.0f} hits/s, acknowledged in {p50:.1f} ms (p50) and "
        f"{p99:.1f} ms (p99); acknowledged {tally.acknowledged}, refused {tally.refused}, "
        f"counted {counted}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="A closed loop of hits against a real service.")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    with running_service() as service:
        service.call("", {"id": SITE, "origins": [ORIGIN]})
        tally = asyncio.run(load(service.port, options.connections, options.seconds))
        preview = service.call(f"/{SITE}/reset?preview=1", {})
    counted = preview["would_reset"]["total"]["pageviews"]
    print(report(tally, options.seconds, counted))
    if counted != tally.acknowledged:
        print("void: the counts do not equal what was acknowledged")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

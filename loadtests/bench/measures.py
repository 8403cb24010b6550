"""What is measured in a round: each measure starts what it needs, and adds its figures by name.

A rate's name is followed by what it is per CPU-second of the process under test: "lane 64" and
"lane 64 cpu". The measures of a round take turns, so that a machine that changes its pace changes
it for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Literal, NamedTuple

from loadtests.bench.closed_loop import closed_loop
from loadtests.bench.servers import Server, bare_aiohttp, behind_nginx, nginx, service
from loadtests.bench.verify import verify
from loadtests.without import prelude

CONNECTIONS = (64, 256)
MOST = 256

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
    found[f"{name} strangers"] = window.machine_s - window.generator_s - sum(window.cpu_s.values())


def rates(name: str, make: Callable[[], AbstractContextManager[Server]]) -> Iterator[Measure]:
    for connections in CONNECTIONS:
        full = f"{name} {connections}"
        yield Measure(full, partial(rate, full, make, connections))


plain = partial(service, prelude=prelude("lane"))

MEASURES = [
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
]

"""How it grows: the same figures with 10 and 100 times the sites, visitors, pages and stored days.

    .venv/bin/python -m loadtests.bench.growth            # some minutes
    .venv/bin/python -m loadtests.bench.growth --write    # and write the tables of GROWTH.md

Each world is filled straight into a Valkey of its own; then batches, looks, a restart and hits
through a service are measured on it. From the smallest world's costs it derives what a million hits
per second would take.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from redis import Redis

from loadtests.bench import capacity, cores, store
from loadtests.bench.closed_loop import Void, closed_loop
from loadtests.bench.report import machine
from loadtests.bench.requests import of_visitor, site_name
from loadtests.bench.servers import Server, service_over
from loadtests.bench.verify import pageviews, verify
from loadtests.oracle import NAMESPACE
from tests.kit.counting import Counted, make_site, open_store
from tests.kit.stores.server import Server as StoreServer
from tests.kit.stores.server import run_server, server_binaries

PAGE = Path(__file__).parents[1] / "GROWTH.md"
BEGIN, END = "<!-- measured -->", "<!-- /measured -->"
HITS_OF_A_DAY = 10  # of those that have ended
AT_ONCE = 1000
CONNECTIONS = 256
TRIES = 5
FIGURES = r"^visitcounter_{}_(sum|count) (\S+)$"


@dataclass(frozen=True)
class World:
    """What a store holds before it is measured; each site has its own visitors, pages and days."""

    name: str = "small"
    sites: int = 10
    visitors: int = 1000
    pages: int = 100
    days: int = 4

    def __str__(self) -> str:
        return f"{self.sites:,} | {self.visitors:,} | {self.pages:,} | {self.days:,}"


SMALL = World()
WORLDS = [
    SMALL,
    *(
        replace(SMALL, name=f"{times} × {what}", **{what: getattr(SMALL, what) * times})
        for what in ("sites", "visitors", "pages", "days")
        for times in (10, 100)
    ),
]

COLUMNS = (
    *("world", "sites", "visitors", "pages", "days", "one-hit batch, new / known"),
    *("hits per CPU-second of Valkey, batches of 100", "counts", "memory", "store loads in"),
    *("service ready in", "hits/s, 256 connections", "per CPU-second of the worker"),
)


@dataclass(frozen=True)
class Grown:
    """What was measured in a world; times in seconds."""

    world: World
    new_s: float
    known_s: float
    hundred_s: float
    counts_s: float
    memory: int
    loaded_s: float
    ready_s: float
    hits_per_s: float
    hits_per_cpu_s: float
    commit_s: float
    batch_hits: float
    request_bytes: int
    answer_bytes: int
    store_bytes: float
    """Sent and received by Valkey for a hit."""
    file_bytes: float
    strangers_s: float

    def __str__(self) -> str:
        cells = [
            f"{1e6 * self.new_s:.0f} / {1e6 * self.known_s:.0f} µs",
            f"{100 / self.hundred_s:,.0f}",
            f"{1e6 * self.counts_s:.0f} µs",
            f"{self.memory / 1e6:,.1f} MB",
            f"{self.loaded_s:.2f} s",
            f"{self.ready_s:.2f} s",
            f"{self.hits_per_s:,.0f}",
            f"{self.hits_per_cpu_s:,.0f}",
        ]
        return f"| {self.world.name} | {self.world} | {' | '.join(cells)} |"


def grown(world: World, quick: bool) -> Grown:
    """Fill a server, and measure."""
    with run_server(server_binaries()["valkey"], under=cores.on(cores.STORE)) as server:
        found = asyncio.run(filled(server, world, quick))
        server.stop()
        began = time.perf_counter()
        server.start()
        found["loaded_s"] = time.perf_counter() - began
        _ = server.call("CONFIG SET appendfsync always")
        return Grown(world, **found, **served(server, world, 1.0 if quick else 3.0))


async def filled(server: StoreServer, world: World, quick: bool) -> dict[str, Any]:
    """What is measured without a service."""
    number = 100 if quick else 5000
    async with open_store(server.url, NAMESPACE) as ledger:
        sites = [await make_site(ledger, site_name(n)) for n in range(world.sites)]
        for site in sites:
            await fill(site, world)
        with Redis(unix_socket_path=server.socket_path) as client:
            memory = int(client.info("memory")["used_memory"])
        return {
            "memory": memory,
            "new_s": await cost(server, sites, number, 1, first=10**9),
            "known_s": await cost(server, sites, number, 1, first=10**9),
            "hundred_s": await cost(server, sites, number // 5, 100, first=2 * 10**9),
            "counts_s": await looks(server, sites, number),
        }


async def fill(site: Counted, world: World) -> None:
    today = time.time_ns() // 1_000_000 - 1000
    for day in range(world.days - 1, 0, -1):
        at = today - day * store.DAY_MS
        _ = await site.record(*(site.hit(n, at) for n in range(1, HITS_OF_A_DAY + 1)))
    numbers = iter(range(max(world.visitors, world.pages)))
    while some := list(itertools.islice(numbers, AT_ONCE)):
        hits = [
            site.hit(1 + n % world.visitors, today, path=f"/page/{n % world.pages}") for n in some
        ]
        _ = await site.record(*hits)


async def cost(
    server: StoreServer, sites: list[Counted], number: int, size: int, first: int
) -> float:
    """CPU seconds of Valkey for a batch of that size, of the visitors from `first` on; the sites
    take turns."""
    visitors = itertools.count(first)
    turns = itertools.islice(itertools.cycle(sites), number)
    sent = [batch for site in turns for batch in store.batches(site, size, 1, visitors)]
    before = cores.cpu_s(server.pid)
    await sites[0].store.replay(sites[0].ledger._producer, sent)
    return (cores.cpu_s(server.pid) - before) / number


async def looks(server: StoreServer, sites: list[Counted], number: int) -> float:
    """CPU seconds of Valkey for a site's counts."""
    before = cores.cpu_s(server.pid)
    for site in itertools.islice(itertools.cycle(sites), number):
        _ = await site.counts(time.time_ns() // 1_000_000)
    return (cores.cpu_s(server.pid) - before) / number


def served(server: StoreServer, world: World, seconds: float) -> dict[str, Any]:
    """What is measured with a service; once more if it was void, as when the disk stalls."""
    for tries in itertools.count(1):
        began = time.perf_counter()
        with service_over(server, world.sites) as service:
            ready_s = time.perf_counter() - began
            try:
                return {"ready_s": ready_s, **hits(server, service, seconds)}
            except Void:
                if tries == TRIES:
                    raise
    raise AssertionError("it counts for ever")


def hits(server: StoreServer, service: Server, seconds: float) -> dict[str, Any]:
    """A closed loop, and what travels for each hit."""
    sent = service.requests
    with Redis(unix_socket_path=server.socket_path) as client:
        counted, before = pageviews(server.socket_path), traffic(client)
        watched = (service.pid, *service.along)
        window = closed_loop(service.port, sent, CONNECTIONS, seconds, watched)
        after = traffic(client)
        verify(service, window.hits, counted)
    network, file = (b - a for a, b in zip(before, after, strict=True))
    return {
        "hits_per_s": window.per_s,
        "hits_per_cpu_s": window.per_s / window.cpu_s[service.pid],
        "commit_s": mean(service, "flush_seconds"),
        "batch_hits": mean(service, "batch_hits"),
        "request_bytes": len(sent.hits[0]),
        "answer_bytes": answer_bytes(service),
        "store_bytes": network / window.hits,
        "file_bytes": file / window.hits,
        "strangers_s": window.strangers_s,
    }


def traffic(client: Redis) -> tuple[int, int]:
    """Bytes that the server has received and sent, and those of its append-only file."""
    info = client.info()
    network = info["total_net_input_bytes"] + info["total_net_output_bytes"]
    return int(network), int(info["aof_current_size"])


def mean(service: Server, name: str) -> float:
    """Of a histogram so far."""
    with urlopen(f"http://127.0.0.1:{service.port}/metrics", timeout=10) as answer:
        told = re.findall(FIGURES.format(name), answer.read().decode(), re.M)
    found = {which: float(value) for which, value in told}
    return found["sum"] / found["count"]


def answer_bytes(service: Server) -> int:
    with socket.create_connection(("127.0.0.1", service.port), timeout=5) as client:
        client.sendall(of_visitor(service.requests.hits[0], (1 << 24) - 1))
        return len(client.recv(65536))


def parts(small: Grown, many: Grown, cost: Callable[[Grown], float]) -> tuple[float, float]:
    """What a hit costs, and each batch besides, from two worlds with batches of two sizes."""
    per_batch = (cost(many) - cost(small)) / (1 / many.batch_hits - 1 / small.batch_hits)
    per_batch = min(max(per_batch, 0.0), cost(small) * small.batch_hits)
    return cost(small) - per_batch / small.batch_hits, per_batch


def costs_of(small: Grown, many: Grown) -> capacity.Costs:
    """What the formula needs to know; `many`: of 100 times the sites."""
    worker_us, worker_batch_us = parts(small, many, lambda found: 1e6 / found.hits_per_cpu_s)
    store_bytes, store_batch_bytes = parts(small, many, lambda found: found.store_bytes)
    file_bytes, file_batch_bytes = parts(small, many, lambda found: found.file_bytes)
    return capacity.Costs(
        worker_us=worker_us,
        worker_batch_us=worker_batch_us,
        one_hit_us=1e6 * small.new_s,
        hit_us=1e6 * small.hundred_s / 100,
        commit_ms=1000 * small.commit_s,
        id_bytes=store.bytes_per_id("valkey", 100_000),
        year_bytes=store.bytes_per_year()[0],
        request_bytes=small.request_bytes,
        answer_bytes=small.answer_bytes,
        store_bytes=store_bytes,
        store_batch_bytes=store_batch_bytes,
        file_bytes=file_bytes,
        file_batch_bytes=file_batch_bytes,
    )


def tables(found: list[Grown]) -> Iterator[str]:
    strangers = max(each.strangers_s for each in found)
    yield f"{machine()}\n- other processes took up to {strangers:.2f} of a core meanwhile"
    head = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    yield "\n".join([*head, *map(str, found)])
    costs = costs_of(found[0], max(found, key=lambda each: each.world.sites))
    yield capacity.command(costs)
    yield capacity.table(capacity.Load(), costs)


def main() -> None:
    parser = argparse.ArgumentParser(description="How figures grow with what is stored.")
    parser.add_argument("--quick", action="store_true", help="the smallest world only, and briefly")
    parser.add_argument("--write", action="store_true", help="write the tables of GROWTH.md")
    options = parser.parse_args()
    found = []
    for world in WORLDS[:1] if options.quick else WORLDS:
        print(f"{time.strftime('%H:%M:%S')} {world.name}", file=sys.stderr, flush=True)
        try:
            found.append(grown(world, options.quick))
        except Void as reason:
            raise SystemExit(f"VOID: {world.name}: {reason}") from None
    text = "\n\n".join(tables(found))
    print(text)
    if options.write:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        _ = PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()

"""What counting costs in the store itself: CPU by size of the batch, and memory.

No service is in between: batches go straight to a server of their own, whose CPU time is what the
kernel says of it. New visitors bring ids that the site has never seen, known ones come again.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import TypeVar

from loadtests.bench import cores
from tests.kit.counting import Counted, counting, make_site
from tests.kit.stores.server import run_server, server_binaries
from visit_counter.disk.format import Record
from visit_counter.model.hit import Drop
from visit_counter.model.reasons import Reason

T = TypeVar("T")

PATHS = 100
DAY_MS = 86_400_000
YEAR_DAYS = 366
HITS_A_DAY = 900
QUIET_SITES = 500
SKETCHES = "visitors:*"


def on_a_server(
    store: str, work: Callable[[Counted, int], Coroutine[None, None, T]], sync: str = "no"
) -> T:
    """What `work` finds with a site in a fresh server, whose process id it is told; `sync` is its
    appendfsync."""

    async def run() -> T:
        under = cores.on(cores.SERVER)
        binary = server_binaries()[store]
        with run_server(binary, "--appendfsync", sync, under=under) as server:
            async with counting(server.url) as counted:
                return await work(counted, server.pid)

    return asyncio.run(run())


# -- CPU time


def batch_cost(size: int, hits: int) -> tuple[float, float]:
    """CPU seconds of Valkey for a batch of new visitors, and for one of the same again, with counts
    in the answer: of the function alone, since many batches share a round trip and none a sync."""

    async def work(counted: Counted, pid: int) -> tuple[float, float]:
        _ = await replay_cost(counted, pid, 100, 5000, 10**9)
        new, known = [await replay_cost(counted, pid, size, hits, 1) for _ in range(2)]
        return new, known

    return on_a_server("valkey", work)


def synced_cost(hits: int) -> tuple[float, float]:
    """The same for a batch of one hit that comes alone, and is on disk before it is answered."""

    async def work(counted: Counted, pid: int) -> tuple[float, float]:
        new, known = [await alone_cost(counted, pid, hits, 1) for _ in range(2)]
        return new, known

    return on_a_server("valkey", work, sync="always")


async def alone_cost(counted: Counted, pid: int, hits: int, first: int) -> float:
    sent = batches(counted, 1, hits, itertools.count(first))
    before = cores.cpu_s(pid)
    for each in sent:
        await counted.store.replay(counted.ledger._producer, [each])
    return (cores.cpu_s(pid) - before) / hits


async def replay_cost(counted: Counted, pid: int, size: int, hits: int, first: int) -> float:
    """CPU seconds for each of the batches that bring these visitors."""
    sent = batches(counted, size, hits // size, itertools.count(first))
    before = cores.cpu_s(pid)
    await counted.store.replay(counted.ledger._producer, sent)
    return (cores.cpu_s(pid) - before) / len(sent)


def batches(counted: Counted, size: int, number: int, visitors: Iterator[int]) -> list[Record]:
    now = time.time_ns() // 1_000_000 - 1000
    return [
        counted.seal(
            *(
                counted.hit(n, now, path=f"/page/{n % PATHS}")
                for n in itertools.islice(visitors, size)
            )
        ).record
        for _ in range(number)
    ]


# -- memory


def bytes_per_id(store: str, visitors: int) -> float:
    """What a visitor takes in the set of a busy site."""

    async def work(counted: Counted, _pid: int) -> float:
        await send(counted, 1)  # what a site needs by itself
        before = await used_memory(counted)
        sent = batches(counted, 1000, visitors // 1000, itertools.count(10))
        await counted.store.replay(counted.ledger._producer, sent)
        sketches = await memory_of(counted, SKETCHES)
        return (await used_memory(counted) - before - sketches) / visitors

    return on_a_server(store, work)


def bytes_per_quiet_site() -> tuple[float, float]:
    """What a site takes whose visitors have left (three, of three pages): without its sketches, and
    these."""

    async def work(counted: Counted, _pid: int) -> tuple[float, float]:
        before, sketches = await used_memory(counted), 0
        for number in range(QUIET_SITES):
            site = await make_site(counted.ledger, f"quiet-{number}")
            await send(site, 3)
            sketches += await memory_of(site, SKETCHES)
            # As when the sets have expired.
            _ = await site.client.unlink(f"{base_of(site)}left", f"{base_of(site)}seen")
        whole = await used_memory(counted) - before
        return (whole - sketches) / QUIET_SITES, sketches / QUIET_SITES

    return on_a_server("valkey", work)


def bytes_per_year() -> tuple[float, float]:
    """What a year of days keeps of a site: the numbers of its periods, and its drops, if there is
    each kind of them every day."""

    async def work(counted: Counted, _pid: int) -> tuple[float, float]:
        today = time.time_ns() // 1_000_000 // DAY_MS * DAY_MS
        for day in range(YEAR_DAYS, 0, -1):
            at = today - day * DAY_MS
            hits = [counted.hit(n, at, path=f"/page/{n % PATHS}") for n in range(1, HITS_A_DAY)]
            _ = await counted.record(*hits, *(Drop(counted.site, why, at) for why in Reason))
        kinds = ("day:*", "week:*", "month:*", "year")
        periods = sum([await memory_of(counted, kind) for kind in kinds])
        return periods, await memory_of(counted, "drops:*")

    return on_a_server("valkey", work)


async def send(counted: Counted, visitors: int) -> None:
    sent = batches(counted, visitors, 1, itertools.count(1))
    await counted.store.replay(counted.ledger._producer, sent)


async def memory_of(counted: Counted, pattern: str) -> int:
    """Bytes of a site's keys of these names, together."""
    keys = [key async for key in counted.client.scan_iter(base_of(counted) + pattern, count=1000)]
    return sum([await counted.client.memory_usage(key, samples=0) or 0 for key in keys])


async def used_memory(counted: Counted) -> int:
    info = await counted.client.info("memory")
    return int(info["used_memory"])


def base_of(counted: Counted) -> str:
    return f"{counted.tag}:{counted.site.id}:{counted.site.generation}:"

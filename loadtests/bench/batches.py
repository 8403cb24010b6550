"""What a batch costs in the store, by its size: one site, counts in the answer, in CPU time.

    .venv/bin/python -m loadtests.bench.batches

New visitors bring ids that the site has never seen, known ones come again. The store is a Valkey of
its own, and its CPU time is what the kernel says of it, so that only its own work is in the figure.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import time
from collections.abc import Iterator

from loadtests.bench.cores import cpu_s
from service.batch import Packed
from tests.counting import Counted, counting
from tests.servers import run_server, server_binaries

SIZES = (1, 10, 100, 1000)
PATHS = 100


def batches(counted: Counted, size: int, number: int, visitors: Iterator[int]) -> list[Packed]:
    now = time.time_ns() // 1_000_000 - 1000
    return [
        counted.seal(
            *(
                counted.hit(n, now, path=f"/page/{n % PATHS}")
                for n in itertools.islice(visitors, size)
            )
        ).packed
        for _ in range(number)
    ]


async def measure(
    counted: Counted, pid: int, size: int, hits: int, start: int
) -> tuple[float, float]:
    """CPU seconds for a batch of new visitors, and for one of the same again."""
    number = hits // size
    seconds = []
    for _ in ("new", "known"):
        sent = batches(counted, size, number, itertools.count(start))
        before = cpu_s(pid)
        await counted.store.replay(counted.ledger._producer, sent)
        seconds.append((cpu_s(pid) - before) / number)
    return seconds[0], seconds[1]


async def main() -> None:
    parser = argparse.ArgumentParser(description="What a batch costs in the store.")
    parser.add_argument("--hits", type=int, default=20_000, help="of each size")
    parser.add_argument("--store", choices=["valkey", "redis"], default="valkey")
    options = parser.parse_args()
    print("| hits in a batch | µs new | µs known | hits per CPU-second new | known |")
    print("|---|---|---|---|---|")
    with run_server(server_binaries()[options.store], "--appendfsync", "no") as server:
        async with counting(server.url) as counted:
            _ = await measure(counted, server.pid, 100, 5000, 10**9)
            for n, size in enumerate(SIZES):
                hits = options.hits if size > 1 else options.hits // 4
                new, known = await measure(counted, server.pid, size, hits, n * 10**7 + 1)
                rates = f"{size / new:,.0f} | {size / known:,.0f}"
                print(f"| {size} | {1e6 * new:.0f} | {1e6 * known:.0f} | {rates} |")


if __name__ == "__main__":
    asyncio.run(main())

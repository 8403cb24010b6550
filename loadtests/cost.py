"""What a promise costs: the service as it is, beside one without.

    .venv/bin/python -m loadtests.cost --of ledger --rounds 5 --seconds 4

Exactly-once is the ledger and what is kept of confirmed batches; that a view which is sent again
counts once is its id. The two take turns on this machine, each round on a service and an embedded
Valkey of its own, under the closed loop of the benchmark. It prints the medians and their ratios.
Everything stays on loopback, is bounded in time, and ends by itself.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from statistics import median

from loadtests.bench.measures import Extent, Found, rate
from loadtests.bench.requests import requests
from loadtests.bench.servers import Server, service
from loadtests.without import prelude

Make = Callable[[], AbstractContextManager[Server]]


@contextmanager
def without_ids() -> Iterator[Server]:
    """A service whose views have no ids."""
    with service() as server:
        yield replace(server, requests=requests(f"127.0.0.1:{server.port}", 1, ids=False))


KINDS: dict[str, dict[str, Make]] = {
    "ledger": {
        "without ledger and retention": partial(service, prelude=prelude("ledger")),
        "with everything": service,
    },
    "ids": {"views without ids": without_ids, "views with ids": service},
}


def main() -> None:
    parser = argparse.ArgumentParser(description="What a promise costs.")
    parser.add_argument("--of", choices=KINDS, default="ledger")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    kinds = KINDS[options.of]
    rounds = [Found() for _ in range(options.rounds)]
    for found in rounds:
        for kind, make in kinds.items():
            rate(kind, make, options.connections, Extent(options.seconds, quick=False), found)
    print("| service | hits/s | hits per CPU-second |", "|---|---|---|", sep="\n")
    for kind in kinds:
        per_s, per_cpu_s = (median(f[key] for f in rounds) for key in (kind, f"{kind} cpu"))
        print(f"| {kind} | {per_s:,.0f} | {per_cpu_s:,.0f} |")
    bare, whole = kinds
    ratios = (median(f[whole + key] / f[bare + key] for f in rounds) for key in ("", " cpu"))
    print("with/without: {:.3f} of the hits/s, {:.3f} of those per CPU-second".format(*ratios))


if __name__ == "__main__":
    main()

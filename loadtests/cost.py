"""What exactly-once costs: the service as it is, beside one without ledger and retention.

    .venv/bin/python -m loadtests.cost --rounds 5 --seconds 4

The two take turns on this machine, each round on a service and an embedded Valkey of its own, under
the closed loop of the benchmark. It prints the medians and their ratios. Everything stays on
loopback, is bounded in time, and ends by itself.
"""

from __future__ import annotations

import argparse
from functools import partial
from statistics import median

from loadtests.bench.measures import Extent, Found, rate
from loadtests.bench.servers import service
from loadtests.without import prelude

KINDS = {"without ledger and retention": prelude("ledger"), "with everything": ""}


def main() -> None:
    parser = argparse.ArgumentParser(description="What exactly-once costs.")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rounds = [Found() for _ in range(options.rounds)]
    for found in rounds:
        for kind, code in KINDS.items():
            make = partial(service, prelude=code)
            rate(kind, make, options.connections, Extent(options.seconds, quick=False), found)
    print("| service | hits/s | hits per CPU-second |", "|---|---|---|", sep="\n")
    for kind in KINDS:
        per_s, per_cpu_s = (median(f[key] for f in rounds) for key in (kind, f"{kind} cpu"))
        print(f"| {kind} | {per_s:,.0f} | {per_cpu_s:,.0f} |")
    bare, whole = KINDS
    ratios = (median(f[whole + key] / f[bare + key] for f in rounds) for key in ("", " cpu"))
    print("with/without: {:.3f} of the hits/s, {:.3f} of those per CPU-second".format(*ratios))


if __name__ == "__main__":
    main()

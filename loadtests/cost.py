"""What exactly-once costs: the service as it is, beside one without ledger and retention.

    .venv/bin/python -m loadtests.cost --rounds 5 --seconds 4

The two take turns on this machine, each round on a service and an embedded Valkey of its own, under
the closed loop of `loadtests.hits`. It prints the medians and their ratios. Everything stays on
loopback, is bounded in time, and ends by itself.
"""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import dataclass, field
from statistics import median

from loadtests.bare import PRELUDE
from loadtests.beacons import ORIGIN
from loadtests.hits import SITE, load, running_service


@dataclass
class Kind:
    """One of the two, and what its rounds found."""

    name: str
    prelude: str
    hits_per_s: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)

    def run(self, connections: int, seconds: float) -> None:
        with running_service(self.prelude) as service:
            service.call("", {"id": SITE, "origins": [ORIGIN]})
            tally = asyncio.run(load(service.port, connections, seconds))
            counted = service.call(f"/{SITE}/reset?preview=1", {})["would_reset"]["total"]
        if tally.refused or counted["pageviews"] != tally.acknowledged:
            raise SystemExit(f"void: {tally.acknowledged} acknowledged, {counted} counted")
        times = sorted(tally.seconds)
        self.hits_per_s.append(tally.acknowledged / seconds)
        self.p99_ms.append(1000 * times[int(len(times) * 0.99)])


def main() -> None:
    parser = argparse.ArgumentParser(description="What exactly-once costs.")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    bare = Kind("without ledger and retention", PRELUDE)
    whole = Kind("with everything", "")
    for _ in range(options.rounds):
        for kind in (bare, whole):
            kind.run(options.connections, options.seconds)
    print("| service | hits/s (median) | p99 ms (median) |", "|---|---|---|", sep="\n")
    for kind in (bare, whole):
        print(f"| {kind.name} | {median(kind.hits_per_s):,.0f} | {median(kind.p99_ms):.1f} |")
    print(
        f"with/without: {median(whole.hits_per_s) / median(bare.hits_per_s):.3f} of the hits/s, "
        f"{median(whole.p99_ms) / median(bare.p99_ms):.3f} of the p99"
    )


if __name__ == "__main__":
    main()

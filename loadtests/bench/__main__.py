"""The benchmark: everything of the table in one run on this machine.

    ./dev bench                      # about ten minutes
    ./dev bench --only lane,nginx    # those measures whose names begin so, and what they need
    ./dev bench --write              # and write loadtests/RESULTS.md

Exit code 1: a figure is void, since the counts did not equal the hits that were acknowledged, or
something did not answer as it must. A budget that was missed stands in the table only.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from loadtests.bench.closed_loop import Void
from loadtests.bench.measures import MEASURES, Extent, Found, Measure
from loadtests.bench.report import report

RESULTS = Path(__file__).parents[1] / "RESULTS.md"
FAILURES = (Void, OSError, RuntimeError)  # one measure ends, the others go on
TOOLS = ("wrk", "nginx", "taskset")


def run_rounds(
    measures: Sequence[Measure], rounds: int, extent: Extent
) -> tuple[list[Found], Counter[str]]:
    """What each round has found, and how often each measure was void."""
    found, void = [Found() for _ in range(rounds)], Counter[str]()
    for number, figures in enumerate(found):
        for measure in measures:
            if measure.once and number:
                continue
            tell(f"round {number + 1} of {rounds}: {measure.name}")
            try:
                run(measure, extent, figures)
            except FAILURES as reason:
                void[measure.name] += 1
                tell(f"VOID: {measure.name}: {reason}")
    return found, void


def run(measure: Measure, extent: Extent, found: Found) -> None:
    if lacking := [name for name in measure.needs if name not in found]:
        raise Void(f"it builds upon {', '.join(lacking)}")
    measure.run(extent, found)


def chosen(only: Sequence[str]) -> list[Measure]:
    """The measures whose names begin with one of these, with those that they need."""
    names = {each.name for each in MEASURES if not only or each.name.startswith(tuple(only))}
    if not names:
        raise SystemExit(f"no such measure; there are: {', '.join(m.name for m in MEASURES)}")
    for measure in MEASURES:
        if measure.name in names:
            names.update(measure.needs)
    return [measure for measure in MEASURES if measure.name in names]


def tell(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each window")
    parser.add_argument("--only", default="", help="beginnings of measures' names, with commas")
    parser.add_argument("--quick", action="store_true", help="one short round: see that it runs")
    parser.add_argument("--write", action="store_true", help="write loadtests/RESULTS.md")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    os.environ["PATH"] += ":/usr/sbin"  # Debian's place for nginx
    if missing := [tool for tool in TOOLS if not shutil.which(tool)]:
        raise SystemExit(f"not installed: {', '.join(missing)} (Debian: wrk, nginx, util-linux)")
    # SIGTERM ends it as Ctrl-C does, and with it all that it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    rounds, seconds = (1, 1.0) if options.quick else (options.rounds, options.seconds)
    measures = chosen([name for name in options.only.split(",") if name])
    found, void = run_rounds(measures, rounds, Extent(seconds, options.quick))
    text = report(found, void, seconds)
    print(text)
    if options.write:
        RESULTS.write_text(text)
    return 1 if void else 0


if __name__ == "__main__":
    raise SystemExit(main())

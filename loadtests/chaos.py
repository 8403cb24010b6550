"""Breaks things under load, and then asks of every single hit whether it was counted once.

    ./dev chaos                          # every fault a few times, some minutes
    ./dev chaos --kills 300              # the run whose table is in the README
    ./dev chaos --workers 2              # the same of a service that has two
    ./dev chaos --faults store-killed,cut-in-reply --seed 7

A round makes fresh sites, sends them hits on pages of their own, lets one fault happen, waits until
the service counts again, and judges. It prints a Markdown table and exits 1 if anything was lost or
doubled. All of it is on loopback, bounded in time, and kills only what it started.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from random import Random
from statistics import median

from redis.exceptions import RedisError

from loadtests.beacons import ORIGIN
from loadtests.faults import FAULTS, LONG, QUICK, Broken, Case, Fault, Room
from loadtests.load import Load, SiteHits
from loadtests.oracle import EACH_PAGE, DeadLetters, Verdict, judge, letters_in
from loadtests.world import (
    Options,
    World,
    cluster,
    embedded,
    named,
    outer,
    outer_spooling,
    sentinels,
)
from tests.kit.stores.server import server_binaries

CONNECTIONS = 12
SITES = 2
BEFORE_S = (0.05, 0.4)  # of load, until it happens
KNOWN_S = 1.0  # until every worker knows of a new site
RECOVER_S = 60.0
TOLD = 5  # pages of each kind
PROBLEMS = (Broken, OSError, RedisError, RuntimeError, TimeoutError)

WORLDS: dict[str, Callable[[Options], AbstractAsyncContextManager[World]]] = {
    "embedded": embedded,
    "outer": outer,
    "embedded, small disk": embedded,
    "outer, small disk": outer,
    "outer, spool on a small disk": outer_spooling,
    "cluster": cluster,
    "sentinels": sentinels,
    "behind a name": named,
}


@dataclass
class Round:
    """What one round found."""

    sites: list[SiteHits]
    verdict: Verdict = field(default_factory=Verdict)
    recovered_s: float = RECOVER_S

    @property
    def sent(self) -> int:
        return sum(site.sent for site in self.sites)

    @property
    def acknowledged(self) -> int:
        return sum(site.acknowledged for site in self.sites)


@dataclass
class Row:
    """All rounds of a fault in a world."""

    fault: Fault
    world: str
    rounds: list[Round] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return all(each.verdict.good for each in self.rounds)

    def __str__(self) -> str:
        seconds = [each.recovered_s for each in self.rounds] or [0.0]
        cells = [
            self.fault.name,
            self.world,
            str(len(self.rounds)),
            f"{sum(each.sent for each in self.rounds):,}",
            f"{sum(each.acknowledged for each in self.rounds):,}",
            str(sum(len(each.verdict.lost) for each in self.rounds)),
            str(sum(len(each.verdict.doubled) for each in self.rounds)),
            str(sum(len(each.verdict.kept) for each in self.rounds)),
            f"{median(seconds):.2f} ({max(seconds):.2f})",
        ]
        return f"| {' | '.join(cells)} |"


def sums(rows: Sequence[Row]) -> str:
    """All rows together, in a line."""
    rounds = [each for row in rows for each in row.rounds]
    kills = sum(len(row.rounds) for row in rows if row.fault.kills)
    return (
        f"in all {len(rounds)} rounds, {kills} kills: "
        f"{sum(each.sent for each in rounds):,} hits sent, "
        f"{sum(each.acknowledged for each in rounds):,} acknowledged, "
        f"{sum(len(each.verdict.lost) for each in rounds)} lost, "
        f"{sum(len(each.verdict.doubled) for each in rounds)} doubled, "
        f"{sum(len(each.verdict.kept) for each in rounds)} kept as dead letters"
    )


HEAD = """\
| fault | store | rounds | sent | acknowledged | lost | doubled | dead letters | seconds (worst) |
|---|---|---|---|---|---|---|---|---|"""


async def run_round(world: World, fault: Fault, rng: Random, room: Room) -> Round:
    """One fault under load, and the verdict on every hit."""
    found = Round(await asyncio.to_thread(make_sites, world, rng, fault.visit_s))
    load = Load(world.service.port, found.sites, rng, CONNECTIONS)
    try:
        async with load:
            await load.until_counting(time.monotonic(), RECOVER_S)
            await asyncio.sleep(rng.uniform(*BEFORE_S))
            since = await fault.act(Case(world, load, rng, room))
            found.recovered_s = await load.until_counting(since, RECOVER_S)
            await asyncio.sleep(BEFORE_S[0])
        await asyncio.to_thread(world.wait_until_settled, RECOVER_S)
    except PROBLEMS as problem:
        found.verdict.wrong.append(f"{type(problem).__name__}: {problem}")
    try:
        async with world.redis() as store:
            letters = letters_of(world, fault)
            found.verdict.add(await judge(store, found.sites, letters))
    except PROBLEMS as problem:
        found.verdict.wrong.append(f"the store cannot be read: {problem}")
    found.verdict.wrong += load.unexpected
    return found


def letters_of(world: World, fault: Fault) -> DeadLetters:
    """Those dead letters that the fault may leave behind."""
    return letters_in(world.producers) if fault.poisons else frozenset()


def make_sites(world: World, rng: Random, visit_s: int = 1800) -> list[SiteHits]:
    names = [f"s{rng.getrandbits(40):010x}" for _ in range(SITES)]
    for name in names:
        times = {"visit_timeout": visit_s, "online_window": min(visit_s, 300)}
        world.service.call("", {"id": name, "origins": [ORIGIN], **times, **EACH_PAGE})
    if world.service.workers:
        time.sleep(KNOWN_S)
    return [SiteHits(name, visit_s) for name in names]


async def run_world(name: str, rows: Sequence[Row], options: argparse.Namespace) -> None:
    """All rounds of a world, in turn; at the end every hit of all of them is judged again."""
    small_disk = name.endswith("small disk")
    if small_disk and os.geteuid():
        print(f"left out, since only root can mount a small disk: {name}", flush=True)
        return
    room = QUICK if options.quick else LONG
    made_of = Options(options.store, options.loop, options.workers, small_disk)
    async with WORLDS[name](made_of) as world:
        for row, number in turns(rows, options):
            rng = Random(f"{options.seed}/{row.fault.name}/{name}/{number}")
            row.rounds.append(await run_round(world, row.fault, rng, room))
            tell(row)
            if row.rounds[-1].recovered_s == RECOVER_S:
                raise Broken(f"{row.fault.name}: not recovered\n{world.service.log[-3000:]}")
        async with world.redis() as store:
            for row in rows:
                for each in row.rounds:
                    letters = letters_of(world, row.fault)
                    each.verdict.again(await judge(store, each.sites, letters))


def turns(rows: Sequence[Row], options: argparse.Namespace) -> Iterator[tuple[Row, int]]:
    """Each fault once, then each a second time, until each has had its rounds."""
    wanted = [rounds_of(row.fault, options) for row in rows]
    for number in range(max(wanted)):
        yield from ((row, number) for row, n in zip(rows, wanted, strict=True) if number < n)


def rounds_of(fault: Fault, options: argparse.Namespace) -> int:
    """The kills are shared out among the faults that kill."""
    rounds: int = options.rounds
    kills: int = options.kills
    killing = sum(
        len(each.worlds)
        for each in options.faults
        if each.kills and options.workers >= each.workers
    )
    return max(1, -(-kills // killing)) if fault.kills else rounds


def tell(row: Row) -> None:
    """A line about the round that has just ended, and more if something is wrong."""
    last = row.rounds[-1]
    print(
        f"{time.strftime('%H:%M:%S')} {row.fault.name} ({row.world}): {last.acknowledged} of "
        f"{last.sent} acknowledged, back after {last.recovered_s:.2f} s",
        flush=True,
    )
    verdict = last.verdict
    for what, found in (
        ("LOST", verdict.lost),
        ("DOUBLED", verdict.doubled),
        ("DEAD LETTER", verdict.kept),
        ("", verdict.wrong),
    ):
        for each in found[:TOLD]:
            print(f"    {what} {each}", flush=True)


async def run(options: argparse.Namespace, rows: list[Row]) -> None:
    """Fills `rows`, one for each fault in each of its worlds."""
    task = asyncio.current_task()
    assert task, "this is a coroutine"
    # SIGTERM ends it as Ctrl-C does, and with it all that it has started.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with asyncio.timeout(60 * options.minutes):
        for name in WORLDS:
            here = [
                Row(fault, name)
                for fault in options.faults
                if name in fault.worlds
                and options.store in fault.stores
                and options.workers >= fault.workers
            ]
            rows += here
            if here:
                await run_world(name, here, options)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./dev chaos", description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    parser.add_argument("--kills", type=int, default=16, help="kills in all")
    parser.add_argument("--rounds", type=int, default=2, help="rounds of each other fault")
    parser.add_argument("--faults", type=faults_named, default=[*FAULTS.values()], metavar="A,B")
    parser.add_argument(
        "--store",
        choices=["valkey", "redis"],
        default="valkey",
        help="the outer, or those of the cluster",
    )
    parser.add_argument("--loop", choices=["uvloop", "asyncio"], default="uvloop")
    parser.add_argument("--workers", type=int, default=1, help="of the service")
    parser.add_argument("--quick", action="store_true", help="pauses below 1 s, not up to 30 s")
    parser.add_argument("--minutes", type=float, default=60, help="give up after")
    return parser.parse_args()


def faults_named(text: str) -> list[Fault]:
    try:
        return [FAULTS[name] for name in text.split(",")]
    except KeyError as unknown:
        raise argparse.ArgumentTypeError(f"no {unknown}; there are {', '.join(FAULTS)}") from None


def main() -> int:
    options = arguments()
    if options.store not in server_binaries():
        raise SystemExit("needs redis-server: apt-get install redis-server")
    print(
        f"seed {options.seed}, outer store {options.store}, {options.loop}, "
        f"workers {options.workers}",
        flush=True,
    )
    rows: list[Row] = []
    try:
        asyncio.run(run(options, rows))
        finished = True
    except (*PROBLEMS, asyncio.CancelledError, KeyboardInterrupt) as problem:
        print(f"not finished: {type(problem).__name__}: {problem}")
        finished = False
    print(HEAD, *rows, "", sums(rows), sep="\n")
    return 0 if finished and all(row.good for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())

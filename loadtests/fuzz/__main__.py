"""Sends the service what it was not made for, and asks whether it bore it.

    ./dev fuzz                               # a minute
    ./dev fuzz --seconds 600 --seed 3
    ./dev fuzz --seed 3 --case raw:1234      # one case again, with what was sent and answered

Three kinds in turn: bytes that are nearly HTTP (`raw`), every route and parameter of pages
(`public`), every route and field of the API (`admin`). It fails where an answer is 5xx, missing or
says nothing, where the log has a traceback or too many lines, where the service keeps growing, and
where an honest hit beside all that was not counted once. All of it is on loopback.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from loadtests.fuzz.exchange import exchange
from loadtests.fuzz.judge import (
    size_of,
    wrong_with,
    wrong_with_log,
    wrong_with_metrics,
    wrong_with_size,
)
from loadtests.fuzz.requests import CHANGED, KINDS, OPEN, PRIVATE, Case, case_of
from tests.kit.services.process import ServiceProcess, serving

AT_ONCE = 12
ANSWER_S = 20.0  # a body that never comes is waited for, up to 6 s on an idle machine
WARM = 0.3  # of the time, in which caches may fill
HONEST_S = 0.05  # between two honest hits
TOLD = 10
CALM = "calm"
"""The site of honest hits, which no case names."""


@dataclass
class Fuzzed:
    """What was sent, and what was wrong."""

    cases: dict[str, int] = field(default_factory=dict)
    honest: int = 0
    wrong: list[str] = field(default_factory=list)


@contextmanager
def fuzzed_service(workers: int) -> Iterator[ServiceProcess]:
    """A service with the sites that cases name."""
    with serving(WORKERS=str(workers), OPS_LISTEN="127.0.0.1:0") as service:
        service.site(OPEN)
        service.site(PRIVATE, public=False)
        service.site(CALM, trusted_networks=["127.0.0.0/8"])
        for site in CHANGED:
            service.site(site, max_pages=50)
        yield service


async def fuzz(service: ServiceProcess, seconds: float, seed: int) -> Fuzzed:
    """All kinds, each for its part of the time."""
    found, ended = Fuzzed(), asyncio.Event()
    honest = asyncio.create_task(_send_honest(service, found, ended))
    for kind in KINDS:
        await _fuzz_kind(service, kind, seconds / len(KINDS), seed, found)
    ended.set()
    await honest
    found.wrong += wrong_with_metrics(service)
    counted = service.counts(CALM)["total"]["pageviews"]
    if counted != found.honest or not found.honest:
        found.wrong.append(f"of {found.honest} honest hits {counted} were counted")
    return found


async def _fuzz_kind(
    service: ServiceProcess, kind: str, seconds: float, seed: int, found: Fuzzed
) -> None:
    said, numbers = len(service.errors), itertools.count()
    began_s = time.monotonic()
    await _send_all(service, kind, seconds * WARM, seed, numbers, found)
    warm = size_of(service)
    await _send_all(service, kind, seconds * (1 - WARM), seed, numbers, found)
    found.cases[kind] = next(numbers)
    found.wrong += wrong_with_size(warm, size_of(service))
    # What an admin does is told, however much it is.
    minutes = float("inf") if kind == "admin" else (time.monotonic() - began_s) / 60
    found.wrong += wrong_with_log(service.errors[said:], minutes)


async def _send_all(
    service: ServiceProcess,
    kind: str,
    seconds: float,
    seed: int,
    numbers: Iterator[int],
    found: Fuzzed,
) -> None:
    """Case after case over a few connections, until the time is over."""
    until_s = time.monotonic() + seconds

    async def send() -> None:
        while time.monotonic() < until_s and len(found.wrong) < TOLD:
            case = case_of(kind, seed, next(numbers))
            wrong = wrong_with(case, await exchange(address_of(service, case), case, ANSWER_S))
            if wrong:
                found.wrong.append(f"{case.kind}:{case.number} {wrong}: {case.sent[:200]!r}")

    await asyncio.gather(*(send() for _ in range(AT_ONCE)))


async def _send_honest(service: ServiceProcess, found: Fuzzed, ended: asyncio.Event) -> None:
    while not ended.is_set():
        answer = await asyncio.to_thread(service.hit, CALM)
        assert answer["counted"], answer
        found.honest += 1
        await asyncio.sleep(HONEST_S)


def address_of(service: ServiceProcess, case: Case) -> tuple[str, int]:
    parts = urlsplit(service.ops_url if case.ops else service.url)
    return str(parts.hostname), int(parts.port or 0)


async def repeat(service: ServiceProcess, case: Case) -> list[str]:
    """One case again; prints what was sent and answered."""
    print(case.sent)
    reply = await exchange(address_of(service, case), case, ANSWER_S)
    print(reply)
    wrong = wrong_with(case, reply)
    return [*([wrong] if wrong else []), *wrong_with_log(service.errors, 1)]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="./dev fuzz", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--case", metavar="KIND:NUMBER", help="send one case again")
    options = parser.parse_args(arguments)
    with fuzzed_service(options.workers) as service:
        if options.case:
            kind, _, number = options.case.partition(":")
            wrong = asyncio.run(repeat(service, case_of(kind, options.seed, int(number))))
        else:
            found = asyncio.run(fuzz(service, options.seconds, options.seed))
            print(f"sent {found.cases}, and {found.honest} honest hits")
            wrong = found.wrong
    for each in wrong:
        print(each)
    print("nothing wrong" if not wrong else f"{len(wrong)} findings with seed {options.seed}")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())

"""The rows of the table: a budget or a plain figure each, worked out for every round.

A budget that compares rates is judged by the worse of two ratios, of what was done in a second and
of what was done in a CPU-second: the one flatters a server whose rival was held back by its
generator, the other a server that waits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from loadtests.bench.measures import PARTS, SIZES, Found

RATE = "{:,.0f}/s"
TIMES = "{:.2f} ×"
MS = "{:.1f} ms"
US = "{:.0f} µs"
SECONDS = "{:.2f} s"
BYTES = "{:,.0f} B"
KB = "{:.1f} KB"
NUMBER = "{:,.0f}"

Value = Callable[[Found], float]


@dataclass(frozen=True, kw_only=True)
class Row:
    """What it is, how it follows from the figures of a round, and what it has to be."""

    name: str
    value: Value
    cpu: Value | None = None
    """The same by CPU-seconds of the process under test."""
    shape: str = RATE
    must: float | None = None
    goal: float | None = None
    less: bool = False
    """Less is better."""

    def cells(self, rounds: Sequence[Found]) -> list[str] | None:
        """None if no round has found what it needs."""
        values = of_rounds(self.value, rounds)
        if not values:
            return None
        by_cpu = of_rounds(self.cpu, rounds) if self.cpu else []
        return [
            self.name,
            self.shape.format(median(values)),
            self._span(values),
            f"{len(values)}",
            self.shape.format(median(by_cpu)) if by_cpu else "",
            self._bound(self.must),
            self._bound(self.goal),
            self._reached(values, by_cpu),
        ]

    def _span(self, values: Sequence[float]) -> str:
        if len(values) == 1:
            return ""
        return f"{self.shape.format(min(values))} – {self.shape.format(max(values))}"

    def _bound(self, bound: float | None) -> str:
        return "" if bound is None else f"{'≤' if self.less else '≥'} {self.shape.format(bound)}"

    def _reached(self, values: Sequence[float], by_cpu: Sequence[float]) -> str:
        medians = [median(each) for each in (values, by_cpu) if each]
        worst = max(medians) if self.less else min(medians)
        for bound, said in ((self.goal, "goal"), (self.must, "must")):
            if bound is not None and (worst <= bound if self.less else worst >= bound):
                return said
        return "" if self.must is None else "missed"


def of_rounds(value: Value, rounds: Sequence[Found]) -> list[float]:
    """The value in those rounds that have found what it needs."""
    values = []
    for found in rounds:
        try:
            values.append(value(found))
        except KeyError:
            continue
    return values


def figure(
    name: str,
    key: str,
    shape: str,
    must: float | None = None,
    goal: float | None = None,
    *,
    less: bool = False,
) -> Row:
    value: Value = lambda found: found[key]  # noqa: E731 # mypy takes it for a method else
    return Row(name=name, value=value, shape=shape, must=must, goal=goal, less=less)


def rate(name: str, key: str) -> Row:
    return Row(name=name, value=lambda found: found[key], cpu=lambda found: found[f"{key} cpu"])


def ratio(name: str, key: str, to: str, must: float, goal: float | None = None) -> Row:
    return Row(
        name=name,
        value=lambda found: found[key] / found[to],
        cpu=lambda found: found[f"{key} cpu"] / found[f"{to} cpu"],
        shape=TIMES,
        must=must,
        goal=goal,
    )


def times(part: int) -> list[Row]:
    """Of hits that arrive at a part of the peak."""
    bounds = {"p99": (10, 5)} if part == 50 else {}
    return [
        *(
            figure(
                f"time to acknowledge at {part} % of peak, {name}",
                f"{name} at {part}",
                MS,
                *bounds.get(name, ()),
                less=True,
            )
            for name in ("p50", "p99", "p999")
        ),
        figure(f"of which until sent, p99, at {part} %", f"late at {part}", MS),
    ]


def batch_rates(size: int) -> list[Row]:
    bounds = (180_000, 250_000) if size >= 100 else ()
    return [
        figure(
            f"Valkey: hits per CPU-second in batches of {size:,}, {kind} visitors",
            f"batch {size} {kind} hits",
            RATE,
            *bounds,
        )
        for kind in ("new", "known")
    ]


ROWS = [
    rate("nginx `return 204`, 64 connections", "nginx 64"),
    rate("nginx `return 204`, 256 connections", "nginx 256"),
    rate("bare aiohttp 204, 64 connections", "bare aiohttp 64"),
    rate("bare aiohttp 204, 256 connections", "bare aiohttp 256"),
    rate("**committed hits, 64 connections**", "lane 64"),
    rate("**committed hits, 256 connections**", "lane 256"),
    ratio("hits against nginx, 64 connections", "lane 64", "nginx 64", 0.25, 0.4),
    ratio("hits against nginx, 256 connections", "lane 256", "nginx 256", 0.35, 0.5),
    ratio("hits against bare aiohttp, 64 connections", "lane 64", "bare aiohttp 64", 1.8, 2.5),
    ratio("hits against bare aiohttp, 256 connections", "lane 256", "bare aiohttp 256", 1.8, 2.5),
    figure("hits per CPU-second of Valkey meanwhile", "lane 256 store cpu", RATE),
    rate("`GET /w/{site}`, 256 connections", "looks"),
    ratio("`GET` against hits, 256 connections", "looks", "lane 256", 1.2, 2.0),
    rate("hits without the lane (aiohttp), 64 connections", "without lane"),
    rate("requests behind nginx, 95 % of them hits, 64 connections", "behind nginx"),
    rate("hits on 100 sites, 256 connections", "sites 100"),
    rate("hits on 10,000 sites, 256 connections", "sites 10000"),
    rate("hits of 2 workers, 256 connections", "workers 2"),
    rate("hits beside 10,000 live viewers, 256 connections", "beside viewers"),
    ratio("these against hits without viewers", "beside viewers", "without viewers", 0.5),
    figure("a tick that tells 10,000 viewers meanwhile", "tick ms", MS, 200, 100, less=True),
    figure("memory of a viewer", "viewer kb", KB, 15, less=True),
    *(row for part in PARTS for row in times(part)),
    figure("a small write and its sync, on this disk", "sync", MS),
    figure("this machine stands still by itself, of a second of work", "lost", MS),
    figure("the longest of these times", "longest", MS),
    figure("Valkey: one-hit batch, new visitor", "batch 1 new us", US, 80, 50, less=True),
    figure("Valkey: one-hit batch, known visitor", "batch 1 known us", US, 45, 30, less=True),
    figure("these alone in a round trip, and synced: new visitor", "alone new us", US),
    figure("these alone in a round trip, and synced: known visitor", "alone known us", US),
    *(row for size in SIZES[1:] for row in batch_rates(size)),
    figure("Valkey: an id in a set", "valkey id", BYTES, 100, less=True),
    figure("Redis 7.0: an id in a set", "redis id", BYTES, 120, less=True),
    figure("Valkey: a quiet site, without sketches", "quiet site", BYTES, 3072, less=True),
    figure("Valkey: sketches of a quiet site with 3 visitors", "sketches", BYTES),
    figure("Valkey: numbers of a site's year", "year", BYTES, 20_480, less=True),
    figure("Valkey: drops of a site's year, each reason every day", "drops", BYTES),
    figure("start to ready, embedded", "first start", SECONDS, 1.5, 0.7, less=True),
    figure("start to ready, with data", "restart", SECONDS, 1.5, 0.7, less=True),
    figure("kill -9 to ready, embedded", "killed", SECONDS, 0.7, less=True),
    figure("CPU of a start against bare imports", "start cpu", TIMES, 1.8, 1.2, less=True),
    figure(
        "hits lost to a restart at 300/s, address kept (socket activation)",
        "restart kept refused",
        NUMBER,
        0,
        less=True,
    ),
    figure("the longest that nobody is answered meanwhile", "restart kept gap", SECONDS),
    figure("hits lost to it without", "restart alone refused", NUMBER),
    figure("the longest that nobody is answered meanwhile", "restart alone gap", SECONDS),
    figure("embed.count.js, gzip", "counting", BYTES, 1228, 921, less=True),
    figure("embed.js with one language, gzip", "embed.js", BYTES, 5120, 4096, less=True),
]

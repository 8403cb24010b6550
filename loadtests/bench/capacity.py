"""What a number of hits per second takes, from what one hit costs: put in your own numbers.

    .venv/bin/python -m loadtests.bench.capacity --hits-per-s 1000000 --worker-hits 15000 …

GROWTH.md explains the formula. Pure arithmetic: it measures nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, fields
from math import ceil

from visit_counter.model.site_settings import PARTITIONS

MAX_BATCH = 1000
IN_FLIGHT = 2  # flushes of a worker to a shard
SEEN_S = 1800 + 3600 + 60  # visit_timeout, an hour, and a minute until it is trimmed
ONLINE_S = 300 + 60
DENSE_SKETCH = 12_304 + 100  # bytes of a HyperLogLog of many visitors, and its key
SKETCHES = 9 + 3 + 2 + 1 + 1  # days, weeks, months, year, total: 8 days behind their period


@dataclass(frozen=True, kw_only=True)
class Load:
    """What comes, and how much of a core may be used for it."""

    hits_per_s: float = 1_000_000
    sites: int = 10_000
    """Among which the hits are spread evenly."""
    hits_per_visitor: float = 4
    years: float = 5
    used: float = 0.6
    """Part of each core: what is left keeps times short, and carries the load of a neighbour."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What was measured."""

    worker_us: float
    """CPU of a worker for a hit, without its part of the batch."""
    worker_batch_us: float
    """CPU of a worker for a batch, whatever its size."""
    one_hit_us: float
    """CPU of Valkey for a batch of one hit, of a new visitor."""
    hit_us: float
    """CPU of Valkey for a hit in a large batch."""
    commit_ms: float
    """From sending a flush to its answer."""
    id_bytes: float
    """Memory of a visitor in a set."""
    year_bytes: float
    """Memory of the numbers of a site's year."""
    request_bytes: float
    answer_bytes: float
    store_bytes: float
    """Between worker and Valkey, both ways, for a hit without its part of the batch."""
    store_batch_bytes: float
    file_bytes: float
    """The same of the append-only file."""
    file_batch_bytes: float


@dataclass(frozen=True)
class Need:
    """What it takes."""

    workers: int
    batch: float
    """Hits in a batch."""
    shards: int
    """At most `PARTITIONS` can be used."""
    memory_bytes: float
    """Of all shards together, without replicas."""
    network_bytes_s: float
    """At the workers, to and from browsers and Valkey."""
    file_bytes_s: float
    """Written by all shards together."""


def need(load: Load, costs: Costs, *, routed: bool) -> Need:
    """`routed`: each worker gets the hits of its own part of the sites, as behind a proxy that
    chooses by the URL; else any worker gets any site's."""
    workers, batch = workers_and_batch(load, costs, routed)
    store_us = costs.hit_us + (costs.one_hit_us - costs.hit_us) / batch
    visitors_per_s = load.hits_per_s / load.hits_per_visitor
    ids = visitors_per_s * (SEEN_S + ONLINE_S)
    site_bytes = SKETCHES * DENSE_SKETCH + load.years * costs.year_bytes
    to_store = costs.store_bytes + costs.store_batch_bytes / batch
    per_hit = costs.request_bytes + costs.answer_bytes + to_store
    return Need(
        workers=workers,
        batch=batch,
        shards=ceil(load.hits_per_s * store_us / 1e6 / load.used),
        memory_bytes=ids * costs.id_bytes + load.sites * site_bytes,
        network_bytes_s=load.hits_per_s * per_hit,
        file_bytes_s=load.hits_per_s * (costs.file_bytes + costs.file_batch_bytes / batch),
    )


def workers_and_batch(load: Load, costs: Costs, routed: bool) -> tuple[int, float]:
    """More workers send smaller batches, which cost them more: from large batches on, until it is
    enough."""
    workers, batch = 0, float(MAX_BATCH)
    while True:
        us = costs.worker_us + costs.worker_batch_us / batch
        enough = ceil(load.hits_per_s * us / 1e6 / load.used)
        if enough <= workers:
            return workers, batch
        workers, batch = enough, hits_in_a_batch(load, costs, enough, routed)


def hits_in_a_batch(load: Load, costs: Costs, workers: int, routed: bool) -> float:
    """What gathers for a partition at a worker from one flush to the next."""
    partitions = min(load.sites, PARTITIONS)
    at_a_worker = max(1.0, partitions / workers) if routed else partitions
    between_s = costs.commit_ms / 1000 / IN_FLIGHT
    hits = load.hits_per_s / workers / at_a_worker * between_s
    return min(max(hits, 1.0), MAX_BATCH)


def table(load: Load, costs: Costs) -> str:
    """Both ways to spread the hits, in Markdown."""
    both = [need(load, costs, routed=routed) for routed in (False, True)]
    rows: dict[str, Callable[[Need], str]] = {
        "workers (a core each)": lambda found: f"{found.workers:,}",
        "hits in a batch": lambda found: f"{found.batch:,.1f}",
        "shards (a core each)": _shards,
        "memory of all shards": lambda found: _gb(found.memory_bytes),
        "network at the workers": lambda found: f"{_gb(found.network_bytes_s)}/s",
        "append-only files": lambda found: f"{_gb(found.file_bytes_s)}/s",
    }
    lines = [f"| {name} | {' | '.join(map(shown, both))} |" for name, shown in rows.items()]
    head = f"| {load.hits_per_s:,.0f} hits/s take | any worker has any site | each has its sites |"
    return "\n".join([head, "|---|---|---|", *lines])


def command(costs: Costs) -> str:
    """How to compute with these costs, to be changed at will."""
    options = [f"{_option(each.name)} {getattr(costs, each.name):.6g}" for each in fields(Costs)]
    lines = [" ".join(options[n : n + 4]) for n in range(0, len(options), 4)]
    text = " \\\n  ".join([".venv/bin/python -m loadtests.bench.capacity --hits-per-s 1e6", *lines])
    return f"```sh\n{text}\n```"


def _shards(found: Need) -> str:
    return f"{found.shards:,}" + (f" (only {PARTITIONS} can be)" * (found.shards > PARTITIONS))


def _gb(number: float) -> str:
    return f"{number / 1e9:,.1f} GB"


def main() -> None:
    parser = argparse.ArgumentParser(description="What a number of hits per second takes.")
    for each in fields(Load):
        _ = parser.add_argument(_option(each.name), type=float, default=each.default)
    for each in fields(Costs):
        _ = parser.add_argument(_option(each.name), type=float, required=True)
    given = vars(parser.parse_args())
    load, costs = ({f.name: given[f.name] for f in fields(kind)} for kind in (Load, Costs))
    print(table(Load(**load), Costs(**costs)))


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


if __name__ == "__main__":
    main()

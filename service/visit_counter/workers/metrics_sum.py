"""The series of several processes as those of one: what /metrics of workers shows.

Each worker tells its own figures once a second and when it ends; here they are added up. Counters
and histograms of a worker that has ended stay in the sums, so none ever goes backwards; its gauges
go with it. No I/O: the figures come in and go out.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from typing import NamedTuple

from prometheus_client import REGISTRY, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector


class Figure(NamedTuple):
    """A sample: its name, labels and value."""

    name: str
    labels: dict[str, str]
    value: float


class Family(NamedTuple):
    """A series of a process with all its samples."""

    name: str
    doc: str
    kind: str
    figures: list[Figure]


# Gauges that are no sum of those of all workers: what one finds wrong is wrong, and each knows all.
GAUGES: dict[str, Callable[[Iterable[float]], float]] = {
    "visitcounter_store_up": min,
    "visitcounter_store_check": min,
    "visitcounter_clock_skew_seconds": lambda all_of: max(all_of, key=abs),
    "visitcounter_sites": max,
    "visitcounter_unreadable_sites": max,
    "visitcounter_migration_partitions": max,
    "visitcounter_workers": max,
    "visitcounter_build_info": max,
    "python_info": max,
    "process_start_time_seconds": min,
}


PARENTS = {"visitcounter_log_lines_lost"}
"""Series of the parent, which counts no hits, that go into the sums."""


def figures(only: Container[str] | None = None) -> list[Family]:
    """Those of this process."""
    return [
        Family(
            metric.name,
            metric.documentation,
            metric.type,
            [Figure(sample.name, sample.labels, sample.value) for sample in metric.samples],
        )
        for metric in REGISTRY.collect()
        if only is None or metric.name in only
    ]


class Tally(Collector):
    """What the workers have told, by a number that no two of them ever have."""

    def __init__(self) -> None:
        self._told: dict[int, list[Family]] = {}
        self._ended: list[Family] = []

    def put(self, worker: int, told: list[Family]) -> None:
        self._told[worker] = told

    def end(self, worker: int) -> None:
        """It has ended: only what it has counted remains."""
        counted = [each for each in self._told.pop(worker, []) if each.kind != "gauge"]
        self._ended = list(_sums([self._ended, counted]))

    def text(self) -> str:
        """All together, as Prometheus reads it."""
        return generate_latest(self).decode()

    def collect(self) -> Iterator[Metric]:
        for name, doc, kind, summed in _sums([self._ended, *self._told.values(), figures(PARENTS)]):
            metric = Metric(name, doc, kind)
            for figure in summed:
                metric.add_sample(*figure)
            yield metric


def _sums(several: Iterable[list[Family]]) -> Iterator[Family]:
    """One of each name, with one figure for all that have its name and labels."""
    of: dict[str, list[Family]] = {}
    for families in several:
        for family in families:
            of.setdefault(family.name, []).append(family)
    for name, same in of.items():
        values: dict[tuple[str, tuple[tuple[str, str], ...]], list[float]] = {}
        for figure in (figure for family in same for figure in family.figures):
            values.setdefault((figure.name, (*figure.labels.items(),)), []).append(figure.value)
        add = GAUGES.get(name, sum)
        summed = [Figure(key, dict(labels), add(them)) for (key, labels), them in values.items()]
        yield Family(name, same[0].doc, same[0].kind, summed)

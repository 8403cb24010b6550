"""The tally: what several processes have counted, as one."""

from __future__ import annotations

import re
import subprocess

from hypothesis import given
from hypothesis import strategies as st

from tests.kit.tools import need
from visit_counter import metrics
from visit_counter.workers.metrics_sum import Family, Figure, Tally, figures


def counter(value: float) -> Family:
    return Family("hits", "Hits.", "counter", [Figure("hits_total", {"outcome": "held"}, value)])


def gauge(name: str, value: float) -> Family:
    return Family(name, "It.", "gauge", [Figure(name, {}, value)])


def value(tally: Tally, series: str) -> float | None:
    found = re.search(rf"^{re.escape(series)} (\S+)$", tally.text(), re.MULTILINE)
    return float(found[1]) if found else None


def test_sites_that_each_worker_knows_are_not_added_up() -> None:
    """Neither those that can be read nor the others."""
    names, tally = ("visitcounter_sites", "visitcounter_unreadable_sites"), Tally()
    for worker in range(4):
        tally.put(worker, [gauge(name, 3) for name in names])
    assert [value(tally, name) for name in names] == [3, 3]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9), st.booleans()), max_size=20))
def test_a_counter_never_goes_backwards(steps: list[tuple[int, int, bool]]) -> None:
    """Workers count, end, and come again from 0: the sum has all of it at every step."""
    tally, counts, total = Tally(), dict[int, int](), 0
    for worker, more, ends in steps:
        counts[worker] = counts.get(worker, 0) + more
        total += more
        tally.put(worker, [counter(counts[worker])])
        if ends:
            tally.end(worker)
            del counts[worker]
        assert value(tally, 'hits_total{outcome="held"}') == total


def test_gauges_are_added_up_or_the_worst_and_go_with_their_worker() -> None:
    """What waits adds up; the store is up if all find it so; the largest skew counts."""
    tally = Tally()
    skew, up, pending = (
        f"visitcounter_{name}" for name in ("clock_skew_seconds", "store_up", "pending_hits")
    )
    tally.put(1, [gauge(skew, 1), gauge(up, 1), gauge(pending, 2)])
    tally.put(2, [gauge(skew, -3), gauge(up, 0), gauge(pending, 5)])
    both = [value(tally, series) for series in (skew, up, pending)]
    tally.end(2)
    one = [value(tally, series) for series in (skew, up, pending)]
    tally.end(1)

    assert (both, one) == ([-3, 0, 7], [1, 1, 2])
    assert value(tally, pending) is None


def test_histograms_are_added_up_bucket_by_bucket() -> None:
    """Twice the same: each bucket, count and sum is twice as much."""
    metrics.BATCH_HITS.note(3)
    own, tally = figures(), Tally()
    for worker in (1, 2):
        tally.put(worker, own)
    (one,) = (family for family in own if family.name == "visitcounter_batch_hits")
    (both,) = (metric for metric in tally.collect() if metric.name == one.name)

    assert [(s.name, s.labels, s.value) for s in both.samples] == [
        (figure.name, figure.labels, 2 * figure.value) for figure in one.figures
    ]


def test_promtool_accepts_what_it_says() -> None:
    """All series of a process, told by two."""
    tally = Tally()
    for worker in (1, 2):
        tally.put(worker, figures())
    command = [str(need("promtool")), "check", "metrics"]
    check = subprocess.run(command, input=tally.text(), capture_output=True, text=True)

    assert (check.returncode, check.stdout, check.stderr) == (0, "", "")

"""The series of this process: our histogram shows what prometheus-client's own would."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from visit_counter import metrics
from visit_counter.metrics import NotedHistogram

BOUNDS = (0.0005, 0.25, 1, 2.5, 1000)
AMOUNTS = st.one_of(st.floats(0, 2000), st.sampled_from(BOUNDS))


def noted(registry: CollectorRegistry, labels: tuple[str, ...] = ()) -> NotedHistogram:
    """One of its own registry, with the name and text of `peer`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "REGISTRY", registry)
        return NotedHistogram("took", "How long.", labels, buckets=BOUNDS)


def peer(registry: CollectorRegistry, labels: tuple[str, ...] = ()) -> Histogram:
    return Histogram("took", "How long.", labels, buckets=BOUNDS, registry=registry)


@given(st.lists(st.lists(AMOUNTS, max_size=3), max_size=30), st.integers(1, 40))
def test_a_noted_histogram_shows_what_a_histogram_does(
    several: list[list[float]], most_noted: int
) -> None:
    """Amounts on a bound, beyond the last one, none: the same text for a scrape, at any time."""
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    series, histogram = noted(ours).labels(), peer(theirs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "MOST_NOTED", most_noted)
        for amounts in several:
            series.note_all(amounts)
        for amount in (amount for amounts in several for amount in amounts):
            histogram.observe(amount)
        found, expected = sums(ours), sums(theirs)
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected)


def sums(registry: CollectorRegistry) -> dict[str, float]:
    return {
        sample.name + str(sample.labels): sample.value
        for family in registry.collect()
        for sample in family.samples
    }


def test_each_set_of_labels_is_a_series() -> None:
    """Byte for byte as prometheus-client writes it, in the order in which they came."""
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    labels = ("route", "status")
    of, histogram = noted(ours, labels), peer(theirs, labels)
    empty = generate_latest(ours), generate_latest(theirs)
    for values, amount in ((("/b", "2xx"), 0.5), (("/a", "5xx"), 2.0), (("/b", "2xx"), 4.0)):
        of.labels(*values).note(amount)
        histogram.labels(*values).observe(amount)

    assert empty[0] == empty[1]
    assert generate_latest(ours) == generate_latest(theirs)


def test_wrong_labels_are_refused() -> None:
    """Too few and too many."""
    of = noted(CollectorRegistry(), ("route",))
    with pytest.raises(ValueError, match="labels"):
        of.labels()
    with pytest.raises(ValueError, match="labels"):
        of.labels("/a", "2xx")

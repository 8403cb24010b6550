"""The lists of metrics and periods, and the types that have a field for each of them."""

from __future__ import annotations

from visit_counter.model.calendar import Periods
from visit_counter.model.counts import Counts, Numbers
from visit_counter.model.kinds import METRIC_LETTERS, METRICS, PERIODS
from visit_counter.model.seeds import SEEDED


def test_a_period_has_the_numbers_of_all_metrics() -> None:
    """In the order in which they are packed."""
    assert Numbers.__struct_fields__ == METRICS == (*METRIC_LETTERS,)


def test_counts_have_the_numbers_of_all_periods() -> None:
    """In the order in which they are packed, between who is online and the instants."""
    assert Counts.__struct_fields__[: len(PERIODS) + 2] == ("online", *PERIODS, "since")


def test_the_calendar_labels_all_periods() -> None:
    """All but the total, which has no label."""
    assert (*Periods._fields, "total") == PERIODS


def test_only_running_periods_are_seeded() -> None:
    """What has passed is not."""
    assert {*PERIODS} - {*SEEDED} == {"yesterday", "last_week", "last_month"}

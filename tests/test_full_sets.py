"""Sites whose set of visitors is full: how that is told, and when it is over."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from visit_counter.web.hits.full_sets import FullSets


def test_it_is_over_when_a_new_visitor_fits_in() -> None:
    sets = FullSets()
    sets.held("portal")
    told = sets.problems
    sets.fits("portal")

    assert "portal is full since 20" in told[0]
    assert (sets.problems, sets.any) == ([], False)


def test_it_is_over_when_nobody_was_held_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """As at night, or when an owner has made room: no new visitor may come for long."""
    sets = FullSets()
    with capture_logs() as lines:
        sets.held("portal")
        monkeypatch.setattr("visit_counter.web.hits.full_sets.QUIET_S", -1.0)
        told = sets.problems

    assert (told, sets.any) == ([], False)
    assert [line["event"] for line in lines] == [
        "the set of visitors is full, new ones are held",
        "the set of visitors has room again",
    ]

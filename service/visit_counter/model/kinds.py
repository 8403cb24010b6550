"""The kinds of hits, the metrics and the periods, by their names."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, get_args


class Kind(StrEnum):
    """What a page reports: it was looked at, is still looked at, was left."""

    VIEW = "view"
    HERE = "here"
    BYE = "bye"


Metric = Literal["pageviews", "visits", "visitors"]

METRICS: tuple[Metric, ...] = get_args(Metric)
"""In the order in which store/lua/ packs them, see `Numbers`."""

METRIC_LETTERS: dict[Metric, str] = {"pageviews": "p", "visits": "v", "visitors": "u"}
"""As store/lua/ calls them."""

PERIODS = ("today", "yesterday", "week", "last_week", "month", "last_month", "year", "total")
"""In the order in which store/lua/ packs them, see `Counts`; `Periods` labels all but total."""

"""The kinds of hits and the metrics, by their names."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal


class Kind(StrEnum):
    """What a page reports: it was looked at, is still looked at, was left."""

    VIEW = "view"
    HERE = "here"
    BYE = "bye"


Metric = Literal["visits", "pageviews", "visitors"]


METRICS: tuple[Metric, ...] = ("pageviews", "visits", "visitors")

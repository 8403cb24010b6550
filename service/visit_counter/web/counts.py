"""A site's counts as JSON, for all who are told them.

Integers only; instants are seconds since the epoch. What the numbers mean (zone, week, windows,
identity) goes along, so that no reader has to guess.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson
from msgspec.structs import asdict

from visit_counter.model.calendar import WEEKDAYS
from visit_counter.model.counts import Counts
from visit_counter.model.kinds import PERIODS
from visit_counter.model.site import Site
from visit_counter.reading.reader import Reading
from visit_counter.web.responses import weak_tag


class Shown(NamedTuple):
    """A site's counts as JSON, and their tag."""

    etag: str
    body: bytes


def show(site: Site, reading: Reading, path: str | None = None) -> Shown:
    page = (path, reading.counts.pages[0]) if path is not None else None
    body = counts_json(site, reading.counts, reading.as_of, page)
    etag = weak_tag(orjson.dumps(body))
    return Shown(etag, orjson.dumps({**body, "as_of": reading.as_of // 1000}))


def counts_json(
    site: Site, counts: Counts, now: int, page: tuple[str, int] | None = None
) -> dict[str, Any]:
    """All but the instant itself, so that equal counts have equal tags."""
    settings, calendar = site.settings, site.calendar
    body: dict[str, Any] = {
        "site": site.id,
        "timezone": calendar.timezone_at(now),
        "since": counts.since // 1000,
        "metric": settings.metric,
        "online": counts.online,
        **{period: asdict(getattr(counts, period)) for period in PERIODS},
        "peak": {"online": counts.peak, "at": counts.peak_at // 1000},
        "seeded": seeded_json(counts),
        "approximate": counts.approximate,
        "week_start": WEEKDAYS[calendar.week_start_at(now)],
        "online_window": settings.online_window,
        "visit_timeout": settings.visit_timeout,
        "identity": settings.identity,
    }
    if settings.query_keys:
        body["query_keys"] = settings.query_keys
    if page is not None:
        body["page"] = {"path": page[0], "pageviews": page[1]}
    return body


def seeded_json(counts: Counts) -> dict[str, dict[str, int]]:
    seeded: dict[str, dict[str, int]] = {}
    for seed in counts.seeds:
        seeded.setdefault(seed.period, {})[seed.metric] = seed.amount
    return seeded

"""A site's counts as JSON, and the answers to those who look.

Integers only; instants are seconds since the epoch. What the numbers mean (zone, week, windows,
identity) goes along, so that no reader has to guess.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, NamedTuple

import orjson
from aiohttp import web

from visit_counter.errors import Problem
from visit_counter.model.calendar import WEEKDAYS
from visit_counter.model.counts import Counts, Numbers
from visit_counter.model.paths import clean_path
from visit_counter.model.site import Site
from visit_counter.reading.reader import Reading
from visit_counter.web.auth import is_admin
from visit_counter.web.client import known_site
from visit_counter.web.components import READER

PERIODS = (
    "today", "yesterday", "week", "last_week", "month", "last_month", "year", "total",
)  # fmt: skip


async def get_counts(request: web.Request) -> web.Response:
    """GET /w/{site}: the counts, at most a second old; `?path=/x` adds that page's."""
    site = allowed(request, known_site(request))
    path = asked_path(request)
    shown = show(site, await request.app[READER].read(site, path), path)
    headers = {"ETag": shown.etag, "Cache-Control": shared_with(site)}
    if shown.etag in request.headers.get("If-None-Match", ""):
        return web.Response(status=304, headers=headers)
    return json_answer(shown.body, headers=headers)


def allowed(request: web.Request, site: Site) -> Site:
    """The site; Problem 404 if its numbers are not for whoever asks."""
    if not site.settings.public and not is_admin(request):
        raise Problem(404, "Unknown site", f'There is no public site "{site.id}" here.')
    return site


def shared_with(site: Site) -> str:
    """Who may keep a site's numbers, as Cache-Control says it."""
    return "public, max-age=1" if site.settings.public else "private, no-store"


class Shown(NamedTuple):
    """A site's counts as JSON, and their tag."""

    etag: str
    body: bytes


def show(site: Site, reading: Reading, path: str | None = None) -> Shown:
    page = (path, reading.counts.pages[0]) if path is not None else None
    body = counts_json(site, reading.counts, reading.as_of, page)
    etag = f'W/"{blake2b(orjson.dumps(body), digest_size=9).hexdigest()}"'
    return Shown(etag, orjson.dumps({**body, "as_of": reading.as_of // 1000}))


def asked_path(request: web.Request) -> str | None:
    path = request.query.get("path")
    try:
        return None if path is None else clean_path(path)
    except ValueError as error:
        raise Problem(400, "Malformed path", str(error), "path") from None


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
        **{period: numbers_json(getattr(counts, period)) for period in PERIODS},
        "peak": {"online": counts.peak, "at": counts.peak_at // 1000},
        "seeded": seeded_json(counts),
        "week_start": WEEKDAYS[calendar.week_start_at(now)],
        "online_window": settings.online_window,
        "visit_timeout": settings.visit_timeout,
        "identity": settings.identity,
    }
    if page is not None:
        body["page"] = {"path": page[0], "pageviews": page[1]}
    return body


def numbers_json(numbers: Numbers) -> dict[str, int]:
    return {
        "pageviews": numbers.pageviews,
        "visits": numbers.visits,
        "visitors": numbers.visitors,
    }


def seeded_json(counts: Counts) -> dict[str, dict[str, int]]:
    seeded: dict[str, dict[str, int]] = {}
    for seed in counts.seeds:
        seeded.setdefault(seed.period, {})[seed.metric] = seed.amount
    return seeded


def json_answer(
    body: object, status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    """Of a value, or of bytes that are JSON already."""
    return web.Response(
        body=body if isinstance(body, bytes) else orjson.dumps(body),
        status=status,
        headers=headers,
        content_type="application/json",
    )

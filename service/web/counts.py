"""A site's counts as JSON: for those who look, and in the answer to those who count.

Integers only; instants are seconds since the epoch. What the numbers mean (zone, week, windows,
identity) goes along, so that no reader has to guess.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import orjson
from aiohttp import web

from service.batch import Outcome
from service.errors import Problem
from service.model import Counts, Drop, Hit, Numbers, Site, clean_path
from service.periods import WEEKDAYS
from service.web.appkeys import CLOCK, READER
from service.web.auth import is_admin
from service.web.client import known_site

PERIODS = (
    "today", "yesterday", "week", "last_week", "month", "last_month", "year", "total",
)  # fmt: skip


async def get_counts(request: web.Request) -> web.Response:
    """GET /w/{site}: the counts, at most a second old; `?path=/x` adds that page's."""
    site = known_site(request)
    if not site.settings.public and not is_admin(request):
        raise Problem(404, "Unknown site", f'There is no public site "{site.id}" here.')
    path = asked_path(request)
    reading = await request.app[READER].read(site, path)
    page = (path, reading.counts.pages[0]) if path is not None else None
    body = counts_json(site, reading.counts, reading.as_of, page)
    shared = "public, max-age=1" if site.settings.public else "private, no-store"
    headers = {"ETag": etag_of(body), "Cache-Control": shared}
    if headers["ETag"] in request.headers.get("If-None-Match", ""):
        return web.Response(status=304, headers=headers)
    return json_answer({**body, "as_of": reading.as_of // 1000}, headers=headers)


def asked_path(request: web.Request) -> str | None:
    path = request.query.get("path")
    try:
        return None if path is None else clean_path(path)
    except ValueError as error:
        raise Problem(400, "Malformed path", str(error), "path") from None


def answer_hit(
    request: web.Request, site: Site, entry: Hit | Drop, outcome: Outcome | None
) -> web.Response:
    """The answer to POST /w/{site}: whether it counted, why not, and the counts."""
    body: dict[str, Any] = {"counted": isinstance(entry, Hit)}
    if isinstance(entry, Drop):
        body["reason"] = entry.reason.value
    if outcome is None:
        return answer_spooled(request, site, body)
    if outcome.held:
        body["held"] = True
    now = request.app[CLOCK].now()
    request.app[READER].keep(site, outcome.counts, now)
    if site.settings.public:
        page = None
        if isinstance(entry, Hit) and outcome.page is not None:
            page = (entry.path, outcome.page)
        body |= counts_json(site, outcome.counts, now, page) | {"as_of": now // 1000}
    return json_answer(body, headers={"Cache-Control": "no-store"})


def answer_spooled(request: web.Request, site: Site, body: dict[str, Any]) -> web.Response:
    """The store is away: 202, with the last counts if there are any, and their instant."""
    body["spooled"] = True
    kept = request.app[READER].kept(site)
    if kept and site.settings.public:
        body |= counts_json(site, kept.counts, kept.as_of) | {"as_of": kept.as_of // 1000}
    return json_answer(body, status=202, headers={"Cache-Control": "no-store"})


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


def etag_of(body: dict[str, Any]) -> str:
    return f'W/"{blake2b(orjson.dumps(body), digest_size=9).hexdigest()}"'


def json_answer(
    body: object, status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    return web.Response(
        body=orjson.dumps(body),
        status=status,
        headers=headers,
        content_type="application/json",
    )

"""A site's counts as JSON: for those who look, and in the answer to those who count.

Integers only; instants are seconds since the epoch. What the numbers mean (zone, week, windows,
identity) goes along, so that no reader has to guess.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec
import orjson
from aiohttp import web

from service.batch import Outcome
from service.clock import Clock
from service.errors import Problem
from service.hit import Drop, Hit, Site
from service.model import Counts, Numbers, clean_path
from service.periods import WEEKDAYS
from service.reader import Reader, Reading
from service.web.appkeys import READER
from service.web.auth import is_admin
from service.web.client import known_site

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


MOST_RENDERED = 1000  # answers that are kept, of as many sites


class Answer(msgspec.Struct):
    """Status and JSON of the answer to a hit."""

    status: int
    body: bytes
    http: bytes | None = None
    """As the lane writes it."""


class HitAnswers:
    """Answers to POST /w/{site}: whether it counted, why not, and the counts.

    The hits of a batch are answered with the same counts: the last answer of each site is kept.
    """

    def __init__(self, clock: Clock, reader: Reader) -> None:
        self._clock = clock
        self._reader = reader
        self._last: dict[str, tuple[Site, Counts, Answer]] = {}

    def of(self, entry: Hit | Drop, outcome: Outcome | None) -> Answer:
        """`outcome`: None if the hit is in the spool."""
        site = entry.site
        if isinstance(entry, Hit) and outcome and not outcome.held and outcome.page is None:
            last = self._last.get(site.id)
            if last and last[0] is site and last[1] is outcome.counts:
                return last[2]
            answer = self._counted(site, _begun(site, counted=True), outcome, None)
            if len(self._last) >= MOST_RENDERED:
                self._last.clear()
            self._last[site.id] = (site, outcome.counts, answer)
            return answer
        body = _begun(site, counted=isinstance(entry, Hit))
        if isinstance(entry, Drop):
            body["reason"] = entry.reason.value
        if outcome is None:
            return self._spooled(site, body)
        if outcome.held:
            body["held"] = True
        page = None
        if isinstance(entry, Hit) and outcome.page is not None:
            page = (entry.path, outcome.page)
        return self._counted(site, body, outcome, page)

    def _counted(
        self, site: Site, body: dict[str, Any], outcome: Outcome, page: tuple[str, int] | None
    ) -> Answer:
        now = self._clock.now()
        self._reader.keep(site, outcome.counts, now)
        if site.settings.public:
            body |= counts_json(site, outcome.counts, now, page) | {"as_of": now // 1000}
        return Answer(200, orjson.dumps(body))

    def _spooled(self, site: Site, body: dict[str, Any]) -> Answer:
        """The store is away: with the last counts if there are any, and their instant."""
        body["spooled"] = True
        kept = self._reader.kept(site)
        if kept and site.settings.public:
            body |= counts_json(site, kept.counts, kept.as_of) | {"as_of": kept.as_of // 1000}
        return Answer(202, orjson.dumps(body))


def _begun(site: Site, *, counted: bool) -> dict[str, Any]:
    """What every answer says; by the window a page knows how often to say that it is looked at."""
    return {"counted": counted, "online_window": site.settings.online_window}


HIT_ANSWERS = web.AppKey("hit_answers", HitAnswers)


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

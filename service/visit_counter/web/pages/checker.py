"""Why nothing is counted: what the service can say of a site, and of the address of a page.

It looks at what it knows itself, and never opens the page. Public are only what everybody sees in
the counts, and whether an origin may count, which any page could try. The last hit, today's drops
and sites that are not public are for the admin.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import urlsplit

from aiohttp import web

from visit_counter.errors import Problem, StoreError
from visit_counter.model.calendar import zone
from visit_counter.model.counts import Counts
from visit_counter.model.reasons import Reason
from visit_counter.model.site import Site
from visit_counter.model.site_settings import SITE_ID
from visit_counter.rules.origins import origin_of
from visit_counter.web.auth import is_admin
from visit_counter.web.client import came_by
from visit_counter.web.components import parts_of
from visit_counter.web.pictures.oembed import scheme_of
from visit_counter.web.responses import json_response
from visit_counter.web.words.languages import LANGUAGES, number
from visit_counter.web.words.texts import TEXTS, language_of

LOCAL = re.compile(r"localhost|127\..*")  # as the script has it


class Finding(NamedTuple):
    """One thing that was looked at: a sentence of `texts`, and its values."""

    name: str
    ok: bool
    values: Mapping[str, str | int] = MappingProxyType({})


async def check(request: web.Request) -> web.Response:
    """GET /w/{site}/check: what is well and what is not, as sentences; `?page=` is a page of the
    site, `?lang=` the language."""
    language = language_of(request)
    said = TEXTS[language].check
    name = request.match_info["site"]
    site = parts_of(request).sites.get(name)
    if unreadable := parts_of(request).sites.unreadable.get(name):
        detail = said["unreadable"].format(site=name, reason=unreadable.field)
        raise Problem(503, unreadable.public_problem.title, detail)
    admin, page = is_admin(request), request.query.get("page", "")
    if site is None or not (site.settings.public or admin):
        named = name if SITE_ID.match(name) else "?"
        raise Problem(404, "Unknown site", said["unknown"].format(site=named))
    origin = origin_of(page)
    if page and origin is None:
        raise Problem(400, "Malformed address", said["page"], "page")
    findings = [
        *await of_counts(request, site, admin=admin),
        *(of_page(request, site, origin) if origin else []),
        *([Finding("proxy", False)] if parts_of(request).intake.forwarding.lately_misled else []),
    ]
    said_of = [_spoken(each, language) for each in findings]
    body = {"site": site.id, "admin": admin, "findings": said_of}
    return json_response(body, headers={"Cache-Control": "no-store"})


async def of_counts(request: web.Request, site: Site, *, admin: bool) -> list[Finding]:
    """What was counted, and for the admin what was not."""
    found = [] if site.settings.public else [Finding("hidden", False)]
    try:
        counts = (await parts_of(request).reader.read(site)).counts
        found.append(_counted(counts))
        if admin:
            found += [*_last(request, site, counts), *await _dropped(request, site)]
    except StoreError:
        found.append(Finding("away", False))
    return found


def of_page(request: web.Request, site: Site, origin: str) -> list[Finding]:
    """Whether a page of this origin can count."""
    found, host = [], _host(origin)
    if origin.startswith("https:") and not _is_secure(request):
        found.append(Finding("mixed", False))
    if LOCAL.fullmatch(host) and host != _host(origin_of(f"http://{request.host}")):
        found.append(Finding("localhost", False, {"host": host}))
    peer, _ = came_by(request)
    own_host = parts_of(request).intake.own_host(site, request.host, peer.trusted)
    may_count = site.origins.allow(origin, own_host)
    found.append(Finding("allowed" if may_count else "refused", may_count, {"origin": origin}))
    return found


def _is_secure(request: web.Request) -> bool:
    """Whether it came by https: as the proxy tells, or since a page by https asks no other way."""
    return scheme_of(request) == "https" or request.headers.get("Referer", "").startswith("https:")


def _counted(counts: Counts) -> Finding:
    if today := counts.today.pageviews:
        return Finding("today", True, {"number": today})
    if counts.total.pageviews:
        return Finding("quiet", False, {"number": counts.yesterday.pageviews})
    return Finding("never", False)


def _last(request: web.Request, site: Site, counts: Counts) -> list[Finding]:
    if not counts.last_hit:
        return []
    timezone = site.calendar.timezone_at(parts_of(request).clock.now())
    local = datetime.fromtimestamp(counts.last_hit / 1000, zone(timezone))
    return [Finding("last", True, {"time": f"{local:%Y-%m-%d %H:%M:%S}", "zone": timezone})]


async def _dropped(request: web.Request, site: Site) -> list[Finding]:
    today = site.calendar.periods(parts_of(request).clock.now()).today
    drops = (await parts_of(request).store.drops(site, [today[:7]])).get(today, {})
    found = [Finding(each, False, {"number": drops[each]}) for each in Reason if each in drops]
    return found or [Finding("undropped", True)]


def _host(origin: str | None) -> str:
    return urlsplit(origin or "").hostname or ""


def _spoken(finding: Finding, language: str) -> dict[str, object]:
    form = LANGUAGES[language].format
    values = {
        name: number(value, form) if isinstance(value, int) else value
        for name, value in finding.values.items()
    }
    said = TEXTS[language].check[finding.name].format(**values)
    return {"name": finding.name, "ok": finding.ok, "said": said}

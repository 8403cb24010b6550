"""Why nothing is counted: what the service can say of a site, and of the address of a page.

It looks at what it knows itself, and never opens the page. Public are only what everybody sees in
the counts, and whether an origin may count, which any page could try. The last hit, today's drops
and sites that are not public are for the admin.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from aiohttp import web

from visit_counter.errors import Problem, StoreError
from visit_counter.model.calendar import zone
from visit_counter.model.counts import Counts
from visit_counter.model.reasons import Reason
from visit_counter.model.site import Site
from visit_counter.model.site_settings import SITE_ID
from visit_counter.web.auth import is_admin
from visit_counter.web.client import came_by
from visit_counter.web.components import parts_of
from visit_counter.web.pages.page_address import Finding, PageAddress, State, personal
from visit_counter.web.pictures.oembed import scheme_of
from visit_counter.web.responses import json_response
from visit_counter.web.words.languages import LANGUAGES, number
from visit_counter.web.words.texts import TEXTS, language_of

MOST_PAGES: Final = 500  # whose paths are looked at
# Reasons that need no remedy: what is to be dropped was.
EXPECTED: Final = (Reason.BOT, Reason.PREFETCH, Reason.IGNORED)


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
    address = PageAddress.of(page)
    if page and address is None:
        raise Problem(400, "Malformed address", said["page"], "page")
    is_misled = parts_of(request).intake.forwarding.lately_misled
    findings = [
        *await of_counts(request, site, admin=admin),
        *(of_page(request, site, address) if address else []),
        *([Finding("proxy", "fault")] if is_misled else []),
    ]
    said_of = [_spoken(each, language) for each in findings]
    body = {"site": site.id, "admin": admin, "findings": said_of}
    return json_response(body, headers={"Cache-Control": "no-store"})


async def of_counts(request: web.Request, site: Site, *, admin: bool) -> list[Finding]:
    """What was counted, and for the admin what was not, and which pages."""
    found = [] if site.settings.public else [Finding("hidden", "info", ok=False)]
    try:
        counts = (await parts_of(request).reader.read(site)).counts
        found.append(_counted(counts))
        if admin:
            found += [*_last(request, site, counts), *await _dropped(request, site)]
            found += personal(await parts_of(request).store.top_pages(site, MOST_PAGES))
    except StoreError:
        found.append(Finding("away", "fault"))
    return found


def of_page(request: web.Request, site: Site, address: PageAddress) -> list[Finding]:
    """Whether a page of this address can count."""
    peer, _ = came_by(request)
    host = parts_of(request).intake.own_host(site, request.host, peer.trusted)
    return address.findings(site.origins, host, is_secure=_is_secure(request))


def _is_secure(request: web.Request) -> bool:
    """Whether it came by https: as the proxy tells, or since a page by https asks no other way."""
    return scheme_of(request) == "https" or request.headers.get("Referer", "").startswith("https:")


def _counted(counts: Counts) -> Finding:
    if today := counts.today.pageviews:
        return Finding("today", "ok", {"number": today})
    if counts.total.pageviews:
        return Finding("quiet", "info", {"number": counts.yesterday.pageviews}, ok=False)
    return Finding("never", "fault")


def _last(request: web.Request, site: Site, counts: Counts) -> list[Finding]:
    if not counts.last_hit:
        return []
    timezone = site.calendar.timezone_at(parts_of(request).clock.now())
    local = datetime.fromtimestamp(counts.last_hit / 1000, zone(timezone))
    return [Finding("last", "ok", {"time": f"{local:%Y-%m-%d %H:%M:%S}", "zone": timezone})]


async def _dropped(request: web.Request, site: Site) -> list[Finding]:
    today = site.calendar.periods(parts_of(request).clock.now()).today
    drops = (await parts_of(request).store.drops(site, [today[:7]])).get(today, {})
    found = [_drops(each, drops[each]) for each in Reason if each in drops]
    return found or [Finding("undropped", "ok")]


def _drops(reason: Reason, hits: int) -> Finding:
    state: State = "info" if reason in EXPECTED else "fault"
    return Finding(reason, state, {"number": hits}, ok=False)


def _spoken(finding: Finding, language: str) -> dict[str, object]:
    form = LANGUAGES[language].format
    values = {
        name: number(value, form) if isinstance(value, int) else value
        for name, value in finding.values.items()
    }
    said = TEXTS[language].check[finding.name].format(**values)
    is_ok = finding.state != "fault" if finding.ok is None else finding.ok
    return {"name": finding.name, "ok": is_ok, "state": finding.state, "said": said}

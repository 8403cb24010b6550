"""Intake: a request becomes a hit or a drop, is recorded, and is answered after the commit.

`post_hit` and `dot_gif` read what the page says; `judge` decides, in this order, whether it counts:
malformed, prefetch, origin, bot, rate limit. A drop is counted by its reason and answered like a
hit, so that nobody loses the number because of it. Nothing here knows how counting is done.
"""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from service import metrics
from service.batch import Outcome
from service.bots import is_bot
from service.errors import Problem, StoreError
from service.model import Drop, Hit, Kind, Reason, Site, clean_path
from service.origins import origin_of, wrong_fetch
from service.visitors import visitor_id
from service.web.appkeys import CLOCK, LIMITS, RECORDER, STORE
from service.web.client import Malformed, Sender, known_site, read_body, sender_of
from service.web.counts import answer_hit

GIF = bytes.fromhex(
    "47494638396101000100800000000000ffffff21f90401000000002c00000000010001000002024401003b"
)


class Beacon(Struct, frozen=True):
    """What a page sends; every field may be left out."""

    k: Kind = Kind.VIEW
    p: Annotated[str, Meta(max_length=8192)] | None = None
    v: Annotated[str, Meta(max_length=128)] = ""
    page: bool = False


BEACON = msgspec.json.Decoder(Beacon)


async def post_hit(request: web.Request) -> web.Response:
    """POST /w/{site}: count a hit, answer the counts."""
    site = known_site(request, hit=True)
    try:
        beacon = read_beacon(await read_body(request))
        path = path_of(request, site, beacon.p)
    except Malformed as bad:
        await count(request, Drop(site, Reason.MALFORMED, request.app[CLOCK].now()))
        raise Problem(bad.status, "Malformed hit", str(bad), bad.field) from None
    entry = judge(request, site, beacon, path, destination="empty")
    return answer_hit(request, site, entry, await count(request, entry))


async def dot_gif(request: web.Request) -> web.Response:
    """GET /w/{site}/dot.gif: count a view where no script runs; the picture comes in any case."""
    site = known_site(request, hit=True)
    status = 200
    if request.method != "HEAD":
        try:
            path = path_of(request, site, request.query.get("p"))
            entry = judge(request, site, Beacon(), path, destination="image")
        except Malformed:
            entry = Drop(site, Reason.MALFORMED, request.app[CLOCK].now())
        try:
            await count(request, entry)
        except StoreError:
            status = 503
    headers = {"Cache-Control": "no-store"}
    return web.Response(body=GIF, status=status, content_type="image/gif", headers=headers)


def read_beacon(body: bytes) -> Beacon:
    if not body:
        return Beacon()
    try:
        return BEACON.decode(body)
    except msgspec.ValidationError as error:
        field = re.search(r"\$\.(\w+)", str(error))
        raise Malformed(f"the body is not as expected: {error}", field and field[1]) from None
    except RecursionError:
        raise Malformed("the body is nested too deeply") from None
    except ValueError as error:
        raise Malformed(f"the body is no JSON: {error}") from None


def path_of(request: web.Request, site: Site, named: str | None) -> str:
    """The path a page names, else the Referer's if that is a page of the site, else /."""
    if named is None:
        return referred_path(request, site)
    try:
        return clean_path(named)
    except ValueError as error:
        raise Malformed(f"p: {error}", "p") from None


def referred_path(request: web.Request, site: Site) -> str:
    referer = request.headers.get("Referer", "")
    origin = origin_of(referer)
    if origin is None or not site.origins.allow(origin, request.headers.get("Host", "")):
        return "/"
    try:
        return clean_path(urlsplit(referer).path or "/")
    except ValueError:  # no page has such a URL
        return "/"


def judge(
    request: web.Request, site: Site, beacon: Beacon, path: str, destination: str
) -> Hit | Drop:
    """Whether this request counts, and as what."""
    app, headers = request.app, request.headers
    at = app[CLOCK].now()
    user_agent = headers.get("User-Agent", "")
    if is_prefetch(request):
        return Drop(site, Reason.PREFETCH, at)
    if not comes_from_site(request, site, destination):
        return Drop(site, Reason.ORIGIN, at)
    if is_bot(user_agent):
        return Drop(site, Reason.BOT, at)
    sender = sender_of(request)
    trusted = sender.address in site.trusted
    if not trusted and not app[LIMITS].allow(sender.network, view=beacon.k is Kind.VIEW):
        return Drop(site, Reason.RATE_LIMIT, at)
    visitor = b""
    if not (site.settings.honour_dnt and wants_no_identity(request)):
        visitor = identify(request, site, sender, user_agent, beacon.v)
    return Hit(
        site,
        beacon.k,
        at,
        visitor,
        path,
        known_only=not trusted and not app[LIMITS].may_bring_visitors(sender.network),
        network="" if trusted else sender.network,
        wants_page=beacon.page,
    )


def is_prefetch(request: web.Request) -> bool:
    headers = request.headers
    names = ("Sec-Purpose", "Purpose", "X-Moz")
    return any("prefetch" in headers.get(name, "").lower() for name in names)


def comes_from_site(request: web.Request, site: Site, destination: str) -> bool:
    """Whether Fetch Metadata shows a page's report, and its origin is one of the site's.

    Where there is no Origin header the Referer decides, and where there is none either only a site
    open to all origins counts.
    """
    headers = request.headers
    if wrong_fetch(headers.get("Sec-Fetch-Mode"), headers.get("Sec-Fetch-Dest"), destination):
        return False
    origin = headers.get("Origin") or origin_of(headers.get("Referer", ""))
    if origin is None:
        return site.origins.open
    return site.origins.allow(origin, headers.get("Host", ""))


def wants_no_identity(request: web.Request) -> bool:
    return request.headers.get("DNT") == "1" or request.headers.get("Sec-GPC") == "1"


def identify(
    request: web.Request, site: Site, sender: Sender, user_agent: str, first_party: str
) -> bytes:
    return visitor_id(
        request.app[STORE].secret,
        site.id,
        sender.network,
        user_agent,
        request.headers.get("Accept-Language", ""),
        first_party if site.settings.identity == "browser" else "",
    )


async def count(request: web.Request, entry: Hit | Drop) -> Outcome | None:
    """Record an entry and wait for its commit, None if only the spool has it yet; raises StoreError
    if neither was confirmed."""
    if isinstance(entry, Drop):
        metrics.DROPS.labels(entry.reason.value).inc()
    outcome = await request.app[RECORDER].record(entry)
    if outcome and outcome.new and isinstance(entry, Hit) and entry.network:
        request.app[LIMITS].charge_visitor(entry.network)
    return outcome

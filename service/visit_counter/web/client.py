"""What a request says of itself: whom it comes from, which site and page it means, and its body."""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web

from visit_counter import metrics
from visit_counter.adapters.aiohttp_log import is_closed
from visit_counter.errors import Problem
from visit_counter.model.site import Site
from visit_counter.model.site_settings import SITE_ID
from visit_counter.rules.addresses import Address, Peer
from visit_counter.web.components import parts_of
from visit_counter.web.hits.beacon import Malformed
from visit_counter.web.hits.intake import PURPOSES, Head, fetched_ahead, named_page

MAX_BODY: Final = 16 * 1024
BODY_S = 5.0


def known_site(request: web.Request, *, hit: bool = False) -> Site:
    """The site of the URL; Problem 404 or 503 names it. A hit is counted in the metrics, but under
    no name: strangers could invent any number of them."""
    try:
        return site_named(request, request.match_info["site"])
    except Problem as problem:
        if hit and problem.status == 503:
            metrics.HITS.labels("refused").inc()
        elif hit:
            metrics.DROPS.labels("unknown_site").inc()
        raise


def site_named(request: web.Request, name: str) -> Site:
    """The site of an id; Problem 404 if there is none, 503 if the store's cannot be read."""
    sites = parts_of(request).sites
    if site := sites.get(name):
        return site
    if unreadable := sites.unreadable.get(name):
        raise unreadable.public_problem
    detail = f"There is no site {shown(name)} here: make it, or correct the name in the page."
    raise Problem(404, "Unknown site", detail)


def shown(name: str) -> str:
    """A name that a stranger wrote: as it is if it can be a site's, else not at all."""
    return f'"{name}"' if SITE_ID.match(name) else "of that name"


def asked_path(request: web.Request, site: Site) -> str | None:
    """The page of `?path=`, which is resolved against the one that asks."""
    path, head = request.query.get("path"), head_of(request)
    peer, _ = came_by(request)
    host = parts_of(request).intake.own_host(site, head.host, peer.trusted)
    try:
        return None if path is None else named_page(site, head, host, path)
    except ValueError as error:
        raise Problem(400, "Malformed path", str(error), "path") from None


def client_of(request: web.Request) -> Address:
    """Where a request comes from, behind the proxies that we trust."""
    return parts_of(request).intake.client(*came_by(request))


def came_by(request: web.Request) -> tuple[Peer, str]:
    """Who holds the other end, and for whom it says that it speaks."""
    forwarded = ",".join(request.headers.getall("X-Forwarded-For", []))
    return parts_of(request).intake.peer(request.remote or ""), forwarded


def head_of(request: web.Request) -> Head:
    headers = request.headers
    get = headers.get
    return Head(
        get("Host", ""),
        get("Origin", ""),
        get("Referer", ""),
        get("User-Agent", ""),
        get("Accept-Language", ""),
        get("Sec-Fetch-Mode", ""),
        get("Sec-Fetch-Dest", ""),
        fetched_ahead(*(get(name, "") for name in PURPOSES)),
        get("DNT") == "1" or get("Sec-GPC") == "1",
    )


async def read_body(request: web.Request) -> bytes:
    """The body, read within bounds of size and time; raises Malformed."""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Malformed("send the body as it is, without a Content-Encoding", status=415)
    if (request.content_length or 0) > MAX_BODY:
        raise Malformed(f"the body has more than {MAX_BODY} bytes", status=413)
    try:
        async with asyncio.timeout(BODY_S):
            return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise Malformed(f"the body has more than {MAX_BODY} bytes", status=413) from None
    except TimeoutError:
        raise Malformed(f"the body did not arrive within {BODY_S:.0f} s", status=408) from None
    except (OSError, web.RequestPayloadError, web.PayloadAccessError) as error:
        # aiohttp keeps the error in the body's reader, which the error's frames know: a cycle with
        # all that came of the body.
        error.__traceback__ = None
        raise Malformed(f"the body broke off: {error}") from None
    except RuntimeError as error:
        if not is_closed(error):
            raise
        raise Malformed("the body broke off: its connection ended") from None

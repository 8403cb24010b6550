"""Answers with pictures: at most a second old, with a tag, and nothing counted.

While the store is away they show the last numbers, with their instant where there is room for it.
Where there are none the picture has dashes, a sentence, and status 503, which no proxy keeps.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from hashlib import sha256
from types import MappingProxyType
from typing import TypeAlias

import orjson
from aiohttp import web

from visit_counter.reading.reader import COUNTS, Asked
from visit_counter.web.client import known_site
from visit_counter.web.pictures import frame as frames
from visit_counter.web.pictures.drawn import badge as badges
from visit_counter.web.pictures.drawn import block as blocks
from visit_counter.web.pictures.drawn import button as buttons
from visit_counter.web.pictures.drawn import digits as digit_sets
from visit_counter.web.pictures.drawn import notice as notices
from visit_counter.web.pictures.drawn import spark as sparks
from visit_counter.web.pictures.drawn.markup import Markup
from visit_counter.web.pictures.drawn.panel import Panel
from visit_counter.web.pictures.oembed import discovery
from visit_counter.web.pictures.query import Query
from visit_counter.web.pictures.reading import panel_of
from visit_counter.web.responses import client_has, shared_with, weak_tag
from visit_counter.web.words import privacy as privacies
from visit_counter.web.words.languages import DEFAULT

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.Response]]
Draw: TypeAlias = Callable[[Panel, Query], Markup]


def drawing(draw: Draw, asked: Asked = COUNTS) -> Handler:
    """A handler that answers with a picture."""

    async def serve(request: web.Request) -> web.Response:
        query = Query(request.query)
        panel = await panel_of(request, known_site(request), query, asked)
        return picture_response(request, panel, draw(panel, query), "image/svg+xml")

    return serve


block = drawing(blocks.draw)
badge = drawing(badges.draw)
digits = drawing(digit_sets.draw)
button = drawing(buttons.draw)
spark = drawing(sparks.draw, Asked(days=True))


async def shields(request: web.Request) -> web.Response:
    """GET /w/{site}/shields.json: the badge as an endpoint of shields.io."""
    query = Query(request.query)
    panel = await panel_of(request, known_site(request), query)
    body = orjson.dumps(badges.shields(panel, query)).decode()
    return picture_response(request, panel, body, "application/json")


async def how(request: web.Request) -> web.Response:
    """GET /w/{site}/how.json: how the numbers come about, as sentences."""
    panel = await panel_of(request, known_site(request), Query(request.query))
    body = orjson.dumps({"how": frames.how(panel)}).decode()
    return picture_response(request, panel, body, "application/json")


async def frame(request: web.Request) -> web.Response:
    """GET /w/{site}/frame: the block as a page that the site's own pages may frame."""
    query = Query(request.query)
    panel = await panel_of(request, known_site(request), query)
    asked = frames.Frame(panel, query)
    page = frames.draw(asked, panel, dict(request.query), discovery(request))
    framing = frames.ancestors(panel.site.origins)
    return picture_response(request, panel, page, "text/html", framing, frames.headers(asked))


async def privacy(request: web.Request) -> web.Response:
    """GET /w/{site}/privacy: what its visitors are told, whether its numbers are public or not."""
    site = known_site(request)
    language = Query(request.query).one_of("lang", privacies.LANGUAGES, DEFAULT)
    page = notices.draw(privacies.notice(site.settings, language), language)
    headers = {
        "Cache-Control": "public, max-age=60",
        # Whoever frames it: nothing in it can be clicked, and a list would tell the site's origins.
        "Content-Security-Policy": policy(page, ""),
    }
    return web.Response(text=page, content_type="text/html", headers=headers)


def picture_response(
    request: web.Request,
    panel: Panel,
    body: str,
    content_type: str,
    ancestors: str = "",
    more: Mapping[str, str] = MappingProxyType({}),
) -> web.Response:
    etag = weak_tag(body.encode())
    headers = {
        "ETag": etag,
        "Cache-Control": shared_with(panel.site),
        "Content-Security-Policy": policy(body, ancestors),
        **more,
    }
    if panel.reading is None:
        headers |= {"Cache-Control": "no-store", "Retry-After": "5"}
        return web.Response(text=body, status=503, content_type=content_type, headers=headers)
    if client_has(request, etag):
        return web.Response(status=304, headers=headers)
    return web.Response(text=body, content_type=content_type, headers=headers)


def policy(body: str, ancestors: str) -> str:
    """Nothing but the one style sheet that we wrote into it."""
    rules = ["default-src 'none'", "base-uri 'none'", "form-action 'none'"]
    _, found, rest = body.partition("<style>")
    if found:
        digest = sha256(rest.partition("</style>")[0].encode()).digest()
        rules.append(f"style-src 'sha256-{b64encode(digest).decode()}'")
    if ancestors:
        rules.append(f"frame-ancestors {ancestors}")
    return "; ".join(rules)

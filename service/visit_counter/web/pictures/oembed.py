"""oEmbed (oembed.com): whoever pastes the address of a frame gets the HTML that shows it.

The frame's page links here, so that editors such as WordPress's find it. The address must be one of
ours: of the host that was asked, so that nobody gets HTML from us that shows others' pages.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit

from aiohttp import web

from visit_counter.errors import Problem
from visit_counter.web.client import site_named
from visit_counter.web.components import parts_of
from visit_counter.web.pictures.drawn.markup import element, text
from visit_counter.web.pictures.frame import Frame
from visit_counter.web.pictures.query import Query, malformed
from visit_counter.web.pictures.reading import panel_of
from visit_counter.web.responses import json_response, shared_with

LEAST, MOST = 100, 4000  # pixels that a consumer may allow
FRAME = re.compile(r"(/[^?#]*)?/w/(?P<site>[^/]+)/frame")


class Framed(NamedTuple):
    """A frame's address, taken apart."""

    url: str
    site: str
    given: dict[str, str]


async def oembed(request: web.Request) -> web.Response:
    """GET /oembed?url=…: how to embed the frame at an address of ours."""
    if request.query.get("format", "json") != "json":
        raise Problem(501, "Unknown format", "There is oEmbed as JSON only.", "format")
    query = Query(request.query)
    wide, high = (
        query.whole("maxwidth", LEAST, MOST, MOST),
        query.whole("maxheight", LEAST, MOST, MOST),
    )
    framed = framed_at(request.query.get("url", ""), request.host)
    asked = Query(framed.given)
    panel = await panel_of(request, site_named(request, framed.site), asked)
    frame = Frame(panel, asked)
    size = {"width": min(wide, frame.width), "height": min(high, frame.height)}
    title = frame.title or panel.words.title
    shown = element("iframe", text(""), src=framed.url, title=title, frameborder=0, **size)
    body = {
        "version": "1.0",
        "type": "rich",
        "provider_name": "Visit Counter",
        "title": title,
        "html": shown,
        "cache_age": 3600,
        **size,
    }
    return json_response(body, headers={"Cache-Control": shared_with(panel.site)})


def framed_at(url: str, host: str) -> Framed:
    """Problem 400 for an address that is no frame of this host's."""
    try:
        parts = urlsplit(url)
        found = FRAME.fullmatch(parts.path)
    except ValueError:
        found = None
    if not found or parts.scheme not in ("http", "https") or parts.netloc.lower() != host.lower():
        raise malformed(
            "url", f"use the address of a frame here, such as https://{host}/w/demo/frame"
        )
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    return Framed(f"{parts.scheme}://{host}{parts.path}{query_of(given)}", found["site"], given)


def discovery(request: web.Request) -> str:
    """Where oEmbed tells of the frame that is asked for."""
    host = f"{scheme_of(request)}://{request.host}"
    url = f"{host}{request.path}{query_of(dict(request.query))}"
    return f"{host}{parts_of(request).settings.base_path}/oembed{query_of({'url': url})}"


def scheme_of(request: web.Request) -> str:
    """With which visitors came, as a proxy tells that we trust."""
    told = request.headers.get("X-Forwarded-Proto", "")
    trusted = parts_of(request).intake.peer(request.remote or "").trusted
    return told if trusted and told in ("http", "https") else request.scheme


def query_of(given: dict[str, str]) -> str:
    return f"?{urlencode(given)}" if given else ""

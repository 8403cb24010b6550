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
from visit_counter.rules.origins import is_host
from visit_counter.web.client import site_named
from visit_counter.web.components import parts_of
from visit_counter.web.pictures.drawn.markup import element, text
from visit_counter.web.pictures.frame import Frame
from visit_counter.web.pictures.query import Query, malformed
from visit_counter.web.pictures.reading import panel_of
from visit_counter.web.responses import json_response, shared_with

LEAST, MOST = 100, 4000  # pixels that a consumer may allow
FRAME = re.compile(r"/w/(?P<site>[^/]+)/frame")


class Framed(NamedTuple):
    """A frame's address, taken apart."""

    url: str
    site: str
    given: dict[str, str]


async def oembed(request: web.Request) -> web.Response:
    """GET /oembed?url=…: how to embed the frame at an address of ours.

    A format that is not there is the caller's mistake, not ours; oEmbed has 501 for it, which
    would tell operators that the service fails.
    """
    if request.query.get("format", "json") != "json":
        raise malformed("format", "there is json only")
    query = Query(request.query)
    wide, high = (
        query.whole("maxwidth", LEAST, MOST, MOST),
        query.whole("maxheight", LEAST, MOST, MOST),
    )
    base = parts_of(request).settings.base_path
    framed = framed_at(request.query.get("url", ""), host_of(request), base)
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


def framed_at(url: str, host: str, base: str) -> Framed:
    """Problem 400 for an address that is no frame of this host's, below this base path."""
    try:
        parts = urlsplit(url)
        found = FRAME.fullmatch(parts.path.removeprefix(base))
    except ValueError:
        found = None
    if (
        not found
        or not parts.path.startswith(f"{base}/w/")
        or parts.scheme not in ("http", "https")
        or parts.netloc.lower() != host.lower()
    ):
        raise malformed(
            "url", f"use the address of a frame here, such as https://{host}{base}/w/demo/frame"
        )
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    return Framed(f"{parts.scheme}://{host}{parts.path}{query_of(given)}", found["site"], given)


def discovery(request: web.Request) -> str:
    """Where oEmbed tells of the frame that is asked for."""
    host = f"{scheme_of(request)}://{host_of(request)}"
    url = f"{host}{request.path}{query_of(dict(request.query))}"
    return f"{host}{parts_of(request).settings.base_path}/oembed{query_of({'url': url})}"


def host_of(request: web.Request) -> str:
    """The host that was asked, which we write into answers; Problem 400 if it is none."""
    if not is_host(request.host):
        raise Problem(400, "Malformed host", "The Host header is no host name and port.", "Host")
    return request.host


def scheme_of(request: web.Request) -> str:
    """With which visitors came, as a proxy tells that we trust."""
    told = request.headers.get("X-Forwarded-Proto", "")
    trusted = parts_of(request).intake.peer(request.remote or "").trusted
    return told if trusted and told in ("http", "https") else request.scheme


def query_of(given: dict[str, str]) -> str:
    return f"?{urlencode(given)}" if given else ""

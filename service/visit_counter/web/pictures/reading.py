"""What a request's picture is to show: the site's last numbers, and how the URL wants them said."""

from __future__ import annotations

from contextlib import suppress

from aiohttp import web

from visit_counter.errors import StoreError
from visit_counter.model.site import Site
from visit_counter.reading.reader import COUNTS, Asked, Reading
from visit_counter.web.auth import require_visible
from visit_counter.web.components import parts_of
from visit_counter.web.pictures.drawn.panel import Panel
from visit_counter.web.pictures.query import Query


async def panel_of(request: web.Request, site: Site, query: Query, asked: Asked = COUNTS) -> Panel:
    """Problem 400 for parameters that are none, 404 for a site that is not public."""
    require_visible(site, request)
    parts = parts_of(request)
    reading: Reading | None = None
    with suppress(StoreError):  # the picture tells
        reading = await parts.reader.read(site, asked)
    return Panel.of(site, reading, query, parts.clock.now())

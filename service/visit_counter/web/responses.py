"""What handlers answer with: JSON, and who may keep it."""

from __future__ import annotations

import orjson
from aiohttp import web

from visit_counter.model.site import Site

SHARED = "public, max-age=1"


def shared_with(site: Site) -> str:
    """Who may keep a site's numbers, as Cache-Control says it."""
    return SHARED if site.settings.public else "private, no-store"


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

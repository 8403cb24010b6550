"""What handlers answer with: JSON, who may keep it, and whether the client has it already."""

from __future__ import annotations

from hashlib import blake2b

import orjson
from aiohttp import web

from visit_counter.model.site import Site

SERVER = "visit-counter"
"""Who answers; no versions, which tell strangers what to try."""
SHARED = "public, max-age=1"


def shared_with(site: Site) -> str:
    """Who may keep a site's numbers, as Cache-Control says it."""
    return SHARED if site.settings.public else "private, no-store"


def json_response(
    body: object, status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    """Of a value, or of bytes that are JSON already."""
    return web.Response(
        body=body if isinstance(body, bytes) else orjson.dumps(body),
        status=status,
        headers=headers,
        content_type="application/json",
    )


def weak_tag(content: bytes) -> str:
    """The ETag of all that says the same as this content, packed or not."""
    return f'W/"{blake2b(content, digest_size=9).hexdigest()}"'


def client_has(request: web.Request, tag: str) -> bool:
    """Whether to answer 304 to this GET or HEAD."""
    return matches(",".join(request.headers.getall("If-None-Match", [])), tag)


def matches(if_none_match: str, tag: str) -> bool:
    """Whether If-None-Match names this weak tag (RFC 9110, 13.1.2; weak comparison, 8.8.3.2).

    Another tag may have commas and is cut then, but no piece of it has both its quotes.
    """
    if if_none_match == "*":
        return True
    opaque = tag.removeprefix("W/")
    return any(each.strip(" \t").removeprefix("W/") == opaque for each in if_none_match.split(","))

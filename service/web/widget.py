"""What a page embeds, and the demo page: files that stay the same while the service runs.

`embed.js` is where a hit begins: a page loads it and it sends the hit to `collect`. Each file is
read and packed once, at import, and served as it was written. Nothing here touches the store,
looks at who asks, or writes anything into a file.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import TypeAlias

from aiohttp import hdrs, web

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.Response]]

# A page asks for the script at most once an hour, and never waits for a new one.
SCRIPT_CACHE = "public, max-age=3600, stale-while-revalidate=86400"

# Also the proof that the embed works in a page that trusts nothing but the counter's origin.
STRICT_CSP = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "connect-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)


def _serving(name: str, content_type: str, cache: str, **extra: str) -> Handler:
    """A handler for one file of `assets/`."""
    plain = files("service.web").joinpath("assets", name).read_bytes()
    packed = gzip.compress(plain, mtime=0)
    tag = hashlib.sha256(plain).hexdigest()[:16]
    headers = {
        # Weak: the packed and the plain file share it.
        hdrs.ETAG: f'W/"{tag}"',
        hdrs.CACHE_CONTROL: cache,
        hdrs.VARY: hdrs.ACCEPT_ENCODING,
        "Cross-Origin-Resource-Policy": "cross-origin",
        "X-Content-Type-Options": "nosniff",
        **extra,
    }

    async def serve(request: web.Request) -> web.Response:
        if any(known.value in (tag, "*") for known in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        full = {**headers, hdrs.CONTENT_TYPE: content_type}
        if "gzip" in request.headers.get(hdrs.ACCEPT_ENCODING, ""):
            return web.Response(body=packed, headers={**full, hdrs.CONTENT_ENCODING: "gzip"})
        return web.Response(body=plain, headers=full)

    return serve


async def home(request: web.Request) -> web.Response:
    """GET /: the demo page, by a relative way that holds behind any base path."""
    raise web.HTTPFound("demo")


embed_js = _serving("embed.js", "text/javascript; charset=utf-8", SCRIPT_CACHE)

demo = _serving(
    "demo.html",
    "text/html; charset=utf-8",
    "no-cache",
    **{"Content-Security-Policy": STRICT_CSP, "Referrer-Policy": "same-origin"},
)
demo_css = _serving("demo.css", "text/css; charset=utf-8", "no-cache")
demo_js = _serving("demo.js", "text/javascript; charset=utf-8", "no-cache")
demo_icon = _serving("demo.svg", "image/svg+xml; charset=utf-8", "no-cache")

"""What a page embeds, and what our own pages need: files that stay the same while the service runs.

`embed.js` is where a hit begins: a page loads it and it sends the hit to `web/hits/`. A script is
also to be had by its version, for good, so that a page may pin it; what another version was is not
known here any more. Nothing here touches the store, looks at who asks, or writes anything into a
file.
"""

from __future__ import annotations

import gzip
from collections.abc import Awaitable, Callable
from functools import lru_cache
from importlib.resources import files
from typing import NamedTuple, TypeAlias

from aiohttp import hdrs, web

from visit_counter.errors import Problem
from visit_counter.web.pages import scripts
from visit_counter.web.pages.scripts import Script
from visit_counter.web.responses import client_has, weak_tag
from visit_counter.web.words.languages import language

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.Response]]

# A page asks for the script at most once an hour, and never waits for a new one.
SCRIPT_CACHE = "public, max-age=3600, stale-while-revalidate=86400"
PINNED_CACHE = "public, max-age=31536000, immutable"

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


class Packed(NamedTuple):
    """A file as it is sent."""

    plain: bytes
    gzipped: bytes
    tag: str
    """The same for both, and therefore weak."""

    @classmethod
    def of(cls, plain: bytes) -> Packed:
        return cls(plain, gzip.compress(plain, mtime=0), weak_tag(plain))


def file_response(
    request: web.Request, file: Packed, kind: str, headers: dict[str, str]
) -> web.Response:
    """With a file, unless the browser has it."""
    sent = {
        hdrs.ETAG: file.tag,
        hdrs.VARY: hdrs.ACCEPT_ENCODING,
        "Cross-Origin-Resource-Policy": "cross-origin",
        "X-Content-Type-Options": "nosniff",
        **headers,
    }
    if client_has(request, file.tag):
        return web.Response(status=304, headers=sent)
    sent[hdrs.CONTENT_TYPE] = f"{kind}; charset=utf-8"
    if "gzip" in request.headers.get(hdrs.ACCEPT_ENCODING, ""):
        return web.Response(body=file.gzipped, headers={**sent, hdrs.CONTENT_ENCODING: "gzip"})
    return web.Response(body=file.plain, headers=sent)


def _serving(name: str, kind: str, **headers: str) -> Handler:
    """A handler for one file of `assets/`."""
    file = Packed.of(files("visit_counter.web").joinpath("assets", name).read_bytes())

    async def serve(request: web.Request) -> web.Response:
        return file_response(request, file, kind, {hdrs.CACHE_CONTROL: "no-cache", **headers})

    return serve


# -- scripts


@lru_cache(maxsize=256)
def _packed(script: Script) -> Packed:
    return Packed.of(script.text.encode())


def _script(request: web.Request, script: Script, cache: str) -> web.Response:
    # Pages learn by which HTTP it came: over HTTP/2 a stream of counts costs no connection.
    headers = {hdrs.CACHE_CONTROL: cache, "Timing-Allow-Origin": "*"}
    return file_response(request, _packed(script), "text/javascript", headers)


def _languages(request: web.Request) -> tuple[str, ...]:
    """Those that the URL asks for; others than ours are left out."""
    asked = dict.fromkeys(map(language, request.query.get("lang", "").split(",")))
    return tuple(known for known in asked if known)[: scripts.MOST_LANGUAGES] or scripts.SPOKEN


async def embed_js(request: web.Request) -> web.Response:
    """GET /embed.js: counts, and shows in the languages of `?lang=`."""
    return _script(request, scripts.embedding(_languages(request)), SCRIPT_CACHE)


async def count_js(request: web.Request) -> web.Response:
    """GET /embed.count.js: only counts."""
    return _script(request, scripts.counting(), SCRIPT_CACHE)


async def pinned_js(request: web.Request) -> web.Response:
    """GET /embed.<version>.js and /embed.count.<version>.js: a script that never changes."""
    counts = request.path.rpartition("/")[2].startswith("embed.count.")
    script = scripts.counting() if counts else scripts.embedding(_languages(request))
    if script.version != request.match_info["version"]:
        raise Problem(
            404,
            "Unknown version",
            "This service has another version of the script: `visit-counter snippet` prints its "
            "address and integrity.",
        )
    return _script(request, script, PINNED_CACHE)


# -- pages of our own


async def home(request: web.Request) -> web.Response:
    """GET /: the demo page, by a relative way that holds behind any base path."""
    return web.Response(status=302, headers={hdrs.LOCATION: "demo"})


demo = _serving(
    "demo.html",
    "text/html",
    **{"Content-Security-Policy": STRICT_CSP, "Referrer-Policy": "same-origin"},
)
demo_css = _serving("demo.css", "text/css")
demo_js = _serving("demo.js", "text/javascript")
demo_icon = _serving("demo.svg", "image/svg+xml")
generator_css = _serving("generator.css", "text/css")
generator_js = _serving("generator.js", "text/javascript")
generator_codes_js = _serving("generator.codes.js", "text/javascript")
generator_preview_js = _serving("generator.preview.js", "text/javascript")
generator_check_js = _serving("generator.check.js", "text/javascript")

"""What a request says of itself: which site it means, and its body within bounds."""

from __future__ import annotations

import asyncio
import time
from typing import Final

import structlog
from aiohttp import web

from visit_counter import metrics
from visit_counter.errors import Problem
from visit_counter.model.site import Site
from visit_counter.model.site_settings import SITE_ID
from visit_counter.web.components import SITES

MAX_BODY: Final = 16 * 1024
BODY_S = 5.0
HINT_S = 3600.0

log = structlog.get_logger()

HINT = (
    "X-Forwarded-For comes from a peer that is no trusted proxy and is ignored, so all its "
    "visitors are one. If that peer is your proxy, name it in VISIT_COUNTER_TRUSTED_PROXIES"
)


class Malformed(ValueError):
    """A body or hit that cannot be read: what is wrong, and in which field."""

    def __init__(self, message: str, field: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.field = field
        self.status = status


class Forwarding:
    """Remembers when a stranger's X-Forwarded-For was last ignored: logged once, hinted at for an
    hour."""

    def __init__(self) -> None:
        self._ignored_s: float | None = None

    @property
    def lately_ignored(self) -> bool:
        return self._ignored_s is not None and time.monotonic() - self._ignored_s < HINT_S

    def ignore(self) -> None:
        metrics.FORWARDED_IGNORED.inc()
        if self._ignored_s is None:
            log.warning(HINT)
        self._ignored_s = time.monotonic()


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
    sites = request.app[SITES]
    if site := sites.get(name):
        return site
    if unreadable := sites.unreadable.get(name):
        raise unreadable.public_problem
    shown = f'"{name}"' if SITE_ID.match(name) else "of that name"
    detail = f"There is no site {shown} here: make it, or mend the name in the page."
    raise Problem(404, "Unknown site", detail)


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
    except (ConnectionError, web.RequestPayloadError) as error:
        raise Malformed(f"the body broke off: {error}") from None

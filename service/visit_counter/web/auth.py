"""Who may use the admin API: whoever sends the admin token as a bearer.

The token has at least 32 characters, so guessing is hopeless and needs no throttle, which would
only lock out an admin who shares an address with the guesser. Wrong tokens are counted and logged.
"""

from __future__ import annotations

import hmac
import time

import structlog
from aiohttp import web

from visit_counter import metrics
from visit_counter.errors import Problem
from visit_counter.web.components import ADMIN_TOKEN

QUIET_S = 60.0

log = structlog.get_logger()


class WrongTokens:
    """Counts wrong tokens and tells of them at most once a minute."""

    def __init__(self) -> None:
        self._told_s = float("-inf")

    def note(self) -> None:
        metrics.WRONG_TOKENS.inc()
        if time.monotonic() - self._told_s >= QUIET_S:
            self._told_s = time.monotonic()
            log.warning("a wrong admin token was sent; visitcounter_wrong_tokens_total counts them")


WRONG = web.AppKey("wrong_tokens", WrongTokens)


def is_admin(request: web.Request) -> bool:
    authorization = request.headers.get("Authorization")
    if authorization is None:
        return False
    scheme, _, token = authorization.partition(" ")
    expected = request.app[ADMIN_TOKEN].encode()
    given = token.strip().encode("utf-8", "surrogatepass")
    if scheme.lower() == "bearer" and hmac.compare_digest(given, expected):
        return True
    request.app[WRONG].note()
    return False


def require_admin(request: web.Request) -> None:
    """Raises Problem 401."""
    if not is_admin(request):
        detail = "Send the admin token as `Authorization: Bearer …`; it is in the data directory."
        raise Problem(401, "Admin token needed", detail)

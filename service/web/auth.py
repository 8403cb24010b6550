"""Who may use the admin API: whoever sends the admin token as a bearer."""

from __future__ import annotations

import hmac
import time

from aiohttp import web

from service.errors import Problem
from service.limits import Buckets
from service.web.appkeys import ADMIN_TOKEN
from service.web.client import sender_of


class Attempts:
    """Wrong tokens by network: ten at once, then one in six seconds."""

    def __init__(self) -> None:
        self._wrong = Buckets(rate_per_s=1 / 6, burst=10)

    def take(self, network: str) -> bool:
        return self._wrong.take(network, time.monotonic())


ATTEMPTS = web.AppKey("attempts", Attempts)


def is_admin(request: web.Request) -> bool:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    expected = request.app[ADMIN_TOKEN].encode()
    given = token.strip().encode("utf-8", "surrogatepass")
    return scheme.lower() == "bearer" and hmac.compare_digest(given, expected)


def require_admin(request: web.Request) -> None:
    """Raises Problem 401 or, after too many wrong tokens from one network, 429.

    The right token always opens: whoever shares an address with the admin cannot lock them out.
    """
    if is_admin(request):
        return
    if not request.app[ATTEMPTS].take(sender_of(request).network):
        raise Problem(429, "Too many wrong tokens", "Wait a minute and try the right one.")
    detail = "Send the admin token as `Authorization: Bearer …`; it is in the data directory."
    raise Problem(401, "Admin token needed", detail)

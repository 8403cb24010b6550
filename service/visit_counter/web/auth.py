"""Who may use the admin API: whoever sends the admin token as a bearer."""

from __future__ import annotations

import hmac

from aiohttp import web

from visit_counter.errors import Problem
from visit_counter.model.site import Site
from visit_counter.web.components import parts_of


def is_admin(request: web.Request) -> bool:
    authorization = request.headers.get("Authorization")
    if authorization is None:
        return False
    parts = parts_of(request)
    scheme, _, token = authorization.partition(" ")
    expected = parts.token.token.encode()
    given = token.strip().encode("utf-8", "surrogatepass")
    if scheme.lower() == "bearer" and hmac.compare_digest(given, expected):
        return True
    parts.wrong_tokens.note()
    return False


def allowed(request: web.Request, site: Site) -> Site:
    """The site; Problem 404 if its numbers are not for whoever asks."""
    if not site.settings.public and not is_admin(request):
        raise Problem(404, "Unknown site", f'There is no public site "{site.id}" here.')
    return site


def require_admin(request: web.Request) -> None:
    """Raises Problem 401."""
    if not is_admin(request):
        detail = "Send the admin token as `Authorization: Bearer …`; it is in the data directory."
        raise Problem(401, "Admin token needed", detail)

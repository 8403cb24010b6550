"""Who may do what: the admin API is for whoever sends the admin token as a bearer, and so are the
counts of a site that is not public.

What not everybody may see the lane leaves to the handlers, which ask here.
"""

from __future__ import annotations

import hmac

from aiohttp import web

from visit_counter.config.admin_token import note_wrong_token
from visit_counter.errors import Problem
from visit_counter.model.site import Site
from visit_counter.web.components import parts_of


def is_admin(request: web.Request) -> bool:
    authorization = request.headers.get("Authorization")
    if authorization is None:
        return False
    scheme, _, token = authorization.partition(" ")
    expected = parts_of(request).token.token.encode()
    given = token.strip().encode("utf-8", "surrogatepass")
    if scheme.lower() == "bearer" and hmac.compare_digest(given, expected):
        return True
    note_wrong_token()
    return False


def may_see(site: Site, request: web.Request) -> bool:
    """Whether the site's counts are for whoever asks."""
    return site.settings.public or is_admin(request)


def require_visible(site: Site, request: web.Request) -> None:
    """Raises Problem 404 if the site's counts are not for whoever asks."""
    if not may_see(site, request):
        raise Problem(404, "Unknown site", f'There is no public site "{site.id}" here.')


def require_admin(request: web.Request) -> None:
    """Raises Problem 401."""
    if not is_admin(request):
        detail = "Send the admin token as `Authorization: Bearer …`; it is in the data directory."
        raise Problem(401, "Admin token needed", detail)

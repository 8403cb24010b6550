"""What requests of the admin API have in common: the token, the site, a body, an operation id.

Bodies are JSON; whatever is wrong with one is named by its field.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypeVar

import msgspec
from aiohttp import web
from msgspec import Meta

from visit_counter.characters import unseen_in
from visit_counter.errors import OutcomeUnknown, Problem
from visit_counter.model.site import Site
from visit_counter.store.replies import USED, Refused
from visit_counter.web.auth import require_admin
from visit_counter.web.client import known_site, read_body
from visit_counter.web.components import parts_of
from visit_counter.web.hits.beacon import Malformed

Handler = Callable[[web.Request], Awaitable[web.Response]]
T = TypeVar("T")
Operation = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_-]{8,64}\Z")]


def admin(handler: Handler) -> Handler:
    async def guarded(request: web.Request) -> web.Response:
        require_admin(request)
        return await handler(request)

    return guarded


def own_site(request: web.Request) -> Site:
    """The site of the URL; Problem 404 or 503, which tells an admin why."""
    if unreadable := parts_of(request).sites.unreadable.get(request.match_info["site"]):
        raise unreadable.problem
    return known_site(request)


def site_json(site: Site) -> dict[str, Any]:
    return dict(msgspec.to_builtins(site.settings))


@asynccontextmanager
async def done_once(operation: str) -> AsyncIterator[None]:
    """Where nobody can say whether it was done, the id lets the caller ask again without risk."""
    try:
        yield
    except OutcomeUnknown:
        detail = f'Send it again with "operation": "{operation}": then it is done once in any case.'
        raise Problem(503, "Outcome unknown", detail, "operation") from None
    except Refused as reply_error:
        if reply_error.word != USED:
            raise
        raise operation_used(str(reply_error)) from None


def operation_used(why: str) -> Problem:
    return Problem(409, "Operation used", f"Take a new id: {why}.", "operation")


async def body_of(request: web.Request, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(await read_body(request), type=kind)
    except Malformed as bad:
        raise Problem(bad.status, "Malformed body", str(bad)) from None
    except msgspec.ValidationError as error:
        raise invalid(error) from None
    except (ValueError, RecursionError) as error:
        raise Problem(400, "No JSON", f"The body is no JSON object: {error}") from None


def require_seen(fields: Mapping[str, Any]) -> None:
    """Problem 400 for a text, be it in a list, with a character that nobody sees or that changes
    how the text around it is shown. Stored texts may have some: what is not given is not judged."""
    for name, value in fields.items():
        for text in value if isinstance(value, list) else (value,):
            if isinstance(text, str) and (found := unseen_in(text)):
                detail = f"{name} has the character {found}, which cannot be seen: leave it out."
                raise Problem(400, "Bad field", detail, name)


def invalid(error: msgspec.ValidationError) -> Problem:
    """A wrong type or an unknown field, by its name."""
    field = re.search(r"`\$\.([\w.]+)|unknown field `(\w+)`|required field `(\w+)`", str(error))
    name = next((part for part in field.groups() if part), None) if field else None
    return Problem(400, "Bad field", str(error), name)

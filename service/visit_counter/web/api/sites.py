"""The admin API under /api/v1: sites, their reset, undo, seed and drops.

Every handler here needs the admin token. Bodies are JSON; whatever is wrong with one is named by
its field. What changes anything (settings, reset, undo, seed) carries an operation id, so that the
store does it once, however often it is sent.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypeVar

import msgspec
import structlog
from aiohttp import web
from msgspec import Meta, Struct

from visit_counter.errors import OutcomeUnknown, Problem
from visit_counter.model.kinds import Metric
from visit_counter.model.site import Site
from visit_counter.model.site_settings import SiteSettings
from visit_counter.model.stored_site import Unreadable
from visit_counter.reading.sites import Put
from visit_counter.store.replies import NEWER, NO_OPERATION, USED, Refused
from visit_counter.web.auth import require_admin
from visit_counter.web.client import Malformed, known_site, read_body
from visit_counter.web.components import CLOCK, SITES, STORE
from visit_counter.web.counts import counts_json, json_answer

Handler = Callable[[web.Request], Awaitable[web.Response]]
T = TypeVar("T")
Amount = Annotated[int, Meta(ge=-(10**14), le=10**14)]
Operation = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{8,64}$")]
LABEL = re.compile(r"\d{4}-\d{2}-\d{2}\Z")

log = structlog.get_logger()


class GivenSettings(SiteSettings, frozen=True, forbid_unknown_fields=True):
    """A site's settings as the API takes them: without fields that this version does not know."""


class Identified(Struct):
    operation: Operation | None = None


class Reset(Struct, forbid_unknown_fields=True):
    confirm: str = ""
    operation: Operation | None = None
    reason: Annotated[str, Meta(max_length=500)] = ""


class SeedPeriods(Struct, forbid_unknown_fields=True):
    """What to add to the running periods."""

    total: Amount = 0
    year: Amount = 0
    month: Amount = 0
    week: Amount = 0
    today: Amount = 0


class SeedOrder(Struct, forbid_unknown_fields=True):
    metric: Metric
    add: SeedPeriods
    operation: Operation | None = None
    reason: Annotated[str, Meta(max_length=500)] = ""


def admin(handler: Handler) -> Handler:
    async def guarded(request: web.Request) -> web.Response:
        require_admin(request)
        return await handler(request)

    return guarded


@admin
async def list_sites(request: web.Request) -> web.Response:
    sites = request.app[SITES]
    body: dict[str, Any] = {"sites": [site_json(site) for site in sites.all()]}
    if found := sites.unreadable:
        body["unreadable"] = [{"id": site, "reason": found[site].reason} for site in sorted(found)]
    return json_answer(body)


@admin
async def create_site(request: web.Request) -> web.Response:
    sites = request.app[SITES]
    fields, operation = await settings_order(request)
    settings = settings_of({"timezone": sites.timezone, **fields})
    async with done_once(operation):
        put = await sites.create(settings, operation)
    return told(put, location=f"{request.path}/{settings.id}")


@admin
async def show_site(request: web.Request) -> web.Response:
    return json_answer(site_json(own_site(request)))


@admin
async def replace_site(request: web.Request) -> web.Response:
    """PUT: these settings, and the defaults for what is left out; makes the site if need be, and
    makes one readable that is not."""
    sites, name = request.app[SITES], request.match_info["site"]
    fields, operation = await settings_order(request)
    fields = {"timezone": sites.timezone, "id": name, **fields}
    settings = settings_of(fields, expected_id=name)
    site, unreadable = sites.get(name), sites.unreadable.get(name)
    async with done_once(operation):
        if site:
            return told(await sites.change(site, settings, operation), before=site)
        if unreadable:
            return told(await sites.replace(unreadable, settings, operation), before=unreadable)
        return told(await sites.create(settings, operation))


@admin
async def change_site(request: web.Request) -> web.Response:
    """PATCH: these settings, the others as they are."""
    changes, operation = await settings_order(request)
    site = own_site(request)  # not before: the body may take its time, and others change too
    # What was done is not judged by what others changed since.
    async with done_once(operation):
        done = await request.app[STORE].done(site.partition, site.id, operation)
        if done == "change":
            await request.app[SITES].refresh()
            return json_answer(site_json(own_site(request)))
        if done is not None:
            raise operation_used(f"that operation was a {done}")
        settings = settings_of(site_json(site) | changes, expected_id=site.id)
        put = await request.app[SITES].change(site, settings, operation)
    return told(put, before=site)


async def settings_order(request: web.Request) -> tuple[dict[str, Any], str]:
    """The settings in a body, and the operation's id."""
    fields = await body_of(request, dict[str, Any])
    try:
        order = msgspec.convert({"operation": fields.pop("operation", None)}, Identified)
    except msgspec.ValidationError as error:
        raise invalid(error) from None
    return fields, order.operation or secrets.token_hex(8)


def told(put: Put, before: Site | Unreadable | None = None, location: str = "") -> web.Response:
    """The site as it is now; logs what was done to it, unless that was an earlier call's doing."""
    site = put.site
    if put.now and put.created:
        log.info("site created", site=site.id)
    elif put.now and isinstance(before, Site):
        old, new = site_json(before), site_json(site)
        changes = {name: value for name, value in new.items() if old[name] != value}
        log.info("site changed", site=site.id, changes=changes)
    elif put.now:
        log.info("unreadable site replaced", site=site.id, settings=site_json(site))
    headers = {"Location": location} if location else None
    return json_answer(site_json(site), status=201 if put.created else 200, headers=headers)


@admin
async def reset_site(request: web.Request) -> web.Response:
    """POST: everything from 0. `?preview=1` says what would go; the answer says how to undo."""
    site = own_site(request)
    if request.query.get("preview", "0") not in ("", "0"):
        return json_answer({"would_reset": await fresh_counts(request, site)})
    order = await body_of(request, Reset)
    if order.confirm != site.id:
        detail = f'Send {{"confirm": "{site.id}"}} to reset all numbers of this site.'
        raise Problem(400, "Not confirmed", detail, "confirm")
    operation = order.operation or secrets.token_hex(8)
    async with done_once(operation):
        await request.app[STORE].reset(site, operation)
    await request.app[SITES].refresh()
    log.info("site reset", site=site.id, undo=operation, reason=order.reason)
    return json_answer({"undo": operation})


@admin
async def undo_reset(request: web.Request) -> web.Response:
    """POST: what a reset took away comes back, beside what was counted since."""
    site, operation = own_site(request), request.match_info["operation"]
    try:
        approximate = await request.app[STORE].undo(site, operation)
    except Refused as refused:
        raise undo_problem(refused) from None
    await request.app[SITES].refresh()
    log.info("reset undone", site=site.id, undo=operation)
    return json_answer({"undone": operation, "approximate": approximate})


def undo_problem(refused: Refused) -> Problem:
    if refused.word == NEWER:
        return Problem(409, "Newer reset", "Undo the newer reset of this site first.")
    if refused.word == NO_OPERATION:
        return Problem(404, "Unknown reset", "There is no such reset in the last 30 days.")
    return Problem(409, "Refused", str(refused))


@admin
async def seed_site(request: web.Request) -> web.Response:
    """POST: add to the running periods of a metric, e.g. the total of an older counter."""
    site = own_site(request)
    order = await body_of(request, SeedOrder)
    periods = site.calendar.periods(request.app[CLOCK].now())
    added = {
        ("total", ""): order.add.total,
        ("year", periods.year): order.add.year,
        ("month", periods.month): order.add.month,
        ("week", periods.week): order.add.week,
        ("day", periods.today): order.add.today,
    }
    amounts = {period: amount for period, amount in added.items() if amount}
    if not amounts:
        raise Problem(400, "Nothing to add", 'Name a period: {"add": {"total": 1000}}.', "add")
    operation = order.operation or secrets.token_hex(8)
    async with done_once(operation):
        await request.app[STORE].seed(site, operation, order.metric, amounts)
    log.info(
        "site seeded",
        site=site.id,
        metric=order.metric,
        add=msgspec.to_builtins(order.add),
        reason=order.reason,
    )
    return json_answer(await fresh_counts(request, site))


@asynccontextmanager
async def done_once(operation: str) -> AsyncIterator[None]:
    """Where nobody can say whether it was done, the id lets the caller ask again without risk."""
    try:
        yield
    except OutcomeUnknown:
        detail = f'Send it again with "operation": "{operation}": then it is done once in any case.'
        raise Problem(503, "Outcome unknown", detail, "operation") from None
    except Refused as refused:
        if refused.word != USED:
            raise
        raise operation_used(str(refused)) from None


def operation_used(why: str) -> Problem:
    return Problem(409, "Operation used", f"Take a new id: {why}.", "operation")


async def fresh_counts(request: web.Request, site: Site) -> dict[str, Any]:
    """The counts past the reader, which may be a second behind."""
    now = request.app[CLOCK].now()
    return counts_json(site, await request.app[STORE].counts(site, now), now)


@admin
async def show_drops(request: web.Request) -> web.Response:
    """GET: dropped hits by day and reason; `?from=` and `?to=` (default today)."""
    site = own_site(request)
    today = site.calendar.periods(request.app[CLOCK].now()).today
    first, last = day_of(request, "from", today), day_of(request, "to", today)
    months = months_between(first[:7], last[:7])
    days = await request.app[STORE].drops(site, months)
    return json_answer({day: days[day] for day in sorted(days) if first <= day <= last})


def day_of(request: web.Request, name: str, default: str) -> str:
    day = request.query.get(name, default)
    if not LABEL.match(day):
        raise Problem(400, "Malformed day", "Write a day as 2026-11-22.", name)
    return day


def months_between(first: str, last: str) -> list[str]:
    """The months from one to another; Problem for more than drops are kept (400 days)."""
    begin, end = (int(month[:4]) * 12 + int(month[5:]) - 1 for month in (first, last))
    if not 0 <= end - begin < 15:
        raise Problem(400, "Bad range", "Ask for at most 14 months, the earlier day first.", "from")
    return [f"{n // 12:04}-{n % 12 + 1:02}" for n in range(begin, end + 1)]


def own_site(request: web.Request) -> Site:
    """The site of the URL; Problem 404 or 503, which tells an admin why."""
    if unreadable := request.app[SITES].unreadable.get(request.match_info["site"]):
        raise unreadable.problem
    return known_site(request)


def site_json(site: Site) -> dict[str, Any]:
    return dict(msgspec.to_builtins(site.settings))


def settings_of(fields: dict[str, Any], expected_id: str | None = None) -> SiteSettings:
    try:
        settings = msgspec.convert(fields, GivenSettings)
        settings.check()
    except msgspec.ValidationError as error:
        raise invalid(error) from None
    except ValueError as error:
        field, _, text = str(error).partition(": ")
        raise Problem(400, "Bad setting", text, field) from None
    if expected_id is not None and settings.id != expected_id:
        raise Problem(400, "Bad setting", "A site keeps its id: leave it out.", "id")
    return settings


async def body_of(request: web.Request, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(await read_body(request), type=kind)
    except Malformed as bad:
        raise Problem(bad.status, "Malformed body", str(bad)) from None
    except msgspec.ValidationError as error:
        raise invalid(error) from None
    except (ValueError, RecursionError) as error:
        raise Problem(400, "No JSON", f"The body is no JSON object: {error}") from None


def invalid(error: msgspec.ValidationError) -> Problem:
    """A wrong type or an unknown field, by its name."""
    field = re.search(r"`\$\.([\w.]+)|unknown field `(\w+)`|required field `(\w+)`", str(error))
    name = next((part for part in field.groups() if part), None) if field else None
    return Problem(400, "Bad field", str(error), name)

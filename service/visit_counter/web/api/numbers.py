"""A site's numbers: reset, undo and seed them, and look at what was dropped.

A change carries an operation id, so that the store does it once, however often it is sent.
"""

from __future__ import annotations

import re
import secrets
from typing import Annotated, Any

import msgspec
import structlog
from aiohttp import web
from msgspec import Meta, Struct

from visit_counter.errors import OutcomeUnknown, Problem
from visit_counter.model.kinds import Metric
from visit_counter.model.seeds import SeedPeriods, period_of
from visit_counter.model.site import Site
from visit_counter.store.replies import BELOW, BEYOND, NEWER, NO_OPERATION, Refused
from visit_counter.web.api.requests import (
    Operation,
    admin,
    body_of,
    done_once,
    own_site,
    require_seen,
)
from visit_counter.web.components import parts_of
from visit_counter.web.counts import counts_json
from visit_counter.web.responses import json_response

EXACT = 2**53  # up to there the numbers of JSON are exact
LABEL = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\Z")
log = structlog.get_logger()


class Reset(Struct, forbid_unknown_fields=True):
    confirm: str = ""
    operation: Operation | None = None
    reason: Annotated[str, Meta(max_length=500)] = ""


class SeedOrder(Struct, forbid_unknown_fields=True):
    metric: Metric
    add: SeedPeriods
    operation: Operation | None = None
    reason: Annotated[str, Meta(max_length=500)] = ""


@admin
async def reset_site(request: web.Request) -> web.Response:
    """POST: everything from 0. `?preview=1` says what would go; the answer says how to undo."""
    site = own_site(request)
    if request.query.get("preview", "0") not in ("", "0"):
        return json_response({"would_reset": await fresh_counts(request, site)})
    order = await body_of(request, Reset)
    require_seen({"reason": order.reason})
    if order.confirm != site.id:
        detail = f'Send {{"confirm": "{site.id}"}} to reset all numbers of this site.'
        raise Problem(400, "Not confirmed", detail, "confirm")
    operation = order.operation or secrets.token_hex(8)
    async with done_once(operation):
        await parts_of(request).store.reset(site, operation)
    await parts_of(request).sites.refresh()
    log.info("site reset", site=site.id, undo=operation, reason=order.reason)
    return json_response({"undo": operation})


@admin
async def undo_reset(request: web.Request) -> web.Response:
    """POST: what a reset took away comes back, beside what was counted since."""
    site, operation = own_site(request), request.match_info["operation"]
    try:
        approximate = await parts_of(request).store.undo(site, operation)
    except OutcomeUnknown:
        detail = "Undo it again: it goes on where it ended, and is done once in any case."
        raise Problem(503, "Outcome unknown", detail) from None
    except Refused as reply_error:
        raise undo_problem(reply_error) from None
    await parts_of(request).sites.refresh()
    log.info("reset undone", site=site.id, undo=operation)
    return json_response({"undone": operation, "approximate": approximate})


def undo_problem(reply_error: Refused) -> Problem:
    if reply_error.word == NEWER:
        return Problem(409, "Newer reset", "Undo the newer reset of this site first.")
    if reply_error.word == NO_OPERATION:
        return Problem(404, "Unknown reset", "There is no such reset in the last 30 days.")
    if reply_error.word == BEYOND:
        period = period_of(str(reply_error).split()[0])
        detail = f"Together the seeds of {period} would be beyond 2^53: take some of them away."
        return Problem(409, "Too large", detail)
    return Problem(409, "Refused", str(reply_error))


@admin
async def seed_site(request: web.Request) -> web.Response:
    """POST: add to the running periods of a metric, e.g. the total of an older counter."""
    site = own_site(request)
    order = await body_of(request, SeedOrder)
    require_seen({"reason": order.reason})
    amounts = order.add.labelled(site.calendar.periods(parts_of(request).clock.now()))
    if not amounts:
        raise Problem(400, "Nothing to add", 'Name a period: {"add": {"total": 1000}}.', "add")
    operation = order.operation or secrets.token_hex(8)
    try:
        async with done_once(operation):
            await parts_of(request).store.seed(site, operation, order.metric, amounts)
    except Refused as reply_error:
        raise seed_problem(reply_error, order.metric) from None
    log.info(
        "site seeded",
        site=site.id,
        metric=order.metric,
        add=msgspec.to_builtins(order.add),
        reason=order.reason,
    )
    return json_response(await fresh_counts(request, site))


def seed_problem(reply_error: Refused, metric: Metric) -> Problem:
    """Names the period, and the largest amount that is possible."""
    if reply_error.word not in (BELOW, BEYOND):
        return Problem(409, "Refused", str(reply_error))
    kind, most = str(reply_error).split()
    period, most = period_of(kind), f"{int(most):,}"
    if reply_error.word == BELOW:
        detail = f"{period} shows {most} {metric}: at most {most} can be taken. Nothing was added."
        return Problem(409, "Below zero", detail, f"add.{period}")
    detail = (
        f"{period} would have more than {EXACT:,} (2^53) {metric}, beyond which numbers are not "
        f"exact: at most {most} can be added. Nothing was added."
    )
    return Problem(409, "Too large", detail, f"add.{period}")


async def fresh_counts(request: web.Request, site: Site) -> dict[str, Any]:
    """The counts past the reader, which may be a second behind."""
    now = parts_of(request).clock.now()
    return counts_json(site, await parts_of(request).store.counts(site, now), now)


@admin
async def show_drops(request: web.Request) -> web.Response:
    """GET: dropped hits by day and reason; `?from=` and `?to=` (default today)."""
    site = own_site(request)
    today = site.calendar.periods(parts_of(request).clock.now()).today
    first, last = day_of(request, "from", today), day_of(request, "to", today)
    months = months_between(first[:7], last[:7])
    days = await parts_of(request).store.drops(site, months)
    return json_response({day: days[day] for day in sorted(days) if first <= day <= last})


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

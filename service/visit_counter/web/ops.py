"""For those who run the service: is it alive, is it ready, what does it count."""

from __future__ import annotations

from typing import Any

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from visit_counter import tasks
from visit_counter.errors import Problem
from visit_counter.tasks import readable
from visit_counter.web.auth import is_admin
from visit_counter.web.components import Components, parts_of
from visit_counter.web.responses import json_response

DETAILS = (
    "`visit-counter status` on the service's host says what is wrong and how to fix it. So does "
    "this URL for a request with the admin token, and for any request at VISIT_COUNTER_OPS_LISTEN."
)


async def healthz(request: web.Request) -> web.Response:
    """GET /healthz: this process answers; asks nobody else."""
    return json_response({"status": "ok"})


async def readyz(request: web.Request) -> web.Response:
    """GET /readyz: 200 while hits can be counted, else 503; what is wrong and how to mend it.

    Of several workers the one that is asked speaks for itself, and says what is wrong with others.
    """
    return _ready(request, details=True)


async def public_readyz(request: web.Request) -> web.Response:
    """The same on the pages' address: what is wrong, with addresses, paths and versions, is for
    whoever sends the admin token."""
    return _ready(request, details=is_admin(request))


def _ready(request: web.Request, *, details: bool) -> web.Response:
    parts = parts_of(request)
    faults, problems = _found(parts)
    body: dict[str, Any] = {
        "status": "unavailable" if faults else "degraded" if problems else "ok",
        "faults": faults,
        "hints": problems + parts.intake.forwarding.hints,
        "checks": {c.name: {"ok": c.ok, "detail": c.detail} for c in parts.watch.checks},
    }
    if not details:
        body = {"status": body["status"], "details": DETAILS}
    return json_response(body, status=503 if faults else 200)


def own_problems(parts: Components) -> list[str]:
    """All that is wrong with this process, for its siblings to say."""
    if parts.stopping.is_set():
        return []  # as when it is replaced
    faults, problems = _own(parts)
    return faults + problems


def _found(parts: Components) -> tuple[list[str], list[str]]:
    """What keeps hits from being counted or kept, and what else is not as it should be."""
    faults, problems = _own(parts)
    if parts.parent:
        problems += parts.parent.problems
    return faults, [each for each in problems if each not in faults]


def _own(parts: Components) -> tuple[list[str], list[str]]:
    """The same of this process alone."""
    watch, recorder = parts.watch, parts.recorder
    away = [f"The store cannot count: {watch.fault}"] if watch.fault else []
    faults, problems = [], []
    if away and (why := recorder.cannot_keep):
        faults = [*away, why]
    else:  # while the spool keeps hits nothing is lost
        problems = away
    if recorder.fault:
        faults.append(recorder.fault)
    if parts.stopping.is_set():
        faults.append("The service stops.")
    full_sets = parts.intake.full_sets
    for component in (recorder, parts.adoption, parts.sites, full_sets, parts.versions, watch):
        problems += component.problems
    if not watch.fault:
        problems += parts.sites.not_read
    problems += tasks.problems()
    return [*map(readable, faults)], [*map(readable, problems)]


async def metrics(request: web.Request) -> web.Response:
    """GET /metrics: the series of this process, or of all workers together."""
    parent = parts_of(request).parent
    try:
        series = await parent.metrics() if parent else generate_latest()
    except TimeoutError:
        raise Problem(503, "No metrics", "The parent of the workers does not answer.") from None
    return web.Response(body=series, headers={"Content-Type": CONTENT_TYPE_LATEST})

"""For those who run the service: is it alive, is it ready, what does it count."""

from __future__ import annotations

from typing import Any

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from visit_counter.errors import Problem
from visit_counter.web.components import parts_of
from visit_counter.web.hits.forwarding import HINT
from visit_counter.web.responses import json_response


async def healthz(request: web.Request) -> web.Response:
    """GET /healthz: this process answers; asks nobody else."""
    return json_response({"status": "ok"})


async def readyz(request: web.Request) -> web.Response:
    """GET /readyz: 200 while hits can be counted, else 503; what is wrong and how to mend it.

    Of several workers the one that is asked speaks for itself, and says how many there are.
    """
    parts = parts_of(request)
    watch, parent = parts.watch, parts.parent
    away = [f"The store cannot count: {watch.fault}"] if watch.fault else []
    # While the spool keeps hits nothing is lost: degraded, and still ready.
    faults, unsafe = ([], away) if parts.recorder.has_spool else (away, [])
    if not parts.recorder.running:
        faults.append("The recorder has ended: restart the service.")
    if not parts.sites.running:
        faults.append("Changes of sites are no longer read: restart the service.")
    if not parts.hub.running:
        unsafe.append("Live viewers are no longer told: restart the service.")
    if parts.stopping.is_set():
        faults.append("The service stops.")
    for component in (parts.recorder, parts.adoption, parts.sites, parts.versions):
        unsafe += component.problems
    unsafe += [check.detail for check in watch.checks if not check.ok]
    if parent and (up := len(parent.workers)) < parent.inherited.workers:
        unsafe.append(f"Only {up} of {parent.inherited.workers} workers are up: the log says why.")
    hints = [HINT] if parts.intake.forwarding.lately_ignored else []
    body: dict[str, Any] = {
        "status": "unavailable" if faults else "degraded" if unsafe else "ok",
        "faults": faults,
        "hints": unsafe + hints,
        "checks": {c.name: {"ok": c.ok, "detail": c.detail} for c in watch.checks},
    }
    return json_response(body, status=503 if faults else 200, headers={"Cache-Control": "no-store"})


async def metrics(request: web.Request) -> web.Response:
    """GET /metrics: the series of this process, or of all workers together."""
    parent = parts_of(request).parent
    try:
        series = await parent.metrics() if parent else generate_latest()
    except TimeoutError:
        raise Problem(503, "No metrics", "The parent of the workers does not answer.") from None
    return web.Response(body=series, headers={"Content-Type": CONTENT_TYPE_LATEST})

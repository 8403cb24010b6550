"""Answers while the service is not up yet, since the store's data is being migrated first.

No component exists then: hits are refused with 503, and probes and Prometheus learn how far it is.
The addresses are those of the service, which listens on them anew when the migration is done.
"""

from __future__ import annotations

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from visit_counter.errors import Problem
from visit_counter.store.migration import Progress
from visit_counter.web.middleware import application
from visit_counter.web.ops import healthz
from visit_counter.web.responses import json_response

PROGRESS = web.AppKey("progress", Progress)


def starting_app(progress: Progress, base: str) -> web.Application:
    app = application(base)
    app[PROGRESS] = progress
    app.router.add_get(f"{base}/healthz", healthz)
    app.router.add_get(f"{base}/readyz", readyz)
    app.router.add_get(f"{base}/metrics", metrics)
    app.router.add_route("*", "/{any:.*}", unavailable)
    return app


async def readyz(request: web.Request) -> web.Response:
    """GET /readyz: 503, with how far the migration is."""
    body = {
        "status": "unavailable",
        "faults": [request.app[PROGRESS].sentence],
        "hints": [],
        "checks": {},
    }
    return json_response(body, status=503, headers={"Cache-Control": "no-store"})


async def metrics(request: web.Request) -> web.Response:
    """GET /metrics: the series of this process."""
    return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def unavailable(request: web.Request) -> web.Response:
    """Everything else: nothing is counted or shown yet."""
    raise Problem(503, "Migrating", request.app[PROGRESS].sentence)

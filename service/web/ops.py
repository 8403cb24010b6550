"""For those who run the service: is it alive, is it ready, what does it count."""

from __future__ import annotations

import time
from typing import Any

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service.errors import StoreError
from service.store import Store
from service.web.appkeys import RECORDER, STORE
from service.web.client import FORWARDING, HINT
from service.web.counts import json_answer

PING_S = 1.0


class Readiness:
    """Whether the store answers, asked at most once a second."""

    def __init__(self) -> None:
        self.stopping = False
        self._asked_at = float("-inf")
        self._fault: str | None = None

    async def store_fault(self, store: Store) -> str | None:
        if time.monotonic() - self._asked_at >= PING_S:
            self._asked_at = time.monotonic()
            try:
                await store.ping()
                self._fault = None
            except StoreError as error:
                self._fault = str(error)
        return self._fault


READINESS = web.AppKey("readiness", Readiness)


async def healthz(request: web.Request) -> web.Response:
    """GET /healthz: this process answers; asks nobody else."""
    return json_answer({"status": "ok"})


async def readyz(request: web.Request) -> web.Response:
    """GET /readyz: 200 while hits can be counted, else 503; what is wrong and how to mend it."""
    app = request.app
    fault = await app[READINESS].store_fault(app[STORE])
    faults = [f"The store does not answer: {fault}"] if fault else []
    if not app[RECORDER].running:
        faults.append("The recorder has ended: restart the service.")
    if app[READINESS].stopping:
        faults.append("The service stops.")
    checks = app[STORE].checks
    hints = [check.detail for check in checks if not check.ok]
    hints += [HINT] if app[FORWARDING].ignored else []
    body: dict[str, Any] = {
        "status": "unavailable" if faults else "degraded" if hints else "ok",
        "faults": faults,
        "hints": hints,
        "checks": {check.name: check.ok for check in checks},
    }
    return json_answer(body, status=503 if faults else 200, headers={"Cache-Control": "no-store"})


async def metrics(request: web.Request) -> web.Response:
    """GET /metrics: the series of this process."""
    return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

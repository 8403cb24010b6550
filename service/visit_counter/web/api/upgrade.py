"""The admin API's upgrade: which versions count in the store, and when it takes the newest form."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import structlog
from aiohttp import web

from visit_counter.model import forms
from visit_counter.store.versions import Seen
from visit_counter.web.auth import require_admin
from visit_counter.web.components import parts_of
from visit_counter.web.responses import json_response

STALE_MS = 30_000  # workers tell of themselves every 10 s

log = structlog.get_logger()


async def show_upgrade(request: web.Request) -> web.Response:
    """GET: the forms that this version writes and that all write, and the workers of the last
    days."""
    require_admin(request)
    return json_response(upgrade_json(request))


async def finish_upgrade(request: web.Request) -> web.Response:
    """POST: bring the store to the newest form; from then on no older version can count in it."""
    require_admin(request)
    before = parts_of(request).store.writes
    await parts_of(request).versions.finish()
    if (after := parts_of(request).store.writes) != before:
        log.info("upgrade finished", before=before, form=after)
    return json_response(upgrade_json(request))


def upgrade_json(request: web.Request) -> dict[str, Any]:
    store, versions = parts_of(request).store, parts_of(request).versions
    workers = sorted(versions.seen, key=lambda seen: seen.at, reverse=True)
    stale = parts_of(request).clock.now() - versions.now > STALE_MS  # the store is away
    return {
        "version": version("visit-counter"),
        "writes": store.writes,
        "newest": forms.NEWEST,
        "finished": store.writes == forms.NEWEST,
        **({"as_of": versions.now // 1000} if stale else {}),
        "workers": [worker_json(seen, versions.now) for seen in workers],
    }


def worker_json(seen: Seen, now: int) -> dict[str, Any]:
    worker = seen.worker
    return {
        "version": worker.version,
        "newest": worker.form,
        "host": worker.host,
        "seen": seen.at // 1000,
        "lives": seen.lives(now),
    }

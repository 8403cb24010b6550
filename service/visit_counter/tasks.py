"""Background tasks that do not fail in silence."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

import structlog

log = structlog.get_logger()


def supervised(work: Coroutine[object, object, None], name: str) -> asyncio.Task[None]:
    """Run a component's one background task; if it ends by an error, the log says which and why."""
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(_tell)
    return task


def _tell(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.error(
            "a background task ended: restart the service", task=task.get_name(), exc_info=error
        )

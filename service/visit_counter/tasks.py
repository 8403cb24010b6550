"""Background tasks that do not fail in silence, and go on.

A component's loop that ends by an error is restarted after a pause; /readyz names the loop until it
has run without an error for WELL_S. An error that a loop meets once (too many open files, a bug)
does not keep the loop from its later work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

import structlog

AGAIN_MIN_S = 1.0
AGAIN_MAX_S = 30.0
WELL_S = 3.0  # of running, before it counts as well again

log = structlog.get_logger()

_failing: dict[asyncio.Task[None], str] = {}


Work = Coroutine[object, object, None]


def supervised(work: Callable[[], Work], name: str) -> asyncio.Task[None]:
    """Run a component's one background loop, and again whenever it ends by an error."""
    task = asyncio.create_task(_again(work, name), name=name)
    task.add_done_callback(lambda ended: _failing.pop(ended, None))
    return task


def once(work: Work, name: str) -> asyncio.Task[None]:
    """Run what is to be done once; if it ends by an error, the log says which and why."""
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(_tell)
    return task


def problems() -> list[str]:
    """Which loops of this process fail, and why, in sentences."""
    return [*_failing.values()]


async def _again(work: Callable[[], Work], name: str) -> None:
    loop, pause_s = asyncio.get_running_loop(), AGAIN_MIN_S
    this = asyncio.current_task()
    assert this, "it runs"
    while True:
        began_s = loop.time()
        well = loop.call_later(WELL_S, _failing.pop, this, None)
        try:
            await work()
            return
        except Exception as error:
            if loop.time() - began_s >= WELL_S:
                pause_s = AGAIN_MIN_S
            problem = f"The task {name} fails ({error!r}), and is tried again by itself."
            if _failing.get(this) != problem:
                log.error("a background task failed, it is begun again", task=name, exc_info=error)
            _failing[this] = problem
        finally:
            well.cancel()
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, AGAIN_MAX_S)


def _tell(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.error("a background task failed", task=task.get_name(), exc_info=error)

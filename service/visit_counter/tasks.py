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

_failing: dict[object, str] = {}
"""By the task, or by what was noted."""


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


def note(part: object, problem: str) -> None:
    """Have `problems` tell what is wrong with a part of this process; "" ends that."""
    if problem:
        _failing[part] = problem
    else:
        _failing.pop(part, None)


def problems() -> list[str]:
    """Which loops of this process fail, and why, and what was noted, in sentences."""
    return [readable(problem) for problem in _failing.values()]


def readable(text: str) -> str:
    """Without the surrogates that stand for what is no UTF-8 in a file's name: JSON has none."""
    return text.encode(errors="backslashreplace").decode()


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

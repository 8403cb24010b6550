"""What a service does at its end, however many processes it has: SIGTERM or SIGINT, and a deadline.

`app.py` stops the components of one process, `workers/supervisor.py` the workers; here is what both
begin with.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable

import structlog

from visit_counter import deadlines, logs

NOTHING_TO_REOPEN = "the log goes to standard error, so there is no file to open again"

log = structlog.get_logger()


def at_stop_signals(end: Callable[[], None]) -> None:
    """Call it at SIGTERM and SIGINT, instead of what was called before."""
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, end)
    for signum in (signal.SIGUSR1, signal.SIGUSR2):  # which would end the process
        loop.add_signal_handler(signum, log.warning, f"{signum.name} ignored: {NOTHING_TO_REOPEN}")


def leave_in_time() -> None:
    """From the beginning of a stop on."""
    leaving = threading.Timer(deadlines.LEAVE_S, leave)
    leaving.daemon = True
    leaving.start()


def leave() -> None:
    """End in any case, also where a thread waits for a disk that does not answer. As behind kill -9
    nothing that was acknowledged is lost."""
    log.error("stopped in the middle: a disk or a store did not answer in time")
    logs.drain()
    os._exit(0)

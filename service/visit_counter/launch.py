"""One process of the service, from its command to its end: a single one, or a worker.

It takes the addresses and starts the embedded Valkey, and imports the service meanwhile, which is
most of a start's time; hence it imports little itself. What the service consists of is in `app.py`;
a parent of workers begins in `workers/supervisor.py`.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from visit_counter.config.settings import Settings
from visit_counter.process.listeners import Listener, Listeners, bound
from visit_counter.process.passed_sockets import passed_sockets
from visit_counter.process.shutdown import at_stop_signals, leave_in_time
from visit_counter.process.startup import prepare, prepare_data, store_url
from visit_counter.process.systemd import Systemd

if TYPE_CHECKING:
    from visit_counter.workers.messages import Inherited

HANGUP = "a hangup changes nothing here: only several workers replace one another, see --workers"

log = structlog.get_logger()


class Life:
    """Of the process: whether it is up, and whether it is to stop."""

    def __init__(self) -> None:
        self.up, self.stop = asyncio.Event(), asyncio.Event()
        self.running: asyncio.Task[None] | None = None
        self.manager = Systemd(os.environ)

    def end(self) -> None:
        """Stop; before the service is up, give up its start."""
        if self.stop.is_set():
            return
        if self.running and not self.up.is_set():
            self.running.cancel()
        self.stop.set()
        self.manager.stopping()
        leave_in_time()

    def hang_up(self) -> None:
        """One process has nobody to replace it; a manager that asked waits for an answer."""
        self.manager.reloading()
        log.warning(HANGUP)
        self.manager.reloaded()


async def serve(settings: Settings, inherited: Inherited | None = None) -> int:
    """Run until SIGTERM, SIGINT or the end of a worker's parent."""
    life = Life()
    run = single(settings, life) if inherited is None else worker(settings, life, inherited)
    life.running = asyncio.create_task(run)
    at_stop_signals(life.end)
    hangup = life.hang_up if inherited is None else lambda: None
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hangup)
    with suppress(asyncio.CancelledError):
        await life.running
    log.info("stopped")
    return 0


async def single(settings: Settings, life: Life) -> None:
    def ready(status: Callable[[], str]) -> None:
        life.up.set()
        life.manager.ready(status)

    prepare(settings)
    with bound(settings, passed_sockets(os.environ, settings)) as listeners:
        prepare_data(settings)
        async with life.manager:
            loading = asyncio.create_task(asyncio.to_thread(load))
            async with store_url(settings) as url:
                run = await loading
                await run(settings, url, listeners, None, ready, life.stop)


async def worker(settings: Settings, life: Life, inherited: Inherited) -> None:
    run = load()
    from visit_counter.workers.parent import Parent  # imported with all the rest

    pages = Listener.inherited(settings.listen[0], inherited.pages)
    own_ops = settings.ops_listen
    ops = Listener.inherited(own_ops, inherited.ops) if own_ops else None
    async with (
        Parent(inherited, settings.data_dir, when_gone=life.end) as parent,
        store_url(settings, inherited.store_url) as url,
    ):
        await run(settings, url, Listeners(pages, ops), parent, lambda _: life.up.set(), life.stop)


def load() -> Callable[..., Awaitable[None]]:
    """Import the service. What that makes stays: looking at it for garbage costs 50 ms now, and
    would stop everything for 40 ms later."""
    gc.disable()
    from visit_counter import app

    gc.freeze()
    gc.enable()
    return app.run

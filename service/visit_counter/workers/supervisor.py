"""The service with several workers: what their parent owns, and they share.

That is the embedded Valkey, the lock on the data directory, the admin token and the bound sockets;
they count (`launch.py` in each of them), it counts nothing.

All accept from the same sockets. With a socket each (SO_REUSEPORT) the connections that wait for a
worker would be reset when it stops, and wait in vain where it hangs; and they are hardly spread
more evenly: behind nginx with 64 kept connections two workers got 52 and 48 % of the requests (each
its own: 52 and 48), four 13 to 32 % (17 to 31).
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from visit_counter.config.admin_token import admin_token
from visit_counter.config.settings import Settings
from visit_counter.delivery.order import shared_memory
from visit_counter.embedded.server import claim, explained
from visit_counter.process.listeners import bound
from visit_counter.process.passed_sockets import passed_sockets
from visit_counter.process.shutdown import at_stop_signals, leave_in_time
from visit_counter.process.startup import embedded_store, prepare, prepare_data, welcome
from visit_counter.process.systemd import Systemd
from visit_counter.workers.messages import Inherited
from visit_counter.workers.pool import Workers

log = structlog.get_logger()


async def serve(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT, or until no worker can start; answers the exit code."""
    loop, hangup = asyncio.get_running_loop(), asyncio.Event()
    manager = Systemd(os.environ)
    running = asyncio.create_task(run(settings, hangup, manager))

    def end() -> None:
        at_stop_signals(lambda: None)  # once is enough
        manager.stopping()
        running.cancel()
        leave_in_time()

    at_stop_signals(end)
    loop.add_signal_handler(signal.SIGHUP, hangup.set)
    try:
        return await running
    except asyncio.CancelledError:
        log.info("stopped")
        return 0


async def run(settings: Settings, hangup: asyncio.Event, manager: Systemd) -> int:
    """Have the workers count; answers the exit code of one that could not start, with none up."""
    prepare(settings)
    with bound(settings, passed_sockets(os.environ, settings)) as (pages, ops):
        prepare_data(settings)
        async with (
            manager,
            shared(settings) as (store_url, kept),
            Workers(settings.workers) as workers,
        ):
            token = admin_token(settings.admin_token, settings.data_dir)
            with explained(settings.data_dir):
                order = shared_memory(settings.data_dir)
            inherited = Inherited(
                pages=pages.descriptors,
                ops=ops.descriptors if ops else [],
                kept=kept,
                store_url=store_url,
                workers=settings.workers,
                order=order,
            )
            if code := await workers.start(inherited):
                return code
            base = settings.base_path
            welcome(token, pages.url + base, (ops or pages).url + base)
            manager.ready(
                lambda: f"{workers.up} of {settings.workers} workers count at {pages.url}"
            )
            return await workers.keep(hangup, manager)


@asynccontextmanager
async def shared(settings: Settings) -> AsyncIterator[tuple[str | None, list[int]]]:
    """The embedded Valkey's address, if it is the store; and descriptors by which workers reach it
    and keep the data directory claimed, also when their parent is dead."""
    if settings.redis_url is None:
        async with embedded_store(settings) as embedded:
            yield embedded.url, embedded.handed_down
        return
    with explained(settings.data_dir):
        lock = await claim(settings.data_dir)
    try:
        yield None, [lock]
    finally:
        os.close(lock)

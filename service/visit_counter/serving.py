"""How the service is listened to: its addresses, the web applications, and the lane before them.

`listening` is for a service whose components are up, `starting` for one whose store is still being
migrated. What is answered is no matter of this module: `web/routes.py` has every URL.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import structlog
from aiohttp import web

from visit_counter import deadlines
from visit_counter.adapters.aiohttp_private import answer_errors_by
from visit_counter.config.settings import Settings
from visit_counter.process.listeners import Listener, Listeners, refused_address
from visit_counter.process.open_files import places_here
from visit_counter.store.migration import Progress
from visit_counter.web.client import MAX_BODY
from visit_counter.web.components import COMPONENTS, Components
from visit_counter.web.lane.answering import Desk
from visit_counter.web.lane.connections import Bounded, Connections
from visit_counter.web.lane.lane import Lane
from visit_counter.web.middleware import (
    broken_request,
    end_connection,
    error_responses,
    measure,
    safe_headers,
)
from visit_counter.web.migrating import starting_app
from visit_counter.web.routes import health_routes, ops_routes, page_routes

KEEPALIVE_S = 75.0
LINGER_S = 1.0
BACKLOG = 1024
# For answers that a client does not read; without a bound the kernel takes megabytes for each.
UNREAD_BYTES = 64 * 1024

log = structlog.get_logger()


@asynccontextmanager
async def listening(parts: Components, listeners: Listeners) -> AsyncIterator[dict[str, str]]:
    """Answer HTTP; gives the base URLs: `pages`, and `ops` where admins and Prometheus go."""
    base = parts.settings.base_path
    if listeners.ops is None:
        app = make_app(parts, page_routes(base) + ops_routes(base))
        async with in_lane(parts, app, listeners.pages) as url:
            yield {"pages": url + base, "ops": url + base}
        return
    pages = make_app(parts, page_routes(base))
    ops = make_app(parts, health_routes(base) + ops_routes(base))
    async with (
        prepared(ops) as server,
        served(at_most(places_here().ops, server), listeners.ops) as ops_url,
        in_lane(parts, pages, listeners.pages) as url,
    ):
        yield {"pages": url + base, "ops": ops_url + base}


@asynccontextmanager
async def starting(
    settings: Settings, listeners: Listeners, progress: Progress
) -> AsyncIterator[None]:
    """Answer on the service's addresses while the store's data is migrated."""
    async with AsyncExitStack() as stack:
        app = starting_app(progress, settings.base_path)
        server = await stack.enter_async_context(prepared(app))
        most = places_here().staying
        for listener in filter(None, listeners):
            url = await stack.enter_async_context(
                served(at_most(most, server), listener.duplicate())
            )
            log.info("answering during the migration", readyz=f"{url}{settings.base_path}/readyz")
        yield


def make_app(parts: Components, routes: list[web.RouteDef]) -> web.Application:
    middlewares = [measure, error_responses(parts.settings.base_path)]
    app = web.Application(middlewares=middlewares, client_max_size=MAX_BODY)
    app.on_response_prepare.append(safe_headers(parts.settings.base_path))
    app[COMPONENTS] = parts
    app.add_routes(routes)
    return app


@asynccontextmanager
async def in_lane(
    parts: Components, app: web.Application, listener: Listener
) -> AsyncIterator[str]:
    """Connections begin in the lane, and become the application's where the lane ends."""
    app.middlewares.insert(0, end_connection)
    places = places_here()
    async with (
        prepared(app) as server,
        Lane(Connections(server, places.staying, places.newcomers), Desk(parts)) as lane,
        served(lane.accept, listener) as url,
    ):
        yield url


@asynccontextmanager
async def prepared(app: web.Application) -> AsyncIterator[web.Server]:
    """An application, to be given connections."""
    answer_errors_by(broken_request)
    runner = web.AppRunner(
        app,
        access_log=None,
        auto_decompress=False,  # a few packed bytes may be gigabytes
        keepalive_timeout=KEEPALIVE_S,
        shutdown_timeout=deadlines.WEB_S,
        lingering_time=LINGER_S,
    )
    await runner.setup()
    assert runner.server, "it was set up"
    try:
        yield runner.server
    finally:
        await runner.cleanup()


def at_most(connections: int, server: web.Server) -> Callable[[], asyncio.BaseProtocol]:
    """An application's protocol, where no lane bounds the number of its connections."""
    return partial(Bounded, Connections(server, connections, newcomers=0))


@asynccontextmanager
async def served(
    protocol: Callable[[], asyncio.BaseProtocol], listener: Listener
) -> AsyncIterator[str]:
    """Listen, and close the listener at the end; gives its URL."""
    listen = partial(asyncio.get_running_loop().create_server, protocol, backlog=BACKLOG)
    for each in listener.sockets:
        # Connections inherit it.
        each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNREAD_BYTES)
    url = listener.url
    with refused_address(listener.address):
        servers = [await listen(sock=each) for each in listener.sockets]
    try:
        yield url
    finally:
        for server in servers:
            server.close()

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
from visit_counter.rules.addresses import Networks
from visit_counter.store.migration import Progress
from visit_counter.web.components import COMPONENTS, Components
from visit_counter.web.lane.answering import Desk
from visit_counter.web.lane.connections import Connections
from visit_counter.web.lane.lane import Lane
from visit_counter.web.lane.lent import Bounded, watch
from visit_counter.web.middleware import application, broken_request, measure
from visit_counter.web.migrating import starting_app
from visit_counter.web.routes import health_routes, ops_routes, page_routes

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
        bounded(ops, parts.settings, places_here().ops) as protocol,
        served(protocol, listeners.ops) as ops_url,
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
        protocol = await stack.enter_async_context(bounded(app, settings, places_here().staying))
        for listener in filter(None, listeners):
            url = await stack.enter_async_context(served(protocol, listener.duplicate()))
            log.info("answering during the migration", readyz=f"{url}{settings.base_path}/readyz")
        yield


def make_app(parts: Components, routes: list[web.RouteDef]) -> web.Application:
    app = application(parts.settings.base_path, measure)
    app[COMPONENTS] = parts
    app.add_routes(routes)
    return app


@asynccontextmanager
async def in_lane(
    parts: Components, app: web.Application, listener: Listener
) -> AsyncIterator[str]:
    """Connections begin in the lane, and become the application's where the lane ends."""
    settings, places = parts.settings, places_here()
    async with (
        prepared(app, settings.keepalive) as server,
        Lane(connections(server, settings, places.staying, places.newcomers), Desk(parts)) as lane,
        served(lane.accept, listener) as url,
    ):
        yield url


@asynccontextmanager
async def bounded(
    app: web.Application, settings: Settings, most: int
) -> AsyncIterator[Callable[[], asyncio.BaseProtocol]]:
    """An application's protocol, where no lane bounds the number of its connections."""
    async with prepared(app, settings.keepalive) as server:
        yield partial(Bounded, connections(server, settings, most, newcomers=0))


def connections(
    server: web.Server, settings: Settings, staying: int, newcomers: int
) -> Connections:
    trusted = Networks.parse(settings.trusted_proxies)
    return Connections(server, staying, newcomers, trusted, settings.keepalive)


@asynccontextmanager
async def prepared(app: web.Application, keepalive_s: float) -> AsyncIterator[web.Server]:
    """An application, to be given connections."""
    answer_errors_by(broken_request)
    watch(app)
    runner = web.AppRunner(
        app,
        access_log=None,
        auto_decompress=False,  # a few packed bytes may be gigabytes
        keepalive_timeout=keepalive_s,
        shutdown_timeout=deadlines.WEB_S,
        lingering_time=LINGER_S,
    )
    await runner.setup()
    assert runner.server, "it was set up"
    try:
        yield runner.server
    finally:
        await runner.cleanup()


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

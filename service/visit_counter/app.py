"""Composition: the components in the order in which they start, and the web applications on top.

Entering goes down the list, leaving goes up: pages are let go first, then the recorder flushes,
the store's connections close, and the embedded Valkey stops last.
"""

from __future__ import annotations

import asyncio
import gc
import os
import platform
import resource
import signal
import socket
import time
import zoneinfo
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version

import structlog
from aiohttp import web

from visit_counter import deadlines, metrics
from visit_counter.clock import Clock
from visit_counter.config.admin_token import AdminToken, admin_token
from visit_counter.config.settings import Settings
from visit_counter.config.values import Address
from visit_counter.delivery.adoption import Adoption
from visit_counter.delivery.ledger import Ledger
from visit_counter.delivery.recorder import Recorder
from visit_counter.delivery.replay import replaying
from visit_counter.disk.producer import MOST, producer_of
from visit_counter.reading.hub import Hub
from visit_counter.reading.reader import Reader
from visit_counter.reading.sites import Sites
from visit_counter.rules.addresses import Networks
from visit_counter.rules.limits import Limits
from visit_counter.shutdown import at_stop_signals, leave_in_time
from visit_counter.startup import embedded_store, prepare, refused_address, url_of, welcome
from visit_counter.store.health import Watch
from visit_counter.store.migration import Progress
from visit_counter.store.store import Store
from visit_counter.store.versions import Versions
from visit_counter.web.auth import WRONG, WrongTokens
from visit_counter.web.client import MAX_BODY, Forwarding
from visit_counter.web.components import (
    ADMIN_TOKEN,
    ADOPTION,
    BASE_PATH,
    CLOCK,
    HUB,
    PARENT,
    READER,
    RECORDER,
    SITES,
    STORE,
    VERSIONS,
    WATCH,
)
from visit_counter.web.hits.answers import HIT_ANSWERS, HitAnswers
from visit_counter.web.hits.intake import INTAKE, Intake
from visit_counter.web.lane.answering import Desk
from visit_counter.web.lane.connections import Connections
from visit_counter.web.lane.lane import Lane
from visit_counter.web.live import event
from visit_counter.web.middleware import answer_errors, end_connection, measure
from visit_counter.web.migrating import starting_app
from visit_counter.web.ops import READINESS, Readiness
from visit_counter.web.routes import health_routes, ops_routes, page_routes
from visit_counter.workers.messages import Inherited
from visit_counter.workers.parent import Parent

KEEPALIVE_S = 75.0
LINGER_S = 1.0
BACKLOG = 1024
# For answers that a client does not read; without a bound the kernel takes megabytes for each.
UNREAD_BYTES = 64 * 1024
OTHER_FILES = 512  # that are open beside connections of clients
MOST_VIEWERS = 20_000

HANGUP = "a hangup changes nothing here: only several workers replace one another, see --workers"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Components:
    """What the handlers work with."""

    settings: Settings
    clock: Clock
    store: Store
    watch: Watch
    sites: Sites
    recorder: Recorder
    adoption: Adoption
    versions: Versions
    reader: Reader
    hub: Hub
    token: AdminToken
    intake: Intake
    hit_answers: HitAnswers
    readiness: Readiness
    parent: Parent | None


@asynccontextmanager
async def components(
    settings: Settings, clock: Clock | None = None, parent: Parent | None = None
) -> AsyncIterator[Components]:
    """Start everything below the web, stop it in reverse; raises StartError."""
    # The zones of the pinned package: two hosts' own zone files may disagree about a day.
    zoneinfo.reset_tzpath(to=())
    clock = clock or Clock()
    async with (
        store_url(settings, parent) as url,
        store_at(url, clock, settings, parent) as store,
        Watch(store) as watch,
        Sites(store, clock, settings.timezone) as sites,
        recorder_of(store, clock, settings, MOST if parent else 1) as recorder,
        Adoption(store, settings.data_dir) as adoption,
        Versions(store, recorder.producer) as versions,
        Hub(sites, reader := Reader(store, clock), clock, event, most_viewers()) as hub,
    ):
        yield Components(
            settings=settings,
            clock=clock,
            store=store,
            watch=watch,
            sites=sites,
            recorder=recorder,
            adoption=adoption,
            versions=versions,
            reader=reader,
            hub=hub,
            token=admin_token(settings.admin_token, settings.data_dir),
            intake=Intake(
                clock=clock,
                recorder=recorder,
                limits=Limits(time.monotonic, parent.inherited.workers if parent else 1),
                secret=store.secret,
                trusted_proxies=Networks.parse(settings.trusted_proxies),
                forwarding=Forwarding(),
            ),
            hit_answers=HitAnswers(clock, reader),
            readiness=Readiness(),
            parent=parent,
        )


def store_at(
    url: str,
    clock: Clock,
    settings: Settings,
    parent: Parent | None = None,
    *,
    going_back: bool = False,
) -> Store:
    return Store(
        url,
        settings.namespace,
        clock,
        allow_unsafe=settings.allow_unsafe_store,
        min_replicas=settings.min_replicas,
        copies=settings.backup_dir or settings.data_dir,
        migrating=partial(starting, settings, parent),
        going_back=going_back,
    )


@asynccontextmanager
async def starting(
    settings: Settings, parent: Parent | None, progress: Progress
) -> AsyncIterator[None]:
    """Answer on the service's addresses while the store's data is migrated."""
    inherited = parent.inherited if parent else None
    addresses = [(settings.listen, inherited.pages if inherited else [])]
    if settings.ops_listen is not None:
        addresses.append((settings.ops_listen, inherited.ops if inherited else []))
    async with AsyncExitStack() as stack:
        app = starting_app(progress, settings.base_path)
        server = await stack.enter_async_context(prepared(app))
        for address, sockets in addresses:
            # The service itself is to listen on what was inherited, later.
            url = await stack.enter_async_context(served(server, address, [*map(os.dup, sockets)]))
            log.info("answering during the migration", readyz=f"{url}{settings.base_path}/readyz")
        yield


@asynccontextmanager
async def recorder_of(
    store: Store, clock: Clock, settings: Settings, producers: int
) -> AsyncIterator[Recorder]:
    """The recorder of a producer of this data directory, with a spool where one can be kept."""
    with producer_of(settings.data_dir, producers) as producer:
        if producer.directory is None:
            async with Ledger(store, producer) as ledger, Recorder(ledger, clock) as recorder:
                yield recorder
            return
        async with (
            replaying(store, producer) as (ledger, replay),
            Recorder(ledger, clock, replay) as recorder,
        ):
            yield recorder


@asynccontextmanager
async def store_url(settings: Settings, parent: Parent | None) -> AsyncIterator[str]:
    """The store to speak to; the embedded one runs meanwhile."""
    if url := settings.redis_url or (parent and parent.inherited.store_url):
        yield url
        return
    async with embedded_store(settings) as embedded:
        yield embedded.url


def make_app(parts: Components, routes: list[web.RouteDef]) -> web.Application:
    app = web.Application(middlewares=[measure, answer_errors], client_max_size=MAX_BODY)
    app[BASE_PATH] = parts.settings.base_path
    app[CLOCK] = parts.clock
    app[STORE] = parts.store
    app[WATCH] = parts.watch
    app[SITES] = parts.sites
    app[RECORDER] = parts.recorder
    app[ADOPTION] = parts.adoption
    app[VERSIONS] = parts.versions
    if parts.parent:
        app[PARENT] = parts.parent
    app[READER] = parts.reader
    app[HUB] = parts.hub
    app[READINESS] = parts.readiness
    app[ADMIN_TOKEN] = parts.token.token
    app[INTAKE] = parts.intake
    app[HIT_ANSWERS] = parts.hit_answers
    app[WRONG] = WrongTokens()
    app.add_routes(routes)
    return app


@asynccontextmanager
async def listening(parts: Components) -> AsyncIterator[dict[str, str]]:
    """Answer HTTP; gives the base URLs: `pages`, and `ops` where admins and Prometheus go."""
    base, settings = parts.settings.base_path, parts.settings
    if settings.ops_listen is None:
        app = make_app(parts, page_routes(base) + ops_routes(base))
        async with in_lane(parts, app, settings.listen) as url:
            yield {"pages": url + base, "ops": url + base}
        return
    inherited = parts.parent.inherited.ops if parts.parent else []
    pages = make_app(parts, page_routes(base))
    ops = make_app(parts, health_routes(base) + ops_routes(base))
    async with (
        prepared(ops) as server,
        served(server, settings.ops_listen, inherited) as ops_url,
        in_lane(parts, pages, settings.listen) as url,
    ):
        yield {"pages": url + base, "ops": ops_url + base}


@asynccontextmanager
async def prepared(app: web.Application) -> AsyncIterator[web.Server]:
    """An application, to be given connections."""
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


@asynccontextmanager
async def in_lane(parts: Components, app: web.Application, address: Address) -> AsyncIterator[str]:
    """Connections begin in the lane, and become the application's where the lane ends."""
    app.middlewares.insert(0, end_connection)
    most = max(open_files() - OTHER_FILES - most_viewers(), open_files() // 4)
    base = parts.settings.base_path
    inherited = parts.parent.inherited.pages if parts.parent else []
    desk = Desk(base, parts.sites, parts.intake, parts.hit_answers, parts.reader)
    async with (
        prepared(app) as server,
        Lane(Connections(server, most), desk) as lane,
        served(lane.accept, address, inherited) as url,
    ):
        yield url


@asynccontextmanager
async def served(
    protocol: Callable[[], asyncio.BaseProtocol], address: Address, inherited: Sequence[int] = ()
) -> AsyncIterator[str]:
    """Listen on an address, or on inherited sockets that have it; gives its URL."""
    listen = partial(asyncio.get_running_loop().create_server, protocol, backlog=BACKLOG)
    with refused_address(address):
        servers = [await listen(sock=socket.socket(fileno=each)) for each in inherited] or [
            await listen(address.host, address.port, reuse_address=True)
        ]
    for listener in (each for server in servers for each in server.sockets):
        # Connections inherit it.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNREAD_BYTES)
    try:
        yield url_of(address, servers[0])
    finally:
        for server in servers:
            server.close()


async def serve(settings: Settings, inherited: Inherited | None = None) -> int:
    """Run until SIGTERM, SIGINT or the end of a worker's parent; before the service is up, they
    give up its start."""
    up, stop = asyncio.Event(), asyncio.Event()
    parent = Parent(inherited, settings.data_dir) if inherited else None
    running = asyncio.create_task(run(settings, up, stop, parent))

    def end() -> None:
        if stop.is_set():
            return
        if not up.is_set():
            running.cancel()
        stop.set()
        leave_in_time()

    at_stop_signals(end)
    hangup = partial(log.warning, HANGUP) if parent is None else lambda: None
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hangup)
    if parent:
        parent.when_gone = end
    with suppress(asyncio.CancelledError):
        await running
    log.info("stopped")
    return 0


def open_files() -> int:
    """How many there may be."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return most


def most_viewers() -> int:
    """Each is an open file for long, and hits need some too."""
    return min(MOST_VIEWERS, open_files() // 2)


async def run(
    settings: Settings, up: asyncio.Event, stop: asyncio.Event, parent: Parent | None
) -> None:
    if parent is None:
        prepare(settings)
        metrics.WORKERS.set(1)
    metrics.BUILD_INFO.labels(version("visit-counter"), platform.python_version()).set(1)
    async with (
        parent or nullcontext(),
        components(settings, parent=parent) as parts,
        listening(parts) as urls,
    ):
        # What is here stays: a full collection that looked at it would stop everything for 40 ms.
        # What a hit makes is gone behind its answer, without cycles: not to be looked for so often.
        gc.collect()
        gc.freeze()
        gc.set_threshold(10_000)
        if parent is None:
            welcome(parts.token, urls["pages"], urls["ops"])
        else:
            parent.tell_up()
        up.set()
        await stop.wait()
        parts.readiness.stopping = True
        log.info("stopping")

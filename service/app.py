"""Composition: the components in the order in which they start, and the web applications on top.

Entering goes down the list, leaving goes up: pages are let go first, then the recorder flushes,
the store's connections close, and the embedded Valkey stops last.
"""

from __future__ import annotations

import asyncio
import os
import platform
import resource
import signal
import socket
import threading
import time
import zoneinfo
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version

import structlog
from aiohttp import web

from service import directories, metrics
from service.addresses import Networks
from service.admin_token import AdminToken, admin_token
from service.clock import Clock
from service.embedded import Embedded
from service.errors import StartError
from service.host import data_warning
from service.hub import Hub
from service.ledger import Ledger
from service.limits import Limits
from service.model import PARTITIONS
from service.producer import producer_of
from service.reader import Reader
from service.recorder import Recorder
from service.replay import Replay
from service.settings import Settings
from service.sites import Sites
from service.spool import Spool
from service.store import Store
from service.values import Address
from service.watch import Watch
from service.web.answering import Desk
from service.web.appkeys import (
    ADMIN_TOKEN,
    BASE_PATH,
    CLOCK,
    HUB,
    READER,
    RECORDER,
    SITES,
    STORE,
    WATCH,
)
from service.web.auth import WRONG, WrongTokens
from service.web.client import MAX_BODY, Forwarding
from service.web.collect import INTAKE, Intake
from service.web.connections import Connections
from service.web.counts import HIT_ANSWERS, HitAnswers
from service.web.lane import Lane
from service.web.live import event
from service.web.middleware import answer_errors, end_connection, measure
from service.web.ops import READINESS, Readiness
from service.web.routes import health_routes, ops_routes, page_routes

KEEPALIVE_S = 75.0
# A stop lasts at most as long as its parts: the lane, aiohttp (twice this), the recorder, the spool
# and the embedded Valkey. What is left then is a disk that hangs.
SHUTDOWN_S = 1.0
LEAVE_S = 7.5
LINGER_S = 1.0
BACKLOG = 1024
# For answers that a client does not read; without a bound the kernel takes megabytes for each.
UNREAD_BYTES = 64 * 1024
OTHER_FILES = 512  # that are open beside connections of clients
MOST_VIEWERS = 20_000
SPOOL_BYTES = 256 * 1024 * 1024

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
    reader: Reader
    hub: Hub
    token: AdminToken
    intake: Intake
    hit_answers: HitAnswers
    readiness: Readiness


@asynccontextmanager
async def components(settings: Settings, clock: Clock | None = None) -> AsyncIterator[Components]:
    """Start everything below the web, stop it in reverse; raises StartError."""
    # The zones of the pinned package: two hosts' own zone files may disagree about a day.
    zoneinfo.reset_tzpath(to=())
    clock = clock or Clock()
    async with (
        store_url(settings) as url,
        store_at(url, clock, settings) as store,
        Watch(store) as watch,
        Sites(store, clock, settings.timezone) as sites,
        recorder_of(store, clock, settings) as recorder,
        Hub(sites, reader := Reader(store, clock), clock, event, most_viewers()) as hub,
    ):
        yield Components(
            settings=settings,
            clock=clock,
            store=store,
            watch=watch,
            sites=sites,
            recorder=recorder,
            reader=reader,
            hub=hub,
            token=admin_token(settings.admin_token, settings.data_dir),
            intake=Intake(
                clock=clock,
                recorder=recorder,
                limits=Limits(time.monotonic),
                secret=store.secret,
                trusted_proxies=Networks.parse(settings.trusted_proxies),
                forwarding=Forwarding(),
            ),
            hit_answers=HitAnswers(clock, reader),
            readiness=Readiness(),
        )


def store_at(url: str, clock: Clock, settings: Settings) -> Store:
    return Store(
        url,
        settings.namespace,
        clock,
        allow_unsafe=settings.allow_unsafe_store,
        min_replicas=settings.min_replicas,
    )


@asynccontextmanager
async def recorder_of(store: Store, clock: Clock, settings: Settings) -> AsyncIterator[Recorder]:
    """The recorder of this data directory's producer, with a spool where one can be kept."""
    with producer_of(settings.data_dir) as producer:
        if producer.directory is None:
            async with Ledger(store, producer) as ledger, Recorder(ledger, clock) as recorder:
                yield recorder
            return
        directory = producer.directory / "spool"
        directories.make(directory, 0o700)
        async with Spool(directory, SPOOL_BYTES) as spool:
            spooled = [spool.last_seq(partition) for partition in range(PARTITIONS)]
            async with (
                Ledger(store, producer, spooled) as ledger,
                Replay(ledger, spool) as replay,
                Recorder(ledger, clock, replay) as recorder,
            ):
                yield recorder


@asynccontextmanager
async def store_url(settings: Settings) -> AsyncIterator[str]:
    """The store to speak to; the embedded one runs meanwhile."""
    if settings.redis_url is not None:
        yield settings.redis_url
        return
    if warning := data_warning(settings.data_dir):
        log.warning(warning)
    async with Embedded(settings.data_dir, settings.embedded_fsync) as embedded:
        yield embedded.url


def make_app(parts: Components, routes: list[web.RouteDef]) -> web.Application:
    app = web.Application(middlewares=[measure, answer_errors], client_max_size=MAX_BODY)
    app[BASE_PATH] = parts.settings.base_path
    app[CLOCK] = parts.clock
    app[STORE] = parts.store
    app[WATCH] = parts.watch
    app[SITES] = parts.sites
    app[RECORDER] = parts.recorder
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
    pages = make_app(parts, page_routes(base))
    ops = make_app(parts, health_routes(base) + ops_routes(base))
    async with (
        prepared(ops) as server,
        served(server, settings.ops_listen) as ops_url,
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
        shutdown_timeout=SHUTDOWN_S,
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
    desk = Desk(base, parts.sites, parts.intake, parts.hit_answers, parts.reader)
    async with (
        prepared(app) as server,
        Lane(Connections(server, most), desk) as lane,
        served(lane.accept, address) as url,
    ):
        yield url


@asynccontextmanager
async def served(
    protocol: Callable[[], asyncio.BaseProtocol], address: Address
) -> AsyncIterator[str]:
    """Listen on an address; gives its URL."""
    loop = asyncio.get_running_loop()
    try:
        server = await loop.create_server(
            protocol, address.host, address.port, backlog=BACKLOG, reuse_address=True
        )
    except OSError as error:
        raise StartError(
            f"cannot listen on {address} ({error.strerror}): end the program that does, or set "
            "another VISIT_COUNTER_LISTEN or VISIT_COUNTER_OPS_LISTEN"
        ) from None
    for listener in server.sockets:  # connections inherit it
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNREAD_BYTES)
    try:
        port = server.sockets[0].getsockname()[1]
        yield f"http://{address._replace(port=port)}"
    finally:
        server.close()


async def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT; before the service is up, they give up its start."""
    up, stop = asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(run(settings, up, stop))

    def end() -> None:
        if stop.is_set():
            return
        if not up.is_set():
            running.cancel()
        stop.set()
        leaving = threading.Timer(LEAVE_S, leave)
        leaving.daemon = True
        leaving.start()

    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, end)
    with suppress(asyncio.CancelledError):
        await running
    log.info("stopped")


def leave() -> None:
    """End in any case, also where a thread waits for a disk that does not answer. As behind kill -9
    nothing that was acknowledged is lost."""
    log.error("stopped in the middle: a disk or a store did not answer in time")
    os._exit(0)


def allow_many_connections() -> None:
    """A connection is an open file, and the usual soft limit of 1,024 is soon reached."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def open_files() -> int:
    """How many there may be."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return most


def most_viewers() -> int:
    """Each is an open file for long, and hits need some too."""
    return min(MOST_VIEWERS, open_files() // 2)


async def run(settings: Settings, up: asyncio.Event, stop: asyncio.Event) -> None:
    allow_many_connections()
    for warning in settings.warnings:
        log.warning(warning)
    metrics.BUILD_INFO.labels(version("visit-counter"), platform.python_version()).set(1)
    async with components(settings) as parts, listening(parts) as urls:
        welcome(parts, urls)
        up.set()
        await stop.wait()
        parts.readiness.stopping = True
        log.info("stopping")


def welcome(parts: Components, urls: dict[str, str]) -> None:
    token = parts.token
    where = "from the settings" if token.path is None else f"in {token.path}"
    log.info("counting", demo=f"{urls['pages']}/demo", admin_api=f"{urls['ops']}/api/v1")
    if token.new:
        print(f"\n  Admin token (shown once, kept {where}): {token.token}\n", flush=True)
    else:
        log.info(f"the admin token is {where}")

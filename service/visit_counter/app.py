"""A process of the service, from its start to its end, and its components in their order.

Entering goes down the list, leaving goes up: pages are let go first, then the recorder flushes,
the store's connections close, and the embedded Valkey stops last. How it is listened to, and what
the web applications are made of, is in `serving.py`.
"""

from __future__ import annotations

import asyncio
import gc
import platform
import signal
import time
import zoneinfo
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext, suppress
from functools import partial
from importlib.metadata import version

import structlog

from visit_counter import metrics
from visit_counter.clock import Clock
from visit_counter.config.admin_token import WrongTokens, admin_token
from visit_counter.config.settings import Settings
from visit_counter.delivery.adoption import Adoption
from visit_counter.delivery.ledger import Ledger
from visit_counter.delivery.recorder import Recorder
from visit_counter.delivery.replay import replaying
from visit_counter.disk import installation
from visit_counter.disk.producer import MOST, producer_of
from visit_counter.reading.hub import Hub
from visit_counter.reading.reader import Reader
from visit_counter.reading.sites import Sites
from visit_counter.rules.addresses import Networks
from visit_counter.rules.limits import Limits
from visit_counter.serving import listening, most_viewers, starting
from visit_counter.shutdown import at_stop_signals, leave_in_time
from visit_counter.startup import embedded_store, prepare, welcome
from visit_counter.store.health import Watch
from visit_counter.store.store import Store
from visit_counter.store.versions import Versions
from visit_counter.web.components import Components
from visit_counter.web.hits.answers import HitAnswers
from visit_counter.web.hits.forwarding import Forwarding
from visit_counter.web.hits.intake import Intake
from visit_counter.web.live import event
from visit_counter.workers.messages import Inherited
from visit_counter.workers.parent import Parent

HANGUP = "a hangup changes nothing here: only several workers replace one another, see --workers"

log = structlog.get_logger()


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
        parts.stopping.set()
        log.info("stopping")


@asynccontextmanager
async def components(
    settings: Settings, clock: Clock | None = None, parent: Parent | None = None
) -> AsyncIterator[Components]:
    """Start everything below the web in this order, stop it in reverse; raises StartError."""
    # The zones of the pinned package: two hosts' own zone files may disagree about a day.
    zoneinfo.reset_tzpath(to=())
    clock = clock or Clock()
    async with AsyncExitStack() as stack:
        start = stack.enter_async_context
        url = await start(store_url(settings, parent))
        yield Components(
            settings=settings,
            clock=clock,
            parent=parent,
            store=(store := await start(store_at(url, clock, settings, parent))),
            watch=await start(Watch(store)),
            sites=(sites := await start(Sites(store, clock, settings.timezone))),
            recorder=(recorder := await start(recorder_of(store, clock, settings, parent))),
            adoption=await start(Adoption(store, settings.data_dir)),
            versions=await start(Versions(store, recorder.producer)),
            reader=(reader := Reader(store, clock)),
            hub=await start(Hub(sites, reader, clock, event, most_viewers())),
            token=admin_token(settings.admin_token, settings.data_dir),
            wrong_tokens=WrongTokens(),
            intake=intake_of(store, clock, recorder, settings, parent),
            answers=HitAnswers(clock, reader),
            stopping=asyncio.Event(),
        )


@asynccontextmanager
async def store_url(settings: Settings, parent: Parent | None) -> AsyncIterator[str]:
    """The store to speak to; the embedded one runs meanwhile."""
    if url := settings.redis_url or (parent and parent.inherited.store_url):
        yield url
        return
    async with embedded_store(settings) as embedded:
        yield embedded.url


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
        belongs_to=partial(installation.check, settings.data_dir),
    )


@asynccontextmanager
async def recorder_of(
    store: Store, clock: Clock, settings: Settings, parent: Parent | None
) -> AsyncIterator[Recorder]:
    """The recorder of a producer of this data directory, with a spool where one can be kept."""
    installation.remember(settings.data_dir, store.schema.installation)
    with producer_of(settings.data_dir, MOST if parent else 1) as producer:
        if producer.directory is None:
            async with (
                Ledger(store, producer) as ledger,
                Recorder(ledger, clock, no_spool=producer.not_kept) as recorder,
            ):
                yield recorder
            return
        async with (
            replaying(store, producer) as (ledger, replay),
            Recorder(ledger, clock, replay) as recorder,
        ):
            yield recorder


def intake_of(
    store: Store, clock: Clock, recorder: Recorder, settings: Settings, parent: Parent | None
) -> Intake:
    return Intake(
        clock=clock,
        recorder=recorder,
        limits=Limits(time.monotonic, parent.inherited.workers if parent else 1),
        secret=store.secret,
        trusted_proxies=Networks.parse(settings.trusted_proxies),
        forwarding=Forwarding(),
    )

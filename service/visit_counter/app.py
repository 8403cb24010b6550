"""The components of a process of the service, in their order.

Entering goes down the list, leaving goes up: pages are let go first, then the recorder flushes,
the store's connections close. What comes before them and ends after them, as the embedded Valkey,
is in `launch.py`; how the service is listened to, and what the web applications are made of, is in
`serving.py`.
"""

from __future__ import annotations

import asyncio
import gc
import platform
import socket
import time
import zoneinfo
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from functools import partial
from importlib.metadata import version

import structlog

from visit_counter import metrics
from visit_counter.clock import Clock
from visit_counter.config.admin_token import admin_token
from visit_counter.config.settings import Settings
from visit_counter.delivery.adoption import Adoption, note_left
from visit_counter.delivery.ledger import Ledger
from visit_counter.delivery.order import Heads
from visit_counter.delivery.recorder import Recorder
from visit_counter.delivery.replay import replaying
from visit_counter.disk import installation
from visit_counter.disk.producer import MOST, producer_of
from visit_counter.process.listeners import Listeners
from visit_counter.process.open_files import places_here
from visit_counter.process.startup import welcome
from visit_counter.reading.hub import Hub
from visit_counter.reading.reader import Reader
from visit_counter.reading.sites import Sites
from visit_counter.rules.addresses import Networks
from visit_counter.rules.limits import Limits
from visit_counter.serving import listening, starting
from visit_counter.store.health import Watch
from visit_counter.store.store import Store
from visit_counter.store.versions import Versions
from visit_counter.web.components import Components
from visit_counter.web.hits.answers import HitAnswers
from visit_counter.web.hits.forwarding import Forwarding
from visit_counter.web.hits.intake import Intake
from visit_counter.web.hits.views import Views
from visit_counter.web.live import event
from visit_counter.web.ops import own_problems
from visit_counter.workers.parent import Parent

log = structlog.get_logger()


async def run(
    settings: Settings,
    url: str,
    listeners: Listeners,
    parent: Parent | None,
    ready: Callable[[Callable[[], str]], None],
    stop: asyncio.Event,
) -> None:
    """Count in the store at `url`, until `stop`; `ready` is called then, and gets what gives the
    status in words."""
    if parent is None:
        metrics.WORKERS.set(1)
    metrics.BUILD_INFO.labels(version("visit-counter"), platform.python_version()).set(1)
    async with (
        components(settings, url, parent=parent, listeners=listeners) as parts,
        listening(parts, listeners) as urls,
    ):
        # What is here stays: a full collection that looked at it would stop everything for 40 ms.
        # What a hit makes is gone behind its answer, without cycles: not to be looked for so often.
        gc.collect()
        gc.freeze()
        gc.set_threshold(10_000)
        if parent is None:
            welcome(parts.token, urls["pages"], urls["ops"])
        else:
            parent.tell_up(partial(own_problems, parts))
        ready(lambda: status(parts, urls["pages"]))
        await stop.wait()
        parts.stopping.set()
        log.info("stopping")


def status(parts: Components, url: str) -> str:
    """For the eyes of an operator; /readyz says all."""
    fault = parts.watch.fault
    return f"the store cannot count: {fault}" if fault else f"counting at {url}"


@asynccontextmanager
async def components(
    settings: Settings,
    url: str,
    clock: Clock | None = None,
    parent: Parent | None = None,
    listeners: Listeners | None = None,
) -> AsyncIterator[Components]:
    """Start everything below the web in this order, stop it in reverse; raises StartError."""
    # The zones of the pinned package: two hosts' own zone files may disagree about a day.
    zoneinfo.reset_tzpath(to=())
    clock = clock or Clock()
    heads = Heads(parent.inherited.order if parent else -1)
    limits = Limits(time.monotonic, parent.inherited.workers if parent else 1)
    async with AsyncExitStack() as stack:
        start = stack.enter_async_context
        yield Components(
            settings=settings,
            clock=clock,
            parent=parent,
            store=(store := await start(store_at(url, clock, settings, listeners))),
            watch=await start(Watch(store)),
            sites=(sites := await start(Sites(store, clock, settings.timezone))),
            recorder=(
                recorder := await start(recorder_of(store, clock, settings, parent, heads, limits))
            ),
            adoption=await start(Adoption(store, settings.data_dir, heads)),
            versions=await start(Versions(store, recorder.producer)),
            reader=(reader := Reader(store, clock)),
            hub=await start(Hub(sites, reader, clock, event, places_here().viewers)),
            token=admin_token(settings.admin_token, settings.data_dir),
            intake=intake_of(store, clock, recorder, settings, limits, parent),
            answers=HitAnswers(clock, reader),
            stopping=asyncio.Event(),
        )


def store_at(
    url: str,
    clock: Clock,
    settings: Settings,
    listeners: Listeners | None = None,
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
        migrating=partial(starting, settings, listeners) if listeners else nullcontext,
        going_back=going_back,
        belongs_to=partial(installation.check, settings.data_dir),
    )


@asynccontextmanager
async def recorder_of(
    store: Store,
    clock: Clock,
    settings: Settings,
    parent: Parent | None,
    heads: Heads,
    limits: Limits,
) -> AsyncIterator[Recorder]:
    """The recorder of a producer of this data directory, with a spool where one can be kept, in one
    order with the other spools."""
    with producer_of(settings.data_dir, MOST if parent else 1) as producer:
        installation.remember(settings.data_dir, store.schema.installation)
        if producer.directory is None:
            async with (
                Ledger(store, producer) as ledger,
                Recorder(ledger, clock, no_spool=producer.not_kept) as recorder,
            ):
                yield recorder
            return
        await asyncio.to_thread(note_left, heads, settings.data_dir)
        async with (
            replaying(store, producer, heads, limits) as (ledger, replay),
            Recorder(ledger, clock, replay) as recorder,
        ):
            yield recorder


def intake_of(
    store: Store,
    clock: Clock,
    recorder: Recorder,
    settings: Settings,
    limits: Limits,
    parent: Parent | None,
) -> Intake:
    views = Views(parent.accepted_elsewhere if parent else None)
    if parent is not None:
        parent.accepted_here = views.accepted_here
    listened = {address.host.lower() for address in settings.listen}
    return Intake(
        clock=clock,
        recorder=recorder,
        limits=limits,
        secret=store.secret,
        trusted_proxies=Networks.parse(settings.trusted_proxies),
        forwarding=Forwarding(),
        views=views,
        own_names={*listened, socket.gethostname().lower()},
    )

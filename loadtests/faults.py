"""What breaks, one function each: it does the harm, undoes it, and answers the instant from which
recovery counts: that of a kill, or that at which the harm was over.

`FAULTS` holds them by name, with the worlds in which they run: `embedded`, `outer`, these with a
small disk below the store or below the spool, `cluster`, `sentinels`, `behind a name`. A new fault
is one function.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from random import Random

from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import RedisError

from loadtests.load import Load, idle_connections
from loadtests.oracle import base_of
from loadtests.proxy import Cut
from loadtests.viewers import wait_for_all, watching
from loadtests.world import World
from tests.kit.stores.cluster import slot_of
from tests.kit.stores.node import Node
from visit_counter.model.site_settings import partition_of

BATCH = b"_record"
STOP_S = 8.0
MANY = 1000  # connections, or streams
SHORT_VISIT_S = 10  # the shortest that may be set
TELL_S = 10.0  # until hits are answered as they must be
READ_FIRST = ("running", "seen")  # before anything of a site is written
LOADING_S = 1.0
LOADING_DELAY_US = "300"  # for each command of the append-only file


@dataclass(frozen=True, slots=True)
class Room:
    """How long faults may last, in seconds."""

    pause: tuple[float, float] = (0.5, 5.0)
    away: float = 30.0


QUICK = Room(pause=(0.2, 0.6), away=1.3)
LONG = Room()


class Broken(Exception):
    """A promise other than the counts was not kept."""


@dataclass(frozen=True, slots=True)
class Case:
    """A fault under way: where, by chance, and how long at most."""

    world: World
    load: Load
    rng: Random
    room: Room

    def slot(self) -> int:
        """That of one of the sites that are hit."""
        return slot_of(f"p{partition_of(self.rng.choice(self.load.sites).name):02}")

    async def pause(self) -> None:
        await asyncio.sleep(self.rng.uniform(*self.room.pause))


Act = Callable[[Case], Awaitable[float]]


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault and where it can be had."""

    name: str
    act: Act
    worlds: tuple[str, ...]
    kills: bool
    stores: tuple[str, ...]
    workers: int
    """How many the service must have at least."""
    poisons: bool
    """It makes the store refuse batches for good."""
    visit_s: int
    """The silence that ends a visit."""


FAULTS: dict[str, Fault] = {}


def fault(
    name: str,
    *worlds: str,
    kills: bool = False,
    stores: tuple[str, ...] = ("valkey", "redis"),
    workers: int = 1,
    poisons: bool = False,
    visit_s: int = 1800,
) -> Callable[[Act], Act]:
    def register(act: Act) -> Act:
        key = act.__name__.replace("_", "-")
        FAULTS[key] = Fault(name, act, worlds, kills, stores, workers, poisons, visit_s)
        return act

    return register


# -- ends


@fault("kill -9 of the service", "embedded", "outer", "cluster", kills=True)
async def service_killed(case: Case) -> float:
    since = time.monotonic()
    case.world.service.kill()
    await case.world.start_service()
    return since


@fault("kill -9 of a worker", "embedded", "outer", "cluster", kills=True, workers=2)
async def worker_killed(case: Case) -> float:
    """The others go on; its parent starts another."""
    since, service = time.monotonic(), case.world.service
    os.kill(case.rng.choice(service.workers), signal.SIGKILL)
    return since


@fault("kill -9 of a worker while the store is away", "outer", kills=True, workers=2)
async def worker_killed_without_store(case: Case) -> float:
    """Its successor, or another worker, brings the store what it had spooled."""
    async with store_stopped(case):
        os.kill(case.rng.choice(case.world.service.workers), signal.SIGKILL)
    return time.monotonic()


@fault("SIGHUP: all workers replaced", "embedded", "outer", workers=2)
async def workers_replaced(case: Case) -> float:
    await asyncio.to_thread(case.world.service.replace_workers)
    if case.load.refused:
        raise Broken(f"{case.load.refused} connections were refused")
    return time.monotonic()


@fault("kill -9 of the store", "embedded", "outer", kills=True)
async def store_killed(case: Case) -> float:
    since = time.monotonic()
    case.world.signal_store(signal.SIGKILL)
    await case.world.restart_store()
    return since


@fault("kill -9 of both", "embedded", "outer", kills=True)
async def both_killed(case: Case) -> float:
    since, world = time.monotonic(), case.world
    pid = world.single.pid
    world.service.kill()
    os.kill(pid, signal.SIGKILL)
    await world.restart_store()
    await world.start_service()
    return since


@fault("SIGTERM of the service", "embedded", "outer")
async def service_stopped(case: Case) -> float:
    since = time.monotonic()
    await stop_service(case.world)
    await case.world.start_service()
    return since


@fault("SIGTERM of the service with 1,000 open connections", "embedded", "outer")
async def service_stopped_with_many(case: Case) -> float:
    async with idle_connections(case.world.service.port, MANY):
        since = time.monotonic()
        await stop_service(case.world)
    await case.world.start_service()
    return since


@fault("SIGTERM of the service with 1,000 open streams", "embedded", "outer")
async def service_stopped_with_viewers(case: Case) -> float:
    since = await asyncio.to_thread(stop_with_viewers, case.world, case.load.sites[0].name)
    await case.world.start_service()
    return since


def stop_with_viewers(world: World, site: str) -> float:
    with watching(world.service.port, site, MANY) as viewers:
        since = time.monotonic()
        stop(world)
        if not wait_for_all(viewers, lambda viewer: viewer.ended, TELL_S):
            raise Broken("SIGTERM: a stream did not end with the service")
    return since


async def stop_service(world: World) -> None:
    await asyncio.to_thread(stop, world)


def stop(world: World) -> None:
    began = time.monotonic()
    code = world.service.terminate()
    took_s = time.monotonic() - began
    if code or took_s > STOP_S:
        raise Broken(f"SIGTERM: exit code {code} after {took_s:.1f} s")


@fault("a log that takes nothing", "outer")
async def log_lost(case: Case) -> float:
    """Its disk is full, its reader goes away or sleeps; hits are counted, spooled and brought, and
    a stop is as quick as ever."""
    service = case.world.service
    await stop_service(case.world)
    reader, writer = os.pipe()
    full = os.open("/dev/full", os.O_WRONLY)
    kind = case.rng.choice(["full", "gone", "asleep"])
    service.launch(full if kind == "full" else writer)
    os.close(full)
    os.close(writer)
    try:
        await told(case, 200, f"the log was {kind}")
        if kind == "gone":
            os.close(reader)
        for _ in range(3):
            async with store_stopped(case):
                await told(case, 202, f"the log was {kind} and the store away")
        await told(case, 200, f"the log was {kind}")
        await stop_service(case.world)
    finally:
        if kind != "gone":
            os.close(reader)
    await case.world.start_service()
    return time.monotonic()


@fault("store stopped for a while", "outer")
async def store_away(case: Case) -> float:
    await asyncio.to_thread(case.world.outer.stop)
    await asyncio.sleep(case.room.away)
    await case.world.restart_store()
    return time.monotonic()


@fault("store stopped for longer than a visit", "outer", workers=2, visit_s=SHORT_VISIT_S)
async def store_away_for_long(case: Case) -> float:
    """What both workers have spooled is brought in one order of time, so visits are exact."""
    await asyncio.to_thread(case.world.outer.stop)
    await asyncio.sleep(1.5 * SHORT_VISIT_S)
    await case.world.restart_store()
    return time.monotonic()


@fault("kill -9 of the service while the store is away", "outer", kills=True)
async def service_killed_without_store(case: Case) -> float:
    """What was acknowledged meanwhile is left to the next process."""
    async with store_stopped(case):
        case.world.service.kill()
    await case.world.start_service()
    return time.monotonic()


@fault("SIGTERM of the service while the store is away", "outer")
async def service_stopped_without_store(case: Case) -> float:
    async with store_stopped(case):
        await stop_service(case.world)
    await case.world.start_service()
    return time.monotonic()


@asynccontextmanager
async def store_stopped(case: Case) -> AsyncIterator[None]:
    """The store is away for a pause, what happens in the block, and nothing more."""
    await asyncio.to_thread(case.world.outer.stop)
    await case.pause()
    yield
    await case.world.restart_store()


# -- freezes


@fault("SIGSTOP of the service", "embedded", "outer")
async def service_frozen(case: Case) -> float:
    case.world.service.freeze()
    await case.pause()
    case.world.service.thaw()
    return time.monotonic()


@fault("SIGSTOP of the store", "embedded", "outer")
async def store_frozen(case: Case) -> float:
    case.world.signal_store(signal.SIGSTOP)
    await case.pause()
    case.world.signal_store(signal.SIGCONT)
    return time.monotonic()


@fault("store frozen while the service is killed", "embedded", "outer", kills=True)
async def service_killed_before_frozen_store(case: Case) -> float:
    """What the dead service had sent is read when its successor may already be counting."""
    world = case.world
    world.signal_store(signal.SIGSTOP)
    await case.pause()
    world.service.kill()
    if world.embedded:  # its successor ends the orphan, which must hear SIGTERM
        world.signal_store(signal.SIGCONT)
        await world.start_service()
        return time.monotonic()
    starting = asyncio.create_task(world.start_service())
    await asyncio.sleep(0.3)
    world.signal_store(signal.SIGCONT)
    since = time.monotonic()
    await starting
    return since


@fault("a store that is busy with a script", "outer")
async def store_busy(case: Case) -> float:
    async with changed(case, "busy-reply-threshold", "100"), case.world.redis() as endless:
        running = asyncio.ensure_future(endless.eval("while true do end", 0))
        await case.pause()
        async with case.world.redis() as store:
            await store.script_kill()
        with suppress(RedisError):
            await running
    return time.monotonic()


# -- connections


async def cut(case: Case, where: Cut) -> float:
    for _ in range(case.rng.randint(1, 3)):
        await case.world.proxy.cut(where, BATCH)
        await asyncio.sleep(case.rng.uniform(0, 0.1))
    return time.monotonic()


@fault("connection cut before send", "outer")
async def cut_before_send(case: Case) -> float:
    return await cut(case, Cut.BEFORE_SEND)


@fault("connection cut in mid-call", "outer")
async def cut_in_call(case: Case) -> float:
    return await cut(case, Cut.IN_CALL)


@fault("connection cut after send", "outer")
async def cut_after_send(case: Case) -> float:
    return await cut(case, Cut.AFTER_SEND)


@fault("connection cut after send, the call late", "outer")
async def cut_sent_late(case: Case) -> float:
    return await cut(case, Cut.SENT_LATE)


@fault("connection cut in mid-reply", "outer")
async def cut_in_reply(case: Case) -> float:
    return await cut(case, Cut.IN_REPLY)


@fault("all connections cut by the store", "outer")
async def clients_killed(case: Case) -> float:
    for _ in range(case.rng.randint(1, 3)):
        async with case.world.redis() as store:
            await store.client_kill_filter(_type="normal", skipme=True)
        await asyncio.sleep(case.rng.uniform(0, 0.2))
    return time.monotonic()


@fault("connection stalls", "outer")
async def connection_stalled(case: Case) -> float:
    case.world.proxy.flowing.clear()
    await case.pause()
    case.world.proxy.flowing.set()
    return time.monotonic()


@fault("all answers of the store late", "outer")
async def answers_late(case: Case) -> float:
    late_s = case.rng.uniform(0.15, 0.8)
    case.world.proxy.late_s = lambda: late_s
    await case.pause()
    case.world.proxy.late_s = lambda: 0.0
    return time.monotonic()


@fault("some answers of the store late", "outer")
async def some_answers_late(case: Case) -> float:
    rng = Random(case.rng.random())
    case.world.proxy.late_s = lambda: 0.3 if rng.random() < 0.02 else 0.0
    await case.pause()
    case.world.proxy.late_s = lambda: 0.0
    return time.monotonic()


@fault("connection trickles", "outer")
async def connection_trickles(case: Case) -> float:
    case.world.proxy.pace = (case.rng.randint(8, 64), 0.02)
    await case.pause()
    case.world.proxy.pace = None
    return time.monotonic()


# -- refusals


@fault("FUNCTION FLUSH", "embedded", "outer")
async def functions_flushed(case: Case) -> float:
    async with case.world.redis() as store:
        for _ in range(case.rng.randint(1, 3)):
            await store.function_flush("SYNC")
            await asyncio.sleep(case.rng.uniform(0, 0.1))
    return time.monotonic()


@fault("store out of memory (OOM)", "embedded", "outer")
async def out_of_memory(case: Case) -> float:
    async with changed(case, "maxmemory", "1"):
        await case.pause()
    return time.monotonic()


@fault("store without its replicas (NOREPLICAS)", "outer")
async def replicas_missing(case: Case) -> float:
    async with changed(case, "min-replicas-to-write", "1"):
        await case.pause()
    return time.monotonic()


@fault("snapshots fail (MISCONF)", "outer")
async def snapshots_fail(case: Case) -> float:
    """A directory lies where the snapshot must go."""
    obstacle = case.world.outer.data / "dump.rdb"
    async with changed(case, "save", "3600 1"), case.world.redis() as store:
        obstacle.mkdir()
        await snapshot(store, "err")
        await case.pause()
        obstacle.rmdir()
        await snapshot(store, "ok")
    return time.monotonic()


async def snapshot(store: Redis | RedisCluster, status: str) -> None:
    async with asyncio.timeout(10):
        while (await store.info("persistence"))["rdb_last_bgsave_status"] != status:
            with suppress(RedisError):  # one is under way
                await store.bgsave()
            await asyncio.sleep(0.05)


@fault("store turned replica (READONLY)", "outer")
async def turned_replica(case: Case) -> float:
    async with case.world.redis() as store:
        await store.replicaof("127.0.0.1", "1")  # nobody answers there, so its data stays
        await case.pause()
        await store.replicaof("NO", "ONE")
    return time.monotonic()


@fault("store still loading (LOADING)", "outer")
async def still_loading(case: Case) -> float:
    case.world.signal_store(signal.SIGKILL)
    restart = asyncio.create_task(case.world.restart_store("--key-load-delay", LOADING_DELAY_US))
    await asyncio.sleep(LOADING_S)
    await asyncio.to_thread(case.world.outer.call, "CONFIG SET key-load-delay 0")
    await restart
    return time.monotonic()


@fault("disk full for the append-only file", "embedded, small disk", "outer, small disk")
async def disk_full(case: Case) -> float:
    world = case.world
    world.disk.fill()
    await case.pause()
    world.disk.free()
    since = time.monotonic()
    # An embedded one that has ended is started again by the service.
    if not world.embedded and not await asyncio.to_thread(world.outer.call, "PING"):
        await world.restart_store()
    return since


@fault("disk full for the spool", "outer, spool on a small disk")
async def spool_disk_full(case: Case) -> float:
    """202 while there is room, 503 while there is none, 202 again."""
    async with store_stopped(case):
        await told(case, 202, "the store was away")
        case.world.disk.fill()
        await told(case, 503, "the spool's disk was full")
        await case.pause()
        case.world.disk.free()
        await told(case, 202, "there was room again")
    return time.monotonic()


@fault("the spool's directory moved away", "outer")
async def spool_gone(case: Case) -> float:
    """202 while there is a place to write, 503 while there is none, 202 again."""
    spools = [*(case.world.service.data_dir / "producers").glob("*/spool")]
    async with store_stopped(case):
        await told(case, 202, "the store was away")
        for spool in spools:
            spool.rename(spool.with_name("moved"))
        try:
            await told(case, 503, "the spool was gone")
            await case.pause()
        finally:
            for spool in spools:
                spool.with_name("moved").rename(spool)
        await told(case, 202, "the spool was there again")
    return time.monotonic()


async def told(case: Case, status: int, when: str) -> None:
    try:
        await case.load.until_told(status, TELL_S)
    except TimeoutError:
        raise Broken(f"no hit was answered {status} when {when}") from None


@fault("a key of a wrong type (poison batches)", "embedded", "outer", poisons=True)
async def poisoned(case: Case) -> float:
    """Somebody puts a string where one of a site's keys must be, and later the key back."""
    key = base_of(case.rng.choice(case.load.sites).name) + case.rng.choice(READ_FIRST)
    async with case.world.redis() as store:
        both = store.pipeline(transaction=True)
        _ = both.rename(key, f"{key}:away"), both.set(key, "poison")
        await both.execute()
        await told(case, 503, "a key was of a wrong type")
        await case.pause()
        await store.rename(f"{key}:away", key)
    return time.monotonic()


# -- clusters: what a round leaves behind is mended when the next one begins, and recovery is from
# the kill on


@fault("kill -9 of a primary of the cluster", "cluster", kills=True)
async def primary_killed(case: Case) -> float:
    primary, _ = await pair(case)
    return end(primary)


@fault("a replica that lost the last batches is promoted", "cluster", kills=True)
async def replica_promoted_behind(case: Case) -> float:
    primary, replica = await pair(case)
    replica.cut_replication()
    await case.pause()
    return end(primary)


@fault("a primary that was frozen comes back behind its successor", "cluster")
async def primary_frozen(case: Case) -> float:
    """What it still hears before it learns of the other one is not to count twice or be lost."""
    primary, _ = await pair(case)
    primary.pause()
    await asyncio.to_thread(case.world.cluster.wait_until_ok)
    await case.pause()
    primary.resume()
    return time.monotonic()


@fault("slots migrated (legacy)", "cluster")
async def slots_migrated(case: Case) -> float:
    await pair(case)
    slot = case.slot()
    moved = case.world.cluster.migrate_slot_legacy(slot, target_of(case, slot), step=2)
    for _ in moved:
        await asyncio.sleep(case.rng.uniform(0, 0.1))
    return time.monotonic()


@fault("slots migrated (MIGRATESLOTS)", "cluster", stores=("valkey",))
async def slots_migrated_at_once(case: Case) -> float:
    await pair(case)
    slot = case.slot()
    for _ in case.world.cluster.migrate_slots_atomic(slot, slot, target_of(case, slot)):
        await asyncio.sleep(0.01)
    return time.monotonic()


@fault("kill -9 of the primary that sentinels watch", "sentinels", kills=True)
async def watched_primary_killed(case: Case) -> float:
    await asyncio.to_thread(case.world.watched.mend)
    return end(case.world.watched.primary())


# -- a name: connections to the server that it led to before stay open


@fault("the primary behind a name hands over (REPLICAOF)", "behind a name")
async def handed_over(case: Case) -> float:
    """It is a replica while the name still leads to it."""
    pair = case.world.replicated
    await asyncio.to_thread(pair.promote)
    await case.pause()
    pair.move()
    return time.monotonic()


@fault("the primary behind a name is deposed and does not know it", "behind a name")
async def deposed(case: Case) -> float:
    """It takes writes until it hears of its successor: no replica has those, so none of them is
    acknowledged."""
    pair = case.world.replicated
    await asyncio.to_thread(pair.promote, demote=False)
    pair.move()
    await case.pause()
    await asyncio.to_thread(pair.replicate)
    return time.monotonic()


@fault("kill -9 of the primary behind a name", "behind a name", kills=True)
async def named_primary_killed(case: Case) -> float:
    """Its replica is promoted, and it comes back as a replica."""
    pair, since = case.world.replicated, time.monotonic()
    pair.primary.kill()
    pair.take_over()
    pair.move()
    await asyncio.to_thread(pair.replica.start)
    await asyncio.to_thread(pair.replicate)
    return since


async def pair(case: Case) -> tuple[Node, Node]:
    """A primary that is hit, and its replica, of a cluster that is well."""
    cluster = case.world.cluster
    await asyncio.to_thread(cluster.mend)
    primary = cluster.primary_of(case.slot())
    return primary, cluster.replica_of(primary)


def target_of(case: Case, slot: int) -> Node:
    """A primary that may take a slot."""
    source = case.world.cluster.primary_of(slot)
    return case.rng.choice([node for node in case.world.cluster.primaries() if node is not source])


def end(node: Node) -> float:
    since = time.monotonic()
    node.kill()
    return since


@asynccontextmanager
async def changed(case: Case, setting: str, value: str) -> AsyncIterator[None]:
    """A setting of the store, changed meanwhile."""
    async with case.world.redis() as store:
        before = (await store.config_get(setting))[setting]
        await store.config_set(setting, value)
        try:
            yield
        finally:
            await store.config_set(setting, str(before))

"""A service over a store, all of which can be frozen, killed and started again.

    async with embedded(options) as world:   # the service's own Valkey
    async with outer(options) as world:      # a server of ours behind the proxy
    async with cluster(options) as world:    # three primaries with a replica each
    async with sentinels(options) as world:  # a primary and its replica, watched by sentinels
    async with named(options) as world:      # the same behind a name, each hit on both

Whatever it started ends with it: processes by their ids, files with their directory, and the small
disk with its mount namespace.
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from loadtests.proxy import Proxy
from loadtests.service_process import ServiceProcess
from loadtests.small_disk import SmallDisk
from tests.kit.services.process import ROOT
from tests.kit.stores.cluster import Cluster, run_cluster
from tests.kit.stores.node import HOST
from tests.kit.stores.replicated import Replicated, run_replicated
from tests.kit.stores.sentinel import Watched, run_sentinels
from tests.kit.stores.server import Server, server_binaries


class Options(NamedTuple):
    """What a world is made of."""

    store: str = "valkey"
    """The outer server, by its name in `server_binaries`."""
    loop: str = "uvloop"
    workers: int = 1
    small_disk: bool = False
    """The store's files, or the spool, lie on a disk that can be filled."""


class World:
    """The service, its store, and what lies between and below them."""

    def __init__(
        self,
        service: ServiceProcess,
        store: EmbeddedStore | OuterStore | Cluster | Watched | Replicated,
        proxy: Proxy | None = None,
        disk: SmallDisk | None = None,
    ) -> None:
        self.service = service
        self.store = store
        self._proxy = proxy
        self._disk = disk

    @property
    def outer(self) -> OuterStore:
        assert isinstance(self.store, OuterStore), "this store is the service's own"
        return self.store

    @property
    def single(self) -> EmbeddedStore | OuterStore:
        assert isinstance(self.store, (EmbeddedStore, OuterStore)), "this store is several servers"
        return self.store

    @property
    def cluster(self) -> Cluster:
        assert isinstance(self.store, Cluster), "this store is no cluster"
        return self.store

    @property
    def watched(self) -> Watched:
        assert isinstance(self.store, Watched), "no sentinel watches this store"
        return self.store

    @property
    def replicated(self) -> Replicated:
        assert isinstance(self.store, Replicated), "no name leads to this store"
        return self.store

    @property
    def embedded(self) -> bool:
        return isinstance(self.store, EmbeddedStore)

    @property
    def proxy(self) -> Proxy:
        assert self._proxy, "this store has no proxy before it"
        return self._proxy

    @property
    def disk(self) -> SmallDisk:
        assert self._disk, "this store's disk cannot be filled"
        return self._disk

    @asynccontextmanager
    async def redis(self) -> AsyncIterator[Redis | RedisCluster]:
        """A client of the store, past the proxy: of its own socket or of all primaries."""
        client = await asyncio.to_thread(self._client)
        try:
            yield client
        finally:
            await client.aclose()

    def _client(self) -> Redis | RedisCluster:
        if isinstance(self.store, Cluster):
            hosts = [ClusterNode(HOST, node.port) for node in self.store.primaries()]
            return RedisCluster(startup_nodes=hosts, socket_timeout=20)
        server: Server | EmbeddedStore | OuterStore
        if isinstance(self.store, Replicated):
            server = self.store.primary
        else:
            server = self.store.primary() if isinstance(self.store, Watched) else self.store
        path, once = server.socket_path, Retry(NoBackoff(), 0)
        return Redis(unix_socket_path=path, socket_timeout=20, retry=once)

    @property
    def producers(self) -> Path:
        """The directory of the service's producers, as it is seen from here."""
        root = self._disk.root if self._disk else ""
        return Path(f"{root}{self.service.data_dir}/producers")

    def wait_until_settled(self, within_s: float) -> None:
        """Wait until the store has all that was kept in spools, also those of killed workers."""
        deadline = time.monotonic() + within_s
        while [*self.producers.glob("*/spool/*.seg")]:
            if time.monotonic() > deadline:
                raise TimeoutError(f"batches stay in a spool:\n{self.service.log[-3000:]}")
            time.sleep(0.01)

    async def start_service(self) -> None:
        await asyncio.to_thread(self.service.start)

    async def restart_store(self, *arguments: str) -> None:
        """Start it after its end, as a service manager would; nothing where the service does."""
        if isinstance(self.store, OuterStore):
            await asyncio.to_thread(self.store.restart, *arguments)

    def signal_store(self, signum: signal.Signals) -> None:
        os.kill(self.single.pid, signum)


class OuterStore:
    """A server of ours with its files in `directory`/data."""

    def __init__(self, binary: Path, directory: Path, under: Sequence[str]) -> None:
        self.data = directory / "data"
        self._make = partial(_server, binary, directory, under)
        self._server = self._make()
        self.socket_path = self._server.socket_path

    @property
    def pid(self) -> int:
        return self._server.pid

    def call(self, *words: str) -> bytes:
        """The first bytes of its answer to an inline command; empty when it is away."""
        return self._server.call(*words)

    def restart(self, *arguments: str) -> None:
        """Start it, at first or after its end, with more arguments for this run."""
        self.kill()
        self._server = self._make(*arguments)
        self._server.start()

    def stop(self) -> None:
        self._server.stop()

    def kill(self) -> None:
        self._server.kill()


def _server(binary: Path, directory: Path, under: Sequence[str], *arguments: str) -> Server:
    place = ("--dir", "data", "--unixsocket", "../s")  # the socket stays beside the data
    return Server(binary, directory, [*place, *arguments], under)


class EmbeddedStore:
    """The Valkey that the service runs, found by its files; `root` leads to them where they lie in
    another mount namespace."""

    def __init__(self, data_dir: Path, root: str = "") -> None:
        self._home = data_dir / "valkey"
        self._seen_home = Path(f"{root}{self._home}")
        self.socket_path = str(self._seen_home / "valkey.sock")

    @property
    def pid(self) -> int:
        return int((self._seen_home / "valkey.lock").read_text())

    def end_orphan(self) -> None:
        """End the server that a killed service left behind, if there is one."""
        with suppress(OSError, ValueError):
            pid = self.pid
            if os.readlink(f"/proc/{pid}/cwd") == str(self._home):
                os.kill(pid, signal.SIGKILL)


@asynccontextmanager
async def embedded(options: Options) -> AsyncIterator[World]:
    """A service that runs its own Valkey, which syncs every commit."""
    with scratch_directory() as scratch, disk_of(scratch, options) as disk:
        under = (*disk.under, "env", "-C", str(ROOT)) if disk else ()
        service = service_process(scratch, options, under)
        store = EmbeddedStore(service.data_dir, disk.root if disk else "")
        try:
            await asyncio.to_thread(service.start)
            yield World(service, store, disk=disk)
        finally:
            await asyncio.to_thread(service.terminate)
            store.end_orphan()


@asynccontextmanager
async def outer(options: Options) -> AsyncIterator[World]:
    """A service that speaks through the proxy to a server which syncs once a second."""
    with scratch_directory() as scratch, disk_of(scratch, options) as disk:
        under = (*disk.under, "env", "-C", str(scratch)) if disk else ()
        (scratch / "data").mkdir(exist_ok=True)
        store = OuterStore(server_binaries()[options.store], scratch, under)
        async with serving(scratch, store, options, disk) as world:
            yield world


@asynccontextmanager
async def outer_spooling(options: Options) -> AsyncIterator[World]:
    """As `outer`, but for the small disk, on which the service's data lies."""
    with scratch_directory() as scratch:
        (scratch / "service").mkdir()
        (scratch / "data").mkdir()
        with disk_of(scratch / "service", options) as disk:
            under = (*disk.under, "env", "-C", str(ROOT)) if disk else ()
            store = OuterStore(server_binaries()[options.store], scratch, ())
            async with serving(scratch, store, options, disk, under) as world:
                yield world


@asynccontextmanager
async def serving(
    scratch: Path,
    store: OuterStore,
    options: Options,
    disk: SmallDisk | None,
    under: Sequence[str] = (),
) -> AsyncIterator[World]:
    """An outer store, the proxy before it, and the service."""
    try:
        await asyncio.to_thread(store.restart)
        async with Proxy(store.socket_path) as proxy:
            service = service_process(scratch / "service", options, under, REDIS_URL=proxy.url)
            try:
                await asyncio.to_thread(service.start)
                yield World(service, store, proxy, disk)
            finally:
                await asyncio.to_thread(service.terminate)
    finally:
        store.kill()


@asynccontextmanager
async def cluster(options: Options) -> AsyncIterator[World]:
    """A service over a cluster."""
    with run_cluster(server_binaries()[options.store]) as store:
        async with over(store, options) as world:
            yield world


@asynccontextmanager
async def sentinels(options: Options) -> AsyncIterator[World]:
    """A service over whichever server the sentinels name."""
    with run_sentinels(server_binaries()[options.store]) as store:
        async with over(store, options) as world:
            yield world


@asynccontextmanager
async def named(options: Options) -> AsyncIterator[World]:
    """A service over a primary behind a name, and its replica, which has what is acknowledged."""
    async with (
        run_replicated(server_binaries()[options.store]) as store,
        over(store, options, MIN_REPLICAS="1") as world,
    ):
        yield world


@asynccontextmanager
async def over(
    store: Cluster | Watched | Replicated, options: Options, **settings: str
) -> AsyncIterator[World]:
    """A service over a store that runs."""
    with scratch_directory() as scratch:
        place = scratch / "service"
        service = service_process(place, options, REDIS_URL=store.url, **settings)
        try:
            await asyncio.to_thread(service.start)
            yield World(service, store)
        finally:
            await asyncio.to_thread(service.terminate)


def service_process(
    scratch: Path, options: Options, under: Sequence[str] = (), **settings: str
) -> ServiceProcess:
    return ServiceProcess(
        scratch, loop=options.loop, under=under, WORKERS=str(options.workers), **settings
    )


@contextmanager
def scratch_directory() -> Iterator[Path]:
    """Short, since a unix socket lies in it."""
    with tempfile.TemporaryDirectory(prefix="vc-chaos-", dir="/tmp") as directory:
        yield Path(directory)


@contextmanager
def disk_of(scratch: Path, options: Options) -> Iterator[SmallDisk | None]:
    """The small disk, if it is wanted, below the data directory."""
    if not options.small_disk:
        yield None
        return
    disk = SmallDisk(scratch / "data")
    try:
        yield disk
    finally:
        disk.end()

"""Readiness tells the truth: what hits are answered and what /readyz says, fault by fault.

Each row breaks a real part of a running service, waits until /readyz says so, and mends it again.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from loadtests.proxy import Proxy
from tests.kit.services.in_process import PERSON, Service, run_service, until
from tests.kit.stores.server import Server, run_server, server_binaries

WITHIN_S = 5.0  # both ways

pytestmark = pytest.mark.xdist_group("serial")


class Place(NamedTuple):
    """A service, its store behind a proxy of ours, and its data directory."""

    service: Service
    store: Server
    proxy: Proxy
    data_dir: Path
    patch: pytest.MonkeyPatch


class Row(NamedTuple):
    """A fault, what it does to hits, and what is said of it."""

    broken: Callable[[Place], AbstractAsyncContextManager[None]]
    posts: set[int]
    """What hits are answered while it lasts, once it has been noticed."""
    status: int
    state: str
    words: tuple[str, ...]
    """In what is said."""


@asynccontextmanager
async def late(place: Place) -> AsyncIterator[None]:
    place.proxy.late_s = lambda: 0.4
    yield
    place.proxy.late_s = lambda: 0.0


@asynccontextmanager
async def sometimes_late(place: Place) -> AsyncIterator[None]:
    replies = count(1)
    place.proxy.late_s = lambda: 0.0 if next(replies) % 50 else 0.3
    yield
    place.proxy.late_s = lambda: 0.0


@asynccontextmanager
async def paused(place: Place) -> AsyncIterator[None]:
    place.store.pause()
    yield
    place.store.resume()


@asynccontextmanager
async def killed(place: Place) -> AsyncIterator[None]:
    place.store.kill()
    yield
    await asyncio.to_thread(place.store.start)


@asynccontextmanager
async def silent(place: Place) -> AsyncIterator[None]:
    place.proxy.flowing.clear()
    yield
    place.proxy.flowing.set()


@asynccontextmanager
async def out_of_memory(place: Place) -> AsyncIterator[None]:
    place.store.call("CONFIG", "SET", "maxmemory", "1mb")
    yield
    place.store.call("CONFIG", "SET", "maxmemory", "0")


@asynccontextmanager
async def killed_with_a_small_spool(place: Place) -> AsyncIterator[None]:
    spool = place.service.parts.recorder._replay._spool  # type: ignore[union-attr]
    most, spool._max_bytes = spool._max_bytes, 20_000
    place.patch.setattr("visit_counter.delivery.replay.MAX_BATCH_BYTES", 2_000)
    async with killed(place):
        yield
    spool._max_bytes = most


@asynccontextmanager
async def paused_on_a_full_disk(place: Place) -> AsyncIterator[None]:
    place.store.pause()
    with filled(place.data_dir):
        yield
    place.store.resume()


@asynccontextmanager
async def spool_broken(place: Place) -> AsyncIterator[None]:
    """One outage shows it; then the store is well again."""

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with place.patch.context() as patch:
        patch.setattr(os, "pwrite", fail)
        place.store.pause()
        await until_said(place, "cannot be written")
        place.store.resume()
        yield


@asynccontextmanager
async def full_set(place: Place) -> AsyncIterator[None]:
    """No two hits of this test are of one visitor."""
    libraries = place.service.parts.store._libraries
    source = libraries._source
    capped = source.replace("MAX_IDS = 1000000", "MAX_IDS = 1")
    assert capped != source
    async with Redis(unix_socket_path=place.store.socket_path) as client:
        await client.function_load(capped, replace=True)
        yield
        await client.function_load(source, replace=True)


ROWS = {
    "store slow": Row(late, {200, 202}, 200, "degraded", ("takes", "ms to commit", "everysec")),
    "store slow now and then": Row(sometimes_late, {200, 202}, 200, "degraded", ("to commit",)),
    "store hangs": Row(paused, {202}, 200, "degraded", ("went into the spool", "since 20")),
    "store killed": Row(killed, {202}, 200, "degraded", ("went into the spool", "cannot count")),
    "store silent": Row(silent, {202}, 200, "degraded", ("went into the spool",)),
    "store without memory": Row(out_of_memory, {202}, 200, "degraded", ("maxmemory",)),
    "store away, spool full": Row(
        killed_with_a_small_spool, {503}, 503, "unavailable", ("cannot count", "is full: 20000")
    ),
    "store away, disk full": Row(
        paused_on_a_full_disk, {503}, 503, "unavailable", ("The disk of the spool", "is full")
    ),
    "spool broken, store well": Row(
        spool_broken, {200}, 200, "degraded", ("spool", "cannot be written", "goes on by itself")
    ),
    "set of visitors full": Row(full_set, {200}, 200, "degraded", ("portal", "full since 20")),
}


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 2 MB, where one may be mounted."""
    place = Path(tempfile.mkdtemp(prefix="vc-", dir="/tmp"))
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    mounted = not subprocess.run(command, capture_output=True, check=False).returncode
    try:
        if not mounted:
            pytest.skip("no mounts here")
        yield place
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(place)], check=True)
        shutil.rmtree(place, ignore_errors=True)  # who unshared meanwhile may still have it


@pytest.mark.parametrize("name", ROWS)
async def test_readiness_tells_the_truth(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    """Within seconds, when something breaks and when it is mended; and it is said once."""
    row = ROWS[name]
    data_dir = request.getfixturevalue("small_disk") if "disk" in name else tmp_path
    monkeypatch.setattr("visit_counter.delivery.flow.SPILL_S", 0.25)
    with run_server(server_binaries()["valkey"]) as store, capture_logs() as lines:
        async with (
            Proxy(store.socket_path) as proxy,
            run_service(proxy.url, data_dir=data_dir) as service,
        ):
            await service.site(max_pages=100_000)
            lines.clear()
            place = Place(service, store, proxy, data_dir, monkeypatch)
            async with posting(service) as posts:
                await until_ready(place, 200, "ok", ())
                async with row.broken(place):
                    await until_ready(place, row.status, row.state, row.words)
                    posts.clear()
                    await until_posted(posts, 10)
                    said = Counter(posts)
                    await until_ready(place, row.status, row.state, row.words)
                await until_ready(place, 200, "ok", ())
                posts.clear()
                await until_posted(posts, 10)
            logged = Counter((line["event"], line.get("reason")) for line in lines)

    assert set(said) <= row.posts, said
    assert set(posts) == {200}
    assert not [line for line, times in logged.items() if times > 1], logged


async def test_counts_go_on_while_hits_are_spooled(
    valkey: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that is late for hits has answered for earlier ones, and can be asked."""
    monkeypatch.setattr("visit_counter.delivery.flow.SPILL_S", 0.05)
    monkeypatch.setattr("visit_counter.delivery.flow.MOST_SPILL_S", 0.05)
    async with (
        Proxy(valkey.socket_path) as proxy,
        run_service(proxy.url, data_dir=tmp_path) as service,
    ):
        await service.site()
        await service.hit()
        proxy.late_s = lambda: 0.15
        shown: list[int] = []
        while len(set(shown)) < 3:
            async with service.client.post(
                f"{service.url}/w/portal", json={"p": "/"}, headers={"User-Agent": PERSON}
            ) as answer:
                if answer.status == 202:
                    shown.append((await answer.json())["total"]["pageviews"])

    assert shown == sorted(shown)


async def test_a_directory_that_keeps_no_spool_is_named(valkey: Server, tmp_path: Path) -> None:
    """A file in the way; hits are counted, and refused while the store is away."""
    (tmp_path / "producers").write_text("in the way")
    async with run_service(valkey.url, data_dir=tmp_path) as service:
        await service.site()
        await service.hit()
        status, ready = await service.ready()

    assert (status, ready["status"]) == (200, "degraded")
    assert f"{tmp_path}" in ready["hints"][0]
    assert "hits are refused while the store is away" in ready["hints"][0]
    assert "producers" in ready["hints"][0]


@asynccontextmanager
async def posting(service: Service) -> AsyncIterator[list[int]]:
    """Hits of ever other visitors, some at a time; their statuses."""
    statuses: list[int] = []
    numbers = count(1)

    async def post() -> None:
        while True:
            n = next(numbers)
            address = f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}"
            headers = {"X-Forwarded-For": address, "User-Agent": PERSON}
            url = f"{service.url}/w/portal"
            async with service.client.post(url, json={"p": "/"}, headers=headers) as answer:
                statuses.append(answer.status)
                assert answer.status == 503 or (await answer.json())["counted"]
            await asyncio.sleep(0.02)

    tasks = [asyncio.create_task(post()) for _ in range(4)]
    try:
        yield statuses
        assert not [task for task in tasks if task.done()]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until_posted(posts: list[int], number: int) -> None:
    await until(lambda: len(posts) >= number, WITHIN_S)


async def until_ready(place: Place, status: int, state: str, words: tuple[str, ...]) -> None:
    ready: Any = None
    try:
        async with asyncio.timeout(WITHIN_S):
            while True:
                found, ready = await place.service.ready()
                told = " ".join(ready["faults"] + ready["hints"])
                if (found, ready["status"]) == (status, state) and all(w in told for w in words):
                    return
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"wanted {status} {state} {words}, found {ready}") from None


async def until_said(place: Place, words: str) -> None:
    async with asyncio.timeout(WITHIN_S):
        while words not in str((await place.service.ready())[1]):  # noqa: ASYNC110 # it has no event
            await asyncio.sleep(0.05)


@contextmanager
def filled(directory: Path) -> Iterator[None]:
    """Nothing more fits on its disk."""
    ballast = directory / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            while True:
                try:
                    file.write(bytes(size))
                except OSError:
                    break
    try:
        yield
    finally:
        ballast.unlink()

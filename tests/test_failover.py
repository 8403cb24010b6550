"""The primary moves behind its address: hits follow it, whatever the address is made of.

Two servers that replicate, and a name that leads to one of them: our proxy, a name that is
resolved, the path of a socket. Connections to the server that the name led to before stay open, as
those through a Kubernetes service, a virtual IP or HAProxy do.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.kit.services.in_process import PERSON, Service, run_service, until
from tests.kit.stores.node import HOST, Node
from tests.kit.stores.replicated import Replicated, run_replicated
from tests.kit.stores.server import server_binaries
from visit_counter.reading.reader import Asked

PROMISED_S = 5.0
NAME = "store.example"


@pytest.fixture(autouse=True)
def _spill_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("visit_counter.delivery.flow.SPILL_S", 0.25)


@pytest.fixture(params=["valkey", "redis"])
def binary(request: pytest.FixtureRequest) -> Path:
    found = server_binaries().get(request.param)
    if found is None:
        pytest.skip("needs redis-server")
    return found


Move = Callable[[Replicated], None]
Address = Callable[[Replicated], AbstractAsyncContextManager[tuple[str, Move]]]


@asynccontextmanager
async def proxied(pair: Replicated) -> AsyncIterator[tuple[str, Move]]:
    """A TCP proxy, as HAProxy, a Kubernetes service and a virtual IP are."""
    yield pair.url, Replicated.move


@asynccontextmanager
async def resolved(pair: Replicated) -> AsyncIterator[tuple[str, Move]]:
    """A name whose record is replaced. uvloop asks the system past `getaddrinfo`, so this is for
    asyncio's own loop."""
    ports = {NAME: pair.primary.port}
    loop = asyncio.get_running_loop()
    resolve = loop.getaddrinfo

    async def getaddrinfo(host: Any, port: Any, **more: Any) -> Any:
        if host != NAME:
            return await resolve(host, port, **more)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (HOST, ports[NAME]))]

    def move(pair: Replicated) -> None:
        ports[NAME] = pair.primary.port

    loop.getaddrinfo = getaddrinfo  # type: ignore[method-assign]
    try:
        yield f"redis://{NAME}:6379", move
    finally:
        loop.getaddrinfo = resolve  # type: ignore[method-assign]


@asynccontextmanager
async def linked(pair: Replicated) -> AsyncIterator[tuple[str, Move]]:
    """The path of a unix socket, which leads to another socket afterwards."""
    with tempfile.TemporaryDirectory(prefix="vc-", dir="/tmp") as directory:
        path = Path(directory) / "s"
        path.symlink_to(pair.primary.socket_path)

        def move(pair: Replicated) -> None:
            path.unlink()
            path.symlink_to(pair.primary.socket_path)

        yield f"unix://{path}", move


ADDRESSES = [proxied, linked]


async def is_ready(service: Service, status: str) -> None:
    """/readyz says so in time, and stays 200: hits are kept meanwhile."""
    async with asyncio.timeout(PROMISED_S):
        while True:
            async with service.client.get(f"{service.ops_url}/readyz") as answer:
                assert answer.status == 200
                if (await answer.json())["status"] == status:
                    return
            await asyncio.sleep(0.02)


async def counts_again(service: Service, **fields: str) -> int:
    """Hits until the store counts one, in time; how many were sent."""
    async with asyncio.timeout(PROMISED_S):
        for sent in itertools.count(1):
            async with service.client.post(
                f"{service.url}/w/portal", json=fields, headers={"User-Agent": PERSON}
            ) as answer:
                assert answer.status in (200, 202)
                if answer.status == 200:
                    return sent
            await asyncio.sleep(0.02)
    raise AssertionError("unreachable")


async def counted(service: Service, pair: Replicated) -> int:
    """The pageviews that the primary has of the site, when nothing is in the spool any more."""
    replay = service.parts.recorder._replay
    assert replay is not None
    await until(lambda: not replay.in_use)
    site = service.parts.sites.get("portal")
    assert site is not None
    tag = service.parts.store._tags[site.partition]
    pages = pair.primary.ask("ZRANGE", f"{tag}:portal:{site.generation}:pages", 0, -1, "WITHSCORES")
    return sum(int(views) for views in pages[1::2])


@pytest.mark.parametrize("address", ADDRESSES)
async def test_hits_follow_a_primary_that_hands_over(binary: Path, address: Address) -> None:
    """The old one says that it takes no writes: what it does not take is kept until the address
    leads to the new one, and then counted there, once."""
    await hand_over(binary, address)


def test_a_name_is_resolved_anew(binary: Path) -> None:
    """Each time that the server is left, whether it says so or not."""
    asyncio.run(hand_over(binary, resolved))
    asyncio.run(know_nothing(binary, resolved))


async def hand_over(binary: Path, address: Address) -> None:
    async with (
        run_replicated(binary) as pair,
        address(pair) as (url, move),
        run_service(url) as service,
    ):
        await service.site()
        await service.hit()
        await asyncio.to_thread(pair.promote)
        await is_ready(service, "degraded")
        await service.hit(status=202)
        move(pair)
        sent = await counts_again(service)
        await is_ready(service, "ok")
        total = await counted(service, pair)

    assert total == 2 + sent


@pytest.mark.parametrize("address", ADDRESSES)
async def test_a_primary_that_knows_of_nothing_is_left(binary: Path, address: Address) -> None:
    """The old one goes on taking writes, as behind a broken network: hits go to the new one in
    time, and so do those that the old one has counted meanwhile."""
    await know_nothing(binary, address)


async def know_nothing(binary: Path, address: Address) -> None:
    async with (
        run_replicated(binary) as pair,
        address(pair) as (url, move),
        run_service(url) as service,
    ):
        await service.site()
        await service.hit()
        await asyncio.to_thread(pair.promote, demote=False)
        move(pair)
        old, sent = pair.replica, 1
        async with asyncio.timeout(PROMISED_S):
            while service.parts.store._shards.all()[0].run_id != run_id(pair.primary):
                await service.hit()
                sent += 1
                await asyncio.sleep(0.05)
        sent += await counts_again(service)
        ledger = service.parts.recorder._ledger
        await ledger._verify()
        total = await counted(service, pair)
        await until(lambda: clients(old) == 0)

    assert total == sent


def run_id(node: Node) -> str:
    return node.info("server")["run_id"]


def clients(node: Node) -> int:
    """How many normal clients a server has, except the one that asks."""
    listed = str(node.ask("CLIENT", "LIST", "TYPE", "NORMAL")).splitlines()
    return len(listed) - 1


REFUSING = {
    "min-replicas-to-write": "3",  # NOREPLICAS: it has lost its replicas
    "maxmemory": "1",  # OOM
}


@pytest.mark.parametrize("setting", REFUSING)
async def test_a_primary_that_refuses_is_left_when_the_name_is_moved(
    binary: Path, setting: str
) -> None:
    """Its reason does not name another server, so it is waited for, until the name leads to one."""
    async with run_replicated(binary) as pair, run_service(pair.url) as service:
        await service.site()
        await service.hit()
        pair.primary.ask("CONFIG", "SET", setting, REFUSING[setting])
        await is_ready(service, "degraded")
        connected = clients(pair.primary)
        await asyncio.sleep(1)
        assert clients(pair.primary) >= min(connected, 2)  # it is not left
        await asyncio.to_thread(pair.promote, demote=False)
        pair.move()
        sent = await counts_again(service)
        await is_ready(service, "ok")
        total = await counted(service, pair)

    assert total == 1 + sent


async def test_a_primary_that_hangs_is_left(binary: Path) -> None:
    """It answers nothing, and its connections stay open."""
    async with run_replicated(binary) as pair, run_service(pair.url) as service:
        await service.site()
        await service.hit()
        pair.primary.pause()
        await is_ready(service, "degraded")
        pair.take_over()
        pair.move()
        sent = await counts_again(service)
        await is_ready(service, "ok")
        total = await counted(service, pair)
        pair.replica.resume()

    assert total == 1 + sent


async def test_reads_leave_a_demoted_server(binary: Path) -> None:
    """A replica answers reads without an error, though it gets nothing new here. Counts and sites
    are the new primary's in time, without a hit of this service."""
    async with (
        run_replicated(binary) as pair,
        run_service(pair.url, namespace="reads") as service,
    ):
        await service.site()
        await service.hit()
        await asyncio.to_thread(pair.promote)
        pair.replica.cut_replication()
        pair.move()
        async with run_service(f"unix://{pair.primary.socket_path}", namespace="reads") as other:
            await other.site("new")
            await other.hit()
            await until(lambda: service.parts.sites.get("new"))
            site = service.parts.sites.get("portal")
            assert site is not None
            reading = await service.parts.reader.read(site, Asked(days=True), fresh_ms=0)

    assert reading.counts.total.pageviews == 2
    assert sum(day.numbers.pageviews for day in reading.days.values()) == 2


async def test_a_server_without_our_data_is_named(binary: Path) -> None:
    """A replica that was promoted before it had a copy: hits are kept, and log and readiness say
    what it is; with the right one behind the name all of them count."""
    async with run_replicated(binary) as pair, run_service(pair.url) as service:
        await service.site()
        await service.hit()
        with capture_logs() as logs:
            pair.replica.ask("REPLICAOF", "NO", "ONE")
            pair.replica.ask("FLUSHALL")
            pair.primary.ask("REPLICAOF", HOST, 1)
            await until(lambda: service.parts.watch.fault)
            pair.name.upstream = pair.replica.socket_path
            await until(lambda: "none of our data" in (service.parts.watch.fault or ""))
            fault = service.parts.watch.fault
            await service.hit(status=202)
            await until(lambda: len(reasons(logs)) == 2, within_s=10)
            pair.primary.ask("REPLICAOF", "NO", "ONE")
            pair.move()
            sent = await counts_again(service)
            total = await counted(service, pair)

    assert fault
    assert "promote one that has the data or restore a backup" in fault
    assert "READONLY" in reasons(logs)[0] or "read only" in reasons(logs)[0]
    assert reasons(logs)[1] == fault
    assert total == 2 + sent


def reasons(logs: Sequence[MutableMapping[str, Any]]) -> list[str]:
    return [line["reason"] for line in logs if line["event"].startswith("the store cannot count")]


async def test_an_emptied_server_is_named(binary: Path) -> None:
    """The same server, without its data: not another one."""
    async with run_replicated(binary) as pair, run_service(pair.url) as service:
        await service.site()
        pair.primary.ask("FLUSHALL")
        await until(lambda: service.parts.watch.fault)

    assert "was removed while it ran, as by FLUSHALL" in (service.parts.watch.fault or "")


async def test_a_demoted_server_is_not_asked_in_a_busy_loop(binary: Path) -> None:
    """While its name leads to no other: a few connections a second, however many hits come."""
    async with run_replicated(binary) as pair, run_service(pair.url) as service:
        await service.site()
        await asyncio.to_thread(pair.promote)
        await is_ready(service, "degraded")
        before = received(pair.replica)
        deadline = asyncio.get_running_loop().time() + 2
        while asyncio.get_running_loop().time() < deadline:
            await asyncio.gather(*(service.hit(status=202) for _ in range(20)))
        made = received(pair.replica) - before

    assert made < 100  # in two seconds five times all of them: a link, some readers, the watch


def received(node: Node) -> int:
    return int(node.info("stats")["total_connections_received"])

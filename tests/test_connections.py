"""What a connection may take: bytes, time and places, each bounded, and each with its end."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from loadtests.service_process import free_port
from tests.kit.raw_http import LOOK, connected, end_of, exchange, plain_hit, read
from tests.kit.services.in_process import Service, run_service, until
from tests.kit.stores.server import Server
from visit_counter import metrics
from visit_counter.process.open_files import Places

PLACES, SPARE, OPS = 8, 4, 16
STRANGER = "10.0.0.0/8"  # as the trusted network, which no test's client is of
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: count.example\r\n\r\n"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("visit_counter.web.lane.lane.SWEEP_S", 0.02)


@pytest.fixture
async def small(valkey: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    """A service with few places."""
    few_places(monkeypatch)
    async with run_service(valkey.url) as service:
        await service.site()
        metrics.CONNECTIONS.set(-1)
        await until(lambda: number("connections") == 0)  # that of the admin has ended
        yield service


def few_places(monkeypatch: pytest.MonkeyPatch) -> None:
    places = Places(viewers=10, staying=PLACES, newcomers=SPARE, ops=OPS)
    monkeypatch.setattr("visit_counter.serving.places_here", lambda: places)


def number(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"visitcounter_{name}", labels) or 0


def unfinished_body() -> bytes:
    """Of one that aiohttp reads."""
    return plain_hit(b"a" * 16_000, "Connection: close")[:-1]


def long_head(size: int) -> bytes:
    lines = b"".join(b"X-%d: %b\r\n" % (n, b"a" * 5000) for n in range(size // 5000))
    return LOOK[:-2] + lines


@pytest.mark.parametrize("begun", [long_head(30_000), unfinished_body()], ids=["head", "body"])
async def test_what_all_hold_is_bounded(
    service: Service, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    """Those that hold most end; one with the beginning of a usual head goes on."""
    monkeypatch.setattr("visit_counter.web.lane.connections.MOST_HELD", 60_000)
    await service.site()
    ended = number("connections_refused_total", limit="memory")
    async with AsyncExitStack() as stack, connected(service) as (reader, writer):
        writer.write(LOOK[:-2])
        many = [await stack.enter_async_context(connected(service)) for _ in range(10)]
        for _, each in many:
            each.write(begun)
        await until(lambda: number("connections_refused_total", limit="memory") >= ended + 3)
        await until(lambda: sum(each.at_eof() for each, _ in many) >= 3)
        writer.write(b"\r\n")
        answer = await read(reader, no_body=False)

    assert answer.status == 200


# -- time


@pytest.mark.parametrize(
    "begin",
    [b"", b"G", LOOK[:-2], long_head(20_000), b"\r\n\r\n", b"\n", b"\r\nGET /w", LOOK + LOOK[:-2]],
    ids=["nothing", "a byte", "no end", "long", "empty lines", "LF", "behind a line", "second"],
)
async def test_a_head_has_its_time(
    service: Service, monkeypatch: pytest.MonkeyPatch, begin: bytes
) -> None:
    """However much of it is there, and however it goes on byte by byte."""
    monkeypatch.setattr("visit_counter.web.lane.connection.REQUEST_S", 0.2)
    await service.site()
    async with connected(service) as (reader, writer):
        writer.write(begin)
        ended = asyncio.create_task(end_of(reader))
        while not ended.done():
            writer.write(b"\r\n" if begin.isspace() else b"a")
            await asyncio.wait({ended}, timeout=0.02)

    assert ended.result().count(b"HTTP/1.1 200") == begin.count(LOOK)


async def test_a_head_that_can_never_be_whole_has_its_time_at_aiohttp(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parser waits for more of this line, and has no clock."""
    monkeypatch.setattr("visit_counter.web.lane.connection.REQUEST_S", 0.2)
    monkeypatch.setattr("visit_counter.web.lane.lane.SWEEP_S", 0.05)
    async with connected(service) as (reader, writer):
        writer.write(b"GET /\n")
        answer = await asyncio.wait_for(end_of(reader), 5)

    assert answer == b""


async def test_a_connection_that_fails_to_end_takes_nobody_s_time(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistake of ours ends it, and the sweep goes on to the others."""
    monkeypatch.setattr("visit_counter.web.lane.connection.REQUEST_S", 0.1)
    monkeypatch.setattr("visit_counter.web.lane.connection.Connection.expire", broken)
    async with connected(service) as (first, _), connected(service) as (second, _):
        ends = [await asyncio.wait_for(end_of(reader), 5) for reader in (first, second)]

    assert ends == [b"", b""]


async def test_a_client_that_does_not_read_aiohttps_answer_is_ended(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else waits for it either."""
    monkeypatch.setattr("visit_counter.web.ops.generate_latest", lambda: bytes(64 << 20))
    monkeypatch.setattr("visit_counter.web.lane.lent.STALL_S", 0.2)
    await until(lambda: number("connections") == 0)
    async with connected(service, limit=1) as (reader, writer):
        writer.write(HEALTH.replace(b"healthz", b"metrics"))
        await until(lambda: number("connections") > 0)
        await until(lambda: number("connections") == 0)
        got = await end_of(reader)

    assert len(got) < 64 << 20


# -- bytes


async def test_a_long_head_is_aiohttps_once_it_is_whole(service: Service) -> None:
    """Also in pieces."""
    await service.site()
    head = long_head(45_000) + b"\r\n"
    (answer,) = await exchange(service, [head[n : n + 9000] for n in range(0, len(head), 9000)])

    assert answer.status == 200


async def test_a_head_beyond_all_bounds_is_refused(service: Service) -> None:
    """431, and the connection ends."""
    async with connected(service) as (reader, writer):
        writer.write(long_head(70_000))
        got = await end_of(reader)

    assert got.startswith(b"HTTP/1.1 431 ")


# -- places


async def test_a_full_house_answers_a_health_check(small: Service) -> None:
    """However many have come and said nothing: who has waited longest goes."""
    refused = number("connections_refused_total", limit="all")
    async with AsyncExitStack() as stack:
        silent = [
            await stack.enter_async_context(connected(small)) for _ in range(PLACES + SPARE + 10)
        ]
        (alive,) = await exchange(small, [HEALTH])
        (hit,) = await exchange(small, [plain_hit()])
        gone = [await asyncio.wait_for(reader.read(1), 5) for reader, _ in silent[:10]]

    assert (alive.status, hit.status, gone) == (200, 200, [b""] * 10)
    assert number("connections_refused_total", limit="all") - refused >= 10


async def test_a_full_house_keeps_whom_it_knows(small: Service) -> None:
    """Who has sent a request stays, through any number of newcomers, each answered once."""
    async with AsyncExitStack() as stack:
        known = [await stack.enter_async_context(connected(small)) for _ in range(PLACES)]
        for reader, writer in known:
            writer.write(LOOK)
            assert (await read(reader, no_body=False)).status == 200
        newcomers = [await exchange(small, [LOOK + LOOK], 2) for _ in range(20)]
        flood = [await stack.enter_async_context(connected(small)) for _ in range(40)]
        for reader, writer in known * 2:
            writer.write(LOOK)
            assert (await read(reader, no_body=False)).status == 200

    assert [len(answers) for answers in newcomers] == [1] * 20
    assert len(flood) == 40


async def test_who_was_idle_for_long_gives_its_place_to_who_is_not(
    small: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One client's kept connections would keep all others from being kept."""
    monkeypatch.setattr("visit_counter.web.lane.connections.SPARED_S", 0)
    async with AsyncExitStack() as stack:
        kept = [await stack.enter_async_context(connected(small)) for _ in range(PLACES + 1)]
        for reader, writer in kept:
            writer.write(LOOK)
            assert (await read(reader, no_body=False)).status == 200
        gone = await asyncio.wait_for(kept[0][0].read(1), 5)
        kept[-1][1].write(LOOK)
        last = await read(kept[-1][0], no_body=False)

    assert (gone, last.status) == (b"", 200)


@pytest.mark.parametrize(
    "begun",
    [
        plain_hit(b"{}", "Expect: x"),
        plain_hit(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked"),
        plain_hit()[:-1],
    ],
    ids=["refused Expect", "chunks", "body"],
)
async def test_what_is_aiohttps_gives_up_its_place_too(small: Service, begun: bytes) -> None:
    """Whatever it waits for; and newcomers keep theirs meanwhile."""
    async with AsyncExitStack() as stack:
        lent = [await stack.enter_async_context(connected(small)) for _ in range(3 * PLACES)]
        for _, writer in lent:
            writer.write(begun)
        (alive,) = await exchange(small, [HEALTH])
        (hit,) = await exchange(small, [plain_hit()])
        gone = [await asyncio.wait_for(end_of(reader), 5) for reader, _ in lent[:PLACES]]

    assert (alive.status, hit.status) == (200, 200)
    assert not any(b" 200 " in got for got in gone)


async def test_a_network_has_a_share_and_others_the_rest(
    valkey: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own idle connections end for its new ones; one line of the log says so, and names no
    address."""
    few_places(monkeypatch)
    share, refused = (PLACES + SPARE) // 3, number("connections_refused_total", limit="network")
    monkeypatch.setattr("visit_counter.web.lane.connections.SHARE", 3)
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(run_service(valkey.url, trusted_proxies=STRANGER))
        await service.client.close()
        with capture_logs() as logs:
            many = [await stack.enter_async_context(connected(service)) for _ in range(20)]
            gone = [await asyncio.wait_for(end_of(each), 5) for each, _ in many[:-share]]
            other = await stack.enter_async_context(connected(service, local_addr=("127.0.9.9", 0)))
            other[1].write(HEALTH)
            got = await end_of(other[0])
            many[-1][1].write(HEALTH)
            last = await end_of(many[-1][0])

    assert set(gone) == {b""}
    assert got.startswith(b"HTTP/1.1 200 ")
    assert last.startswith(b"HTTP/1.1 200 ")
    assert number("connections_refused_total", limit="network") - refused == 20 - share
    assert [each["places"] for each in logs] == [share]
    assert "127.0" not in str(logs)


async def test_the_ops_address_has_room_for_others(
    valkey: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One client's sockets there, whatever it leaves unfinished, keep out neither Prometheus nor an
    admin, who are kept."""
    few_places(monkeypatch)
    ops = f"127.0.0.1:{free_port()}"
    async with run_service(valkey.url, ops_listen=ops, trusted_proxies=STRANGER) as service:
        await service.site()  # its connection is kept there
        own = [await opened(ops, "127.0.9.9")]
        for begun in (
            b"",
            HEALTH[:-2],
            HEALTH,
            HEALTH[:-2] + b"Transfer-Encoding: chunked\r\n\r\n",
        ):
            for _ in range(OPS):
                own.append(await opened(ops, "127.0.0.2", begun))
        await service.api("GET", "/sites")
        reader, writer = own[0]
        writer.write(HEALTH)
        answer = await asyncio.wait_for(reader.readuntil(b"ok"), 5)
        for _, each in own:
            each.transport.abort()

    assert answer.startswith(b"HTTP/1.1 200 ")


async def test_an_answer_of_aiohttps_ends_what_the_lane_has_lent(service: Service) -> None:
    """Also one before any handler, as to a refused Expect; it says so."""
    await service.site()
    asked = [plain_hit(b"{}", "Expect: x"), HEALTH, HEALTH.replace(b"z ", b"x "), b"\x00\r\n\r\n"]
    got = []
    for request in asked:
        async with connected(service) as (reader, writer):
            writer.write(request)
            got.append(await end_of(reader))

    assert [each.split()[1] for each in got] == [b"417", b"200", b"404", b"400"]
    assert [b"\r\nConnection: close\r\n" in each for each in got[:3]] == [True] * 3


@pytest.mark.parametrize("request_", [LOOK, HEALTH], ids=["lane", "aiohttp"])
async def test_an_idle_connection_is_kept_as_long_as_is_set(
    valkey: Server, request_: bytes
) -> None:
    ops = f"127.0.0.1:{free_port()}"
    async with run_service(valkey.url, keepalive="0.3", ops_listen=ops) as service:
        await service.site()
        url = service.url if request_ is LOOK else service.ops_url
        async with connected(dataclasses.replace(service, url=url)) as (reader, writer):
            for _ in range(2):
                writer.write(request_)
                assert (await read(reader, no_body=False)).status == 200
            rest = await end_of(reader)

    assert rest == b""


async def opened(
    address: str, source: str, begun: bytes = b""
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port), local_addr=(source, 0))
    writer.write(begun)
    return reader, writer


# -- mistakes of ours


def broken(*_: object, **__: object) -> Any:
    raise RuntimeError("a mistake")


@pytest.mark.parametrize(
    ("place", "request_"),
    [
        ("visit_counter.web.hits.intake.known_beacon", plain_hit()),
        ("visit_counter.web.hits.answers.counts_json", plain_hit()),
        ("visit_counter.web.lane.answering.show", LOOK),
        ("visit_counter.web.lane.request._known", LOOK),
    ],
    ids=["in judging", "behind the commit", "behind a read", "before all"],
)
async def test_a_mistake_of_ours_is_told_and_ends_the_connection(
    service: Service, monkeypatch: pytest.MonkeyPatch, place: str, request_: bytes
) -> None:
    """500 and a line in the log, and nothing of what came behind it."""
    await service.site()
    monkeypatch.setattr(place, broken)
    with capture_logs() as logs:
        async with connected(service) as (reader, writer):
            writer.write(request_ + request_)
            got = await end_of(reader)

    assert got.startswith(b"HTTP/1.1 500 ")
    assert got.count(b"HTTP/1.1 ") == 1
    assert [each["event"] for each in logs] == ["a request failed"]


async def test_a_stop_answers_what_was_under_way(
    valkey: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To connections that are known, and to new ones, with the word that it is the last answer;
    the idle are ended too."""
    monkeypatch.setattr("visit_counter.web.lane.connections.UNDER_WAY_S", 1.0)
    async with AsyncExitStack() as running, AsyncExitStack() as clients:
        service = await running.enter_async_context(run_service(valkey.url))
        await service.site()
        known, new, idle = [await clients.enter_async_context(connected(service)) for _ in range(3)]
        known[1].write(LOOK)
        await read(known[0], no_body=False)
        stopping = asyncio.create_task(running.aclose())
        await until(lambda: service.client.closed)
        known[1].write(LOOK)
        new[1].write(LOOK)
        got = [await end_of(reader) for reader, _ in (known, new, idle)]
        await stopping

    assert [answer.count(b"HTTP/1.1 200") for answer in got] == [1, 1, 0]
    assert [b"\r\nConnection: close\r\n" in answer for answer in got] == [True, True, False]

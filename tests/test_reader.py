"""The reader: counts at most a second old, and the last ones at once where there are no newer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from loadtests.proxy import Cut, Proxy
from tests.kit.counting import Counted, at, counting
from tests.kit.services.in_process import StoppedClock, until
from tests.kit.stores.server import Server, run_server, server_binaries
from visit_counter.errors import StoreError, StoreUnavailable
from visit_counter.model.counts import Day
from visit_counter.reading.reader import DAYS, Asked, Reader
from visit_counter.store.servers.shards import ANSWER_S

NOON = at("2026-03-10 12:00")


@pytest.fixture
def own() -> Iterator[Server]:
    """A server that a test may stop."""
    with run_server(server_binaries()["valkey"]) as server:
        yield server


async def test_many_looks_are_one_read(valkey: Server) -> None:
    """Whoever asks while a read is under way gets what it brings, and a second long the same."""
    async with counting(valkey.url) as counted:
        reader = Reader(counted.store, clock := StoppedClock(NOON))
        first, *others = await asyncio.gather(*(reader.read(counted.site) for _ in range(100)))
        clock.at += 999
        same = await reader.read(counted.site)
        clock.at += 1
        newer = await reader.read(counted.site)

    assert {*map(id, others), id(same)} == {id(first)}
    assert (first.as_of, newer.as_of) == (NOON, NOON + 1000)


@pytest.mark.parametrize("cut", [Cut.BEFORE_SEND, Cut.IN_REPLY])
async def test_a_lost_connection_hides_no_counts(valkey: Server, cut: Cut) -> None:
    """Whoever has no last counts to be given gets them over another connection."""
    async with Proxy(valkey.socket_path) as proxy, counting(proxy.url) as counted:
        reader = Reader(counted.store, StoppedClock(NOON))
        broken = asyncio.create_task(proxy.cut(cut, b"_counts"))
        await asyncio.sleep(0)
        reading = await reader.read(counted.site)
        await broken

    assert reading.as_of == NOON


async def test_a_store_that_is_silent_is_asked_once(valkey: Server) -> None:
    """Whoever has no last counts to be given hears of it after one silence, not after two."""
    async with Proxy(valkey.socket_path) as proxy, counting(proxy.url) as counted:
        reader = Reader(counted.store, StoppedClock(NOON))
        await counted.store.counts(counted.site, NOON)  # there is a connection
        proxy.flowing.clear()
        begun_s = asyncio.get_running_loop().time()
        with pytest.raises(StoreError):
            await reader.read(counted.site)
        took_s = asyncio.get_running_loop().time() - begun_s
        proxy.flowing.set()

    assert took_s < 1.5 * ANSWER_S


async def test_days_are_read_where_they_are_asked_for(valkey: Server) -> None:
    """With the counts come the last days, of which the last one is today."""
    async with counting(valkey.url) as counted:
        reader = Reader(counted.store, StoppedClock(NOON))
        await counted.view(1, NOON - 86_400_000)
        await counted.view(2, NOON)
        reading = await reader.read(counted.site, Asked(days=True))
        plain = await reader.read(counted.site)

    assert (len(reading.days), plain.days) == (DAYS, {})
    assert [*reading.days.items()][-2:] == [
        ("2026-03-09", Day(reading.counts.yesterday, is_approximate=False)),
        ("2026-03-10", Day(reading.counts.today, is_approximate=False)),
    ]  # fmt: skip
    assert reading.counts.today.visits == 1


async def test_a_store_that_hangs_is_not_waited_for(own: Server) -> None:
    """The last counts come while it is still being asked; with it back come new ones."""
    async with counting(own.url) as counted:
        reader = Reader(counted.store, clock := StoppedClock(NOON))
        await reader.read(counted.site)
        own.pause()
        clock.at += 1000
        first = await reader.read(counted.site)
        asked = len(reader._flights)
        await until(lambda: reader._failed_s)
        second = [await reader.read(counted.site) for _ in range(100)]
        own.resume()
        await until_newer(reader, counted)

    assert asked == 1
    assert {each.as_of for each in (first, *second)} == {NOON}


async def until_newer(reader: Reader, counted: Counted) -> None:
    async with asyncio.timeout(5):
        while (await reader.read(counted.site)).as_of == NOON:  # noqa: ASYNC110 # nobody tells
            await asyncio.sleep(0.01)


async def test_a_failure_of_long_ago_is_forgotten(
    own: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes after the outage sees counts of now."""
    monkeypatch.setattr("visit_counter.reading.reader.AWAY_S", 0.0)
    monkeypatch.setattr("visit_counter.reading.reader.AGAIN_S", 0.0)
    async with counting(own.url) as counted:
        reader = Reader(counted.store, clock := StoppedClock(NOON))
        await reader.read(counted.site)
        own.kill()
        clock.at += 1000
        old = await reader.read(counted.site)
        own.start()
        new = await reader.read(counted.site)

    assert (old.as_of, new.as_of) == (NOON, NOON + 1000)


async def test_paths_push_no_site_out(own: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks at many pages costs nobody the last counts."""
    monkeypatch.setattr("visit_counter.reading.reader.MOST_MORE", 3)
    async with counting(own.url) as counted:
        reader = Reader(counted.store, clock := StoppedClock(NOON))
        await reader.read(counted.site)
        for n in range(10):
            await reader.read(counted.site, Asked(f"/{n}"))
        own.kill()
        clock.at += 1000
        kept = await reader.read(counted.site)

    assert kept.as_of == NOON
    assert len(reader._kept_more) == 3


async def test_last_counts_come_however_many_read(
    own: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all reads taken by others only who can be given nothing is refused."""
    monkeypatch.setattr("visit_counter.reading.reader.MOST_FLIGHTS", 1)
    async with counting(own.url) as counted:
        reader = Reader(counted.store, clock := StoppedClock(NOON))
        await reader.read(counted.site)
        own.pause()
        clock.at += 1000
        other = asyncio.create_task(reader.read(counted.site, Asked("/other")))
        await until(lambda: reader._flights)
        kept = await reader.read(counted.site)
        with pytest.raises(StoreUnavailable):
            await reader.read(counted.site, Asked("/third"))
        with pytest.raises(StoreError):
            await other

    assert kept.as_of == NOON

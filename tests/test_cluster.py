"""A service over clusters and sentinels, under load: replicas take over, slots move, replicas are
missing, and every hit counts once. What breaks is in this process's hands, as is the clock; the
fault test breaks the same with a service of its own."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from random import Random
from time import monotonic

import pytest
from prometheus_client import REGISTRY
from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster

from loadtests.beacons import ORIGIN
from loadtests.load import Load, SiteHits
from loadtests.oracle import EACH_PAGE, NAMESPACE, judge
from tests.kit.services.in_process import Service, StoppedClock, run_service, until
from tests.kit.stores.cluster import Cluster, run_cluster, slot_of
from tests.kit.stores.node import HOST, Node
from tests.kit.stores.sentinel import run_sentinels
from tests.kit.stores.server import server_binaries
from tests.kit.tools import need
from visit_counter.model.site_settings import PARTITIONS, partition_of

CONNECTIONS = 6
DAY_MS, MINUTE_MS = 86_400_000, 60_000
BACK_S = 30.0

pytestmark = pytest.mark.xdist_group("clusters")
_names = (f"s{number}" for number in count())


@pytest.fixture(autouse=True)
def _spill_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("visit_counter.delivery.flow.SPILL_S", 0.25)


@pytest.fixture(scope="module", params=["valkey", "redis"])
def binary(request: pytest.FixtureRequest) -> Path:
    return server_binaries().get(request.param) or need("redis-server")


@pytest.fixture(scope="module")
def the_cluster(binary: Path) -> Iterator[Cluster]:
    with run_cluster(binary) as cluster:
        yield cluster


@pytest.fixture
def cluster(the_cluster: Cluster) -> Cluster:
    """A cluster that is well."""
    the_cluster.mend()
    return the_cluster


@asynccontextmanager
async def loaded(service: Service, sites: list[SiteHits]) -> AsyncIterator[Load]:
    """Hits on sites while the block runs; in the end the store counts again and has all of them."""
    for site in sites:
        await service.site(site.name, origins=[ORIGIN], **EACH_PAGE)
    port = int(service.url.rpartition(":")[2])
    async with Load(port, sites, Random(7), CONNECTIONS) as load:
        await load.until_counting(monotonic(), BACK_S)
        yield load
        await load.until_counting(monotonic(), BACK_S)
    await until(lambda: not is_spooling(service), BACK_S)
    assert load.unexpected == []


def is_spooling(service: Service) -> bool:
    replay = service.parts.recorder._replay
    return replay is None or bool(replay._spool.records or replay.away)


def one_of_each(cluster: Cluster) -> list[SiteHits]:
    """A new site on each primary."""
    return [site_on(cluster, primary) for primary in cluster.primaries()]


def site_on(cluster: Cluster, primary: Node) -> SiteHits:
    return SiteHits(next(each for each in _names if cluster.primary_of(slot(each)) is primary))


def slot(site: str) -> int:
    return slot_of(f"p{partition_of(site):02}")


async def wrong(cluster: Cluster, sites: list[SiteHits]) -> list[str]:
    """What is lost, doubled or does not add up."""
    primaries = [ClusterNode(HOST, node.port) for node in cluster.primaries()]
    client = RedisCluster(startup_nodes=primaries)
    try:
        found = await judge(client, sites)
    finally:
        await client.aclose()
    return found.lost + found.doubled + found.wrong


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"visitcounter_{name}", labels) or 0


async def test_sites_on_all_shards_count(cluster: Cluster) -> None:
    """Each primary counts its own sites."""
    sites = one_of_each(cluster)
    async with run_service(cluster.url, namespace=NAMESPACE) as service, loaded(service, sites):
        pass

    assert await wrong(cluster, sites) == []
    assert min(site.acknowledged for site in sites) > 0


async def test_a_promoted_replica_gets_what_it_missed(cluster: Cluster) -> None:
    """What only the killed primary had acknowledged is sent to its replica again."""
    sites = one_of_each(cluster)
    primary = cluster.primary_of(slot(sites[0].name))
    replica, replayed = cluster.replica_of(primary), metric("replayed_batches_total")
    async with (
        run_service(cluster.url, namespace=NAMESPACE) as service,
        loaded(service, sites) as load,
    ):
        replica.cut_replication()
        await load.until_counting(monotonic(), BACK_S)
        primary.kill()
        await asyncio.to_thread(cluster.wait_until_ok)

    assert cluster.primary_of(slot(sites[0].name)) is replica
    assert metric("replayed_batches_total") > replayed
    assert await wrong(cluster, sites) == []


Move = Callable[[Cluster, int, Node], Iterator[object]]


def move_by_key(cluster: Cluster, moved: int, to: Node) -> Iterator[object]:
    return cluster.migrate_slot_legacy(moved, to, step=3)


def move_at_once(cluster: Cluster, moved: int, to: Node) -> Iterator[object]:
    return cluster.migrate_slots_atomic(moved, moved, to)


async def test_an_admin_s_call_follows_a_slot_that_nobody_hits(cluster: Cluster) -> None:
    """A change asks all partitions for their sites, in one round trip to each server: the one that
    has moved is asked again where it is now, and the others where they were."""
    primary, other = cluster.primaries()[:2]
    mine = [n for n in range(PARTITIONS) if cluster.primary_of(slot_of(f"p{n:02}")) is primary]
    async with run_service(cluster.url, namespace=NAMESPACE) as service:
        store = service.parts.store
        for _ in move_by_key(cluster, slot_of(f"p{mine[-1]:02}"), other):
            pass
        found = await store.sites_since([""] * PARTITIONS)

    assert len(found) == PARTITIONS


@pytest.mark.parametrize(
    ("binary", "move"),
    [
        pytest.param("valkey", move_by_key, id="valkey-legacy"),
        pytest.param("valkey", move_at_once, id="valkey-MIGRATESLOTS"),
        pytest.param("redis", move_by_key, id="redis-legacy"),
    ],
    indirect=["binary"],
)
async def test_a_slot_moves_over_midnight(cluster: Cluster, move: Move) -> None:
    """To a primary that lacks our functions, while hits come and the day turns."""
    sites = one_of_each(cluster)
    moved, target = slot(sites[0].name), cluster.primary_of(slot(sites[1].name))
    clock = StoppedClock(0)
    midnight = clock.local() // DAY_MS * DAY_MS - DAY_MS
    clock.at = midnight - MINUTE_MS
    async with run_service(cluster.url, namespace=NAMESPACE, clock=clock) as service:
        async with loaded(service, sites):
            target.ask("FUNCTION", "FLUSH", "SYNC")
            for step in move(cluster, moved, target):
                if step != 0:  # the first step by key moves nothing
                    clock.at = midnight + MINUTE_MS
                await asyncio.sleep(0.02)
        counts = await service.counts(sites[0].name)

    assert cluster.primary_of(moved) is target
    assert await wrong(cluster, sites) == []
    days = [counts[day]["pageviews"] for day in ("yesterday", "today")]
    assert min(days) > 0
    assert sum(days) == counts["total"]["pageviews"]


async def test_hits_wait_for_as_many_replicas_as_are_wanted(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the replica stopped they are kept in the spool, and counted when it is back."""
    monkeypatch.setattr("visit_counter.delivery.flow.SPILL_S", 5.0)
    for node in cluster.nodes:
        node.ask("CONFIG", "SET", "appendfsync", "always")
    (site, *_) = sites = one_of_each(cluster)
    replica = cluster.replica_of(cluster.primary_of(slot(site.name)))
    async with (
        run_service(cluster.url, namespace=NAMESPACE, min_replicas="1") as service,
        loaded(service, sites),
    ):
        before = answered()
        await until(lambda: site.acknowledged > 30, BACK_S)
        with_all = answered() - before
        monkeypatch.setattr("visit_counter.delivery.flow.SPILL_S", 0.25)
        replica.pause()
        await until(lambda: is_spooling(service))
        replica.resume()

    assert with_all["counted"] > 10 * with_all["refused"]  # for WAITAOF alone takes a second
    assert await wrong(cluster, sites) == []


def answered() -> Counter[str]:
    """Hits by what became of them."""
    outcomes = ("counted", "refused")
    return Counter({each: int(metric("hits_total", outcome=each)) for each in outcomes})


async def test_sentinels_name_another_primary(binary: Path) -> None:
    """The one that was killed is left for the one that they promote."""
    with run_sentinels(binary) as watched:
        primary, sites = watched.primary(), [SiteHits(next(_names))]
        async with (
            run_service(watched.url, namespace=NAMESPACE) as service,
            loaded(service, sites),
        ):
            primary.kill()
            await asyncio.to_thread(watched.wait_until_ok)
        promoted = watched.primary()
        async with Redis(port=promoted.port) as client:
            found = await judge(client, sites)

    assert promoted is not primary
    assert found.lost + found.doubled + found.wrong == []

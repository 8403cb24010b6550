"""The clusters and sentinels of the tests do what tests ask of them, on Valkey and on Redis."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clusters import Cluster, run_cluster, slot_of
from tests.nodes import Node
from tests.sentinels import run_sentinels
from tests.servers import server_binaries
from tests.tools import need

KEY = "{p07}:visits"
SLOT = slot_of("p07")


@pytest.fixture(scope="module", params=["valkey", "redis"])
def binary(request: pytest.FixtureRequest) -> Path:
    return server_binaries().get(request.param) or need("redis-server")


@pytest.fixture(scope="module")
def cluster(binary: Path) -> Iterator[Cluster]:
    with run_cluster(binary) as cluster:
        yield cluster


@pytest.mark.xdist_group("clusters")
def test_a_slot_moves_key_by_key(cluster: Cluster) -> None:
    """The keys are all there in the end, and meanwhile some are here, some there."""
    source, target = holder_and_other(cluster)
    for number in range(4):
        source.ask("SET", f"{KEY}:{number}", number)

    there = [
        target.ask("CLUSTER", "COUNTKEYSINSLOT", SLOT)
        for _ in cluster.migrate_slot_legacy(SLOT, target, step=2)
    ]

    assert there == [0, 2, 4]
    assert cluster.primary_of(SLOT) is target
    assert [target.ask("GET", f"{KEY}:{number}") for number in range(4)] == ["0", "1", "2", "3"]


@pytest.mark.xdist_group("clusters")
@pytest.mark.parametrize("binary", ["valkey"], indirect=True, scope="module")
def test_slots_move_at_once(cluster: Cluster) -> None:
    """Valkey 9 moves a range of slots with all their keys; Redis 7 cannot."""
    source, target = holder_and_other(cluster)
    source.ask("SET", KEY, "7")

    for _ in cluster.migrate_slots_atomic(SLOT, SLOT, target):
        pass
    cluster.wait_until_ok()

    assert cluster.primary_of(SLOT) is target
    assert target.ask("GET", KEY) == "7"


@pytest.mark.xdist_group("clusters")
def test_a_replica_takes_over_without_what_it_missed(cluster: Cluster) -> None:
    """It has what was written before its replication was cut, and its primary comes back as its
    replica."""
    primary = cluster.primary_of(SLOT)
    replica = cluster.replica_of(primary)
    primary.ask("SET", KEY, "before")
    assert primary.ask("WAIT", 1, 5000) == 1
    replica.cut_replication()
    primary.ask("SET", KEY, "after")

    primary.kill()
    cluster.wait_until_ok()
    assert cluster.primary_of(SLOT) is replica
    assert replica.ask("GET", KEY) == "before"

    cluster.mend()
    assert cluster.replica_of(replica) is primary


@pytest.mark.xdist_group("clusters")
def test_sentinels_promote_the_replica(binary: Path) -> None:
    """The killed primary comes back as its replica."""
    with run_sentinels(binary) as watched:
        primary, replica = watched.primary(), watched.replica()
        primary.ask("SET", KEY, "7")
        assert primary.ask("WAIT", 1, 5000) == 1

        primary.kill()
        watched.wait_until_ok()
        assert watched.primary() is replica
        assert replica.ask("GET", KEY) == "7"

        watched.mend()
        assert watched.replica() is primary


def holder_and_other(cluster: Cluster) -> tuple[Node, Node]:
    """The slot's primary and another one."""
    source = cluster.primary_of(SLOT)
    return source, next(node for node in cluster.primaries() if node is not source)

"""The cluster of the tests does what tests ask of it."""

from __future__ import annotations

from tests.kit.stores.cluster import run_cluster, slot_of
from tests.kit.stores.node import Node, wait_until
from tests.kit.stores.server import server_binaries

KEY = "{p07}:visits"
SLOT = slot_of("p07")


def test_a_cluster_can_be_broken_and_mended() -> None:
    """A slot moves key by key, a replica takes over without what it missed, and the killed primary
    comes back as its replica."""
    with run_cluster(server_binaries()["valkey"]) as cluster:
        source = cluster.primary_of(SLOT)
        primary = next(node for node in cluster.primaries() if node is not source)
        for number in range(4):
            source.ask("SET", f"{KEY}:{number}", number)
        there = [
            primary.ask("CLUSTER", "COUNTKEYSINSLOT", SLOT)
            for _ in cluster.migrate_slot_legacy(SLOT, primary, step=2)
        ]
        assert there == [0, 2, 4]
        assert cluster.primary_of(SLOT) is primary

        replica = cluster.replica_of(primary)
        assert primary.ask("SET", KEY, "before")
        wait_until(lambda: offset(replica) >= offset(primary), 5)
        replica.cut_replication()
        assert primary.ask("SET", KEY, "after")
        primary.kill()
        cluster.wait_until_ok()
        assert cluster.primary_of(SLOT) is replica
        assert [replica.ask("GET", key) for key in (KEY, f"{KEY}:3")] == ["before", "3"]

        cluster.mend()
        assert cluster.replica_of(replica) is primary


def offset(node: Node) -> int:
    """How much of the replication stream it has."""
    found = node.info("replication")
    return int(found.get("slave_repl_offset") or found["master_repl_offset"])

"""A real Valkey or Redis Cluster on loopback: servers to kill, to cut off, to move slots between.

    with run_cluster(server_binaries()["valkey"]) as cluster:
        Store(cluster.url, ...)
        cluster.primary_of(slot_of("p07")).kill()
        cluster.wait_until_ok()     # its replica has taken over
        cluster.mend()              # all servers up, and each primary with a replica again

Nothing here needs an event loop: what takes its time (`wait_until_ok`, `mend`) belongs into a
thread, and a migration is a generator, between whose steps a test may act. Who is whose primary is
asked of the servers each time, never remembered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import RedisError, ResponseError

from tests.kit.stores.node import HOST, Node, places, reaches_replicas, running, wait_until

NODE_TIMEOUT_MS = 1000
OK_S = 30.0
UNWELL = frozenset(["fail", "fail?", "handshake", "noaddr"])

ARGUMENTS = (
    *("--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT_MS)),
    # A replica stays with its primary, and takes over however old its data is.
    *("--cluster-allow-replica-migration", "no", "--cluster-replica-validity-factor", "0"),
    *("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"),
)


def slot_of(tag: str) -> int:
    """The slot of all keys with a hash tag: slot_of("p07")."""
    return key_slot(tag.encode())


class Seen(NamedTuple):
    """What a node says of a node: a line of CLUSTER NODES."""

    flags: frozenset[str]
    primary: str
    """The id of its primary, `-` for a primary."""
    slots: tuple[tuple[int, int], ...]


class Cluster:
    """Servers of which `primaries` hold the slots, each with its replicas."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = nodes

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"{HOST}:{node.port}" for node in self.nodes)

    def primaries(self) -> list[Node]:
        """Who holds slots, each by its own word."""
        return [node for node in self._up() if _own(node).slots]

    def primary_of(self, slot: int) -> Node:
        for node in self._up():
            if any(first <= slot <= last for first, last in _own(node).slots):
                return node
        raise LookupError(f"nobody holds slot {slot}")

    def replica_of(self, primary: Node) -> Node:
        for node in self._up():
            if _own(node).primary == primary.id:
                return node
        raise LookupError("this primary has no replica")

    def wait_until_ok(self) -> None:
        """Until those that are up hold all slots, agree on who has which, and replicate."""
        try:
            wait_until(self._is_ok, OK_S)
        except TimeoutError:
            logs = "".join(node.log[-1500:] for node in self.nodes)
            raise TimeoutError(f"the cluster is not well:\n{logs}") from None

    def mend(self) -> None:
        """Undo whatever was done to the servers, and wait until all is well."""
        for node in self.nodes:
            if not node.up:
                node.resume() if node._paused else node.start()
            node.mend_replication()
        self.wait_until_ok()

    # -- moving slots

    def migrate_slot_legacy(self, slot: int, to: Node, step: int = 10) -> Iterator[int]:
        """Move a slot key by key; yields before the first step and after each, with the number of
        keys that it moved, while the slot is half here, half there."""
        source = self.primary_of(slot)
        to.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", to.id)
        yield 0
        while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, step):
            source.ask("MIGRATE", HOST, to.port, "", 0, 5000, "KEYS", *keys)
            yield len(keys)
        for node in (to, source, *self.primaries()):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", to.id)

    def migrate_slots_atomic(self, first: int, last: int, to: Node) -> Iterator[str]:
        """Move slots as Valkey 9 does, all at once; yields the state of it while it is under way.
        Functions do not move along."""
        source = self.primary_of(first)
        source.ask("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", first, last, "NODE", to.id)
        while (state := _migration_state(source)) != "success":
            if state in ("failed", "cancelled", "canceled"):
                raise RuntimeError(f"the migration {state}: {source.log[-2000:]}")
            yield state

    # -- beginning

    def join(self, primaries: int) -> None:
        """Make one cluster of the servers: the first ones are the primaries."""
        for epoch, node in enumerate(self.nodes, 1):
            node.id = node.ask("CLUSTER", "MYID")
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", epoch)
        for number, node in enumerate(self.nodes[:primaries]):
            first, last = (REDIS_CLUSTER_HASH_SLOTS * n // primaries for n in (number, number + 1))
            node.ask("CLUSTER", "ADDSLOTSRANGE", first, last - 1)
        for number, node in enumerate(self.nodes):
            for other in self.nodes[:number]:
                node.ask("CLUSTER", "MEET", HOST, other.port)
        for number, node in enumerate(self.nodes[primaries:]):
            primary = self.nodes[number % primaries]
            wait_until(partial(_replicates, node, primary), OK_S)
        self.wait_until_ok()

    # -- looking

    def _up(self) -> list[Node]:
        return [node for node in self.nodes if node.up]

    def _is_ok(self) -> bool:
        try:
            nodes = self._up()
            views = [_view(node) for node in nodes]
            return _agree(nodes, views) and all(map(_is_well, nodes))
        except RedisError:
            return False


@contextmanager
def run_cluster(binary: Path, primaries: int = 3, replicas: int = 1) -> Iterator[Cluster]:
    """A cluster that is well, ended when the block ends."""
    with places(primaries * (1 + replicas)) as found:
        nodes = [Node(binary, place, ARGUMENTS) for place in found]
        with running(nodes):
            cluster = Cluster(nodes)
            cluster.join(primaries)
            yield cluster


def _replicates(node: Node, primary: Node) -> bool:
    """Make it a replica, which works once it has heard of its primary."""
    try:
        return bool(node.ask("CLUSTER", "REPLICATE", primary.id))
    except ResponseError:
        return False


def _view(node: Node) -> dict[str, Seen]:
    """The nodes by their ids, as one of them sees them."""
    lines = [line.split() for line in str(node.ask("CLUSTER", "NODES")).splitlines()]
    return {
        line[0]: Seen(frozenset(line[2].split(",")), line[3], _ranges(line[8:])) for line in lines
    }


def _ranges(slots: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Of `0-99`, `7`; slots that are being moved, `[7->-...]`, are told elsewhere."""
    ends = (slot.partition("-") for slot in slots if not slot.startswith("["))
    return tuple((int(first), int(last or first)) for first, _, last in ends)


def _own(node: Node) -> Seen:
    """What it says of itself."""
    return _view(node)[node.id]


def _agree(nodes: Sequence[Node], views: Sequence[dict[str, Seen]]) -> bool:
    """Whether all know each other, and give the slots to the same primaries, which are up."""
    ids = {node.id for node in nodes}
    maps = [{(id, seen.slots) for id, seen in view.items() if seen.slots} for view in views]
    held = sum(last - first + 1 for _, slots in maps[0] for first, last in slots)
    return (
        held == REDIS_CLUSTER_HASH_SLOTS
        and all(each == maps[0] for each in maps)
        and {id for id, _ in maps[0]} <= ids
        and all(not view[id].flags & UNWELL for view in views for id in ids & view.keys())
        and all(ids <= view.keys() for view in views)
    )


def _is_well(node: Node) -> bool:
    if node.info("cluster").get("cluster_state") != "ok":
        return False
    replication = node.info("replication")
    if replication.get("role") == "master":
        return reaches_replicas(replication)
    return replication.get("master_link_status") == "up"


def _migration_state(source: Node) -> str:
    """Of the newest one that it has begun."""
    newest = source.ask("CLUSTER", "GETSLOTMIGRATIONS")[0]
    return str(dict(zip(newest[::2], newest[1::2], strict=True))["state"])

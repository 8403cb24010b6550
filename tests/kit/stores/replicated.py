"""A primary and its replica, and a proxy in the place of the name that leads to the primary.

    async with run_replicated(server_binaries()["valkey"]) as pair:
        Store(pair.url, ...)
        pair.promote()     # the replica becomes the primary, the old one its replica
        pair.move()        # new connections to the name reach the new primary, old ones stay

Nothing but `run_replicated` needs an event loop.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from loadtests.proxy import Proxy
from tests.kit.stores.node import HOST, Node, places, reaches_replicas, running, wait_until

ARGUMENTS = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")
OK_S = 15.0


class Replicated:
    """Two servers, one of which is the primary, and the name."""

    def __init__(self, primary: Node, replica: Node, name: Proxy) -> None:
        self.primary = primary
        self.replica = replica
        self.name = name

    @property
    def url(self) -> str:
        return self.name.url

    def replicate(self) -> None:
        """Make the replica one, and wait until it has a copy."""
        self.replica.ask("REPLICAOF", HOST, self.primary.port)
        wait_until(self._is_copied, OK_S)

    def promote(self, *, demote: bool = True) -> None:
        """The replica becomes the primary with all that the old one had, and the old one its
        replica; without `demote` the old one knows of nothing, as behind a broken network."""
        if demote:
            self.primary.ask("CLIENT", "PAUSE", 5000, "WRITE")
        wait_until(self._is_level, OK_S)
        self.take_over()
        if demote:
            self.replica.ask("REPLICAOF", HOST, self.primary.port)
            self.replica.ask("CLIENT", "UNPAUSE")

    def take_over(self) -> None:
        """The replica becomes the primary with what it has."""
        self.replica.ask("REPLICAOF", "NO", "ONE")
        self.primary, self.replica = self.replica, self.primary

    def move(self) -> None:
        """The name leads to the primary now."""
        self.name.upstream = self.primary.socket_path

    def _is_copied(self) -> bool:
        found = self.replica.info("replication")
        return found.get("master_link_status") == "up" and reaches_replicas(
            self.primary.info("replication")
        )

    def _is_level(self) -> bool:
        ours, its = (node.info("replication") for node in (self.primary, self.replica))
        return ours["master_repl_offset"] == its.get("slave_repl_offset")


@asynccontextmanager
async def run_replicated(binary: Path) -> AsyncIterator[Replicated]:
    """Both with a copy, ended when the block ends."""
    with places(2) as found:
        nodes = [Node(binary, place, ARGUMENTS) for place in found]
        with running(nodes):
            async with Proxy(nodes[0].socket_path) as name:
                pair = Replicated(nodes[0], nodes[1], name)
                pair.replicate()
                yield pair

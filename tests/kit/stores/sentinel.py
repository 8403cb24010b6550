"""A primary, its replica and three sentinels on loopback.

    with run_sentinels(server_binaries()["valkey"]) as watched:
        Store(watched.url, ...)
        watched.primary().kill()
        watched.wait_until_ok()   # the sentinels have promoted its replica

Nothing here needs an event loop: what takes its time belongs into a thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from redis.exceptions import RedisError

from tests.kit.stores.node import HOST, Node, Place, places, reaches_replicas, running, wait_until

NAME = "counter"
SENTINELS, QUORUM = 3, 2
DOWN_AFTER_MS = 500
TRY_MS = 1500  # twice that long after a vote without a winner there is another
OK_S = 30.0

ARGUMENTS = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")

# A sentinel keeps what it knows in its configuration file, so there must be one.
CONFIGURATION = f"""\
port {{port}}
bind {HOST}
unixsocket s
sentinel monitor {NAME} {HOST} {{primary}} {QUORUM}
sentinel down-after-milliseconds {NAME} {DOWN_AFTER_MS}
sentinel failover-timeout {NAME} {TRY_MS}
"""
# Not the pings: after five of their periods what a replica has said is too old to promote it.
HURRY = ("ask-period", 100, "info-period", 200, "publish-period", 100)


class Sentinel(Node):
    """A server that watches a primary."""

    def __init__(self, binary: Path, place: Place, primary: Node) -> None:
        super().__init__(binary, place)
        file = place.directory / "sentinel.conf"
        file.write_text(CONFIGURATION.format(port=place.port, primary=primary.port))
        self._command = [str(binary), file.name, "--sentinel"]

    def sees(self) -> dict[str, str]:
        """What it knows of the primary."""
        return _named(self.ask("SENTINEL", "MASTER", NAME))

    def is_content(self) -> bool:
        """Whether it knows the others, and a replica that it would promote if it is up."""
        found, replicas = self.sees(), self.ask("SENTINEL", "REPLICAS", NAME)
        (replica,) = map(_named, replicas)
        down = "s_down" in replica["flags"]
        ready = (replica["role-reported"], replica["master-link-status"]) == ("slave", "ok")
        known = int(found["num-other-sentinels"]) == SENTINELS - 1
        return known and found["flags"] == "master" and (down or ready)


class Watched:
    """Two servers, one of which is the primary, and the sentinels."""

    def __init__(self, nodes: Sequence[Node], sentinels: Sequence[Sentinel]) -> None:
        self.nodes = nodes
        self.sentinels = sentinels

    @property
    def url(self) -> str:
        addresses = ",".join(f"{HOST}:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{addresses}/{NAME}"

    def primary(self) -> Node:
        """The one that the sentinels name."""
        return self._node(int(self.sentinels[0].sees()["port"]))

    def replica(self) -> Node:
        primary = self.primary()
        return next(node for node in self.nodes if node is not primary)

    def wait_until_ok(self) -> None:
        """Until the sentinels know each other and name a primary that is up; whatever else is up
        replicates from it."""
        try:
            wait_until(self._is_ok, OK_S)
        except TimeoutError:
            logs = "".join(node.log[-1500:] for node in (*self.sentinels, *self.nodes))
            raise TimeoutError(f"the sentinels are not content:\n{logs}") from None

    def mend(self) -> None:
        """Start what is down, and wait until all is well."""
        for node in self.nodes:
            if not node.up:
                node.start()
        self.wait_until_ok()

    def hurry(self) -> None:
        """Let the sentinels look more often than they would by themselves."""
        for sentinel in self.sentinels:
            sentinel.ask("SENTINEL", "DEBUG", *HURRY)

    def _node(self, port: int) -> Node:
        return next(node for node in self.nodes if node.port == port)

    def _is_ok(self) -> bool:
        try:
            named = {self._node(int(sentinel.sees()["port"])) for sentinel in self.sentinels}
            (primary,) = named
            others = [node for node in self.nodes if node.up and node is not primary]
            replication = primary.info("replication")
            return (
                primary.up
                and replication["role"] == "master"
                and reaches_replicas(replication)
                and all(_follows(node, primary) for node in others)
                and all(sentinel.is_content() for sentinel in self.sentinels)
            )
        except (RedisError, ValueError):  # it does not answer, or they disagree
            return False


@contextmanager
def run_sentinels(binary: Path) -> Iterator[Watched]:
    """Servers and sentinels that are content, ended when the block ends."""
    with places(2 + SENTINELS) as (first, second, *others):
        nodes = [Node(binary, place, ARGUMENTS) for place in (first, second)]
        sentinels = [Sentinel(binary, place, nodes[0]) for place in others]
        with running(nodes), running(sentinels):
            nodes[1].ask("REPLICAOF", HOST, nodes[0].port)
            watched = Watched(nodes, sentinels)
            watched.hurry()
            watched.wait_until_ok()
            yield watched


def _named(flat: Sequence[str]) -> dict[str, str]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _follows(node: Node, primary: Node) -> bool:
    found = node.info("replication")
    return found.get("master_port") == str(primary.port) and found["master_link_status"] == "up"

"""Where a cluster says that its servers are: by address, by name, or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kit.services.in_process import namespace
from tests.kit.stores.node import HOST, Node, places, running, wait_until
from tests.kit.stores.server import server_binaries
from tests.kit.tools import need
from visit_counter.clock import Clock
from visit_counter.store.store import Store

TYPE = "cluster-preferred-endpoint-type"
OK_S = 15.0


@pytest.fixture(params=["valkey", "redis"])
def binary(request: pytest.FixtureRequest) -> Path:
    return server_binaries().get(request.param) or need("redis-server")


@contextmanager
def two_servers(binary: Path, host: str) -> Iterator[list[Node]]:
    """A cluster on the addresses of a host."""
    with places(2) as found:
        arguments = ("--cluster-enabled", "yes", "--bind", host)
        nodes = [Node(binary, place, arguments) for place in found]
        with running(nodes):
            first, second = nodes
            first.ask("CLUSTER", "ADDSLOTSRANGE", 0, 8000)
            second.ask("CLUSTER", "ADDSLOTSRANGE", 8001, 16383)
            first.ask("CLUSTER", "MEET", host, second.port, second.port + 10_000)
            wait_until(lambda: all(is_ok(node) for node in nodes), OK_S)
            yield nodes


def is_ok(node: Node) -> bool:
    return node.info("cluster")["cluster_state"] == "ok"


def configure(nodes: Sequence[Node], name: str, value: str) -> None:
    for node in nodes:
        node.ask("CONFIG", "SET", name, value)


async def found_in(url: str) -> tuple[set[str], int]:
    """The servers that a store speaks to, and how often they seemed to change after the start."""
    async with Store(url, namespace(), Clock()) as store:
        begun = store.routes
        for _ in range(6):
            await store.look()
        await store.probe()
        return {shard.address for shard in store._shards.all()}, store.routes - begun


async def test_servers_are_where_the_cluster_says(binary: Path) -> None:
    """Never at localhost:6379, which redis-py takes for a host that is empty or `?`."""
    with two_servers(binary, HOST) as nodes:
        url = f"redis+cluster://{HOST}:{nodes[0].port}"
        at = {host: {f"{host}:{node.port}" for node in nodes} for host in (HOST, "localhost")}
        assert await found_in(url) == (at[HOST], 0)

        configure(nodes, TYPE, "hostname")  # `?`: none is announced
        assert await found_in(url) == (at[HOST], 0)

        configure(nodes, "cluster-announce-hostname", "localhost")
        wait_until(lambda: all(named(node) == {"localhost"} for node in nodes), OK_S)
        assert await found_in(url) == (at["localhost"], 0)

        configure(nodes, TYPE, "unknown-endpoint")  # null: the host that was asked
        assert await found_in(url) == (at[HOST], 0)
        assert await found_in(url.replace(HOST, "localhost")) == (at["localhost"], 0)


def named(node: Node) -> set[str]:
    return {server[0] for _, _, server, *_ in node.ask("CLUSTER", "SLOTS")}


async def test_a_host_that_stands_for_all_servers_is_kept(binary: Path) -> None:
    """Of two names in the URL the one that was asked first goes on, so that nobody changes servers
    with every look."""
    with two_servers(binary, HOST) as nodes:
        configure(nodes, TYPE, "unknown-endpoint")
        port = nodes[0].port
        servers, changes = await found_in(f"redis+cluster://{HOST}:{port},localhost:{port}")

    assert changes == 0
    assert len({server.partition(":")[0] for server in servers}) == 1


async def test_servers_with_addresses_of_ipv6(binary: Path) -> None:
    with two_servers(binary, "::1") as nodes:
        servers, changes = await found_in(f"redis+cluster://[::1]:{nodes[0].port}")

    assert servers == {f"[::1]:{node.port}" for node in nodes}
    assert changes == 0

"""Servers side by side, each with a port of loopback: what clusters and sentinels are made of.

    with places(2) as found:
        primary, replica = (Node(server_binaries()["valkey"], place) for place in found)
        with running([primary, replica]):
            replica.ask("REPLICAOF", HOST, primary.port)

A node keeps its port while it is down. Nothing here needs an event loop.
"""

from __future__ import annotations

import random
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.kit.stores.server import Server

HOST = "127.0.0.1"
PORTS = range(11_000, 21_000)
BUS = 10_000  # above a node's port is the one for other nodes; outgoing connections use higher ones
WRONG_PASSWORD = "of-no-server-here"
REPLICA = re.compile(r"slave\d+")  # a field of INFO replication


class Place(NamedTuple):
    """Where a node may be."""

    directory: Path
    port: int


class Node(Server):
    """A server with a port, and with files and a socket as every `Server`."""

    def __init__(self, binary: Path, place: Place, args: Sequence[str] = ()) -> None:
        on = ("--port", str(place.port), "--bind", HOST)
        super().__init__(binary, place.directory, (*on, *args))
        self.port = place.port
        self.id = ""  # in a cluster
        self._paused = False

    @property
    def up(self) -> bool:
        """Whether it runs, and not paused."""
        return self._process is not None and self._process.poll() is None and not self._paused

    def start(self) -> None:
        self._paused = False
        super().start()

    def pause(self) -> None:
        super().pause()
        self._paused = True

    def resume(self) -> None:
        super().resume()
        self._paused = False

    def ask(self, *words: str | bytes | int) -> Any:
        """The answer to a command; RedisError if there is none or it is an error."""
        with Redis(
            unix_socket_path=self.socket_path,
            socket_timeout=10,
            protocol=2,
            decode_responses=True,
            retry=Retry(NoBackoff(), 0),
        ) as client:
            return client.execute_command(*words)

    def info(self, section: str) -> dict[str, str]:
        """A section of INFO, or CLUSTER INFO."""
        words = ("CLUSTER", "INFO") if section == "cluster" else ("INFO", section)
        return _fields(self.call(*words).decode())

    def cut_replication(self) -> None:
        """As a replica, get nothing more of what its primary writes, until it is mended."""
        self.ask("CONFIG", "SET", "masterauth", WRONG_PASSWORD)
        self.ask("CLIENT", "KILL", "TYPE", "master")

    def mend_replication(self) -> None:
        self.ask("CONFIG", "SET", "masterauth", "")


@contextmanager
def places(number: int) -> Iterator[list[Place]]:
    """Empty directories, which are removed in the end, and ports that no other test takes."""
    directory = Path(tempfile.mkdtemp(prefix="vc-", dir="/tmp"))
    try:
        with ExitStack() as held:
            ports = [held.enter_context(_free_port()) for _ in range(number)]
            found = [Place(directory / str(port), port) for port in ports]
            for place in found:
                place.directory.mkdir()
            yield found
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def running(nodes: Sequence[Node]) -> Iterator[None]:
    """The nodes are started, all at once, and in the end killed."""
    try:
        with ThreadPoolExecutor(len(nodes)) as pool:
            list(pool.map(Node.start, nodes))
        yield
    finally:
        for node in nodes:
            node.kill()


def reaches_replicas(replication: Mapping[str, str]) -> bool:
    """Whether a primary, by its INFO replication, sends each of its replicas what it writes. One
    that says that its link is up may not have acknowledged yet what it has loaded: it gets nothing
    before that, and would be promoted without it."""
    replicas = [line for field, line in replication.items() if REPLICA.fullmatch(field)]
    return all("state=online" in line and "offset=0," not in line for line in replicas)


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:.0f} s")
        time.sleep(0.02)


@contextmanager
def _free_port() -> Iterator[int]:
    """A port that is kept for whoever holds it, also while its server is down: who wants a TCP port
    holds the UDP port of that number."""
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket(type=socket.SOCK_DGRAM) as holder:
            if _binds(holder, port) and _is_free(port) and _is_free(port + BUS):
                yield port
                return
    raise RuntimeError("no free port")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return _binds(probe, port)


def _binds(endpoint: socket.socket, port: int) -> bool:
    try:
        endpoint.bind((HOST, port))
    except OSError:
        return False
    return True


def _fields(text: str) -> dict[str, str]:
    lines = (line.partition(":") for line in text.splitlines() if ":" in line)
    return {name: value.strip() for name, _, value in lines}

"""Whose place a new connection takes: one client's sockets, however many and whatever they leave
unfinished, keep nobody else out.

How long others wait is measured in CPU time of the service, which other work on this machine does
not lengthen: what it does before it answers.
"""

from __future__ import annotations

import os
import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest

from tests.kit.services.process import ServiceProcess, running, this_version

FILES = 2048
SOCKETS = 9900
SOON_S = 1.0
HEAD = b"POST /w/demo HTTP/1.1\r\nHost: localhost\r\nUser-Agent: Firefox\r\n"
LOOK = b"GET /w/demo HTTP/1.1\r\nHost: localhost\r\nUser-Agent: Firefox\r\n\r\n"
HIT = HEAD + b"Origin: http://localhost\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
ATTACKS = [
    HEAD + b"Expect: x\r\n\r\n",  # answered by aiohttp itself
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n",  # of which none comes
    HEAD + b"Content-Length: 9\r\n\r\n",  # the same
    LOOK,  # kept, and idle
    HEAD,  # half of one
]

pytestmark = pytest.mark.xdist_group("places")


class Clients(NamedTuple):
    """Addresses that connections come from; 127.0.0.1 is a trusted proxy."""

    attacker: str
    honest: str


@pytest.fixture(scope="module")
def crowded() -> Iterator[ServiceProcess]:
    """A service with few files."""
    command = ("sh", "-c", f'ulimit -n {FILES}; exec "$@"', "sh", *this_version().command)
    settings = {"TRUSTED_PROXIES": "127.0.0.1/32"}
    with running(this_version()._replace(command=command), settings) as service:
        yield service
        assert "Traceback" not in service.errors


@pytest.fixture(autouse=True)
def _many_files() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def opened(address: tuple[str, int], source: str) -> socket.socket:
    return socket.create_connection(address, timeout=5, source_address=(source, 0))


def answer(address: tuple[str, int], source: str, request: bytes) -> None:
    """A new connection, which must be answered."""
    with opened(address, source) as own:
        own.sendall(request)
        assert own.recv(65536).startswith(b"HTTP/1.1 20"), request  # 202 where the store is late


def cpu_s(pid: int) -> float:
    """What a process has used: proc(5)."""
    used = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, used)) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize(
    "clients",
    [Clients("127.0.0.2", "127.0.0.1"), Clients("127.0.0.1", "127.0.0.3")],
    ids=["by itself", "through a proxy"],
)
def test_one_client_s_sockets_keep_nobody_out(crowded: ServiceProcess, clients: Clients) -> None:
    """9,900 of them, where some 700 connections have a place: health checks and hits of others are
    answered soon."""
    url = urlsplit(crowded.url)
    address, took_s = (url.hostname or "", url.port or 0), list[float]()
    with ExitStack() as sockets:

        def open_all() -> None:
            for attack in ATTACKS:
                for _ in range(SOCKETS // len(ATTACKS)):
                    with suppress(ConnectionError):  # one that has been ended already
                        own = sockets.enter_context(opened(address, clients.attacker))
                        own.sendall(attack)

        attacker = threading.Thread(target=open_all)
        attacker.start()
        while attacker.is_alive():
            for request in (HEALTH, HIT):
                before_s = cpu_s(crowded.process.pid)
                answer(address, clients.honest, request)
                took_s.append(cpu_s(crowded.process.pid) - before_s)
            attacker.join(0.02)

    assert max(took_s) <= SOON_S

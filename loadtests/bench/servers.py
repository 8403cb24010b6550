"""What is measured, each in processes of its own on the server's core, and gone afterwards.

with service() as server: ...    # `visit-counter serve` on an embedded Valkey, fsync always
with nginx() as server: ...      # nginx, one worker: `return 204`
with bare_aiohttp() as server: ...
with behind_nginx() as server: ...   # the service, and an nginx before it on the load's core
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from loadtests.beacons import ORIGIN
from loadtests.bench import cores
from loadtests.bench.requests import Requests, requests, site_name
from loadtests.oracle import NAMESPACE
from loadtests.service_process import ServiceProcess, free_port
from loadtests.world import EmbeddedStore
from tests.kit.services.process import ROOT
from tests.kit.stores.server import Server as StoreServer
from visit_counter.clock import Clock
from visit_counter.embedded.server import Embedded
from visit_counter.model.calendar import Calendar
from visit_counter.model.site_settings import SiteSettings, StoredSite, partition_of
from visit_counter.store.store import Store

READY_S = 15.0

NGINX = """\
daemon off; master_process off; pid nginx.pid; error_log stderr error;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000000;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  {upstream}
  server {{ listen 127.0.0.1:{port} backlog=1024; location / {{ {location} }} }}
}}
"""
UPSTREAM = (
    "upstream service {{ server 127.0.0.1:{port}; keepalive 256; keepalive_requests 1000000000; }}"
)
PASS = (
    'proxy_pass http://service; proxy_http_version 1.1; proxy_set_header Connection ""; '
    "proxy_set_header Host $host; "
    "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;"
)


@dataclass(frozen=True)
class Server:
    """Something that answers on a port of loopback."""

    port: int
    requests: Requests
    pid: int
    """Whose CPU time counts."""
    service: ServiceProcess | None = None
    socket_path: str = ""
    """Of the service's Valkey."""
    along: tuple[int, ...] = ()
    """The processes that work along: Valkey first, if there is one."""


@contextmanager
def service(sites: int = 1, prelude: str = "", **settings: str) -> Iterator[Server]:
    """A service with these sites, all of which count from 0."""
    with scratch_directory() as scratch:
        asyncio.run(_make_sites(scratch / "data", map(site_name, range(sites))))
        under = cores.on(cores.SERVER)
        process = ServiceProcess(scratch, under=under, prelude=prelude, **settings)
        store = EmbeddedStore(process.data_dir)
        try:
            process.start()
            cores.move(store.pid, cores.STORE)
            sent = requests(f"127.0.0.1:{process.port}", sites)
            yield Server(process.port, sent, process.pid, process, store.socket_path, (store.pid,))
        finally:
            process.terminate()
            store.end_orphan()


@contextmanager
def service_over(store: StoreServer, sites: int) -> Iterator[Server]:
    """A service over a server that runs, and has these sites."""
    with scratch_directory() as scratch:
        process = ServiceProcess(scratch, under=cores.on(cores.SERVER), REDIS_URL=store.url)
        try:
            process.start()
            sent = requests(f"127.0.0.1:{process.port}", sites)
            along = (store.pid,)
            yield Server(process.port, sent, process.pid, process, store.socket_path, along)
        finally:
            process.terminate()


@contextmanager
def nginx() -> Iterator[Server]:
    port = free_port()
    with _nginx(port, "", "return 204;", cores.SERVER) as pid:
        yield Server(port, requests(f"127.0.0.1:{port}", 1), pid)


@contextmanager
def behind_nginx() -> Iterator[Server]:
    port = free_port()
    with (
        service() as server,
        _nginx(port, UPSTREAM.format(port=server.port), PASS, cores.LOAD) as pid,
    ):
        sent = requests(f"127.0.0.1:{port}", 1)
        yield replace(server, port=port, requests=sent, along=(*server.along, pid))


@contextmanager
def bare_aiohttp() -> Iterator[Server]:
    port = free_port()
    command = [sys.executable, "-m", "loadtests.bench.bare_aiohttp", str(port)]
    with _running(command, cores.SERVER, port) as pid:
        yield Server(port, requests(f"127.0.0.1:{port}", 1), pid)


@contextmanager
def scratch_directory() -> Iterator[Path]:
    """Short, since a unix socket lies in it."""
    with tempfile.TemporaryDirectory(prefix="vc-bench-", dir="/tmp") as directory:
        yield Path(directory)


@contextmanager
def _nginx(port: int, upstream: str, location: str, core: int) -> Iterator[int]:
    with scratch_directory() as scratch:
        conf = scratch / "nginx.conf"
        conf.write_text(NGINX.format(port=port, upstream=upstream, location=location))
        with _running(["nginx", "-p", str(scratch), "-c", str(conf)], core, port) as pid:
            yield pid


@contextmanager
def _running(command: Sequence[str], core: int, port: int) -> Iterator[int]:
    process = subprocess.Popen([*cores.on(core), *command], cwd=ROOT, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + READY_S
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} did not start")
            time.sleep(0.01)
        yield process.pid
    finally:
        process.terminate()
        process.wait(timeout=READY_S)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def _make_sites(directory: Path, names: Iterator[str]) -> None:
    """In a data directory, past the service: ten thousand in some seconds."""
    async with (
        Embedded(directory, "everysec") as embedded,
        Store(embedded.url, NAMESPACE, Clock()) as store,
    ):
        for name in names:
            site = StoredSite(SiteSettings(id=name, origins=(ORIGIN,)), Calendar.of("UTC", 0))
            _ = await store.put_site(partition_of(name), name, msgspec.json.encode(site), b"")

"""Requests that two parsers could read in two ways: nobody gets a second request past the first.

Each case carries a hit for the site `victim` where only one of the readings sees a request. Direct,
and behind nginx, what is counted is what was answered.
"""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest

from tests.kit.raw_http import GOOD, HOST, end_of, without_lane
from tests.kit.services.in_process import Service, run_service
from tests.kit.stores.node import wait_until
from tests.kit.stores.server import Server
from tests.kit.tools import need

START_S = 10.0

Opened = Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]


def request(site: str, lines: bytes, body: bytes) -> bytes:
    known = "".join(f"{line}\r\n" for line in (HOST, *GOOD)).encode()
    return b"POST /w/%b HTTP/1.1\r\n%b%b\r\n%b" % (site.encode(), known, lines, body)


SMUGGLED = request("victim", b"Content-Length: 2\r\n", b"{}")
N = len(SMUGGLED)
IN_CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (N, SMUGGLED)
BEHIND_CHUNKS = b"0\r\n\r\n" + SMUGGLED

LENGTHS = [
    b"Content-Length: 0\r\nContent-Length: %d\r\n" % N,
    b"Content-Length: %d\r\nContent-Length: 0\r\n" % N,
    b"content-length: 0\r\nCONTENT-LENGTH: %d\r\n" % N,
    b"Content-Length: 0, %d\r\n" % N,
    b"Content-Length: %d, %d\r\n" % (N, N),
    b"Content-Length: %d %d\r\n" % (N, N),
    b"Content-Length: %d 0\r\n" % N,
    b"Content-Length: +%d\r\n" % N,
    b"Content-Length: -%d\r\n" % N,
    b"Content-Length: 0x%x\r\n" % N,
    b"Content-Length: %d.0\r\n" % N,
    b"Content-Length: %d;0\r\n" % N,
    b"Content-Length: %d_0\r\n" % N,
    b"Content-Length: \x0b%d\r\n" % N,
    b"Content-Length: \xa0%d\r\n" % N,
    b"Content-Length: \xd9\xa2\r\n",  # an Arabic 2
    b"Content-Length: %d\x00\r\n" % N,
    b"Content-Length: %d\r\n" % (2**64 + N),
    b"Content-Length:\r\n %d\r\n" % N,
    b"Content-Length: 0\r\n\t%d\r\n" % N,
    b"Content-Length : %d\r\n" % N,
    b"Content-Length\t: %d\r\n" % N,
    b"Content-Length\x00: %d\r\n" % N,
    b" Content-Length: %d\r\n" % N,
    b"X: a\r\n Content-Length: %d\r\n" % N,
    b"X: a\nContent-Length: %d\r\n" % N,
    b"X: a\rContent-Length: %d\r\n" % N,
    b"X: a\x00\r\nContent-Length: %d\r\n" % N,
    b"X\r\nContent-Length: %d\r\n" % N,
    b": a\r\nContent-Length: %d\r\n" % N,
    b"X: a\n\r\nContent-Length: %d\r\n" % N,
    b"X: a\n\nContent-Length: %d\r\n" % N,
    b"X: a\r\r\nContent-Length: %d\r\n" % N,
]
ENCODINGS = [
    b"Transfer-Encoding: chunked\r\n",
    b"transfer-encoding: CHUNKED\r\n",
    b"Transfer-Encoding : chunked\r\n",
    b"Transfer-Encoding\t: chunked\r\n",
    b"Transfer-Encoding:\tchunked\r\n",
    b"Transfer-Encoding: \x0bchunked\r\n",
    b"Transfer-Encoding: chunked\t\r\n",
    b"Transfer-Encoding: xchunked\r\n",
    b'Transfer-Encoding: "chunked"\r\n',
    b"Transfer-Encoding: chunked;q=1\r\n",
    b"Transfer-Encoding: chunked, identity\r\n",
    b"Transfer-Encoding: identity, chunked\r\n",
    b"Transfer-Encoding: chunked, chunked\r\n",
    b"Transfer-Encoding: , chunked\r\n",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
    b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    b"Transfer-Encoding:\r\n chunked\r\n",
    b"Transfer-Encoding: identity\r\n\tchunked\r\n",
    b"Transfer-Encoding\x00: chunked\r\n",
    b"Transfer-Encoding: chunked\x00\r\n",
    b"Transfer-Encoding: ch\xc5\xbfunked\r\n",
    b" Transfer-Encoding: chunked\r\n",
    b"X: a\r\n Transfer-Encoding: chunked\r\n",
    b"X: a\nTransfer-Encoding: chunked\r\n",
    b"X: a\rTransfer-Encoding: chunked\r\n",
    b"Transfer_Encoding: chunked\r\n",
    b"Transfer-Encoding:\r\n",
]
CHUNKS = [
    b"0;a=b\r\n\r\n",
    b"0;a=b\n\r\n\r\n",
    b'0;a="\r\n"\r\n\r\n',
    b"0 \r\n\r\n",
    b" 0\r\n\r\n",
    b"00\r\n\r\n",
    b"0x0\r\n\r\n",
    b"-0\r\n\r\n",
    b"+0\r\n\r\n",
    b"0\n\n",
    b"0\r\n\n",
    b"0\r\r\n\r\n",
    b"\r\n0\r\n\r\n",
    b"2\r\n{}0\r\n\r\n",
    b"2\r\n{}\n0\r\n\r\n",
    b"2\r\n{}\r0\r\n\r\n",
    b"2\r\n{}xx0\r\n\r\n",
    b"2\n{}\r\n0\r\n\r\n",
    b"2_\r\n{}\r\n0\r\n\r\n",
    b"%x\r\n{}\r\n0\r\n\r\n" % (2**64 + 2),
    b"2\r\n{}\r\n0\r\nContent-Length: %d\r\n\r\n" % N,
    b"2\r\n{}\r\n0\r\nX: a\n\r\n\r\n",
]
CASES = {
    **{f"length {lines!r}": request("portal", lines, SMUGGLED) for lines in LENGTHS},
    **{
        f"length, then {lines!r}": request(
            "portal", b"Content-Length: %d\r\n%b" % (len(BEHIND_CHUNKS), lines), BEHIND_CHUNKS
        )
        for lines in ENCODINGS
    },
    **{
        f"{lines!r}, then length": request(
            "portal", b"%bContent-Length: %d\r\n" % (lines, IN_CHUNKS.index(b"P")), IN_CHUNKS
        )
        for lines in ENCODINGS
    },
    **{
        f"chunks {chunks!r}": request(
            "portal", b"Transfer-Encoding: chunked\r\n", chunks + SMUGGLED
        )
        for chunks in CHUNKS
    },
}
HARMLESS = {
    "empty lines before": b"\r\n\n\r\n" + request("portal", b"Content-Length: 2\r\n", b"{}"),
    "another host in the target": request("portal", b"Content-Length: 2\r\n", b"{}").replace(
        b"/w/", b"http://other.example/w/", 1
    ),
    "two hosts": request("portal", b"Host: other.example\r\nContent-Length: 2\r\n", b"{}"),
    "a host of two": request("portal", b"Content-Length: 2\r\n", b"{}").replace(
        b"count.example", b"count.example, other.example"
    ),
    "a space in a name": request("portal", b"X Y: a\r\nContent-Length: 2\r\n", b"{}"),
    "a NUL in a value": request("portal", b"X: \x00\r\nContent-Length: 2\r\n", b"{}"),
    "zeros before": request("portal", b"Content-Length: 0000000002\r\n", b"{}"),
    "one length twice": request("portal", b"Content-Length: 2\r\nContent-Length: 2\r\n", b"{}"),
    "a long line": request("portal", b"X: %b\r\nContent-Length: 2\r\n" % (b"a" * 9000), b"{}"),
    "two spaces": request("portal", b"Content-Length: 2\r\n", b"{}").replace(b" HTTP", b"  HTTP"),
    "a tab": request("portal", b"Content-Length: 2\r\n", b"{}").replace(b" HTTP", b"\tHTTP", 1),
    "a fragment": request("portal", b"Content-Length: 2\r\n", b"{}").replace(b"tal ", b"tal#a ", 1),
    "version 1.2": request("portal", b"Content-Length: 2\r\n", b"{}").replace(b"/1.1", b"/1.2", 1),
    "version 2.0": request("portal", b"Content-Length: 2\r\n", b"{}").replace(b"/1.1", b"/2.0", 1),
    "version 01.1": request("portal", b"Content-Length: 2\r\n", b"{}").replace(b"/1", b"/01", 1),
}
NGINX = """
daemon off;
pid pid;
error_log stderr crit;
events {{}}
http {{
  access_log off;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  keepalive_timeout 300ms;
  client_header_timeout 300ms;
  client_body_timeout 300ms;
  upstream service {{ server {service}; keepalive 8; }}
  server {{
    listen unix:{socket};
    location / {{
      proxy_pass http://service;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }}
  }}
}}
"""


class Told(NamedTuple):
    """What a client was told."""

    statuses: list[int]
    counted: int


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that whatever waits for more ends soon."""
    monkeypatch.setattr("visit_counter.web.client.BODY_S", 0.1)
    monkeypatch.setattr("visit_counter.web.lane.connection.BODY_S", 0.1)
    monkeypatch.setattr("visit_counter.web.lane.connection.REQUEST_S", 0.2)
    monkeypatch.setattr("visit_counter.web.lane.lane.SWEEP_S", 0.02)
    monkeypatch.setattr("visit_counter.serving.LINGER_S", 0.1)


# -- the two parsers of the service


async def test_no_reading_sees_a_second_request(valkey: Server) -> None:
    """The lane answers as aiohttp does, once, and counts what it answered."""
    async with run_service(valkey.url, keepalive="0.2") as lane:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("visit_counter.serving.in_lane", without_lane)
            async with run_service(valkey.url, keepalive="0.2") as plain:
                for service in (lane, plain):
                    await open_sites(service)
                told = await all_told(lambda: open_connection(lane))
                plainly = await all_told(lambda: open_connection(plain))
                counted = await count(lane, "portal"), await count(lane, "victim")

    first, first_plainly = (
        {name: of.statuses[:1] for name, of in all_.items()} for all_ in (told, plainly)
    )
    assert first == first_plainly
    assert {name for name, of in told.items() if len(of.statuses) != 1} == set()
    assert counted == (sum(of.counted for of in told.values()), 0)
    assert counted[0] >= 5


def open_connection(service: Service) -> Opened:
    url = urlsplit(service.url)
    return asyncio.open_connection(url.hostname, url.port)


async def open_sites(service: Service) -> None:
    for site in ("portal", "victim"):
        await service.site(site, trusted_networks=["0.0.0.0/0"])


async def all_told(connect: Callable[[], Opened]) -> dict[str, Told]:
    """All cases at once, each over a connection of its own."""
    cases = CASES | HARMLESS
    answers = await asyncio.gather(*(tell(connect(), raw) for raw in cases.values()))
    return dict(zip(cases, answers, strict=True))


async def tell(opened: Opened, raw: bytes) -> Told:
    reader, writer = await opened
    try:
        writer.write(raw)
        got = await end_of(reader)
    finally:
        writer.transport.abort()
    statuses = [int(status) for status in re.findall(rb"HTTP/\d\.\d (\d{3}) ", got)]
    return Told(statuses, got.count(b'"counted":true'))


async def count(service: Service, site: str) -> int:
    return int((await service.counts(site))["total"]["pageviews"])


# -- behind a proxy


async def test_a_proxy_and_the_service_see_the_same_requests(service: Service) -> None:
    """Whatever nginx makes of a case, each counted hit is one that a client was told of."""
    await open_sites(service)
    with nginx(service.url.removeprefix("http://")) as socket:
        told = await all_told(lambda: asyncio.open_unix_connection(str(socket)))
    counted = await count(service, "portal") + await count(service, "victim")

    assert counted == sum(of.counted for of in told.values()) >= 5


@contextmanager
def nginx(service: str) -> Iterator[Path]:
    """A real one before the service; gives its socket."""
    binary = need("nginx")
    with tempfile.TemporaryDirectory(prefix="vc-", dir="/tmp") as directory:
        path, conf = Path(directory) / "s", Path(directory) / "conf"
        conf.write_text(NGINX.format(service=service, socket=path))
        command = [str(binary), "-p", directory, "-c", str(conf), "-e", "stderr"]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: process.poll() is None and listens(path), START_S)
            yield path
        finally:
            process.terminate()
            process.wait(10)


def listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0

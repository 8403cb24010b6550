"""A closed loop of hits: every connection sends its next hit when the last one is answered.

    .venv/bin/python -m loadtests.hits --connections 64 --seconds 5

It starts a service of its own on an embedded Valkey (append-only file, fsync always), plays a proxy
in front of many distinct visitors with real beacon headers, and prints hits per second and the time
to acknowledge. Then the counts must equal what was acknowledged; else the figure is void, and the
exit code 1. Everything stays on loopback, is bounded in time, and ends by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

TOKEN = "token-of-the-load-test-of-32-characters"
START_S = 10.0
SITE = "load"

HIT = (
    "POST /w/{site} HTTP/1.1\r\n"
    "Host: {host}\r\n"
    "User-Agent: Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/142.0.0.0 Safari/537.36\r\n"
    "Accept: */*\r\n"
    "Accept-Language: vi-VN,vi;q=0.9,en;q=0.8\r\n"
    "Accept-Encoding: gzip, deflate, br, zstd\r\n"
    "Content-Type: text/plain;charset=UTF-8\r\n"
    "Origin: https://portal.example\r\n"
    "Referer: https://portal.example/\r\n"
    "Sec-Fetch-Site: cross-site\r\n"
    "Sec-Fetch-Mode: cors\r\n"
    "Sec-Fetch-Dest: empty\r\n"
    "X-Forwarded-For: {address}\r\n"
    "Content-Length: {length}\r\n"
    "\r\n"
    "{body}"
)


@dataclass
class Tally:
    """What the clients saw."""

    acknowledged: int = 0
    refused: int = 0
    seconds: list[float] = field(default_factory=list)


@contextmanager
def running_service() -> Iterator[str]:
    """A service in a process of its own; gives its URL, ends it with SIGTERM."""
    with tempfile.TemporaryDirectory(prefix="vc-load-", dir="/tmp") as data_dir:
        port = free_port()
        environ = {
            **os.environ,
            "VISIT_COUNTER_LISTEN": f"127.0.0.1:{port}",
            "VISIT_COUNTER_DATA_DIR": data_dir,
            "VISIT_COUNTER_ADMIN_TOKEN": TOKEN,
        }
        with (Path(data_dir) / "service.log").open("wb") as log:
            service = subprocess.Popen(
                [sys.executable, "-m", "service", "serve"], env=environ, stdout=log, stderr=log
            )
            try:
                url = f"http://127.0.0.1:{port}"
                wait_until_up(url, service)
                yield url
            finally:
                service.send_signal(signal.SIGTERM)
                service.wait(timeout=15)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_up(url: str, service: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            urlopen(f"{url}/healthz", timeout=1).close()
            return
        except (URLError, OSError):
            if service.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("the service did not start") from None
            time.sleep(0.02)


def call(url: str, path: str, body: object) -> dict[str, Any]:
    request = Request(f"{url}/api/v1/sites{path}", data=json.dumps(body).encode(), method="POST")
    request.add_header("Authorization", f"Bearer {TOKEN}")
    with urlopen(request, timeout=10) as answer:
        return dict(json.load(answer))


async def client(host: str, visitors: Iterator[int], until: float, tally: Tally) -> None:
    """One connection's hits, one after the other."""
    name, port = host.split(":")
    reader, writer = await asyncio.open_connection(name, int(port))
    try:
        while time.perf_counter() < until:
            began = time.perf_counter()
            writer.write(hit(host, next(visitors)))
            status = await answer_status(reader)
            tally.seconds.append(time.perf_counter() - began)
            if status == 200:
                tally.acknowledged += 1
            else:
                tally.refused += 1
    finally:
        writer.close()


def hit(host: str, visitor: int) -> bytes:
    address = f"10.{visitor >> 16 & 255}.{visitor >> 8 & 255}.{visitor & 255}"
    body = json.dumps({"k": "view", "p": f"/page/{visitor % 100}"})
    return HIT.format(site=SITE, host=host, address=address, length=len(body), body=body).encode()


async def answer_status(reader: asyncio.StreamReader) -> int:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    await reader.readexactly(length)
    return int(head[9:12])


async def load(url: str, connections: int, seconds: float) -> Tally:
    tally, visitors = Tally(), count(1)
    until = time.perf_counter() + seconds
    host = url.removeprefix("http://")
    await asyncio.gather(*(client(host, visitors, until, tally) for _ in range(connections)))
    return tally


def report(tally: Tally, seconds: float, counted: int) -> str:
    times = sorted(tally.seconds)
    p50, p99 = (1000 * times[int(len(times) * part)] for part in (0.5, 0.99))
    return (
        f"{tally.acknowledged / seconds:,.0f} hits/s, acknowledged in {p50:.1f} ms (p50) and "
        f"{p99:.1f} ms (p99); acknowledged {tally.acknowledged}, refused {tally.refused}, "
        f"counted {counted}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="A closed loop of hits against a real service.")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    with running_service() as url:
        call(url, "", {"id": SITE, "origins": ["https://portal.example"]})
        tally = asyncio.run(load(url, options.connections, options.seconds))
        preview = call(url, f"/{SITE}/reset?preview=1", {})
    counted = preview["would_reset"]["total"]["pageviews"]
    print(report(tally, options.seconds, counted))
    if counted != tally.acknowledged:
        print("void: the counts do not equal what was acknowledged")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

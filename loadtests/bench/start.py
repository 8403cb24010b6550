"""How long the service takes to be ready, with its own Valkey: from nothing, and with its data."""

from __future__ import annotations

import socket
import time

from loadtests.bench.servers import scratch_directory
from loadtests.service_process import START_S, ServiceProcess
from tests.kit.services.process import environment

LOOK_S = 0.002


def start_s() -> tuple[float, float]:
    """Seconds to the first 200 of /readyz: of the first start, and of one after it."""
    _ = environment({})  # has the modules compiled
    with scratch_directory() as scratch:
        process = ServiceProcess(scratch)
        return timed_start(process), timed_start(process)


def timed_start(process: ServiceProcess) -> float:
    began = time.perf_counter()
    process.launch()
    try:
        while not is_ready(process.port):
            if not process.alive or time.perf_counter() - began > START_S:
                raise RuntimeError(f"the service did not start:\n{process.log[-3000:]}")
            time.sleep(LOOK_S)
        return time.perf_counter() - began
    finally:
        process.terminate()


def is_ready(port: int) -> bool:
    with socket.socket() as client:
        if client.connect_ex(("127.0.0.1", port)):
            return False
        client.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return client.recv(12) == b"HTTP/1.1 200"

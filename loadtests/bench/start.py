"""What a start of the service takes, with its own Valkey: time, and CPU against bare imports."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from loadtests.bench.servers import scratch_directory
from loadtests.service_process import START_S, ServiceProcess
from tests.kit.services.process import environment, valkey_of

LOOK_S = 0.002
IMPORTS = "import aiohttp.web, redis.asyncio, prometheus_client, uvloop"


class Starts(NamedTuple):
    """Seconds from a process to its first 200 of /readyz, and CPU-seconds until then."""

    first_s: float
    restart_s: float
    killed_s: float
    """From kill -9 on; Valkey, which it leaves behind, is ended and started too."""
    cpu: float
    """Of the restart, with that of Valkey, against a process that makes the imports only, before
    and after it."""


def starts() -> Starts:
    _ = imports_cpu_s()  # has all modules compiled
    with scratch_directory() as scratch:
        process = ServiceProcess(scratch)
        first_s = started_s(process)
        process.terminate()
        imports_s = imports_cpu_s()
        restart_s = started_s(process)
        cpu_s = cpu_s_of(process.pid) + cpu_s_of(valkey_of(process.data_dir))
        imports_s += imports_cpu_s()
        began = time.perf_counter()
        process.kill()
        _ = started_s(process)
        killed_s = time.perf_counter() - began
        process.terminate()
    return Starts(first_s, restart_s, killed_s, 2 * cpu_s / imports_s)


def started_s(process: ServiceProcess) -> float:
    began = time.perf_counter()
    process.launch()
    while not is_ready(process.port):
        if not process.alive or time.perf_counter() - began > START_S:
            process.terminate()
            raise RuntimeError(f"the service did not start:\n{process.log[-3000:]}")
        time.sleep(LOOK_S)
    return time.perf_counter() - began


def is_ready(port: int) -> bool:
    with socket.socket() as client:
        if client.connect_ex(("127.0.0.1", port)):
            return False
        client.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return client.recv(12) == b"HTTP/1.1 200"


def imports_cpu_s() -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", IMPORTS], env=environment({}), check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def cpu_s_of(pid: int) -> float:
    """Of all threads that it has (Linux)."""
    threads = os.listdir(f"/proc/{pid}/task")
    used = (Path(f"/proc/{pid}/task/{each}/schedstat").read_text() for each in threads)
    return sum(int(text.split()[0]) for text in used) / 1e9

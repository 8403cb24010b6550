"""A service manager as far as the service knows one: it keeps sockets, and is told states.

    with Manager() as manager:
        manager.open("pages")
        with manager.running(DATA_DIR=str(place)) as service:
            manager.wait_for("READY=1")

systemd-socket-activate keeps its sockets only until its program ends; here they outlive restarts.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from tests.kit.services.process import NOTHING, ServiceProcess, running, this_version, until

# Descriptors from 3 on, and their number, for the program that takes this one's place.
PASS = (
    "import os, sys\n"
    "given = [int(n) for n in sys.argv[1].split(',') if n]\n"
    "moved = [os.dup2(fd, 100 + n) for n, fd in enumerate(given)]\n"
    "[os.dup2(fd, 3 + n, inheritable=True) for n, fd in enumerate(moved)]\n"
    "os.environ['LISTEN_PID'] = os.environ['WATCHDOG_PID'] = str(os.getpid())\n"
    "os.execv(sys.argv[2], sys.argv[2:])\n"
)


class Manager:
    """Its sockets by the names that they are passed with, and what it was told, in order."""

    def __init__(self, *, abstract: bool = False) -> None:
        """`abstract`: it hears on an address that is not a path (unix(7))."""
        self._abstract = abstract
        self.sockets: list[socket.socket] = []
        self.names: list[str] = []
        self.told: list[str] = []

    def __enter__(self) -> Self:
        self._scratch = tempfile.TemporaryDirectory(prefix="vc-", dir="/tmp")
        self._ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path = f"{self._scratch.name}/notify"
        self._ear.bind(f"\0{path}" if self._abstract else path)
        self._path = f"@{path}" if self._abstract else path
        threading.Thread(target=self._hear, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in (*self.sockets, self._ear):
            each.close()
        self._scratch.cleanup()

    def open(self, name: str = "", family: socket.AddressFamily = socket.AF_INET) -> int:
        """Listen on a free port of loopback, and pass that; gives the port."""
        self.keep(kept := socket.socket(family), name)
        kept.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        kept.listen(4096)
        return int(kept.getsockname()[1])

    def keep(self, kept: socket.socket, name: str = "") -> None:
        """To be passed, whatever it is."""
        self.sockets.append(kept)
        self.names.append(name)

    @contextmanager
    def running(
        self, variables: Mapping[str, str] = NOTHING, /, **settings: str
    ) -> Iterator[ServiceProcess]:
        """A service that gets the sockets and is to tell its states."""
        given = ",".join(str(each.fileno()) for each in self.sockets)
        command = (sys.executable, "-c", PASS, given, *this_version().command)
        environ = {
            "NOTIFY_SOCKET": self._path,
            "LISTEN_FDS": str(len(self.sockets)),
            "LISTEN_FDNAMES": ":".join(self.names),
            **variables,
        }
        program = this_version()._replace(command=command, variables=environ)
        with running(program, settings, tuple(each.fileno() for each in self.sockets)) as service:
            yield service

    def wait_for(self, line: str, times: int = 1, within_s: float = 20) -> None:
        until(lambda: self.told.count(line) >= times, within_s)

    def _hear(self) -> None:
        while True:
            try:
                self.told += self._ear.recv(1 << 16).decode().split("\n")
            except OSError:
                return


def descriptors(pid: int) -> list[str]:
    """What a process has open."""
    folder = Path(f"/proc/{pid}/fd")
    return [os.readlink(each) for each in folder.iterdir()]

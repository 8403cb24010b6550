"""What a service manager such as systemd is told: the service's states, and that it is alive.

They go to it as datagrams (sd_notify(3)), only from the process that it has started: the variables
for that are taken out of the environment, so that no worker and no Valkey speaks for the service.
A task of the event loop tells the watchdog, so that a loop that hangs is noticed. Nothing here
waits for the manager, or fails without it. Sockets that it passes are in `passed_sockets.py`.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from typing import Self

LOOK_S = 1.0
EXTEND = "EXTEND_TIMEOUT_USEC=30000000"
"""A start may go on for 30 s more: it waits for a store, or migrates its data."""


class Systemd:
    """Told of the service's states while it is entered."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        address = environ.pop("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog_s = _watchdog_s(environ)
        self._status: Callable[[], str] | None = None
        self._told = ""
        self._socket: socket.socket | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
            self._tell("STATUS=starting")
            self._task = asyncio.create_task(self._run(), name="service manager")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def ready(self, status: Callable[[], str]) -> None:
        """The service answers. From here on it has a status, for the eyes of an operator."""
        self._status = status
        self._tell("READY=1", *self._news())

    def reloading(self) -> None:
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def reloaded(self) -> None:
        self._tell("READY=1")

    def stopping(self) -> None:
        self._status = lambda: "stopping"
        self._tell("STOPPING=1", *self._news())

    async def _run(self) -> None:
        """Twice as often as the watchdog wants it, or once a second."""
        watched = ["WATCHDOG=1"] if self._watchdog_s else []
        while True:
            await asyncio.sleep(min(LOOK_S, self._watchdog_s / 2 or LOOK_S))
            self._tell(*watched, *(self._news() if self._status else [EXTEND]))

    def _news(self) -> list[str]:
        """The status if it has changed."""
        status = " ".join(self._status().split()) if self._status else ""
        if status == self._told:
            return []
        self._told = status
        return [f"STATUS={status}"]

    def _tell(self, *lines: str) -> None:
        if self._socket and lines:
            with suppress(OSError):  # it is away, or does not read
                text = "\n".join(lines).encode(errors="backslashreplace")
                self._socket.sendto(text, self._address)


def _watchdog_s(environ: MutableMapping[str, str]) -> float:
    """Within which time the watchdog wants to be told; 0 where there is none for this process."""
    usec, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
    return int(usec) / 1e6 if usec.isdecimal() and pid in ("", str(os.getpid())) else 0

"""Viewers of live counts as light as they can be: sockets whose events wait in the kernel.

    with watching(port, "portal", 10_000) as viewers:
        ...
        wait_for_all(viewers, lambda viewer: viewer.events == 2, within_s=5)

Nobody reads meanwhile, so that a machine that measures a service does not measure these.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from loadtests.beacons import address_of
from visit_counter.process.open_files import allow_many

AT_ONCE = 100  # that are opened
ANSWER_S = 15.0
READ_BYTES = 1 << 20


class Viewer:
    """One stream, and what it was told."""

    def __init__(self, port: int, site: str, address: str) -> None:
        """`address`: of the viewer, behind a proxy that the service trusts."""
        self.events = 0
        self.ended = False
        self._last = b""
        self._rest = b""
        self._socket = socket.create_connection(("127.0.0.1", port), ANSWER_S)
        request = f"GET /w/{site}/live HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Forwarded-For: {address}"
        self._socket.sendall(f"{request}\r\n\r\n".encode())

    @property
    def counts(self) -> dict[str, Any]:
        """Those that it was told last."""
        return dict(json.loads(self._last.partition(b"data: ")[2]))

    def await_first(self) -> None:
        while not self.events:
            if self.ended:
                raise ConnectionError(f"no stream, but {self._rest!r}")
            self._read()
        self._socket.setblocking(False)

    def drain(self) -> None:
        """Read what is there."""
        try:
            while not self.ended:
                self._read()
        except BlockingIOError:
            return

    def close(self) -> None:
        self._socket.close()

    def _read(self) -> None:
        data = self._socket.recv(READ_BYTES)
        self.ended = not data
        *events, self._rest = (self._rest + data).split(b"\n\n")
        events = [event for event in events if b"data: " in event]
        self.events += len(events)
        self._last = events[-1] if events else self._last


@contextmanager
def watching(port: int, site: str, number: int) -> Iterator[list[Viewer]]:
    """So many viewers of a site, each of whom was told the counts."""
    allow_many()
    viewers: list[Viewer] = []
    try:
        while len(viewers) < number:
            numbers = range(len(viewers), min(number, len(viewers) + AT_ONCE))
            some = [Viewer(port, site, address_of(n)) for n in numbers]
            viewers += some
            for viewer in some:
                viewer.await_first()
        yield viewers
    finally:
        for viewer in viewers:
            viewer.close()


def wait_for_all(
    viewers: Sequence[Viewer], condition: Callable[[Viewer], bool], within_s: float
) -> bool:
    """Read until a condition holds for each of them; whether it did within the time."""
    deadline, waiting = time.monotonic() + within_s, [*viewers]
    while waiting and time.monotonic() < deadline:
        for viewer in waiting:
            viewer.drain()
        waiting = [viewer for viewer in waiting if not condition(viewer)]
        time.sleep(0.01)
    return not waiting

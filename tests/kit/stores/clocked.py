"""A Valkey whose clock a test sets, steps and winds back, while it runs.

    with run_clocked() as server:
        server.ahead(days=9)   # of this machine's time; negative is behind

TIME, expiry and all else that the server does follow. Debian's Redis cannot: its jemalloc and
faketime do not go together.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.kit.stores.node import wait_until
from tests.kit.stores.server import READY_S, Server, server_binaries, started
from tests.kit.tools import faked_clock


class Clocked(Server):
    """A server that lives at another time."""

    def __init__(self, directory: Path) -> None:
        self._offset = directory / "offset"
        faked = faked_clock("+0")
        del faked["FAKETIME"]
        faked |= {
            "FAKETIME_TIMESTAMP_FILE": str(self._offset),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "TZ": "UTC",
        }
        under = ["env", *(f"{name}={value}" for name, value in faked.items())]
        super().__init__(server_binaries()["valkey"], directory, under=under)
        self.ahead_ms = 0
        self.ahead()

    def ahead(self, *, ms: int = 0, **span: float) -> None:
        """From now on its clock is so much ahead of this machine's."""
        self.ahead_ms = ms + round(timedelta(**span).total_seconds() * 1000)
        self._write(f"{self.ahead_ms / 1000:+.3f}", lambda: time.time() + self.ahead_ms / 1000)

    def stand_at(self, ms: int) -> None:
        """From now on its clock stands still, at a whole second."""
        text = datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
        self._write(text, lambda: ms / 1000)

    def _write(self, text: str, wanted_s: Callable[[], float]) -> None:
        """Set the clock, and wait until the server shows it: for a moment it may show the one of
        before."""
        whole = self._offset.with_suffix(".new")
        whole.write_text(f"{text}\n")
        whole.rename(self._offset)
        if self._process is not None:
            wait_until(lambda: abs(self._shows_s() - wanted_s()) < 0.2, READY_S)

    def _shows_s(self) -> float:
        seconds, microseconds = self.call("TIME").split(b"\r\n")[2:5:2]
        return int(seconds) + int(microseconds) / 1e6


@contextmanager
def run_clocked() -> Iterator[Clocked]:
    directory = Path(tempfile.mkdtemp(prefix="vc-", dir="/tmp"))
    with started(Clocked(directory)) as server:
        yield server

"""What clients see of a restart under load: with the address kept by a manager, and without.

Each hit comes over a connection of its own, as of a browser that comes newly, so that one that is
refused is seen.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from itertools import pairwise
from typing import NamedTuple

from loadtests.bench.servers import scratch_directory
from loadtests.service_process import TOKEN, free_port
from tests.kit.services.activated import Manager
from tests.kit.services.in_process import PERSON
from tests.kit.services.process import by_each, call, until

PER_S = 300
THREADS = 16
ANSWER_S = 15.0
BEFORE_S, AFTER_S = 0.5, 0.5


class Seen(NamedTuple):
    """Of a restart: hits that were acknowledged, connections that were refused or reset, hits that
    were answered otherwise by
    their status, the pageviews that are counted, and the longest time between two
    acknowledged hits."""

    acknowledged: int
    refused: int
    others: dict[int, int]
    pageviews: int
    gap_s: float


class Clicks:
    """Hits at an even pace, by threads that take turns, until they are stopped."""

    def __init__(self, port: int) -> None:
        self.at_s: list[float] = []
        """When one was acknowledged."""
        self.refused = 0
        self.others = Counter[int]()
        """Hits that were answered otherwise, by status."""
        self._port = port
        self._began_s = time.monotonic()
        self._next = iter(range(1 << 30))
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(THREADS)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(timeout=2 * ANSWER_S)

    def _run(self) -> None:
        while not self._ended.is_set():
            with self._lock:
                number = next(self._next)
            time.sleep(max(0.0, self._began_s + number / PER_S - time.monotonic()))
            self._click(number)

    def _click(self, number: int) -> None:
        address = f"10.0.{number // 256 % 256}.{number % 256}"
        headers = {"User-Agent": PERSON, "X-Forwarded-For": address}
        connection = HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_S)
        try:
            with closing(connection):
                connection.request("POST", "/w/portal", b"{}", headers)
                status = connection.getresponse().status
        except (OSError, HTTPException):
            with self._lock:
                self.refused += 1
            return
        with self._lock:
            if status in (200, 202):
                self.at_s.append(time.monotonic())
            else:
                self.others[status] += 1


def restart(*, kept: bool, workers: int = 1) -> Seen:
    """SIGTERM under load, and another start as soon as the process has ended."""
    with scratch_directory() as scratch, Manager() as manager:
        port = manager.open("pages") if kept else free_port()
        settings = {
            "DATA_DIR": str(scratch / "data"),
            "LISTEN": f"127.0.0.1:{port}",
            "ADMIN_TOKEN": TOKEN,
            "WORKERS": str(workers),
        }
        with manager.running(**settings) as first:
            first.site()
            page = f"{first.url}/w/portal"
            until(lambda: by_each(first, lambda: call("GET", page)[0]) == [200] * workers, 5)
            clicks = Clicks(port)
            time.sleep(BEFORE_S)
            if first.terminate() != 0:
                raise RuntimeError(first.errors)
        with manager.running(**settings) as second:
            second.url  # noqa: B018 # waits until it answers
            time.sleep(AFTER_S)
            clicks.stop()
            pageviews = int(second.counts()["total"]["pageviews"])
    times = sorted(clicks.at_s)
    gap_s = max(b - a for a, b in pairwise(times))
    return Seen(len(times), clicks.refused, dict(clicks.others), pageviews, gap_s)

"""Open arrival: hits come when they come, whether or not the ones before have been answered.

    .venv/bin/python -m loadtests.bench.open_loop PORT HITS_PER_S SECONDS

The gaps between hits are those of many independent visitors (exponential). A hit's time runs from
when it was due, so that nobody who had to wait behind a stall is left out of the figures, also not
by a generator that came late. It looks every half of a millisecond for what is due and what has
come, so times are too long by that at most: to wake for each hit would take a core by itself.
Answers are awaited to the last one. It prints a line of JSON.
"""

from __future__ import annotations

import json
import select
import socket
import sys
from collections import Counter, deque
from collections.abc import Iterator
from itertools import count
from random import Random
from time import perf_counter, sleep
from typing import NamedTuple

from loadtests.bench.requests import of_visitor, requests

CONNECTIONS = 256
WARM_UP_S = 0.5
ANSWER_S = 10.0
MOMENT_S = 0.0005
SEED = 4


class Times(NamedTuple):
    """What became of the hits; times are seconds of those that were due behind the warm-up."""

    acknowledged: int
    refused: int
    to_answer: list[float]
    to_send: list[float]
    """How late they were sent: the generator was, or had no free connection."""


class Client:
    """A connection, with the answer that comes in."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.due = 0.0
        """When its hit was to be sent."""
        self._got = b""

    def status(self) -> int | None:
        """Of the answer, once all of it is there."""
        got = self.socket.recv(65536)
        if not got:
            raise ConnectionError("the service closed a connection")
        self._got += got
        head, end, body = self._got.partition(b"\r\n\r\n")
        if not end or len(body) < _length(head):
            return None
        self._got = b""
        return int(head[9:12])


class OpenLoop:
    """Hits at a rate, over connections that are kept."""

    def __init__(self, port: int, hits_per_s: float, seconds: float) -> None:
        self._poll = select.epoll()
        self._clients = [Client(port) for _ in range(CONNECTIONS)]
        self._by_number = {client.socket.fileno(): client for client in self._clients}
        for number in self._by_number:
            self._poll.register(number, select.EPOLLIN)
        self._hits = hits(port)
        self._gaps = arrivals(hits_per_s)
        self._idle = deque(self._clients)
        self._waiting = deque[float]()
        self._from = perf_counter() + WARM_UP_S
        self._end = self._from + seconds
        self._due = self._from - WARM_UP_S
        self._statuses = Counter[int]()
        self._to_answer: list[float] = []
        self._to_send: list[float] = []

    def run(self) -> Times:
        while self._due < self._end or self._waiting or len(self._idle) < CONNECTIONS:
            self._arrive()
            self._send()
            self._receive()
            sleep(MOMENT_S)
        refused = self._statuses.total() - self._statuses[200]
        return Times(self._statuses[200], refused, self._to_answer, self._to_send)

    @property
    def sent(self) -> int:
        """Hits so far, behind the warm-up."""
        return len(self._to_send)

    def close(self) -> None:
        for client in self._clients:
            client.socket.close()
        self._poll.close()

    def _arrive(self) -> None:
        """Whose time has come by now."""
        until = min(perf_counter(), self._end)
        while self._due < until:
            self._waiting.append(self._due)
            self._due += next(self._gaps)

    def _send(self) -> None:
        while self._waiting and self._idle:
            client = self._idle.popleft()
            client.due = self._waiting.popleft()
            client.socket.sendall(next(self._hits))
            self._note(client, self._to_send)

    def _receive(self) -> None:
        if perf_counter() > self._end + ANSWER_S:
            raise TimeoutError(f"no answer within {ANSWER_S:.0f} s")
        for number, _ in self._poll.poll(0):
            client = self._by_number[number]
            if (status := client.status()) is not None:
                self._statuses[status] += 1
                self._note(client, self._to_answer)
                self._idle.append(client)

    def _note(self, client: Client, times: list[float]) -> None:
        if client.due > self._from:
            times.append(perf_counter() - client.due)


def hits(port: int) -> Iterator[bytes]:
    """Each from another visitor."""
    texts = requests(f"127.0.0.1:{port}", 1).hits
    for visitor in count(1):
        yield of_visitor(texts[visitor % len(texts)], visitor)


def arrivals(per_s: float) -> Iterator[float]:
    """Seconds from one arrival to the next."""
    random = Random(SEED)
    while True:
        yield random.expovariate(per_s)


def _length(head: bytes) -> int:
    return int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])


def main() -> None:
    port, hits_per_s, seconds = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    loop = OpenLoop(port, hits_per_s, seconds)
    try:
        print(json.dumps(loop.run()._asdict()))
    finally:
        loop.close()


if __name__ == "__main__":
    main()

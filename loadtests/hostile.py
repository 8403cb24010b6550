"""Hostile clients beside honest ones: what do the honest notice?

    .venv/bin/python -m loadtests.hostile --clients 300

Each kind of hostile client in turn, and at last all kinds together: rounds of honest hits alone
and beside a crowd, one after the other, so that what else the machine does meets both. It fails
where the honest clients' p99 (the median of the rounds) more than doubles, where a hostile
connection outlives its bound, where the service grows by more than its clients may take, and where
the counts are not what was acknowledged. Everything stays on loopback and ends by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

from loadtests.beacons import ORIGIN, hit, read_answer
from loadtests.service_process import ServiceProcess

HONEST = 4  # connections
ROUND_S = 0.5
STANDS_S = 1.0  # before a round, so that it is no test of accepting connections
ROUNDS, MOST_ROUNDS = 5, 15
FLOOR_MS = 2.0  # of a p99 whose double anybody could notice
SETTLED_S = 10.0
CLIENT_MB, GROWS_MB = 0.35, 16.0  # what a client may take; what may come and go in any case
SMALL = 4096  # bytes that a client's kernel takes for one that does not read

# Not its 30 s for a client to read: nobody would wait for this test.
PRELUDE = "from visit_counter.web.lane import connections; connections.STALL_S = 5.0; "

SITE, SLOW = "portal", "slow"  # of the honest and of the hostile
HIT = hit(SLOW, "count.example", 1, "/")
HEAD = HIT.partition(b"\r\n\r\n")[0] + b"\r\n"
LOOK = b"GET /w/slow HTTP/1.1\r\nHost: count.example\r\n\r\n"
CHUNKED = HEAD.replace(b"Content-Length", b"Transfer-Encoding: chunked\r\nX") + b"\r\n"


class Kind(NamedTuple):
    """What a hostile client sends: first `opening`, then `script` again and again."""

    opening: bytes
    script: bytes
    piece: int
    """Bytes of the script at a time."""
    every_s: float
    reads: bool
    bound_s: float | None
    """How long its connection lives at most; None where each request is whole in its time."""


KINDS = {
    "heads byte by byte": Kind(b"POST /w/slow HTTP/1.1\r\nX: ", b"a", 1, 0.5, True, 13.0),
    "heads without end": Kind(HEAD, b"X-More: " + b"a" * 500 + b"\r\n", 510, 0.2, True, 13.0),
    "empty lines": Kind(b"", b"\r\n", 2, 0.5, True, 13.0),
    "bodies that stall": Kind(HIT[:-1], b"", 0, 0.5, True, 11.0),
    "chunks that stall": Kind(CHUNKED + b"5\r\n", b"", 0, 0.5, True, 11.0),
    "answers not read": Kind(LOOK * 2000, LOOK, len(LOOK), 0.5, False, 9.0),
    "hits byte by byte": Kind(b"", HIT, 1, 0.01, True, None),
}


class Crowd:
    """Hostile clients, who come again whenever the service has ended their connection."""

    def __init__(self, port: int, kinds: Sequence[Kind], number: int) -> None:
        self.acknowledged = 0
        self.lived: list[tuple[float, float]] = []
        """Of each connection that was ended: its seconds, and its bound."""
        self._port = port
        self._clients = [kinds[n % len(kinds)] for n in range(number)]
        self._connected = 0

    @asynccontextmanager
    async def standing(self) -> AsyncIterator[None]:
        self._connected = 0
        tasks = [asyncio.create_task(self._come(kind)) for kind in self._clients]
        try:
            async with asyncio.timeout(SETTLED_S):
                while self._connected < len(tasks):  # noqa: ASYNC110 # there are many events
                    await asyncio.sleep(0.02)
            await asyncio.sleep(STANDS_S)
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def all_ended(self) -> None:
        """Each connection once."""
        wanted = len(self.lived) + sum(kind.bound_s is not None for kind in self._clients)
        longest_s = max(kind.bound_s or 0 for kind in self._clients)
        async with asyncio.timeout(2 * longest_s + SETTLED_S):
            while len(self.lived) < wanted:  # noqa: ASYNC110 # there are many events
                await asyncio.sleep(0.1)

    async def _come(self, kind: Kind) -> None:
        while True:
            reader, writer = await self._connect(kind)
            self._connected += 1
            began_s = time.monotonic()
            try:
                await self._misbehave(kind, reader, writer)
            except (OSError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.transport.abort()
            if kind.bound_s is not None:
                self.lived.append((time.monotonic() - began_s, kind.bound_s))

    async def _connect(self, kind: Kind) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        own = socket.socket()
        own.setblocking(False)
        if not kind.reads:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        await asyncio.get_running_loop().sock_connect(own, ("127.0.0.1", self._port))
        # Beyond the limit asyncio reads no more either.
        return await asyncio.open_connection(sock=own, limit=1 << 20 if kind.reads else 1)

    async def _misbehave(
        self, kind: Kind, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Until the service ends the connection."""
        writer.write(kind.opening)
        at = 0
        while not (writer.is_closing() or await self._ended(kind, reader)):
            if not kind.script:
                continue
            writer.write(kind.script[at : at + kind.piece])
            at = (at + kind.piece) % len(kind.script)
            if kind.bound_s is None and at == 0:
                answer = await read_answer(reader)
                self.acknowledged += answer.status in (200, 202)  # counted, or in the spool

    async def _ended(self, kind: Kind, reader: asyncio.StreamReader) -> bool:
        """Whether the connection ends within the client's pause."""
        if not kind.reads:
            await asyncio.sleep(kind.every_s)
            return False
        try:
            async with asyncio.timeout(kind.every_s):
                return not await reader.read(1 << 16)
        except TimeoutError:
            return False


class Honest:
    """Honest clients: each sends its next hit when the last one is answered."""

    def __init__(self, port: int) -> None:
        self.acknowledged = 0
        self._port = port

    async def p99_ms(self) -> float:
        """Of a round."""
        until_s = time.perf_counter() + ROUND_S
        rounds = await asyncio.gather(*(self._hits(n, until_s) for n in range(HONEST)))
        waited = sorted(seconds for each in rounds for seconds in each)
        return 1000 * waited[int(len(waited) * 0.99)]

    async def _hits(self, visitor: int, until_s: float) -> list[float]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        waited = []
        try:
            while (began_s := time.perf_counter()) < until_s:
                writer.write(hit(SITE, "count.example", visitor, "/"))
                answer = await read_answer(reader)
                self.acknowledged += answer.status in (200, 202)  # counted, or in the spool
                waited.append(time.perf_counter() - began_s)
        finally:
            writer.close()
        return waited


class Result(NamedTuple):
    """What a crowd did."""

    alone_ms: float
    beside_ms: float
    """p99 of the honest clients, the median of the rounds."""
    memory_mb: float
    """By which the service has grown."""
    most_mb: float
    overdue: int
    """Connections that outlived their bound."""
    acknowledged: int
    counted: int
    """Of the honest."""
    slow_acknowledged: int
    slow_counted: int
    """Of the hostile, who do not read all answers."""

    @property
    def exact(self) -> bool:
        honest = self.counted == self.acknowledged
        return honest and self.slow_counted >= self.slow_acknowledged

    @property
    def factor(self) -> float:
        return self.beside_ms / max(self.alone_ms, FLOOR_MS)

    @property
    def good(self) -> bool:
        bounded = not self.overdue and self.memory_mb <= self.most_mb
        return bounded and self.factor <= 2 and self.exact


async def meet(service: ServiceProcess, kinds: Sequence[Kind], number: int) -> Result:
    """Honest clients alone and beside a crowd, in turns; more turns where the machine is busy."""
    honest, crowd = Honest(service.port), Crowd(service.port, kinds, number)
    before, slow_before = counted(service, SITE), counted(service, SLOW)
    memory_mb = service.memory_mb
    alone: list[float] = []
    beside: list[float] = []
    while len(alone) < ROUNDS or (len(alone) < MOST_ROUNDS and median(beside) > 2 * median(alone)):
        alone.append(await honest.p99_ms())
        async with crowd.standing():
            beside.append(await honest.p99_ms())
    async with crowd.standing():
        await crowd.all_ended()
        memory_mb = service.memory_mb - memory_mb
    return Result(
        median(alone),
        median(beside),
        memory_mb,
        number * CLIENT_MB + GROWS_MB,
        sum(seconds > bound for seconds, bound in crowd.lived),
        honest.acknowledged,
        counted(service, SITE) - before,
        crowd.acknowledged,
        counted(service, SLOW) - slow_before,
    )


@contextmanager
def running_service() -> Iterator[ServiceProcess]:
    with tempfile.TemporaryDirectory(prefix="vc-load-", dir="/tmp") as scratch:
        service = ServiceProcess(Path(scratch), prelude=PRELUDE)
        try:
            service.start()
            yield service
        finally:
            service.terminate()


def counted(service: ServiceProcess, site: str) -> int:
    preview = service.call(f"/{site}/reset?preview=1", {})
    return int(preview["would_reset"]["total"]["pageviews"])


def main() -> int:
    parser = argparse.ArgumentParser(description="Hostile clients beside honest ones.")
    parser.add_argument("--clients", type=int, default=300, help="of a crowd (300)")
    parser.add_argument("--together", action="store_true", help="only all kinds at once")
    options = parser.parse_args()
    crowds = {} if options.together else {name: [kind] for name, kind in KINDS.items()}
    crowds["all of these"] = [*KINDS.values()]
    good = True
    with running_service() as service:
        for site in (SITE, SLOW):
            service.call("", {"id": site, "origins": [ORIGIN], "trusted_networks": ["0.0.0.0/0"]})
        asyncio.run(Honest(service.port).p99_ms())  # so that it has grown by itself
        print(f"{'crowd':20} {'p99 alone':>10} {'beside it':>10} {'memory':>8}")
        for name, kinds in crowds.items():
            result = asyncio.run(meet(service, kinds, options.clients))
            good &= result.good
            print(
                f"{name:20} {result.alone_ms:7.1f} ms {result.beside_ms:7.1f} ms "
                f"{result.memory_mb:+5.0f} MB  {'' if result.good else f'FAILED: {result}'}",
                flush=True,
            )
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())

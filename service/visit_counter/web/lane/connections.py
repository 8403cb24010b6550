"""How many connections there are, and whose place a new one takes when there are too many.

`staying` may stay for request after request. Beside those there are `newcomers` places for those
who have not sent a whole request yet: each gets one answer, so a health check is answered however
many clients there are. When these are taken too, the newcomer goes who has waited longest.
Connections that are aiohttp's (`Lent`) count as well.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from typing import Protocol, cast

from aiohttp import web

from visit_counter import metrics

STALL_S = 30.0  # for a client to read its answer
UNDER_WAY_S = 0.25  # in which a request arrives that was sent before the client knew of the end


class Timed(Protocol):
    """A connection that may be ended."""

    until_s: float
    """When its time is over (seconds of the loop)."""

    def expire(self) -> None:
        """Its time is over."""

    def finish(self) -> None:
        """End it behind its next answer."""

    def stop(self) -> None:
        """End it now, unless it waits for an answer."""

    def abort(self) -> None: ...


class Connections:
    """Those in the lane, and those that `aiohttp` has got from it."""

    def __init__(self, aiohttp: web.Server, staying: int, newcomers: int) -> None:
        self.aiohttp = aiohttp
        self.stopping = self._stopped = False
        self._staying = staying
        self._most = staying + newcomers
        self._lane: set[Timed] = set()
        self._lent: dict[Timed, None] = {}
        self._newcomers: OrderedDict[Timed, None] = OrderedDict()
        self._left = asyncio.Event()

    def __iter__(self) -> Iterator[Timed]:
        yield from self._lane
        yield from self._lent

    def __len__(self) -> int:
        return len(self._lane) + len(self._lent)

    def enter(self, connection: Timed) -> bool:
        """Whether there is a place for it."""
        if self._stopped or (len(self) >= self._most and not self._make_room()):
            metrics.CONNECTIONS_REFUSED.inc()
            return False
        self._lane.add(connection)
        self._newcomers[connection] = None
        return True

    def may_stay(self, connection: Timed) -> bool:
        """It has sent a whole request: whether it may send another."""
        self._newcomers.pop(connection, None)
        return not self.stopping and len(self) - len(self._newcomers) <= self._staying

    def leave(self, connection: Timed) -> None:
        self._lane.discard(connection)
        self._newcomers.pop(connection, None)
        if not self._lane:
            self._left.set()

    def lend(self, lent: Timed) -> None:
        self._lent[lent] = None

    def take_back(self, lent: Timed) -> None:
        self._lent.pop(lent, None)

    def end_too_many(self) -> None:
        """Of aiohttp's the oldest: most likely it waits for nothing, and a probe comes newly."""
        while len(self._lent) > self._most:
            metrics.CONNECTIONS_REFUSED.inc()
            oldest = next(iter(self._lent))
            self.take_back(oldest)
            oldest.abort()

    async def stop(self, within_s: float) -> None:
        """End those in the lane, the idle ones when no request can be under way to them any more;
        aiohttp ends its own."""
        self.stopping = True
        await asyncio.sleep(0)  # those that were accepted already are made
        for connection in [*self._lane]:
            connection.finish()
        await self._wait_for_all(UNDER_WAY_S)
        for connection in [*self._lane]:
            connection.stop()
        await self._wait_for_all(within_s - UNDER_WAY_S)
        self._stopped = True
        for connection in [*self._lane]:
            connection.abort()

    async def _wait_for_all(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._lane:
                    self._left.clear()
                    await self._left.wait()

    def _make_room(self) -> bool:
        oldest = next(iter(self._newcomers), None)
        if oldest is None:
            return False
        metrics.CONNECTIONS_REFUSED.inc()
        self.leave(oldest)
        oldest.abort()
        return True


class Lent(asyncio.Protocol):
    """A connection that is aiohttp's: its bytes pass through here, so that it counts and ends.

    `until_s`: when its first request must have been answered, if aiohttp sees to that no more than
    the lane can, as where a head can never be whole.
    """

    def __init__(self, connections: Connections, until_s: float = float("inf")) -> None:
        self.until_s = until_s
        self._connections = connections
        self._handler = connections.aiohttp()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._connections.lend(self)
        self._handler.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._handler.data_received(data)

    def eof_received(self) -> None:
        self._handler.eof_received()

    def pause_writing(self) -> None:
        self.until_s = asyncio.get_running_loop().time() + STALL_S
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        self.until_s = float("inf")
        self._handler.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.take_back(self)
        self._handler.connection_lost(exc)

    def expire(self) -> None:
        """Its client does not read, or does not end what it began."""
        self.abort()

    def finish(self) -> None:
        """So it does anyway."""

    def stop(self) -> None:
        """It is for aiohttp to end it."""

    def abort(self) -> None:
        self._transport.abort()


class Bounded(Lent):
    """A connection that is aiohttp's from its beginning, where no lane bounds their number."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._connections.end_too_many()

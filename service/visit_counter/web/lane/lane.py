"""The fast lane: `POST /w/{site}` and `GET /w/{site}` answered without aiohttp's request path.

Every connection begins here (`accept`). As long as it sends hits and looks at counts,
`web/lane/request.py` reads them, `web/lane/answering.py` answers them as the routes answer, and
`web/lane/connection.py` holds it together. At the first request that is anything else, or unusual,
the connection becomes aiohttp's, and aiohttp's answer ends it: so the kept connections of a proxy
never drift away from the lane. Nobody has an unlimited time: a sweep ends, once a second, the
connections that have used up theirs.
"""

from __future__ import annotations

import asyncio
from typing import Self

from visit_counter import deadlines, logs, metrics
from visit_counter.tasks import supervised
from visit_counter.web.lane.answering import Desk, LaneConnection
from visit_counter.web.lane.connections import Connections

SWEEP_S = 1.0


class Lane:
    """Accepts connections, sees to their time, and ends them."""

    def __init__(self, connections: Connections, desk: Desk) -> None:
        self._connections = connections
        self._desk = desk
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._desk.tell_the_time()
        self._task = supervised(self._sweep, "lane")
        return self

    async def __aexit__(self, *_: object) -> None:
        """End all connections, behind an answer if a request is under way, in bounded time."""
        await self._connections.stop(deadlines.LANE_S)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def accept(self) -> LaneConnection:
        """The protocol of a connection that is about to be made."""
        return LaneConnection(self._connections, self._desk)

    async def _sweep(self) -> None:
        """End the connections whose time is over."""
        while True:
            await asyncio.sleep(SWEEP_S)
            self._desk.tell_the_time()
            metrics.CONNECTIONS.set(len(self._connections))
            now_s = asyncio.get_running_loop().time()
            for connection in [each for each in self._connections.timed if each.until_s < now_s]:
                try:
                    connection.expire()
                except Exception as error:  # a bug of this service: the others have their time too
                    logs.mistake("a connection did not end", error)
                    connection.abort()

"""The one connection on which batches travel: write, write, read, read, and never a retry.

redis-py connects it, greets and signs in; from then on the connection is a `Link`, which writes
calls as they come and gives out replies in their order, several exchanges behind one another.
redis-py's own ways would take another connection for each, or retry by themselves. Whatever goes
wrong ends the link, for all who wait on it, and the next exchange makes a new one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from hiredis import ProtocolError
from redis.asyncio.connection import AbstractConnection

from visit_counter.adapters.hiredis_private import (
    PushNotification,
    new_reader,
    pack_command,
)
from visit_counter.adapters.redis_private import detached_stream, parse_error
from visit_counter.errors import OutcomeUnknown, StoreUnavailable
from visit_counter.store.replies import LOST, meaning

SILENT_S = 1.0  # a batch that is not answered is sent again, so this may be short
MOST_SILENT_S = 8.0  # for a store that answers, however slowly

Call = tuple[str | bytes | int, ...]


class Writer:
    """Exchanges calls for replies over a connection that it owns."""

    def __init__(self, make_connection: Callable[[], AbstractConnection]) -> None:
        self._make_connection = make_connection
        self._link: Link | None = None
        self._patience = Patience()
        self._turn = asyncio.Lock()
        self._connecting = 0
        """How many wait for a link."""
        self._ended = False

    def end(self) -> None:
        """Close it for good; exchanges that are under way find their connection lost."""
        self._ended = True
        if self._link is not None:
            self._link.lose("another server takes these writes now")

    def drop(self, why: str) -> None:
        """Close the connection: the next exchange makes another one."""
        if self._link is not None:
            self._link.lose(why)

    async def exchange(self, calls: Sequence[Call]) -> list[Any]:
        """For each call its reply, or a StoreError."""
        link = self._link
        if link is not None and not link.lost and not self._connecting:
            return await link.send(calls)
        self._connecting += 1
        try:
            async with self._turn:  # who came first writes first
                answers = (await self._linked()).send(calls)
        except LOST as error:
            return [StoreUnavailable(str(error))] * len(calls)
        finally:
            self._connecting -= 1
        return await answers

    async def _linked(self) -> Link:
        """The link; another one where it was lost, which costs no hit: nothing was sent yet."""
        if self._link is None or self._link.lost:
            self._link = await connected(self._make_connection(), self._patience)
        if self._ended:
            self._link.lose("")
            raise ConnectionError("another server takes these writes now")
        return self._link


class Patience:
    """How long a server may be silent before its connection counts as lost: a slow one needs more,
    and would else be asked again and again for what it was about to answer."""

    def __init__(self) -> None:
        self._slow_s = 0.0

    @property
    def silent_s(self) -> float:
        return min(max(SILENT_S, 4 * self._slow_s), MOST_SILENT_S)

    def answered(self, took_s: float) -> None:
        self._slow_s = max(took_s, self._slow_s * 0.98)

    def lost(self) -> None:
        """It was silent for so long; next time it gets twice as much."""
        self._slow_s = self.silent_s / 2


class Link(asyncio.Protocol):
    """A connection, and who waits for replies on it."""

    def __init__(self, stream: asyncio.StreamWriter, patience: Patience) -> None:
        self.lost = False
        self._patience = patience
        self._stream = stream  # which would close the connection when nobody holds it
        self._transport = stream.transport
        self._loop = asyncio.get_running_loop()
        self._reader = new_reader(parse_error)
        self._awaited: deque[tuple[int, list[Any], asyncio.Future[list[Any]], float]] = deque()
        """Of each exchange how many replies are to come, those that have, who gets them, and when
        it was sent."""
        self._heard_s = 0.0
        self._watch: asyncio.TimerHandle | None = None

    def send(self, calls: Sequence[Call]) -> asyncio.Future[list[Any]]:
        """For each call its reply, or a StoreError; these come behind those of earlier calls."""
        whole: asyncio.Future[list[Any]] = self._loop.create_future()
        self._heard_s = self._loop.time()
        self._awaited.append((len(calls), [], whole, self._heard_s))
        if self._watch is None:
            self._watch = self._loop.call_later(self._patience.silent_s, self._look)
        self._transport.write(b"".join(map(pack_command, calls)))
        return whole

    def lose(self, why: str) -> None:
        """Nobody can say what became of the calls that have no reply."""
        self.lost = True
        self._transport.abort()
        if self._watch is not None:
            self._watch.cancel()
        while self._awaited:
            number, replies, whole, _ = self._awaited.popleft()
            unknown = OutcomeUnknown(f"no answer from the store: {why}")
            if not whole.done():
                whole.set_result(replies + [unknown] * (number - len(replies)))

    def data_received(self, data: bytes) -> None:
        self._heard_s = self._loop.time()
        self._reader.feed(data)
        try:
            while self._awaited and (reply := self._reader.gets()) is not False:
                self._take(reply)
        except ProtocolError as error:
            self.lose(str(error))

    def connection_lost(self, exc: Exception | None) -> None:
        self.lose(str(exc or "it has closed the connection"))

    def _take(self, reply: Any) -> None:
        if isinstance(reply, PushNotification):
            return
        number, replies, whole, sent_s = self._awaited[0]
        replies.append(meaning(reply) if isinstance(reply, Exception) else reply)
        if len(replies) == number:
            self._awaited.popleft()
            self._patience.answered(self._heard_s - sent_s)
            if not whole.done():
                whole.set_result(replies)

    def _look(self) -> None:
        """One timer for all exchanges, and not one for each."""
        self._watch = None
        silent_s, most_s = self._loop.time() - self._heard_s, self._patience.silent_s
        if self._awaited and silent_s >= most_s:
            self._patience.lost()
            self.lose(f"silent for {most_s:.0f} s")
        elif self._awaited:
            self._watch = self._loop.call_later(most_s - silent_s, self._look)


async def connected(connection: AbstractConnection, patience: Patience) -> Link:
    """A link made from a connection of redis-py, which only connects it."""
    stream = await detached_stream(connection)
    link = Link(stream, patience)
    stream.transport.set_protocol(link)
    return link

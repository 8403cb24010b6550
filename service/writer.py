"""The one connection on which batches travel: write, write, read, read, and never a retry.

redis-py's pools and clients retry by themselves or may take another connection; this does neither.
Whatever goes wrong ends the connection, and the next exchange makes a new one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from redis import exceptions
from redis.asyncio.connection import AbstractConnection

from service.errors import OutcomeUnknown, StoreError, StoreUnavailable
from service.refusals import LOST, REFUSING, meaning

Call = tuple[str | bytes | int, ...]


class Writer:
    """Exchanges calls for replies, in order, over a connection that it owns."""

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection
        self._turn = asyncio.Lock()
        self._ended = False

    async def end(self) -> None:
        """Close it for good; an exchange that is under way finds its connection lost."""
        self._ended = True
        stream = self._connection._writer
        if self._turn.locked() and stream is not None:
            stream.transport.abort()
        elif not self._turn.locked():
            await self._close()

    async def exchange(self, calls: Sequence[Call]) -> list[Any]:
        """For each call its reply, or a StoreError."""
        async with self._turn:
            try:
                return await self._exchange(calls)
            finally:
                if self._ended:
                    await self._close()

    async def _exchange(self, calls: Sequence[Call]) -> list[Any]:
        if self._ended:
            return [StoreUnavailable("another server takes these writes now")] * len(calls)
        try:
            await self._connect()
        except LOST as error:
            return [StoreUnavailable(str(error))] * len(calls)
        replies: list[Any] = []
        try:
            for call in calls:
                await self._connection.send_packed_command(self._connection.pack_command(*call))
            for _ in calls:
                replies.append(await self._reply())
        except LOST as error:
            await self._close()
            unknown = OutcomeUnknown(f"no answer from the store: {error}")
            return replies + [unknown] * (len(calls) - len(replies))
        except BaseException:
            await self._close()
            raise
        return replies

    async def _connect(self) -> None:
        """Connect; anew where the store has ended an idle connection, which, found out before
        anything is sent, costs no hit."""
        connection = self._connection
        if connection.is_connected and await self._is_stale():
            await self._close()
        await connection.connect()  # type: ignore[no-untyped-call]

    async def _is_stale(self) -> bool:
        stream = self._connection._writer
        return stream is None or stream.is_closing() or await self._connection.can_read()

    async def _close(self) -> None:
        await self._connection.disconnect(nowait=True)

    async def _reply(self) -> Any | StoreError:
        """One reply, an error of its call included; raises what ends the connection."""
        try:
            return await self._connection.read_response()
        except (exceptions.ResponseError, *REFUSING) as error:
            return meaning(error)

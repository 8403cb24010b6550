"""Calls the functions of `lua/`, each on the server that has its partition.

A server that lacks them gets them, a partition that has moved is followed, and both cost one more
try, since nothing ran before. All that is here goes through pools, and what a pool cannot tell is
unknown; batches go over a connection of their own, see `Shards.write`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from redis import exceptions
from redis.asyncio import Redis

from visit_counter.errors import OutcomeUnknown, StoreError, StoreUnavailable
from visit_counter.store.libraries import Libraries
from visit_counter.store.replies import REFUSING, Again, FunctionMissing, Moved, Outdated, speaking
from visit_counter.store.servers.primaries import CONNECT_S
from visit_counter.store.servers.shards import ANSWER_S, Shard, Shards, in_order
from visit_counter.store.writer import Call

# A read that failed by then had no connection; later, no answer. Timers may be early by a little.
UNANSWERED_S = (CONNECT_S + ANSWER_S) / 2

TagCall = tuple[Any, ...]
"""A tag, and the arguments of a call there."""

Relearn = Callable[[], Awaitable[None]]


class Functions:
    """Calls of our library's functions, on all servers of a store."""

    def __init__(self, shards: Shards, libraries: Libraries, relearn: Relearn) -> None:
        """`relearn` finds out which form all write now, where our library is outdated."""
        self._shards = shards
        self._libraries = libraries
        self._relearn = relearn

    async def mend(self, tag: str, why: Again) -> None:
        """Make it so that the next try of a call that was refused may succeed."""
        if isinstance(why, Moved):
            await self._shards.moved(tag, why.said_s)
        elif isinstance(why, FunctionMissing):
            await self._libraries.load(self._shards.of(tag))
        elif isinstance(why, Outdated):
            await self._relearn()

    # -- all else

    async def read(self, name: str, tag: str, *arguments: Any) -> Any:
        """A call that changes nothing, over connections that only such calls take. It is made again
        where its connection was lost or not made, but not where a server is silent."""

        async def call(shard: Shard) -> Any:
            return await _execute(shard.readers, self._fcall(name, tag, *arguments))

        begun_s = time.monotonic()
        try:
            return await self._run(tag, call)
        except (StoreUnavailable, OutcomeUnknown):
            if time.monotonic() - begun_s >= UNANSWERED_S:
                raise
        return await self._run(tag, call)

    async def call(self, name: str, tag: str, *arguments: Any) -> Any:
        try:
            return (await self.calls(name, [(tag, *arguments)]))[0]
        except StoreUnavailable as error:
            # The pool does not tell whether a connection was lost before or after sending.
            if isinstance(error.__cause__, (exceptions.ResponseError, *REFUSING)):
                raise
            raise OutcomeUnknown(str(error)) from error

    async def calls(self, name: str, calls: Sequence[TagCall]) -> list[Any]:
        """The replies, in one round trip to each server; raises the first error."""

        async def some(numbers: Sequence[int], *, again: bool) -> list[Any]:
            """Those that are one server's now; of a tag that has moved they are not any more."""
            tag = calls[numbers[0]][0]
            shard = self._shards.of(tag)
            try:
                async with speaking():
                    fcalls = [self._fcall(name, *calls[n]) for n in numbers]
                    replies = await _pipeline(fcalls, shard)
                    for n, reply in zip(numbers, replies, strict=True):
                        if isinstance(reply, Exception):
                            tag = calls[n][0]
                            raise reply
                    return replies
            except Again as why:
                if again:
                    raise
                await self.mend(tag, why)
            except StoreError as error:
                self._note_silence(shard, error)
                raise
            return await by_server(numbers, again=True)

        async def by_server(numbers: Sequence[int], *, again: bool) -> list[Any]:
            groups = self._shards.by_server([calls[n][0] for n in numbers])
            mine = [[numbers[n] for n in group] for group in groups.values()]
            answered = await asyncio.gather(*(some(each, again=again) for each in mine))
            return in_order(groups.values(), answered)

        return await by_server(range(len(calls)), again=False)

    async def get(self, key: str, field: str) -> bytes | None:
        """A field of a hash, by a command: for what is to be known before our library runs."""

        async def call(shard: Shard) -> Any:
            return await _execute(shard.client, ("HGET", key, field))

        found: bytes | None = await self._run(key, call)
        return found

    async def everywhere(self, name: str, tags: Iterable[str]) -> list[Any]:
        """A call to every server that has one of the tags."""
        one_each = {self._shards.of(tag): tag for tag in tags}
        return await self.calls(name, [(tag,) for tag in one_each.values()])

    def _fcall(self, name: str, tag: str, *arguments: Any) -> Call:
        return ("FCALL", f"{self._libraries.name}_{name}", 1, tag, *arguments)

    async def _run(self, tag: str, call: Callable[[Shard], Awaitable[Any]]) -> Any:
        """A call to the server of a tag, and once more if nothing ran and that can be mended: by
        then the library may be another one."""
        shard = self._shards.of(tag)
        try:
            async with speaking():
                return await call(shard)
        except Again as why:
            await self.mend(tag, why)
        except StoreError as error:
            self._note_silence(shard, error)
            raise
        async with speaking():
            return await call(self._shards.of(tag))

    def _note_silence(self, shard: Shard, error: StoreError) -> None:
        if isinstance(error.__cause__, exceptions.TimeoutError):
            shard.leave(time.monotonic())  # its other connections would not answer either
        self._shards.look_soon()


async def _execute(client: Redis, call: Call) -> Any:
    return await client.execute_command(*call)  # type: ignore[no-untyped-call]


async def _pipeline(calls: Sequence[Call], shard: Shard) -> list[Any]:
    pipeline = shard.client.pipeline(transaction=False)
    for call in calls:
        _ = pipeline.execute_command(*call)
    replies: list[Any] = await pipeline.execute(raise_on_error=False)
    return replies

"""Calls the functions of `lua/`, each on the server that has its partition.

A server that lacks them gets them, a partition that has moved is followed, and both cost one more
try, since nothing ran before. Batches go over the server's one connection for them, which tells
what is known of each; everything else goes through pools, and what a pool cannot tell is unknown.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any

from redis import exceptions
from redis.asyncio import Redis

from visit_counter.errors import OutcomeUnknown, StoreError, StoreUnavailable
from visit_counter.store.libraries import Libraries
from visit_counter.store.replies import REFUSING, Again, FunctionMissing, Moved, Outdated, speaking
from visit_counter.store.shards import ANSWER_S, CONNECT_S, Shard, Shards
from visit_counter.store.writer import Call

# A read that failed by then had no connection; later, no answer. Timers may be early by a little.
UNANSWERED_S = (CONNECT_S + ANSWER_S) / 2
REPLICAS_MS = 400  # for replicas to have a batch, and again to have it on disk

TagCall = tuple[Any, ...]
"""A tag, and the arguments of a call there."""

Relearn = Callable[[], Awaitable[None]]


class Functions:
    """Calls of our library's functions, on all servers of a store."""

    def __init__(
        self, shards: Shards, libraries: Libraries, relearn: Relearn, min_replicas: int
    ) -> None:
        """`relearn` finds out which form all write now, where our library is outdated."""
        self._shards = shards
        self._libraries = libraries
        self._relearn = relearn
        self._min_replicas = min_replicas

    # -- batches

    async def write(self, name: str, calls: Sequence[TagCall]) -> list[Any]:
        """For each call its reply or a StoreError; one round trip to each server, all at once."""
        groups = self._by_shard(calls)
        if len(groups) == 1:  # as a flow's: not by a task of its own
            (shard,) = groups
            return await self._exchange(shard, [self._fcall(name, *call) for call in calls])
        exchanges = [
            self._exchange(shard, [self._fcall(name, *calls[n]) for n in numbers])
            for shard, numbers in groups.items()
        ]
        return _in_order(groups.values(), await asyncio.gather(*exchanges))

    async def _exchange(self, shard: Shard, calls: list[Call]) -> list[Any]:
        """What too few replicas have confirmed is unknown: it is sent again, and they are asked
        again."""
        if not self._min_replicas:
            return await shard.writer.exchange(calls)
        waits: list[Call] = [("WAIT", self._min_replicas, REPLICAS_MS)]
        if await shard.waits_for_disk():
            # Behind WAIT this takes no longer. Alone it takes a second: it asks a replica that gets
            # the batch and the question at once, has not synced yet, and tells once a second.
            waits.append(("WAITAOF", 1, self._min_replicas, REPLICAS_MS))
        answers = await shard.writer.exchange([*calls, *waits])
        replies, confirmed = answers[: len(calls)], answers[-1]
        if isinstance(confirmed, StoreError):
            shard.note_refusal(confirmed)
            why = str(confirmed)
        else:
            local, replicas = confirmed if len(waits) == 2 else (1, confirmed)
            if local and replicas >= self._min_replicas:
                return replies
            why = f"only {replicas} of {self._min_replicas} replicas have confirmed"
        return [each if isinstance(each, StoreError) else OutcomeUnknown(why) for each in replies]

    async def mend(self, tag: str, refusal: Again) -> None:
        """Make it so that the next try of a call that was refused may succeed."""
        if isinstance(refusal, Moved):
            await self._shards.look()
        elif isinstance(refusal, FunctionMissing):
            await self._libraries.load(self._shards.of(tag))
        elif isinstance(refusal, Outdated):
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
        groups = self._by_shard(calls)

        async def pipeline(numbers: Sequence[int], shard: Shard) -> list[Any]:
            return await _pipeline([self._fcall(name, *calls[n]) for n in numbers], shard)

        pipelines = [
            self._run(calls[numbers[0]][0], partial(pipeline, numbers))
            for numbers in groups.values()
        ]
        return _in_order(groups.values(), await asyncio.gather(*pipelines))

    async def everywhere(self, name: str, tags: Iterable[str]) -> list[Any]:
        """A call to every server that has one of the tags."""
        one_each = {self._shards.of(tag): tag for tag in tags}
        return await self.calls(name, [(tag,) for tag in one_each.values()])

    def _fcall(self, name: str, tag: str, *arguments: Any) -> Call:
        return ("FCALL", f"{self._libraries.name}_{name}", 1, tag, *arguments)

    def _by_shard(self, calls: Sequence[TagCall]) -> dict[Shard, list[int]]:
        """The calls' numbers by the server that they go to."""
        groups: dict[Shard, list[int]] = {}
        for n, (tag, *_) in enumerate(calls):
            groups.setdefault(self._shards.of(tag), []).append(n)
        return groups

    async def _run(self, tag: str, call: Callable[[Shard], Awaitable[Any]]) -> Any:
        """A call to the server of a tag, and once more if nothing ran and that can be mended: by
        then the library may be another one."""
        try:
            async with speaking():
                return await call(self._shards.of(tag))
        except Again as refusal:
            await self.mend(tag, refusal)
        except StoreError:
            self._shards.look_soon()
            raise
        async with speaking():
            return await call(self._shards.of(tag))


async def _execute(client: Redis, call: Call) -> Any:
    return await client.execute_command(*call)  # type: ignore[no-untyped-call]


async def _pipeline(calls: Sequence[Call], shard: Shard) -> list[Any]:
    pipeline = shard.client.pipeline(transaction=False)
    for call in calls:
        _ = pipeline.execute_command(*call)
    replies: list[Any] = await pipeline.execute(raise_on_error=False)
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


def _in_order(groups: Iterable[Sequence[int]], answered: Iterable[Sequence[Any]]) -> list[Any]:
    """The servers' replies in the order of their calls' numbers."""
    replies: dict[int, Any] = {}
    for numbers, some in zip(groups, answered, strict=True):
        replies.update(zip(numbers, some, strict=True))
    return [replies[n] for n in range(len(replies))]

"""Calls counter.lua's functions, each on the server that has its partition.

A server that lacks them gets them, a partition that has moved is followed, and both cost one more
try, since nothing ran before. Batches go over the server's one connection for them, which tells
what is known of each; everything else goes through pools, and what a pool cannot tell is unknown.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from hashlib import blake2b
from importlib.resources import files
from typing import Any

from redis import exceptions
from redis.asyncio import Redis

from service import forms
from service.errors import OutcomeUnknown, StoreError, StoreUnavailable
from service.fence import FENCE, fence
from service.refusals import LOST, REFUSING, Again, FunctionMissing, Moved, Outdated, meaning
from service.shards import ANSWER_S, CONNECT_S, Shard, Shards
from service.writer import Call

# A read that failed by then had no connection; later, no answer. Timers may be early by a little.
UNANSWERED_S = (CONNECT_S + ANSWER_S) / 2
REPLICAS_MS = 400  # for replicas to have a batch, and again to have it on disk

TagCall = tuple[Any, ...]
"""A tag, and the arguments of a call there."""


class Functions:
    """The functions of a namespace, on all servers of a store."""

    def __init__(self, shards: Shards, namespace: str, min_replicas: int) -> None:
        self.writes = forms.NEWEST
        """The form in which the functions pack what they write."""
        self.library, self._source = library(namespace, self.writes)
        self._shards = shards
        self._namespace = namespace
        self._min_replicas = min_replicas
        self.relearn: Callable[[], Awaitable[None]] | None = None
        """Finds out which form all write now, where ours is outdated."""

    async def use(self, writes: int) -> None:
        """Go on with the library that packs in this form."""
        if writes != self.writes:
            self.writes = writes
            self.library, self._source = library(self._namespace, writes)
            await self.load_everywhere()

    async def load_everywhere(self) -> None:
        for shard in self._shards.all():
            await self.load(shard)

    async def load(self, shard: Shard) -> None:
        async with speaking():
            try:
                await shard.client.function_load(self._source)
            except exceptions.ResponseError as error:
                if "already exists" not in str(error):
                    raise

    async def loaded(self, shard: Shard) -> list[str] | None:
        """The names of the server's libraries like ours, without fences of other versions; None
        where it does not tell."""
        found = await self._libraries(shard)
        if found is None:
            return None
        return [
            name
            for name, functions in found.items()
            if name == self.library or f"{name}_{FENCE}" not in functions
        ]

    async def fence_others(self, known: Iterable[str], form: int) -> list[str]:
        """Have all other libraries of this namespace, and those of the known names, refuse every
        call, on every server: whoever uses them writes nothing more. Their names. Spared are the
        one in use and the one for this form."""
        spared = {self.library, library(self._namespace, form)[0]}
        fenced: dict[str, None] = {}
        for shard in self._shards.all():
            found = await self._libraries(shard) or {}
            names = {**{name: [] for name in known}, **found}
            for name in self._family(names):
                if name not in spared and f"{name}_{FENCE}" not in names[name]:
                    async with speaking():
                        source = fence(name, names[name], form)
                        await shard.client.function_load(source, replace=True)
                    fenced[name] = None
        return list(fenced)

    async def remove(self, unused: Callable[[str], bool]) -> list[str]:
        """Delete libraries of this namespace that nobody uses, but for ours and the fences."""
        removed: dict[str, None] = {}
        for shard in self._shards.all():
            for name in self._family(await self.loaded(shard) or []):
                if name != self.library and unused(name):
                    async with speaking():
                        await shard.client.function_delete(name)
                    removed[name] = None
        return list(removed)

    async def unfence(self, names: Iterable[str]) -> None:
        """Take fences away: whoever had a library there loads it again."""
        for shard in self._shards.all():
            found = await self._libraries(shard) or {}
            for name in names:
                if f"{name}_{FENCE}" in found.get(name, []):
                    async with speaking():
                        await shard.client.function_delete(name)

    def _family(self, names: Iterable[str]) -> list[str]:
        """Those that are named like ours."""
        ours = re.compile(re.escape(self._namespace) + "_[0-9a-f]{12}")
        return [name for name in names if ours.fullmatch(name)]

    async def _libraries(self, shard: Shard) -> dict[str, list[str]] | None:
        """The names of their functions, by the libraries' names; None where it does not tell."""
        async with speaking():
            try:
                found: Any = await shard.client.function_list(f"{self._namespace}_*")
            except exceptions.ResponseError:  # forbidden, or too old
                return None
        return {
            each[b"library_name"].decode(): [
                function[b"name"].decode() for function in each[b"functions"]
            ]
            for each in found
        }

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
            await self.load(self._shards.of(tag))
        elif isinstance(refusal, Outdated) and self.relearn:
            await self.relearn()

    # -- all else

    async def read(self, name: str, tag: str, *arguments: Any) -> Any:
        """A call that changes nothing, over connections that only such calls take. It is made again
        where its connection was lost or not made, but not where a server is silent."""
        call = self._fcall(name, tag, *arguments)
        begun_s = time.monotonic()
        try:
            return await self._run(tag, lambda shard: _execute(shard.readers, call))
        except (StoreUnavailable, OutcomeUnknown):
            if time.monotonic() - begun_s >= UNANSWERED_S:
                raise
        return await self._run(tag, lambda shard: _execute(shard.readers, call))

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
        pipelines = [
            self._run(
                calls[numbers[0]][0],
                partial(_pipeline, [self._fcall(name, *calls[n]) for n in numbers]),
            )
            for numbers in groups.values()
        ]
        return _in_order(groups.values(), await asyncio.gather(*pipelines))

    async def everywhere(self, name: str, tags: Iterable[str]) -> list[Any]:
        """A call to every server that has one of the tags."""
        one_each = {self._shards.of(tag): tag for tag in tags}
        return await self.calls(name, [(tag,) for tag in one_each.values()])

    def _fcall(self, name: str, tag: str, *arguments: Any) -> Call:
        return ("FCALL", f"{self.library}_{name}", 1, tag, *arguments)

    def _by_shard(self, calls: Sequence[TagCall]) -> dict[Shard, list[int]]:
        """The calls' numbers by the server that they go to."""
        groups: dict[Shard, list[int]] = {}
        for n, (tag, *_) in enumerate(calls):
            groups.setdefault(self._shards.of(tag), []).append(n)
        return groups

    async def _run(self, tag: str, call: Callable[[Shard], Awaitable[Any]]) -> Any:
        """A call to the server of a tag, and once more if nothing ran and that can be mended."""
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


@asynccontextmanager
async def speaking() -> AsyncIterator[None]:
    """Turns redis-py's errors into ours around calls through a pool."""
    try:
        yield
    except (exceptions.ResponseError, *REFUSING) as error:
        raise meaning(error) from error
    except exceptions.TimeoutError as error:
        raise OutcomeUnknown(f"no answer from the store: {error}") from error
    except LOST as error:
        raise StoreUnavailable(str(error)) from error


def library(namespace: str, writes: int = forms.NEWEST) -> tuple[str, str]:
    """counter.lua's name for a namespace and its source, for writing a form; the name carries the
    source's hash, so that two versions of the service can use one store while the newer replaces
    the older."""
    source = files("service").joinpath("counter.lua").read_text()
    source = source.replace("__writes__", str(writes)).replace("__newest__", str(forms.NEWEST))
    digest = blake2b(source.encode(), digest_size=6).hexdigest()
    name = f"{namespace}_{digest}"
    return name, source.replace("__library__", name)

"""The keys of one partition on a real server: read, kept and put back past the service."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable
from typing import Any, Self

from redis.asyncio import Redis

State = dict[bytes, bytes]


def last_batch(entry: bytes) -> tuple[int, int]:
    """Epoch and number of a producer's last batch, by its entry in the ledger."""
    _form, epoch, seq, _day = struct.unpack_from("<B3d", entry)
    return int(epoch), int(seq)


class Keyspace:
    """All keys that begin with a partition's tag."""

    def __init__(self, url: str, tag: str) -> None:
        self._redis = Redis.from_url(url)
        self._tag = tag

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._redis.aclose()

    async def pages(self, site: str, generations: Iterable[int]) -> Counter[str]:
        """How often each path is counted, in all generations: those with a place and `(other)`."""
        pipeline = self._redis.pipeline(transaction=False)
        for generation in generations:
            _ = pipeline.zrange(f"{self._tag}:{site}:{generation}:pages", 0, -1, withscores=True)
        total: Counter[str] = Counter()
        for pages in await pipeline.execute():
            total.update({path.decode(): int(score) for path, score in pages})
        return total

    async def candidates(self, site: str, generations: Iterable[int]) -> Counter[str]:
        """The same of those that wait for a place, whose views are in `(other)`."""
        pipeline = self._redis.pipeline(transaction=False)
        for generation in generations:
            _ = pipeline.hgetall(f"{self._tag}:{site}:{generation}:candidates")
        total: Counter[str] = Counter()
        for candidates in await pipeline.execute():
            found = {path.decode(): packed for path, packed in candidates.items() if path != b"#"}
            total.update({path: int(packed.split(b":")[0]) for path, packed in found.items()})
        return total

    async def ledger(self) -> dict[str, tuple[int, int]]:
        """Epoch and number of each producer's last batch."""
        key = f"{self._tag}:ledger"
        known: Any = await self._redis.hkeys(key)
        producers = [name.decode() for name in known if name != b"#"]
        entries: Any = await self._redis.mget([key, *(f"{key}:{name}" for name in producers)])
        return dict(zip(producers, map(last_batch, entries[1:]), strict=True))

    async def dump(self) -> State:
        keys: Any = await self._redis.keys(f"{self._tag}:*")
        pipeline = self._redis.pipeline(transaction=False)
        for key in keys:
            _ = pipeline.dump(key)
        return dict(zip(keys, await pipeline.execute(), strict=True))

    async def restore(self, state: State) -> None:
        """Have these keys and no others; none of them expires."""
        pipeline = self._redis.pipeline(transaction=True)
        for key in await self._redis.keys(f"{self._tag}:*"):
            _ = pipeline.delete(key)
        for key, value in state.items():
            _ = pipeline.restore(key, 0, value)
        await pipeline.execute()

"""A store as version 0.1 left it: its packed bytes have no version byte, its record no `writes`."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis

from visit_counter.clock import Clock
from visit_counter.model import forms
from visit_counter.store.libraries import LIBRARY_OF_0_1
from visit_counter.store.store import Store


async def as_of_0_1(url: str, namespace: str) -> None:
    """Bring all of a namespace's data into the form of 0.1."""
    async with Store(url, namespace, Clock()) as store:
        schema = store.schema
        migration = schema._migration(schema._head(await schema.install(), forms.UNVERSIONED))
        for tag in store._tags:
            async for _ in migration._steps(tag, forms.UNVERSIONED, write=True):
                pass
        await store._libraries.unfence(f"{namespace}_{LIBRARY_OF_0_1}")
    async with Redis.from_url(url) as client:
        meta = f"{namespace}:{{meta}}"
        await client.hset(meta, "schema", forms.UNVERSIONED)
        await client.hdel(meta, "writes", "converted", "copied")


async def packed_keys(url: str, namespace: str) -> dict[str, bytes]:
    """The states and entries of a namespace, by their keys."""
    async with Redis.from_url(url) as client:
        keys: Any = await client.keys(f"{namespace}:{{p*")
        names = sorted(key.decode() for key in keys)
        packed = [
            n for n in names if n.endswith(":running") or n.rpartition(":")[0][-6:] == "ledger"
        ]
        values: Any = await client.mget(packed) if packed else []
        return dict(zip(packed, values, strict=True))


async def record_of(url: str, namespace: str) -> dict[str, str]:
    """The installation's record, without its secret."""
    async with Redis.from_url(url) as client:
        found: Any = await client.hgetall(f"{namespace}:{{meta}}")
        record = {name.decode(): value.decode() for name, value in found.items()}
        record.pop("secret", None)
        return record

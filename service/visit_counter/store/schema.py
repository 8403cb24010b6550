"""The forms of a store's data, and the versions that use it.

At the start the installation's record is made or read, and older data migrated; later workers are
registered, upgrades finished, function libraries tidied. What a migration does, step by step, is in
`migration.py`; which worker does what, and when, is decided in `versions.py`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from visit_counter.clock import Clock
from visit_counter.disk import migration_copy
from visit_counter.disk.migration_copy import Head, Saved
from visit_counter.errors import StartError
from visit_counter.model import forms
from visit_counter.model.site_settings import PARTITIONS
from visit_counter.store.functions import Functions
from visit_counter.store.libraries import Libraries
from visit_counter.store.migration import Installation, Migrating, Migration
from visit_counter.store.replies import pairs


class Announced(NamedTuple):
    """What the store knows of its versions."""

    now: int
    """By the store's clock, in ms since the epoch."""
    installation: Installation
    workers: dict[str, tuple[int, bytes]]
    """When each worker of the last days was seen, and what it said of itself."""


class Schema:
    """Of one store; `open` comes first."""

    def __init__(
        self,
        functions: Functions,
        libraries: Libraries,
        tags: Sequence[str],
        meta: str,
        clock: Clock,
        copies: Path,
    ) -> None:
        """`copies`: the directory of the copy that a migration makes before."""
        self.secret = b""
        self._functions = functions
        self._libraries = libraries
        self._tags = tags
        self._meta = meta
        self._clock = clock
        self._copies = copies

    @property
    def installation(self) -> str:
        """Names the data that this store keeps, in every partition, without its secret."""
        return _name_of(self.secret)

    @property
    def library(self) -> str:
        """The name of the function library that counts."""
        return self._libraries.name

    async def found(self) -> str:
        """The installation that the store holds, without making one; empty if there is none."""
        secret = await self._functions.get(self._meta, "secret")
        return _name_of(bytes.fromhex(secret.decode())) if secret else ""

    async def open(self, migrating: Migrating) -> None:
        """Write what all write; data that is too old is migrated first, while `migrating` is
        entered. Raises StartError for a store in which this version cannot count."""
        record = await self.install()
        if not record.is_too_old:
            await self._libraries.use(record.writes)
            await self._libraries.fence_older((), record.writes)
            return
        await self._libraries.reload()
        migration = self._migration(self._head(record, forms.OLDEST_WRITTEN))
        async with migrating(migration.progress):
            await migration.run(record, self._copies)

    async def install(self) -> Installation:
        """The installation's record, made if there is none; raises StartError for one in which this
        version cannot count."""
        arguments = (PARTITIONS, secrets.token_hex(32))
        reply = await self._functions.call("install", self._meta, *arguments)
        partitions, secret, *record = reply
        if int(partitions) != PARTITIONS:
            raise StartError(
                f"the store holds data in {int(partitions)} partitions, and this version counts in "
                f"{PARTITIONS}: use the version that wrote it, or another VISIT_COUNTER_NAMESPACE"
            )
        installation = Installation.of(record)
        installation.check()
        self.secret = bytes.fromhex(secret.decode())
        return installation

    def _head(self, record: Installation, form: int) -> Head:
        """Of the copy that is made before the store is brought into a form."""
        return Head(
            form=record.converted or forms.UNVERSIONED,
            to=form,
            namespace=self._libraries.namespace,
            installation=self.installation,
            at=datetime.fromtimestamp(self._clock.now() // 1000, UTC).isoformat(),
        )

    def _migration(self, head: Head, older: Iterable[str] = ()) -> Migration:
        return Migration(self._functions, self._libraries, self._tags, self._meta, head, older)

    # -- while the service counts

    async def announce(self, worker: str, about: bytes) -> Announced:
        """Register a worker as living, and write what all write now."""
        reply = _announced(await self._functions.call("announce", self._meta, worker, about))
        await self._libraries.take_over(reply.installation.writes)
        return reply

    async def workers(self) -> Announced:
        """The registered workers; the caller is not one."""
        return _announced(await self._functions.call("announce", self._meta))

    async def upgrade(self, form: int, older: Iterable[str]) -> None:
        """Bring the store into a form while it counts, and fence the libraries of these names;
        raises StartError where the copy cannot be made, and StoreError."""
        record = await self.install()
        if record.converted < form:
            await self._migration(self._head(record, form), older).run(record, self._copies)
        else:  # another process has upgraded it
            await self._libraries.take_over(record.writes)

    async def convert_rest(self) -> None:
        """Fence and convert what a promoted server may lack of a migration that is complete."""
        record = await self.install()
        if not record.is_unfinished:
            await self._migration(self._head(record, record.writes)).convert_rest()

    async def put_back(self, copy: Path | None) -> int:
        """Bring the store back into the form of 0.1, with the numbers of now; keys that are damaged
        get the bytes of the copy that the migration made. Returns how many keys were changed;
        raises StartError and StoreError. Nobody may count in the store meanwhile."""
        record = await self.install()
        head = self._head(record._replace(converted=0), forms.OLDEST_WRITTEN)
        saved: Iterable[Saved] = ()
        if copy is not None:
            head, saved = await asyncio.to_thread(migration_copy.read, copy)
        if head.installation != self.installation or head.namespace != self._libraries.namespace:
            raise StartError(f"{copy} is the copy of another store: installation and namespace")
        if head.form != forms.UNVERSIONED:
            raise StartError(f"{copy} was not made of a store of version 0.1: there is no way back")
        return await self._migration(head).put_back(saved)

    async def remove_libraries(self, unused: Callable[[str], bool]) -> list[str]:
        """Delete function libraries of other versions that nobody uses; their names."""
        return await self._libraries.remove(unused)


def _name_of(secret: bytes) -> str:
    return blake2b(secret, digest_size=8).hexdigest()


def _announced(reply: Any) -> Announced:
    now, record, workers = reply
    said = {name: value.partition(b" ") for name, value in pairs(workers)}
    seen = {name: (int(at), text) for name, (at, _, text) in said.items()}
    return Announced(now, Installation.of(record), seen)

"""Migrates all packed bytes of a store to a newer form, in bounded steps.

The installation's record says how far that is, in the order in which a migration writes it:
`schema`, which keeps older versions from starting; `copied`, when what is to be changed was copied
into a file; `writes`, the form that all write from then on; `converted`, when no bytes are left in
an older form. Every step finds done what was done before: a migration that was killed, or that two
processes make at once, goes on from its beginning and ends the same. From version 0.1 it runs
before anything is counted; later ones run while the service counts, when `upgrade --finish` asks.
`put_back` leads back to 0.1.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import NamedTuple, Self

import structlog

from visit_counter import metrics
from visit_counter.disk import migration_copy
from visit_counter.disk.migration_copy import Head, MigrationCopy, Saved
from visit_counter.errors import StartError
from visit_counter.model import forms
from visit_counter.store.functions import Functions
from visit_counter.store.libraries import LIBRARY_OF_0_1, Libraries

STEP = 200  # keys that one call looks at

log = structlog.get_logger()


class Installation(NamedTuple):
    """The installation's record, as far as migrations go; 0 for what it does not have."""

    schema: int
    copied: int
    writes: int
    converted: int

    @property
    def is_too_old(self) -> bool:
        """Whether it must be migrated before this version can count."""
        return self.converted < forms.OLDEST_WRITTEN

    @property
    def is_unfinished(self) -> bool:
        """Whether a migration has begun and not ended."""
        return self.converted < self.schema

    @classmethod
    def of(cls, reply: Sequence[bytes | None]) -> Self:
        """As the function `installation` answers it."""
        return cls(*(int(number or 0) for number in reply))

    def check(self) -> None:
        """Raises StartError if this version cannot count in such a store."""
        if max(self.schema, self.writes) > forms.NEWEST:
            raise StartError(
                f"a newer version has brought the store to form {max(self.schema, self.writes)}, "
                f"and this one reads up to {forms.NEWEST}: run that version, or a newer one"
            )
        if self.schema < forms.UNVERSIONED:
            raise StartError(
                f"the store holds data of schema {self.schema}, of before version 0.1, which this "
                "version does not read: use another VISIT_COUNTER_NAMESPACE"
            )


class Progress:
    """How far a migration is, for people and Prometheus."""

    def __init__(self, before: int, form: int) -> None:
        self.before = before
        self.form = form
        self.partitions_left = 0
        self.keys = 0
        """Brought into the new form so far, by this process."""

    def set_left(self, partitions: int) -> None:
        self.partitions_left = partitions
        metrics.MIGRATION_PARTITIONS.set(partitions)

    @property
    def sentence(self) -> str:
        return (
            f"The store's data is being migrated from form {self.before} to {self.form}, and hits "
            f"are refused until that is done: {self.partitions_left} partitions are left, "
            f"{self.keys} keys are done."
        )


Migrating = Callable[[Progress], AbstractAsyncContextManager[object]]
"""A context that is entered while a migration delays the start."""


class Found(NamedTuple):
    """What a step found in one partition."""

    changed: list[tuple[bytes, bytes]]
    """The keys that are in another form, with their bytes as they were."""
    damaged: list[bytes]
    """Keys with bytes that no version wrote, which are left as they are."""


class Migration:
    """Migrates one store from one form to another."""

    def __init__(
        self,
        functions: Functions,
        libraries: Libraries,
        tags: Sequence[str],
        meta: str,
        head: Head,
        older: Iterable[str] = (),
    ) -> None:
        """`head`: of the copy that is made before; `older`: libraries of older versions that are
        known, for a server that does not tell which it has."""
        self.progress = Progress(head.form, head.to)
        self._functions = functions
        self._libraries = libraries
        self._tags = tags
        self._meta = meta
        self._head = head
        self._older = older

    async def run(self, record: Installation, directory: Path) -> None:
        """Run every step; the copy goes into the directory. Raises StartError if it cannot be made,
        and then the store is unchanged, and StoreError."""
        form = self._head.to
        log.warning("migrating the store's data", before=self._head.form, form=form)
        if record.copied < form:
            await self._copy(directory, trial=True)  # before anybody is stopped
        await self._set("schema", record.schema, form)
        self.progress.set_left(len(self._tags))
        await self._fence()
        if record.copied < form:
            await self._copy_once(directory, record.copied)
        await self._set("writes", record.writes, form)
        await self._libraries.use(form)
        await self._fence()  # also ours for the form before
        await self._convert()
        await self._set("converted", record.converted, form)
        log.warning("the store's data is migrated", form=form, keys=self.progress.keys)

    async def put_back(self, saved: Iterable[Saved]) -> int:
        """Bring every key back into the form of before, with the numbers of now; those that are
        damaged get the copy's bytes. Returns how many keys were changed."""
        before, damaged = self._head.form, set[bytes]()
        await self._libraries.fence_newer(before)  # a worker may sleep somewhere
        for tag in self._tags:
            async for found in self._steps(tag, before, write=True):
                self.progress.keys += len(found.changed)
                damaged.update(found.damaged)
        for tag, key, value in saved:
            if key in damaged:
                await self._functions.call("restore", tag, key, value)
                self.progress.keys += 1
        record = await self._record()
        await self._set("converted", record.converted, 0)
        await self._set("writes", record.writes, 0)
        await self._set("copied", record.copied, 0)
        await self._set("schema", record.schema, before)
        await self._libraries.unfence(f"{self._head.namespace}_{LIBRARY_OF_0_1}")
        return self.progress.keys

    async def convert_rest(self) -> None:
        """Fence and convert what a server that was promoted may lack of a migration that is
        complete."""
        await self._fence()
        await self._convert()

    async def _fence(self) -> None:
        known = {f"{self._head.namespace}_{LIBRARY_OF_0_1}", *self._older}
        if fenced := await self._libraries.fence_older(known, self._head.to):
            log.warning(
                "fenced older versions: their hits are spooled or refused (503). Stop them, and "
                "start this version on their data directories",
                libraries=fenced,
            )

    # -- the copy

    async def _copy_once(self, directory: Path, copied: int) -> None:
        """Make the copy, unless another process has made it meanwhile."""
        async with migration_copy.alone_in(directory):
            if (await self._record()).copied >= self._head.to:
                return
            path, keys = await self._copy(directory)
            if not await self._set("copied", copied, self._head.to):
                await asyncio.to_thread(path.unlink)  # one on another host has
                return
            await asyncio.to_thread(migration_copy.keep_newest, directory, self._head)
        log.warning("copied what the migration will change", file=str(path), keys=keys)

    async def _copy(self, directory: Path, *, trial: bool = False) -> tuple[Path, int]:
        """Copy what will be changed; `trial`: only find out whether that is possible."""
        copy = await asyncio.to_thread(MigrationCopy, directory, self._head)
        try:
            for tag in self._tags:
                async for found in self._steps(tag, self._head.to, write=False):
                    saved = [Saved(tag, *pair) for pair in found.changed]
                    await asyncio.to_thread(copy.add, saved)
            path = copy.path if trial else await asyncio.to_thread(copy.finish)
        finally:
            await asyncio.to_thread(copy.discard)
        return path, copy.keys

    # -- the store

    async def _convert(self) -> None:
        for n, tag in enumerate(self._tags):
            async for found in self._steps(tag, self._head.to, write=True):
                self.progress.keys += len(found.changed)
                for key in found.damaged:
                    log.error(
                        "no version of the service wrote these bytes: left as they are, and what "
                        "is counted there is refused",
                        key=key.decode(errors="backslashreplace"),
                    )
            self.progress.set_left(len(self._tags) - n - 1)
            if (n + 1) % 16 == 0:
                left = self.progress.partitions_left
                log.info("migrating", keys=self.progress.keys, partitions_left=left)

    async def _steps(self, tag: str, form: int, *, write: bool) -> AsyncIterator[Found]:
        """Look at all keys of a partition, some at a time; `write`: bring them into this form."""
        last: bytes | None = b""
        while last is not None:
            last, damaged, *flat = await self._functions.call(
                "convert", tag, form, last, STEP, int(write)
            )
            yield Found(list(zip(flat[::2], flat[1::2], strict=True)), damaged)

    async def _record(self) -> Installation:
        return Installation.of(await self._functions.call("installation", self._meta))

    async def _set(self, field: str, before: int, after: int) -> bool:
        """Change the installation's record, where 0 means absent. Returns False if it was so
        already, as another process has left it; raises StartError if it is neither."""
        changed, found = await self._functions.call(
            "replace", self._meta, field, before or "", after or ""
        )
        if int(found or 0) != after:
            raise StartError(
                f"another process has changed the store's {field} to {int(found or 0)} meanwhile: "
                "start again"
            )
        return bool(changed)

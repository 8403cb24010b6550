"""Brings all packed bytes of a store into a newer form, by bounded steps, and never back.

The installation's record says how far that is, in the order in which a migration writes it:
`schema`, which keeps older versions from starting; `copied`, when what is to be changed was copied
into a file; `writes`, the form that all write from then on; `converted`, when no bytes are left in
an older form. Every step finds done what was done before: a migration that was killed, or that two
processes make at once, goes on from its beginning and ends the same. From version 0.1 it runs
before anything is counted; later ones run while the service counts, when `upgrade --finish` asks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import NamedTuple

import structlog

from service import forms, metrics, migration_copy
from service.errors import StartError
from service.fence import LIBRARY_OF_0_1
from service.functions import Functions
from service.migration_copy import Head, MigrationCopy, Saved

STEP = 200  # keys that one call looks at

log = structlog.get_logger()


class Installation(NamedTuple):
    """The installation's record, as far as migrations go; 0 for what it does not have."""

    schema: int
    copied: int
    writes: int
    converted: int

    @property
    def needs_migration(self) -> bool:
        """Whether there may be bytes in an older form."""
        return self.converted < max(self.schema, forms.OLDEST_WRITTEN)

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
"""What is entered while a migration keeps the service from starting."""


class Migration:
    """Of one store, to one form."""

    def __init__(self, functions: Functions, tags: Sequence[str], meta: str, head: Head) -> None:
        """`head`: of the copy that is to be made."""
        self.progress = Progress(head.form, head.to)
        self._functions = functions
        self._tags = tags
        self._meta = meta
        self._head = head

    async def run(self, record: Installation, directory: Path) -> None:
        """All of it; raises StartError where the copy cannot be made, and then nothing was changed,
        and StoreError."""
        before, form = self._head.form, self._head.to
        log.warning("migrating the store's data", before=before, form=form)
        self.progress.set_left(len(self._tags))
        copied = record.copied >= form
        if not copied:
            await self._copy(directory, trial=True)
        begun = await self._set("schema", record.schema, form)
        fenced = await self._fence()
        if not copied:
            try:
                await self._copy_once(directory, record.copied)
            except StartError:
                if begun:  # else another process may be further than we are
                    await self._functions.unfence(fenced)
                    await self._set("schema", form, before)
                raise
        await self._set("writes", record.writes, form)
        await self._functions.use(form)
        await self._fence()  # also those of this version that write the form before
        await self._convert()
        await self._set("converted", record.converted, form)
        log.warning("the store's data is migrated", form=form, keys=self.progress.keys)

    async def _fence(self) -> list[str]:
        of_0_1 = self._head.form == forms.UNVERSIONED
        known = [f"{self._head.namespace}_{LIBRARY_OF_0_1}"] if of_0_1 else []
        fenced = await self._functions.fence_others(known, self._head.to)
        if fenced:
            log.warning("older versions count nothing more in this store", libraries=fenced)
        return fenced

    # -- the copy

    async def _copy_once(self, directory: Path, before: int) -> None:
        """Make the copy, unless another process has made it meanwhile."""
        path, keys = await self._copy(directory)
        if not await self._set("copied", before, self._head.to):
            await asyncio.to_thread(path.unlink)
            return
        await asyncio.to_thread(migration_copy.keep_newest, directory)
        log.warning("copied what the migration will change", file=str(path), keys=keys)

    async def _copy(self, directory: Path, *, trial: bool = False) -> tuple[Path, int]:
        """Copy what will be changed; `trial`: only find out whether that is possible."""
        copy = await asyncio.to_thread(MigrationCopy, directory, self._head)
        try:
            for tag in self._tags:
                async for found in self._steps(tag, write=False):
                    saved = [Saved(tag, *pair) for pair in found]
                    await asyncio.to_thread(copy.add, saved)
            path = copy.path if trial else await asyncio.to_thread(copy.finish)
        finally:
            await asyncio.to_thread(copy.discard)
        return path, copy.keys

    # -- the steps

    async def _convert(self) -> None:
        for n, tag in enumerate(self._tags):
            async for found in self._steps(tag, write=True):
                self.progress.keys += len(found)
            self.progress.set_left(len(self._tags) - n - 1)
            if (n + 1) % 16 == 0:
                left = self.progress.partitions_left
                log.info("migrating", keys=self.progress.keys, partitions_left=left)

    def _steps(self, tag: str, *, write: bool) -> AsyncIterator[list[tuple[bytes, bytes]]]:
        return _steps(self._functions, tag, self._head.to, write=write)

    async def _set(self, field: str, before: int, after: int) -> bool:
        """Change the installation's record; False: another process has done so."""
        return await _set(self._functions, self._meta, field, before, after)


async def put_back(
    functions: Functions, tags: Sequence[str], meta: str, copy: Path, installation: str
) -> int:
    """Have a store as it was before a migration from version 0.1; see Store.put_back."""
    head, saved = await asyncio.to_thread(migration_copy.read, copy)
    if head.installation != installation:
        raise StartError(f"{copy} is the copy of another store (installation {head.installation})")
    if head.form != forms.UNVERSIONED:
        raise StartError(
            f"{copy} is in form {head.form}, which the version before reads as it is: there is "
            "nothing to put back"
        )
    for tag in tags:
        async for _ in _steps(functions, tag, head.form, write=True):
            pass
    keys = 0
    for each in saved:
        await functions.call("restore", each.tag, each.key, each.value)
        keys += 1
    for field, before, after in (
        ("converted", head.to, 0),
        ("writes", head.to, 0),
        ("copied", head.to, 0),
        ("schema", head.to, head.form),
    ):
        await _set(functions, meta, field, before, after)
    await functions.unfence([f"{head.namespace}_{LIBRARY_OF_0_1}"])
    return keys


async def _steps(
    functions: Functions, tag: str, form: int, *, write: bool
) -> AsyncIterator[list[tuple[bytes, bytes]]]:
    """The keys of a partition that are in another form, with their bytes, a step at a time; brought
    into this one if they are to be written."""
    position = 0
    while position >= 0:
        position, *flat = await functions.call("convert", tag, form, position, STEP, int(write))
        yield list(zip(flat[::2], flat[1::2], strict=True))


async def _set(functions: Functions, meta: str, field: str, before: int, after: int) -> bool:
    """Change the installation's record, where 0 stands for nothing; False: another process has done
    so."""
    changed, found = await functions.call("replace", meta, field, before or "", after or "")
    if int(found or 0) != after:
        raise StartError(
            f"another process has changed the store's {field} to {int(found or 0)} meanwhile: "
            "start again"
        )
    return bool(changed)

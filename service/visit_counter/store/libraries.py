"""The function libraries of a namespace on the servers of a store: load, fence, remove.

A library's name carries the hash of its source, so several versions may have theirs side by side.
Each has a function that tells by its name which form it writes, by which a newer version finds
those that it must fence.

A process of an older version would go on writing bytes in its own form, beside those that a newer
one has migrated. Its library's name is its own, so a library of that name that only refuses, a
fence, stops it at its next call, between two of them, and it does not load its own again. Version
0.1 takes the reply for a newer process of its producer, and ends; later ones look which form is
written now. What a start asks first is answered, so that it gets as far as the sentence it has for
a store that is newer than itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from hashlib import blake2b
from importlib.resources import files
from typing import Any

from redis import exceptions

from visit_counter.model import forms
from visit_counter.store.replies import speaking
from visit_counter.store.servers.shards import Shard, Shards

FENCE = "fence"
"""A function that only such a library has."""

LIBRARY_OF_0_1 = "868c55f0e87b"
"""The hash in the name of version 0.1's library, which may not be loaded when it is fenced."""

PARTS = (
    *("keys.lua", "visitors.lua", "pages.lua", "counting.lua"),
    *("sites.lua", "undo.lua", "installation.lua"),
)
"""The files of `lua/` that make the source, in the order in which they are loaded."""

_FUNCTIONS_OF_0_1 = (
    *("record", "open", "last_seq", "put_site", "reset", "undo", "seed", "install", "adopt"),
    *("probe", "rehearse", "counts", "sites", "done", "drops", "days"),
)
_RECORD_OF_0_1 = "'schema', 'partitions', 'secret'"
_RECORD = "'partitions', 'secret', 'schema', 'copied', 'writes', 'converted'"


class Libraries:
    """Our library, `name`, and those of other versions."""

    def __init__(self, shards: Shards, namespace: str, note: str = "") -> None:
        """`note` makes another library of the same functions."""
        self.writes = forms.NEWEST
        """The form in which our library packs what it writes."""
        self.name, self._source = library(namespace, self.writes, note)
        self.namespace = namespace
        self._shards = shards

    async def use(self, writes: int) -> None:
        """Go on with the library that packs in this form."""
        if writes != self.writes:
            self.writes = writes
            self.name, self._source = library(self.namespace, writes)
            for shard in self._shards.all():
                await self.load(shard)

    async def take_over(self, writes: int) -> None:
        """Write what all write now, if this version can."""
        if forms.is_written(writes):
            await self.use(writes)

    async def load(self, shard: Shard) -> None:
        async with speaking():
            try:
                await shard.client.function_load(self._source)
            except exceptions.ResponseError as error:
                if "already exists" not in str(error):
                    raise

    async def loaded(self, shard: Shard) -> list[str] | None:
        """The server's libraries of this namespace, without fences of other versions; None if
        FUNCTION LIST is forbidden."""
        found = await self._found(shard)
        if found is None:
            return None
        return [name for name in found if name == self.name or not _is_fence(name, found[name])]

    async def reload(self) -> None:
        """Have our library in the place of a fence that the way back to 0.1 has left."""
        for shard in self._shards.all():
            async with speaking():
                await shard.client.function_load(self._source, replace=True)

    async def fence_older(self, known: Iterable[str], form: int) -> list[str]:
        """Have every library that writes an older form, and those of the known names, refuse all
        calls on every server. Returns the names of those fenced now."""
        return await self._fence(known, form, lambda writes: writes < form)

    async def fence_newer(self, form: int) -> list[str]:
        """The same for libraries that write a newer form, except the one in use."""
        return await self._fence((), form, lambda writes: writes > form)

    async def _fence(
        self, known: Iterable[str], form: int, is_meant: Callable[[int], bool]
    ) -> list[str]:
        fenced: dict[str, None] = {}
        for shard in self._shards.all():
            found = {**{name: [] for name in known}, **(await self._found(shard) or {})}
            for name, functions in found.items():
                spared = name == self.name or _is_fence(name, functions)
                if not spared and is_meant(_writes(functions)):
                    async with speaking():
                        source = fence(name, functions, form)
                        await shard.client.function_load(source, replace=True)
                    fenced[name] = None
        return list(fenced)

    async def unfence(self, name: str) -> None:
        """Delete a fence: whoever had a library of that name loads it again."""
        for shard in self._shards.all():
            await self._delete(shard, name)

    async def remove(self, unused: Callable[[str], bool]) -> list[str]:
        """Delete libraries that `unused` names, except ours and fences; returns their names."""
        removed: dict[str, None] = {}
        for shard in self._shards.all():
            for name in await self.loaded(shard) or []:
                if name != self.name and unused(name):
                    await self._delete(shard, name)
                    removed[name] = None
        return list(removed)

    async def _delete(self, shard: Shard, name: str) -> None:
        async with speaking():
            try:
                await shard.client.function_delete(name)
            except exceptions.ResponseError as error:
                if "not found" not in str(error).lower():
                    raise

    async def _found(self, shard: Shard) -> dict[str, list[str]] | None:
        """The names of the functions of each library that is named like ours; None if FUNCTION LIST
        is forbidden."""
        async with speaking():
            try:
                found: Any = await shard.client.function_list(f"{self.namespace}_*")
            except exceptions.ResponseError:  # forbidden, or too old
                return None
        ours = re.compile(re.escape(self.namespace) + "_[0-9a-f]{12}")
        named = ((each[b"library_name"].decode(), each[b"functions"]) for each in found)
        return {
            name: [function[b"name"].decode() for function in functions]
            for name, functions in named
            if ours.fullmatch(name)
        }


def _writes(functions: Iterable[str]) -> int:
    """The form that a library writes, by the name of one of its functions: 0.1 has none."""
    forms_ = (re.search(r"_writes_(\d+)\Z", function) for function in functions)
    return next((int(form[1]) for form in forms_ if form), forms.UNVERSIONED)


def _is_fence(name: str, functions: list[str]) -> bool:
    return f"{name}_{FENCE}" in functions


def parts() -> dict[str, str]:
    """The source by files, in the order in which they are loaded."""
    folder = files("visit_counter.store").joinpath("lua")
    return {part: folder.joinpath(part).read_text() for part in PARTS}


def place(line: int) -> tuple[str, int]:
    """The file and its line where a line of the source stands: luacheck and the errors of a server
    count the lines of the whole source."""
    for part, text in parts().items():
        lines = text.count("\n")
        if line <= lines:
            return part, line
        line -= lines
    raise IndexError(f"{line} lines after the last one")


def library(namespace: str, writes: int = forms.NEWEST, note: str = "") -> tuple[str, str]:
    """The library's name for a namespace and its source, for writing a form."""
    source = "".join(parts().values()) + note
    source = source.replace("__writes__", str(writes)).replace("__newest__", str(forms.NEWEST))
    digest = blake2b(source.encode(), digest_size=6).hexdigest()
    name = f"{namespace}_{digest}"
    return name, source.replace("__library__", name)


def fence(name: str, functions: Iterable[str], form: int) -> str:
    """The source of a library with these functions, or all that 0.1 had, which refuses calls since
    the store is in this form."""
    of_0_1 = name.endswith(f"_{LIBRARY_OF_0_1}")
    # Epoch 0 does not raise the epoch that 0.1 has on its disk.
    reply = "FENCED 0" if of_0_1 else f"OUTDATED {form}"
    record = _RECORD_OF_0_1 if of_0_1 else _RECORD
    callbacks = {
        f"{name}_rehearse": "return redis.call('TIME')[1] * 1000",
        f"{name}_install": f"return redis.call('HMGET', keys[1], {record})",
    }
    known = {f"{name}_{each}" for each in _FUNCTIONS_OF_0_1} if of_0_1 else set[str]()
    lines = [f"#!lua name={name}"]
    for function in sorted({*functions, *known, f"{name}_{FENCE}"}):
        body = callbacks.get(function, f"return redis.error_reply('{reply}')")
        lines.append(
            f"redis.register_function{{function_name='{function}',"
            f" callback=function(keys) {body} end, flags={{'no-writes', 'allow-oom'}}}}"
        )
    return "\n".join(lines)

"""The source of the function library: what is loaded, and what Lua's limits leave of room.

Lua 5.1 allows 200 local variables at a time, also in the file itself, and a function 60 upvalues:
the locals outside of it that it uses.
"""

from __future__ import annotations

import re

import msgspec
import pytest
from redis import exceptions
from redis.asyncio import Redis

from tests.kit.counting import at, counting
from tests.kit.stores.server import Server
from visit_counter.store.libraries import PARTS, library, parts, place

LOCALS = 40
UPVALUES = 25


def test_a_line_of_the_source_is_found_in_its_file() -> None:
    """Also the first and the last one of each."""
    lines = "".join(parts().values()).splitlines()
    places = [place(number) for number in range(1, len(lines) + 1)]

    assert len(library("vc")[1].splitlines()) == len(lines)
    assert [parts()[part].splitlines()[line - 1] for part, line in places] == lines
    assert list(dict.fromkeys(part for part, _ in places)) == list(PARTS)
    with pytest.raises(IndexError):
        place(len(lines) + 1)


def test_only_the_beginning_leaves_its_locals_to_the_others() -> None:
    """Each other file is a block, and declares before it what a later one uses."""
    _, *others = parts().values()
    outside = [re.sub(r"(?s)\ndo\n.*\nend\n$", "\n", text) for text in others]
    declared = [
        line for text in outside for line in text.splitlines() if line[:2] not in ("--", "")
    ]

    assert all(re.fullmatch(r"local [a-z_]+(, [a-z_]+)*", line) for line in declared), declared


async def test_there_is_room_for_more_locals(store_server: Server) -> None:
    await _load(store_server, with_locals(library("room")[1], LOCALS))


async def test_each_function_has_room_for_more_upvalues(store_server: Server) -> None:
    used = "(" + " or ".join(f"more_{n}" for n in range(UPVALUES)) + " or 0)"
    heads = re.compile(r"\bfunction\b *[a-z_]*\([^)]*\)")
    source = heads.sub(rf"\g<0> if {used} == nil then return end ", library("room")[1])

    await _load(store_server, with_locals(source, UPVALUES))


@pytest.mark.parametrize("more", ["locals", "upvalues"])
async def test_where_there_is_no_room_a_library_is_refused(store_server: Server, more: str) -> None:
    """So the two tests above notice it."""
    first = "#!lua name=room_full\n"
    used = ", ".join(f"more_{n}" for n in range(61))
    sources = {
        "locals": with_locals(first, 201),
        "upvalues": with_locals(f"{first}local function full() return {used} end\n", 61),
    }
    with pytest.raises(exceptions.ResponseError, match=f"more than (200|60) .*{more[:5]}"):
        await _load(store_server, sources[more])


def with_locals(source: str, number: int) -> str:
    """Declared after the first line, which names the library."""
    return source.replace("\n", "\n" + "".join(f"local more_{n} " for n in range(number)), 1)


async def _load(server: Server, source: str) -> None:
    async with Redis.from_url(server.url) as client:
        await client.function_load(source, replace=True)


async def test_a_part_of_a_batch_has_as_many_fields_as_are_read(valkey: Server) -> None:
    source = parts()["counting.lua"]
    names = re.search(r"function part_named\(\s*ended, ([^)]+?)\s*\)", source)
    number = re.search(r"PART_FIELDS = (\d+)", source)
    async with counting(valkey.url) as counted:
        payload = counted.seal(counted.hit(1, at("2026-03-10 12:00"))).record.payload
    packed, _ = msgspec.msgpack.decode(payload[1:])

    assert names
    assert number
    assert len(names[1].split(",")) == int(number[1]) == len(msgspec.msgpack.decode(packed[1:]))

"""A worker's line to its parent."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from visit_counter.workers.messages import Everything, Inherited, Told, Up
from visit_counter.workers.parent import Parent


@asynccontextmanager
async def line_to(
    directory: Path,
) -> AsyncIterator[tuple[Parent, asyncio.StreamReader, asyncio.StreamWriter]]:
    """A worker's end of the line, and the parent's."""
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_unix_connection(sock=ours, limit=1 << 24)
    inherited = Inherited([], [], [], None, 1, theirs.detach())
    async with Parent(inherited, directory) as parent:
        yield parent, reader, writer
    writer.close()


async def test_a_worker_s_figures_are_told_once_it_is_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, they say that no store is there: one worker's word for all would alarm somebody."""
    monkeypatch.setattr("visit_counter.workers.parent.TELL_S", 0.05)
    async with line_to(tmp_path) as (parent, reader, _):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await reader.readline()
        parent.tell_up()
        lines = [await reader.readline() for _ in range(2)]

    up, told = (msgspec.json.decode(line, type=Up | Told) for line in lines)
    assert isinstance(up, Up)
    assert isinstance(told, Told)


async def test_many_who_ask_for_the_metrics_are_one_question(tmp_path: Path) -> None:
    """All figures of a worker go over its line with each. Who comes later than a question is for
    the next one, whose figures have what was counted since."""
    async with line_to(tmp_path) as (parent, reader, writer):
        asked = [asyncio.create_task(parent.metrics()) for _ in range(20)]
        await question(reader)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await question(reader)
        writer.write(msgspec.json.encode(Everything("first")) + b"\n")
        await question(reader)
        writer.write(msgspec.json.encode(Everything("second")) + b"\n")
        assert await asyncio.gather(*asked) == ["first", *["second"] * 19]


async def test_metrics_are_asked_for_again_after_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("visit_counter.workers.parent.ANSWER_S", 0.05)
    async with line_to(tmp_path) as (parent, reader, _):
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await parent.metrics()
            await question(reader)


async def question(reader: asyncio.StreamReader) -> None:
    told = msgspec.json.decode(await reader.readline(), type=Told)
    assert told.ask

"""A worker's line to its parent."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import msgspec
import pytest

from visit_counter.workers.messages import Inherited, Told, Up
from visit_counter.workers.parent import Parent


async def test_a_worker_s_figures_are_told_once_it_is_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, they say that no store is there: one worker's word for all would alarm somebody."""
    monkeypatch.setattr("visit_counter.workers.parent.TELL_S", 0.05)
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_unix_connection(sock=ours, limit=1 << 20)
    inherited = Inherited([], [], [], None, 1, theirs.detach())
    async with Parent(inherited, tmp_path) as parent:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await reader.readline()
        parent.tell_up()
        lines = [await reader.readline() for _ in range(2)]
    writer.close()

    up, told = (msgspec.json.decode(line, type=Up | Told) for line in lines)
    assert isinstance(up, Up)
    assert isinstance(told, Told)

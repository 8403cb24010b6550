"""Who may send a partition's batches: flushes, which keep their order, or one repair or replay."""

from __future__ import annotations

import asyncio
from typing import Self


class Gate:
    """A partition's. Whoever enters has it alone: waits for its flushes, and keeps others out."""

    def __init__(self) -> None:
        self._flushes = 0
        self._wanted = 0
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._one = asyncio.Lock()

    async def __aenter__(self) -> Self:
        self._wanted += 1
        try:
            await self._one.acquire()
            try:
                await self._quiet.wait()
            except BaseException:
                self._one.release()
                raise
        except BaseException:
            self._wanted -= 1
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._one.release()
        self._wanted -= 1

    def begin_flush(self) -> bool:
        """Never waits; False: somebody has it alone, or will soon."""
        if self._wanted:
            return False
        self._flushes += 1
        self._quiet.clear()
        return True

    def end_flush(self) -> None:
        self._flushes -= 1
        if not self._flushes:
            self._quiet.set()

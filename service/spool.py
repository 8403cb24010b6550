"""The spool: keeps sealed batches on disk while the store is away, until the store confirms them.

The recorder appends what the store did not confirm in time, and answers the hits when `append`
returns; when the store is back it reads a partition's batches oldest first and acks them. While an
fdatasync runs the next group gathers, as batches do. A full disk or a full spool refuses before it
keeps; any other error of the disk ends keeping for good, since a second fsync proves nothing.
A segment goes when all in it is confirmed. Acks are not written: after a restart, records of a
segment that stayed come again, and the store knows them as duplicates. Never looks into a batch.
"""

from __future__ import annotations

import asyncio
import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import structlog

from service import segment, spool_files
from service.errors import SpoolBroken, SpoolFull, StartError, StoreError, StoreUnavailable
from service.segment import HEADER, OVERHEAD, Record
from service.tasks import supervised

SEGMENT_BYTES = 4 << 20  # a group that does not fit begins the next one
STOP_S = 3.0

log = structlog.get_logger()


class Spool:
    """Records of many partitions, each partition in the order in which it was appended.

    The directory exists, belongs to one producer, and the caller holds its lock.
    """

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self.bytes = 0
        """On disk, never more than `max_bytes`; damage that was set aside is not counted."""
        self.records = 0
        """Not confirmed yet."""
        self.broken = ""
        """Why nothing is kept any more."""
        self._directory = directory
        self._max_bytes = max_bytes
        self._lines: dict[int, _Line] = {}
        self._segments: dict[int, _Segment] = {}
        self._tail: _Segment | None = None
        self._last_number = 0
        self._queue: list[_Append] = []
        self._promised = 0
        self._arrived = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._open)
        self._task = supervised(self._run(), "spool")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Keep what was appended, in bounded time; the rest is answered with an error."""
        self._closing = True
        self._arrived.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=STOP_S)
            self._task.cancel()
            await asyncio.wait({self._task})
        self._answer(self._take(), StoreUnavailable("the spool is closed"))

    async def append(self, records: Sequence[Record]) -> None:
        """Return when the records are on disk; a partition's records come in order of their seq.

        Raises SpoolFull when they were not kept. After SpoolBroken, or when it is cancelled, they
        may be read at the next start or not.
        """
        if self.broken:
            raise SpoolBroken(self.broken)
        if self._closing or self._task is None:
            raise StoreUnavailable("the spool is closed")
        size = sum(OVERHEAD + len(record.payload) for record in records)
        if size > self.room:
            raise SpoolFull(f"the spool {self._directory} is full: {self._max_bytes} bytes")
        entry = _Append(records, size, asyncio.get_running_loop().create_future())
        self._queue.append(entry)
        self._promised += entry.most_bytes
        self._arrived.set()
        await entry.waiter

    @property
    def room(self) -> int:
        """Bytes of records, each with OVERHEAD, that one append may have now."""
        if self.broken:
            return 0
        return max(0, self._max_bytes - self.bytes - self._promised - len(HEADER))

    def partitions(self) -> list[int]:
        """Those with unconfirmed records."""
        return list(self._lines)

    def pending(self, partition: int) -> bool:
        return partition in self._lines

    def last_seq(self, partition: int) -> int:
        """Of its newest unconfirmed record, 0 without any: numbering goes on behind it."""
        return self._lines[partition].seqs[-1] if partition in self._lines else 0

    def read(self, partition: int) -> Record | None:
        """The partition's oldest unconfirmed record.

        Raises SpoolBroken when the disk does not give back what was written.
        """
        if partition not in self._lines:
            return None
        number, at = self._lines[partition].oldest
        path = self._segments[number].path
        try:
            record = spool_files.read(path, at)
        except OSError as problem:
            raise self._break(problem) from None
        if record is None:
            raise self._break(_damaged(path, at))
        return record

    async def ack(self, partition: int, seq: int) -> None:
        """The store has this record, so all before it too. Raises nothing."""
        line = self._lines.get(partition)
        while line and line.seqs[line.first] <= seq:
            self._segments[line.oldest.segment].live -= 1
            self.records -= 1
            if not line.drop():
                line = self._lines.pop(partition) and None
        ...

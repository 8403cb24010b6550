"""The spool: keeps sealed batches on disk while the store is away, until the store confirms them.

The recorder appends what the store did not confirm in time, and answers the hits when `append`
returns; when the store is back they are read, oldest first, and acked. While an fdatasync runs the
next group gathers. A full disk or spool refuses before it keeps; any other error of the disk leaves
in doubt what was being written, and a second fsync would prove nothing. So the spool writes nothing
more to that segment: it tries until the disk takes a new one, and goes on there, after the old one
was cut back to what was acknowledged. A disk that does not answer for DISK_S has failed too. A
segment goes when all in it is confirmed. Acks are not written: after a restart, records of a
segment that stayed come again, and the store knows them as duplicates. Never looks into a batch.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import structlog

from visit_counter import deadlines
from visit_counter.disk import files as spool_files
from visit_counter.disk import format as segment
from visit_counter.disk.format import HEADER, Record, Scan
from visit_counter.disk.index import Index, Segment
from visit_counter.errors import (
    SpoolBroken,
    SpoolFull,
    SpoolGone,
    SpoolUnreadable,
    StartError,
    StoreError,
    StoreUnavailable,
)
from visit_counter.tasks import supervised

SEGMENT_BYTES = 4 << 20  # a group that does not fit begins the next one
LOOK_S = 1.0  # between two looks whether the disk can keep something
PROOF_BYTES = 64 * 1024  # that it must take
DISK_S: Final = 2.5  # for an answer of the disk

log = structlog.get_logger()


class Spool:
    """Records of many partitions, each partition's in the order in which they were appended.

    The directory exists, belongs to one producer, and the caller holds its lock.
    """

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self.bytes = 0
        """On disk, never more than `max_bytes`; damage that was set aside is not counted."""
        self.problem = ""
        """Why nothing can be kept now, in a sentence with its remedy."""
        self._directory = directory
        self._max_bytes = max_bytes
        self._index = Index()
        self._tail: Segment | None = None
        self._last_number = 0
        self._queue: list[_Append] = []
        self._promised = 0
        self._doubtful = 0
        """Records whose write to the tail failed: they are to be cut off."""
        self._unremoved: list[Segment] = []
        """Of no use any more, and the disk does not let them go."""
        self._hanging: asyncio.Future[Any] | None = None
        """What the disk has not answered in time: nothing else is tried meanwhile."""
        self._arrived = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._open)
        self._task = supervised(self._run, "spool")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Keep what was appended, in bounded time; the rest is answered with an error."""
        self._closing = True
        self._arrived.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=deadlines.SPOOL_S)
            self._task.cancel()
            await asyncio.wait({self._task})
        self._answer(self._take(), StoreUnavailable("the spool is closed"))

    async def append(self, records: Sequence[Record]) -> None:
        """Return when the records are on disk; those of a partition come in the order of their seq.

        Raises SpoolFull when they were not kept. After SpoolBroken, or when it is cancelled, they
        may be read again or not.
        """
        if self.problem:
            raise SpoolFull(self.problem)
        if self._closing or self._task is None:
            raise StoreUnavailable("the spool is closed")
        size = segment.size_of(records)
        if size > self.room:
            raise SpoolFull(self._full)
        entry = _Append(records, size + len(HEADER), asyncio.get_running_loop().create_future())
        self._promised += entry.most_bytes
        self._queue.append(entry)
        self._arrived.set()
        await entry.waiter

    @property
    def room(self) -> int:
        """Bytes, with OVERHEAD for each record, that one append may have now."""
        left = self._max_bytes - self.bytes - self._promised - len(HEADER)
        return 0 if self.problem else max(0, left)

    def cannot_keep(self, most_bytes: int) -> str:
        """Why a batch of that size could not be kept now; empty if it could."""
        return self.problem or ("" if self.room > most_bytes else self._full)

    @property
    def _full(self) -> str:
        return f"The spool {self._directory} is full: {self._max_bytes} bytes."

    @property
    def records(self) -> int:
        """Not confirmed yet."""
        return self._index.records

    def partitions(self) -> list[int]:
        """Those with unconfirmed records."""
        return self._index.partitions()

    def pending(self, partition: int) -> bool:
        return self._index.pending(partition)

    def last_seq(self, partition: int) -> int:
        """Of the newest unconfirmed record, 0 without any: numbering goes on behind it."""
        return self._index.last_seq(partition)

    def read(self, partition: int) -> Record | None:
        """The oldest unconfirmed record; raises as `read_some` does."""
        return next(iter(self.read_some(partition, 1)), None)

    def read_some(self, partition: int, most: int, most_bytes: int = SEGMENT_BYTES) -> list[Record]:
        """The oldest unconfirmed ones, up to the first that the disk does not give back; raises
        SpoolUnreadable if that is the oldest, SpoolGone if it will never give it back. Of several
        no more than so many bytes."""
        records: list[Record] = []
        for holder, at in self._index.oldest(partition, most):
            if records and (most_bytes := most_bytes - len(records[-1].payload)) <= 0:
                break
            try:
                records.append(_read(holder.path, at))
            except SpoolUnreadable as error:
                if records:
                    break
                if self._is_gone(holder):
                    raise SpoolGone(f"the spool's file {holder.path} was removed") from None
                raise error
        return records

    async def pass_by(self, partition: int) -> int:
        """Forget the oldest records as far as they are gone; how many."""
        passed = 0
        while (oldest := self._index.oldest(partition, 1)) and self._is_gone(oldest[0][0]):
            await self.ack(partition, self._index.first_seq(partition))
            passed += 1
        return passed

    def _is_gone(self, holder: Segment) -> bool:
        """Whether it was removed; where its directory is away too, the file may come back."""
        with suppress(OSError):
            return not holder.path.exists() and os.path.samestat(self._directory.stat(), self._home)
        return False

    async def ack(self, partition: int, seq: int) -> None:
        """The store has this record, and so all of the partition before it. Raises nothing."""
        done = self._index.confirm(partition, seq)
        if not done:
            return
        await self._remove(done)

    async def _remove(self, done: list[Segment]) -> None:
        if self._tail in done:
            self._tail = None
        done, self._unremoved = self._unremoved + done, []
        paths = [holder.path for holder in done]
        removal = asyncio.get_running_loop().run_in_executor(None, spool_files.remove, paths)
        removal.add_done_callback(lambda _: self._removed(removal, done))
        # Which goes on, and is accounted for, if we are cancelled or the disk hangs.
        await asyncio.wait({removal}, timeout=DISK_S)

    def _removed(self, removal: asyncio.Future[None], done: list[Segment]) -> None:
        if error := removal.exception():
            # With the next ones: until then they take room, and after a restart come again.
            self._unremoved += done
            log.warning("files of the spool are not removed", reason=str(error))
        else:
            self.bytes -= sum(holder.size for holder in done)

    def _open(self) -> None:
        try:
            self._home = self._directory.stat()
            spool_files.settle(self._directory)
            self._last_number = spool_files.last_number(self._directory)
            for path, data, found in spool_files.scans(self._directory):
                if found.damage:
                    raise StartError(spool_files.damaged(path, found.damage[0][0]))
                self._adopt(path, data, found)
        except OSError as problem:
            raise StartError(
                f"The spool {self._directory} cannot be used ({problem.strerror}): make it "
                f"readable and writable for user id {os.geteuid()}, on a disk that works."
            ) from None

    def _adopt(self, path: Path, data: bytes, found: Scan) -> None:
        """Take over a segment of an earlier run, without a tail that was never acknowledged."""
        if any(data[found.end :]):
            torn = len(data) - found.end
            log.warning("cut off what a crash had torn", file=str(path), at=found.end, bytes=torn)
        if not found.records:
            spool_files.remove([path])
            return
        spool_files.close(path, found.end)
        holder = Segment(spool_files.number(path), path, found.end, len(found.records))
        self._index.add(holder, ((record, record.at) for record in found.records))
        self.bytes += holder.size

    async def _run(self) -> None:
        while not self._closing or self._queue:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._arrived.wait()
            self._arrived.clear()
            while self._queue:
                await self._keep(self._take())
                await asyncio.sleep(0)  # who was answered may append again, into the next group
            if not self._closing:
                await self._look()

    async def _look(self) -> None:
        """Whether the disk can keep something: asked of the file system, and where a write has
        failed by another one."""
        if self._hanging and not self._hanging.done():
            return
        self._hanging = None
        try:
            if self.problem:
                await self._begin_anew()
                log.info("the spool keeps hits again", directory=str(self._directory))
                self.problem = ""
            else:
                await self._prove_room()
        except Exception as problem:
            self._fail(problem)

    async def _begin_anew(self) -> None:
        """Leave the segment whose write failed, and see that the disk takes another one."""
        if tail := self._tail:
            with suppress(FileNotFoundError):  # somebody has removed it
                await self._on_disk(spool_files.close, tail.path, tail.size)
            tail.live -= self._doubtful
            self._doubtful, self._tail = 0, None
            self._index.hold(tail)
        await self._remove(self._index.take_empty())
        await self._prove_room()
        proof = await self._next_segment()
        self._tail = None
        await self._remove([proof])
        if self._unremoved:
            raise OSError(f"{proof.path} cannot be removed")

    def _take(self) -> list[_Append]:
        taken, self._queue = self._queue, []
        return taken

    async def _keep(self, group: list[_Append]) -> None:
        """Write a group; when that fails, what waits behind it fails too: no seq is left out."""
        if self.problem:  # found while the group waited
            self._answer(group, SpoolFull(self.problem))
            return
        try:
            await self._write([record for entry in group for record in entry.records])
        except SpoolFull as full:
            self._fail(full)
            self._answer(group + self._take(), full)
        except asyncio.CancelledError:
            error = SpoolBroken("the disk did not answer in time")
            self._answer(group + self._take(), error)
            raise
        except Exception as problem:
            self._fail(problem)
            self._answer(group + self._take(), SpoolBroken(self.problem))
        else:
            self._answer(group, None)

    async def _write(self, records: list[Record]) -> None:
        tail = self._tail
        if tail is None or tail.size + segment.size_of(records) > SEGMENT_BYTES:
            tail = await self._next_segment()
        group, places = segment.pack(records, tail.size)
        tail.live += len(records)  # so that no ack removes it meanwhile
        self._doubtful = len(records)
        try:
            await self._on_disk(spool_files.append, tail.path, group, tail.size)
        except SpoolFull:
            tail.live -= len(records)
            self._doubtful = 0
            raise
        self._doubtful = 0
        tail.size += len(group)
        self.bytes += len(group)
        self._index.add(tail, zip(records, places, strict=True))

    async def _next_segment(self) -> Segment:
        self._last_number = number = self._last_number + 1
        path = spool_files.path_of(self._directory, number)
        await self._on_disk(spool_files.create, path)
        self._tail = Segment(number, path, len(HEADER))
        self.bytes += len(HEADER)
        return self._tail

    async def _prove_room(self) -> None:
        await self._on_disk(spool_files.prove_room, self._directory, PROOF_BYTES)

    async def _on_disk(self, work: Callable[..., None], *arguments: Any) -> None:
        """Done in a thread, which nobody can end: of a disk that hangs it is left behind."""
        doing = asyncio.get_running_loop().run_in_executor(None, work, *arguments)
        doing.add_done_callback(lambda _: doing.cancelled() or doing.exception())
        await asyncio.wait({doing}, timeout=DISK_S)
        if not doing.done():
            self._hanging = doing
            raise TimeoutError(f"it has not answered for {DISK_S} s")
        doing.result()

    def _answer(self, entries: list[_Append], error: StoreError | None) -> None:
        for entry in entries:
            self._promised -= entry.most_bytes
            if entry.waiter.cancelled():
                pass
            elif error:
                entry.waiter.set_exception(error)
            else:
                entry.waiter.set_result(None)

    def _fail(self, problem: Exception) -> None:
        """Nothing can be kept now: say so, once for each reason."""
        if isinstance(problem, SpoolFull):
            why = f"{problem}."
        elif isinstance(problem, FileNotFoundError) and not self._directory.is_dir():
            why = (
                f"The spool {self._directory} is gone, removed or unmounted while the service "
                "runs: bring it back, or restart the service, which makes another one."
            )
        else:
            why = (
                f"The spool {self._directory} cannot be written ({problem}): fix the disk; the "
                "spool goes on by itself."
            )
        if why != self.problem:
            log.error("the spool keeps nothing now", reason=why)
        self.problem = why


def _read(path: Path, at: int) -> Record:
    try:
        record = spool_files.read(path, at)
    except OSError as problem:
        raise SpoolUnreadable(f"the spool's file {path} cannot be read ({problem})") from None
    if record is None:
        raise SpoolUnreadable(spool_files.damaged(path, at))
    return record


class _Append(NamedTuple):
    """Records that wait for the disk, and who waits for them."""

    records: Sequence[Record]
    most_bytes: int
    waiter: asyncio.Future[None]

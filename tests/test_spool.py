"""The spool: what it acknowledged is there after anything, and what it cannot keep it refuses."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog

from tests.kit.services.in_process import until
from visit_counter.disk import files as spool_files
from visit_counter.disk.files import Run
from visit_counter.disk.format import HEADER, MARK, OVERHEAD, Record
from visit_counter.disk.spool import SEGMENT_BYTES, Spool
from visit_counter.errors import (
    SpoolBroken,
    SpoolFull,
    SpoolGone,
    SpoolUnreadable,
    StartError,
    StoreUnavailable,
)

ROOT = Path(__file__).parents[1]
MIB = 1 << 20


def batch(seq: int, partition: int = 3, payload: bytes = b"") -> Record:
    return Record(partition, 1, seq, payload or b"batch %d of %d" % (seq, partition))


def sized(seq: int, size: int) -> Record:
    """A record that takes so many bytes of a segment."""
    return batch(seq, payload=bytes(size - OVERHEAD))


def spool_in(directory: Path, max_bytes: int = 64 * MIB) -> Spool:
    return Spool(directory, max_bytes)


async def drain(spool: Spool) -> list[Record]:
    """Replay everything, partition by partition, as if the store were back."""
    replayed = []
    for partition in spool.partitions():
        while record := spool.read(partition):
            replayed.append(record)
            await spool.ack(partition, record.seq)
    return replayed


def on_disk(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir())


def segments(directory: Path) -> list[str]:
    return [path.name for path in spool_files.paths(directory)]


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


async def test_a_partition_is_read_in_order_across_restarts(tmp_path: Path) -> None:
    """Oldest first, whatever was appended between, and numbering can go on behind the newest."""
    expected = [batch(1), batch(2), batch(3), batch(4)]
    async with spool_in(tmp_path) as spool:
        await spool.append([batch(1), batch(1, partition=60), batch(2)])
        await spool.append([batch(3)])
    async with spool_in(tmp_path) as spool:
        await spool.append([batch(4)])
    async with spool_in(tmp_path) as spool:
        assert (spool.partitions(), spool.records) == ([3, 60], 5)
        assert tuple(map(spool.last_seq, (3, 60, 5))) == (4, 1, 0)
        assert [*expected, batch(1, partition=60)] == await drain(spool)
        assert (spool.records, spool.bytes, segments(tmp_path)) == (0, 0, [])


async def test_an_ack_confirms_all_before_it(tmp_path: Path) -> None:
    """The store's last seq, told at a start, is one ack; other partitions are not touched."""
    async with spool_in(tmp_path) as spool:
        await spool.append([batch(1), batch(2), batch(3), batch(1, partition=60)])
        await spool.ack(3, 2)
        await spool.ack(5, 9)

        assert batch(3) == spool.read(3)
        assert ([batch(3)], []) == (spool.read_some(3, 9), spool.read_some(5, 9))
        assert tuple(map(spool.pending, (3, 60, 5))) == (True, True, False)
        await spool.ack(3, 3)
        assert (spool.read(3), spool.records) == (None, 1)


async def test_a_segment_goes_when_all_in_it_is_confirmed(tmp_path: Path) -> None:
    """Each by itself, so that a slow partition does not keep what the others had."""
    third = (SEGMENT_BYTES - 200) // 3
    async with spool_in(tmp_path) as spool:
        await spool.append([batch(1, partition=60)])
        for seq in range(1, 8):
            await spool.append([sized(seq, third)])
        assert segments(tmp_path) == ["00000001.seg", "00000002.seg", "00000003.seg"]

        await spool.ack(3, 6)
        assert segments(tmp_path) == ["00000001.seg", "00000003.seg"]
        assert on_disk(tmp_path) == spool.bytes
        await spool.ack(3, 7)
        await spool.append([batch(2, partition=60)])
        assert segments(tmp_path) == ["00000001.seg", "00000004.seg"]


async def test_acks_run_beside_appends(tmp_path: Path) -> None:
    """A segment that is being written to is never taken for one that is done."""
    async with spool_in(tmp_path) as spool:

        async def work(partition: int) -> None:
            for seq in range(1, 60):  # the last one is confirmed
                await spool.append([batch(seq, partition)])
                if seq % 3:
                    assert spool.read(partition)
                    await spool.ack(partition, seq)

        await asyncio.gather(*map(work, range(8)))
        assert await drain(spool) == []
        assert (spool.bytes, segments(tmp_path)) == (0, [])


async def test_old_confirmed_records_may_come_again(tmp_path: Path) -> None:
    """Acks are not written: the store knows a batch that it has."""
    async with spool_in(tmp_path) as spool:
        await spool.append([batch(1), batch(2)])
        await spool.ack(3, 1)
    async with spool_in(tmp_path) as spool:
        assert [batch(1), batch(2)] == await drain(spool)


def count_syncs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []
    real = os.fdatasync

    def counting(file: int) -> None:
        calls.append(file)
        real(file)

    monkeypatch.setattr(os, "fdatasync", counting)
    return calls


async def test_who_waits_together_shares_a_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred appends at once take the syncs of a new segment and of one or two groups."""
    syncs = count_syncs(monkeypatch)
    async with spool_in(tmp_path) as spool:
        await asyncio.gather(*(spool.append([batch(seq)]) for seq in range(1, 101)))

        assert (spool.records, len(syncs) <= 3) == (100, True)
        await spool.append([batch(101)])
        assert [batch(seq) for seq in range(1, 102)] == await drain(spool)


async def test_nobody_is_answered_before_the_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the disk works, appends gather and all wait; then all wake."""
    async with spool_in(tmp_path) as spool:
        await spool.append([batch(1)])
        begun, released = threading.Event(), threading.Event()
        real = os.fdatasync

        def slow(file: int) -> None:
            begun.set()
            released.wait(10)
            real(file)

        monkeypatch.setattr(os, "fdatasync", slow)
        appends = [asyncio.create_task(spool.append([batch(seq)])) for seq in range(2, 12)]
        await asyncio.to_thread(begun.wait, 10)
        assert (any(append.done() for append in appends), spool.records) == (False, 1)
        released.set()
        await asyncio.gather(*appends)
        assert spool.records == 11


async def test_a_cancelled_append_harms_nobody(tmp_path: Path) -> None:
    """It may be kept or not; those beside it are."""
    async with spool_in(tmp_path) as spool:
        appends = [asyncio.create_task(spool.append([batch(seq)])) for seq in (1, 2, 3)]
        await asyncio.sleep(0)
        appends[1].cancel()
        await asyncio.wait(appends)

        assert [append.cancelled() for append in appends] == [False, True, False]
        assert {1, 3} <= {record.seq for record in await drain(spool)}
        assert spool.room == 64 * MIB - len(HEADER)


async def test_a_stop_keeps_what_was_appended(tmp_path: Path) -> None:
    """Then nothing more is taken."""
    async with spool_in(tmp_path) as spool:
        append = asyncio.create_task(spool.append([batch(1)]))
        await asyncio.sleep(0)
    await append
    with pytest.raises(StoreUnavailable, match="closed"):
        await spool.append([batch(2)])

    async with spool_in(tmp_path) as spool:
        assert [batch(1)] == await drain(spool)


async def test_a_full_spool_refuses_and_goes_on_when_it_is_emptied(tmp_path: Path) -> None:
    """Nothing is written then, and the files are never larger than was allowed."""
    most = 3 * MIB
    async with spool_in(tmp_path, most) as spool:
        room = spool.room
        await spool.append([sized(1, room - MIB)])
        results = await asyncio.gather(
            *(spool.append([sized(seq, MIB // 4)]) for seq in range(2, 12)), return_exceptions=True
        )
        kept = [result for result in results if result is None]
        assert 3 <= len(kept) <= 4
        assert all(isinstance(result, SpoolFull) for result in results if result)
        assert on_disk(tmp_path) == spool.bytes <= most
        with pytest.raises(SpoolFull, match=f"The spool {tmp_path} is full: {most} bytes"):
            await spool.append([sized(20, MIB)])

        assert len(await drain(spool)) == 1 + len(kept)
        await spool.append([sized(21, spool.room)])
        assert on_disk(tmp_path) == most


async def test_a_spool_that_was_allowed_more_is_full(tmp_path: Path) -> None:
    """A smaller limit throws nothing away."""
    async with spool_in(tmp_path) as spool:
        await spool.append([sized(1, MIB)])
    async with spool_in(tmp_path, 1000) as spool:
        assert (spool.room, spool.records) == (0, 1)
        with pytest.raises(SpoolFull):
            await spool.append([batch(2)])


# On a disk of 1 MiB: fill it, make room, and go on; tells what happened and reads it all back.
FULL_DISK = """
import asyncio, os, sys
from pathlib import Path
from visit_counter.errors import SpoolFull
from visit_counter.disk.format import Record
from visit_counter.disk.spool import Spool
home = Path(sys.argv[1])
ballast = home / "ballast"
ballast.write_bytes(bytes(300_000))
def batch(seq): return Record(3, 1, seq, b"%d" % seq * 9_000)
async def main():
    acked, refused = [], 0
    async with Spool(home, 1 << 30) as spool:
        for seq in range(1, 200):
            try:
                await spool.append([batch(seq)])
                acked.append(seq)
            except SpoolFull as full:
                assert "is full: free some space" in str(full), full
                refused += 1
                if refused == 1:
                    ballast.unlink()
                    while spool.problem:
                        await asyncio.sleep(0.01)
                elif refused > 1:
                    break
        assert sum(path.stat().st_size for path in home.glob("*.seg")) == spool.bytes
    assert acked[0] == 1 and acked[-1] > len(acked), acked
    async with Spool(home, 1 << 30) as spool:
        for seq in acked:
            assert spool.read(3) == batch(seq), seq
            await spool.ack(3, seq)
        assert not spool.records
    print("kept", len(acked))
asyncio.run(main())
"""


def test_a_full_disk_refuses_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    """No false acknowledgement, no torn file, no restart needed."""
    script = 'mount -t tmpfs -o size=1m tmpfs "$1" || exit 77; exec "$2" -c "$3" "$1"'
    command = ["unshare", "-m", "sh", "-c", script, "sh", str(tmp_path), sys.executable, FULL_DISK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    if done.returncode in (1, 77) and "Traceback" not in done.stderr:
        pytest.skip(f"no mounts here: {done.stderr.strip()}")

    assert (done.stderr, "kept " in done.stdout) == ("", True)


def failing(calls: list[int]) -> Callable[..., None]:
    def fail(*_: object) -> None:
        calls.append(1)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    return fail


@pytest.mark.parametrize("call", ["fdatasync", "pwrite"])
async def test_an_error_of_the_disk_ends_keeping_until_it_is_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """The group in doubt is never written again: it is cut off, and another segment begun. All is
    said once; what was kept before is still there."""
    monkeypatch.setattr("visit_counter.disk.spool.LOOK_S", 0.01)
    async with spool_in(tmp_path) as spool:
        await spool.append([batch(1), batch(2)])
        calls: list[int] = []
        with structlog.testing.capture_logs() as lines:
            with monkeypatch.context() as broken:
                broken.setattr(os, call, failing(calls))
                failed = await asyncio.gather(
                    *(spool.append([batch(seq)]) for seq in (3, 4)), return_exceptions=True
                )
                with pytest.raises(SpoolFull, match="Input/output error"):
                    await spool.append([batch(5)])
                await until(lambda: len(calls) > 3)
                room = spool.room
            await until(lambda: not spool.problem)
        await spool.append([batch(6)])

    assert [type(error) for error in failed] == [SpoolBroken, SpoolBroken]
    assert room == 0
    assert [line["event"] for line in lines] == [
        "the spool keeps nothing now",
        "the spool keeps hits again",
    ]
    assert str(tmp_path) in lines[0]["reason"]
    async with spool_in(tmp_path) as spool:
        assert [record.seq for record in await drain(spool)] == [1, 2, 6]
    assert spool_files.paths(tmp_path) == []


async def test_a_disk_that_turns_read_only_is_noticed_without_a_hit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a full one: readiness is to say so before a hit needs it."""
    monkeypatch.setattr("visit_counter.disk.spool.LOOK_S", 0.01)
    real = os.statvfs(tmp_path)
    async with spool_in(tmp_path) as spool:
        with monkeypatch.context() as broken:
            full = os.statvfs_result((*real[:4], 0, *real[5:]))
            broken.setattr(os, "statvfs", lambda _: full)
            await until(lambda: "is full: free some space" in spool.problem)
            read_only = os.statvfs_result((*real[:8], real[8] | os.ST_RDONLY, *real[9:]))
            broken.setattr(os, "statvfs", lambda _: read_only)
            await until(lambda: "Read-only file system" in spool.problem)
        await until(lambda: not spool.problem)
        await spool.append([batch(1)])

        assert await drain(spool) == [batch(1)]


async def test_a_disk_that_hangs_has_failed_until_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for it is told so in bounded time, nothing else is tried meanwhile, and what it
    wrote in the end is cut off, since nobody was told that it is kept."""
    monkeypatch.setattr("visit_counter.disk.spool.LOOK_S", 0.01)
    monkeypatch.setattr("visit_counter.disk.spool.DISK_S", 0.1)
    answers, synced = threading.Event(), os.fdatasync
    calls: list[int] = []

    def hang(file: int) -> None:
        calls.append(file)
        answers.wait(20)
        synced(file)

    async with spool_in(tmp_path) as spool:
        await spool.append([batch(1)])
        with monkeypatch.context() as broken:
            broken.setattr(os, "fdatasync", hang)
            with pytest.raises(SpoolBroken, match="it has not answered for"):
                await spool.append([batch(2)])
            with pytest.raises(SpoolFull, match="it has not answered for"):
                await spool.append([batch(3)])
            await asyncio.sleep(0.3)
            hanging = len(calls)
        answers.set()
        await until(lambda: not spool.problem)
        await spool.append([batch(4)])

    assert hanging == 1
    async with spool_in(tmp_path) as spool:
        assert [record.seq for record in await drain(spool)] == [1, 4]


async def test_a_file_that_was_removed_does_not_end_the_keeping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by somebody who makes room: another one is begun, and those behind it are removed when
    the store has what is in them."""
    monkeypatch.setattr("visit_counter.disk.spool.LOOK_S", 0.01)
    async with spool_in(tmp_path) as spool:
        await spool.append([batch(1)])
        (path,) = spool_files.paths(tmp_path)
        path.unlink()
        with pytest.raises(SpoolBroken, match="No such file"):
            await spool.append([batch(2)])
        await until(lambda: not spool.problem)
        await spool.append([batch(2)])
        with pytest.raises(SpoolGone, match="was removed"):
            spool.read(3)
        passed = await spool.pass_by(3)
        read = spool.read(3)
        await spool.ack(3, 2)

        assert (passed, read) == (1, batch(2))
        assert (spool_files.paths(tmp_path), spool.bytes) == ([], 0)


async def test_a_file_full_of_zeros_is_damaged(tmp_path: Path) -> None:
    """As of a disk that forgot what it had: it is said which, and nothing fails by it."""
    async with spool_in(tmp_path) as spool:
        await spool.append([batch(1)])
        (path,) = spool_files.paths(tmp_path)
        path.write_bytes(bytes(path.stat().st_size))
        with pytest.raises(SpoolUnreadable, match="is damaged at byte"):
            spool.read(3)


async def test_a_directory_that_was_removed_is_named_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not for the disk to be fixed."""
    monkeypatch.setattr("visit_counter.disk.spool.LOOK_S", 0.01)
    directory, elsewhere = tmp_path / "spool", tmp_path / "elsewhere"
    directory.mkdir()
    async with spool_in(directory) as spool:
        directory.rename(elsewhere)
        await until(lambda: f"The spool {directory} is gone" in spool.problem)
        problem = spool.problem
        elsewhere.rename(directory)
        await until(lambda: not spool.problem)

    assert "bring it back, or restart the service" in problem


async def test_a_disk_that_takes_no_more_files_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a hit needs one: there may be space, and no inode."""
    monkeypatch.setattr("visit_counter.disk.spool.LOOK_S", 0.01)
    real = os.statvfs(tmp_path)
    async with spool_in(tmp_path) as spool:
        with monkeypatch.context() as broken:
            no_inodes = os.statvfs_result((*real[:5], 1000, 0, 0, *real[8:]))
            broken.setattr(os, "statvfs", lambda _: no_inodes)
            await until(lambda: "takes no more files" in spool.problem)
        await until(lambda: not spool.problem)


async def test_files_that_are_not_removed_go_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store has the batch: its ack raises nothing, and nothing is kept for that."""
    async with spool_in(tmp_path) as spool:
        await spool.append([batch(1)])
        with monkeypatch.context() as broken:
            broken.setattr(Path, "unlink", failing([]))
            await spool.ack(3, 1)
        left = spool_files.paths(tmp_path)
        await spool.append([batch(2)])
        await spool.ack(3, 2)

        assert len(left) == 1
        assert (spool_files.paths(tmp_path), spool.bytes) == ([], 0)


async def test_a_stop_waits_for_the_disk_in_bounded_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits for a disk that hangs is told that nobody knows."""
    monkeypatch.setattr("visit_counter.deadlines.SPOOL_S", 0.05)
    released = threading.Event()
    async with spool_in(tmp_path) as spool:
        monkeypatch.setattr(os, "fdatasync", lambda _: released.wait(10))
        appends = [asyncio.create_task(spool.append([batch(seq)])) for seq in (1, 2)]
        await asyncio.sleep(0)
    with pytest.raises(SpoolBroken, match="did not answer in time"):
        await appends[0]
    with pytest.raises(SpoolBroken, match="did not answer in time"):
        await appends[1]
    released.set()


# Each round a child appends from many tasks until it is killed; what it was told is kept is read
# from a pipe and must be in the spool, in order, and nothing else may be.
KILLS = """
import asyncio, os, random, signal, sys, time
from pathlib import Path
import uvloop
from visit_counter.disk.format import Record
from visit_counter.disk.spool import Spool
home, rounds = Path(sys.argv[1]), int(sys.argv[2])
chance = random.Random(int(sys.argv[3]))
def batch(partition, seq): return Record(partition, 1, seq, b"%d:%d." % (partition, seq) * 40)
async def appends(told, begin):
    async with Spool(home, 1 << 30) as spool:
        async def work(partition):
            for seq in range(begin[partition], 1 << 30):
                await spool.append([batch(partition, seq)])
                os.write(told, b"%4d%12d" % (partition, seq))
        await asyncio.gather(*map(work, range(8)))
async def check(acked, begin):
    async with Spool(home, 1 << 30) as spool:
        for partition in range(8):
            last = spool.last_seq(partition)
            assert last >= acked[partition], (partition, last, acked)
            while record := spool.read(partition):
                if record.seq >= begin[partition]:
                    assert record == batch(partition, begin[partition]), record
                    begin[partition] += 1
                if chance.random() < 0.5 or partition < 6:
                    await spool.ack(partition, record.seq)
                else:
                    break
            begin[partition] = last + 1
total = 0
begin, acked = [1] * 8, [0] * 8
for _ in range(rounds):
    ears, told = os.pipe()
    child = os.fork()
    if not child:
        uvloop.run(appends(told, begin))
    os.close(told)
    time.sleep(chance.uniform(0.005, 0.06))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while said := os.read(ears, 16):
        acked[int(said[:4])] = int(said[4:])
        total += 1
    os.close(ears)
    uvloop.run(check(acked, begin))
    acked = [0] * 8
print("kept", total)
"""


def test_what_was_acknowledged_survives_kills_at_any_instant(tmp_path: Path) -> None:
    """Thirty kills in a row on one directory."""
    seed = random.randrange(1 << 30)
    command = [sys.executable, "-c", KILLS, str(tmp_path), "30", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=ROOT)

    assert done.stderr == "", f"seed {seed}"
    assert int(done.stdout.rpartition("kept ")[2]) > 100


async def damaged(directory: Path) -> Path:
    """Two segments; the first one's second record has a wrong bit."""
    async with spool_in(directory) as spool:
        for seq in (1, 2, 3):
            await spool.append([batch(seq), batch(seq, partition=60)])
        await spool.append([sized(4, SEGMENT_BYTES)])
    first = spool_files.paths(directory)[0]
    flip(first, first.read_bytes().find(b"batch 1 of 60"))
    return first


async def test_damage_in_the_middle_is_refused_and_the_remedy_works(tmp_path: Path) -> None:
    """The sentence names file, place and command; that keeps the sound records and the file."""
    first = await damaged(tmp_path)
    content = first.read_bytes()
    at = len(HEADER) + OVERHEAD + len(batch(1).payload)
    with pytest.raises(StartError) as refusal:
        await spool_in(tmp_path).__aenter__()
    assert f"{first} is damaged at byte {at}" in str(refusal.value)
    assert "`visit-counter spool skip`" in str(refusal.value)

    (skipped,) = spool_files.skip(tmp_path)
    assert (first, 5, 1) == (skipped.path, skipped.records, skipped.lost)
    assert (tmp_path / "00000001.seg.bad", content) == (
        skipped.kept_as,
        skipped.kept_as.read_bytes(),
    )
    assert spool_files.skip(tmp_path) == []
    async with spool_in(tmp_path) as spool:
        assert [record.seq for record in await drain(spool)] == [1, 2, 3, 4, 2, 3]


async def test_show_tells_what_there_is(tmp_path: Path) -> None:
    """Segments, records by partition, damage and torn tails; it changes nothing."""
    first = await damaged(tmp_path)
    last = spool_files.paths(tmp_path)[-1]
    with last.open("ab") as file:
        file.write(MARK)
    report = spool_files.describe(tmp_path)

    assert {3: Run(4, 1, 4), 60: Run(2, 2, 3)} == report.partitions
    assert [(first, 5, 1, 0), (last, 1, 0, len(MARK))] == [
        (each.path, each.records, len(each.damage), each.torn) for each in report.segments
    ]
    assert on_disk(tmp_path) == sum(each.bytes for each in report.segments)


async def test_a_torn_tail_is_cut_with_a_line(tmp_path: Path) -> None:
    """What was before it stays, and the next start finds nothing to cut."""
    async with spool_in(tmp_path) as spool:
        await spool.append([batch(1)])
    (path,) = spool_files.paths(tmp_path)
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(MARK + b"torn")
    with structlog.testing.capture_logs() as lines:
        for _ in range(2):
            async with spool_in(tmp_path) as spool:
                assert batch(1) == spool.read(3)

    assert [(str(path), size, 8)] == [(each["file"], each["at"], each["bytes"]) for each in lines]


async def test_a_disk_that_forgets_is_not_believed(tmp_path: Path) -> None:
    """A record that went bad after the start is never handed out."""
    async with spool_in(tmp_path) as spool:
        await spool.append([batch(1)])
        (path,) = spool_files.paths(tmp_path)
        flip(path, path.stat().st_size - 1)
        with pytest.raises(SpoolUnreadable, match=f"{path} is damaged at byte {len(HEADER)}"):
            spool.read(3)
        flip(path, path.stat().st_size - 1)

        assert await drain(spool) == [batch(1)]


async def test_what_the_disk_gives_back_before_damage_is_read(tmp_path: Path) -> None:
    """And other partitions' records, whatever lies between."""
    async with spool_in(tmp_path) as spool:
        await spool.append([batch(1), batch(2), batch(3), Record(4, 1, 1, b"other")])
        (path,) = spool_files.paths(tmp_path)
        (_, (_, second), _) = spool._index._lines[3].places(3)
        flip(path, second + OVERHEAD)
        read = spool.read_some(3, 10)
        other = spool.read_some(4, 10)
        await spool.ack(3, 1)
        with pytest.raises(SpoolUnreadable):
            spool.read(3)
        await spool.append([batch(4)])

        assert read == [batch(1)]
        assert [record.payload for record in other] == [b"other"]
        assert not spool.problem


@pytest.mark.parametrize("name", ["nowhere", "file"])
async def test_an_unusable_directory_is_named(tmp_path: Path, name: str) -> None:
    """With what the file system says of it."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StartError, match=f"The spool {tmp_path / name} cannot be used"):
        await spool_in(tmp_path / name).__aenter__()


async def test_numbers_are_not_used_again(tmp_path: Path) -> None:
    """A segment that was set aside keeps its name for itself."""
    (tmp_path / "00000007.seg.bad").write_bytes(b"set aside")
    async with spool_in(tmp_path) as spool:
        await spool.append([batch(1)])

    assert segments(tmp_path) == ["00000008.seg"]


async def test_a_long_line_is_forgotten_in_front(tmp_path: Path) -> None:
    """Thousands of records of one partition come out in order while more go in."""
    seqs = itertools.count(1)
    async with spool_in(tmp_path) as spool:
        await spool.append([batch(next(seqs)) for _ in range(5000)])
        replayed = [record.seq for record in spool.read_some(3, 3)]
        for seq in range(1, 4000):
            await spool.ack(3, seq)
        await spool.append([batch(next(seqs))])
        replayed += [record.seq for record in await drain(spool)]

    assert [1, 2, 3, *range(4000, 5002)] == replayed

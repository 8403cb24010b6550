"""Locks: who holds them, who may be ended for them, and who is left alone."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from visit_counter.disk import locks

# Takes or only opens the file in argv[1], says so, and waits to be ended.
PROGRAM = """
import fcntl, os, signal, sys
lock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
if "hold" in sys.argv: fcntl.flock(lock, fcntl.LOCK_EX)
if "deaf" in sys.argv: signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
while True: signal.pause()
"""
POLITE = [(signal.SIGTERM, 5.0)]


@contextmanager
def process(path: Path, *how: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", PROGRAM, str(path), *how]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as running:
        assert running.stdout
        assert running.stdout.readline() == b"ready\n"
        try:
            yield running
        finally:
            running.kill()


def test_a_lock_is_taken_once_and_tells_its_holder(tmp_path: Path) -> None:
    """A second taker learns the pid of the first; closing the descriptor releases the lock."""
    lock = locks.take(tmp_path / "lock")
    with pytest.raises(locks.HeldError) as refusal:
        locks.take(tmp_path / "lock")
    os.close(lock)

    assert str(os.getpid()) == refusal.value.pid
    os.close(locks.take(tmp_path / "lock"))


def test_a_full_disk_refuses_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing needs to fit on it: the holder's number is for people."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        lock = locks.take(tmp_path / "lock")
    with pytest.raises(locks.HeldError) as refusal:
        locks.take(tmp_path / "lock")
    os.close(lock)

    assert refusal.value.pid == "unknown"


@pytest.mark.parametrize("content", [b"", b"1\n", b"\xff\xfe not a pid \n" * 9])
def test_a_file_that_was_left_behind_is_no_lock(tmp_path: Path, content: bytes) -> None:
    """What a dead holder wrote does not matter."""
    (tmp_path / "lock").write_bytes(content)

    os.close(locks.take(tmp_path / "lock"))
    assert f"{os.getpid()}\n" == (tmp_path / "lock").read_text()


async def test_the_holder_is_ended_and_a_mere_reader_is_not(tmp_path: Path) -> None:
    """Only the process that holds the lock is signalled, not one that has the file open."""
    path = tmp_path / "lock"
    with process(path, "hold") as holder, process(path) as reader:
        os.close(await locks.take_over(path, POLITE))

        assert holder.wait(5) == -signal.SIGTERM
        assert reader.poll() is None


async def test_a_pid_that_now_belongs_to_another_process_is_not_signalled(tmp_path: Path) -> None:
    """The pid in the file is for people: the kernel says who holds the lock."""
    path = tmp_path / "lock"
    with process(path, "hold") as holder, process(tmp_path / "other", "hold") as innocent:
        path.write_text(f"{innocent.pid}\n")
        os.close(await locks.take_over(path, POLITE))

        assert holder.wait(5) == -signal.SIGTERM
        assert innocent.poll() is None


async def test_a_holder_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    """The next signal in the list follows when the first did not help in its time."""
    path = tmp_path / "lock"
    with process(path, "hold", "deaf") as holder:
        os.close(await locks.take_over(path, [(signal.SIGTERM, 0.05), (signal.SIGKILL, 5.0)]))

        assert holder.wait(5) == -signal.SIGKILL


async def test_nobody_is_signalled_where_nothing_can_be_proven(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the kernel's word the holder stays, and the taker is told its pid."""
    monkeypatch.delattr(os, "pidfd_open")
    path = tmp_path / "lock"
    with process(path, "hold") as holder:
        path.write_text(f"{holder.pid}\n")
        with pytest.raises(locks.HeldError) as refusal:
            await locks.take_over(path, POLITE)

        assert str(holder.pid) == refusal.value.pid
        assert holder.poll() is None


async def test_a_lock_that_a_dead_holder_left_to_another_process_is_waited_for(
    tmp_path: Path,
) -> None:
    """As that of a killed parent to its workers; the new holder signs."""
    path = tmp_path / "lock"
    with process(path) as parent:
        pass
    with process(path, "hold") as heir:
        path.write_text(f"{parent.pid}\n")
        taking = asyncio.create_task(locks.take_after(path, 10))
        await asyncio.sleep(0)
        heir.kill()
        os.close(await taking)

    assert path.read_text() == f"{os.getpid()}\n"


async def test_a_lock_whose_holder_lives_is_not_waited_for(tmp_path: Path) -> None:
    """Whoever starts a second service is told so at once."""
    path = tmp_path / "lock"
    with process(path, "hold") as holder:
        path.write_text(f"{holder.pid}\n")
        with pytest.raises(locks.HeldError):
            await locks.take_after(path, 60)


def test_the_last_who_shares_a_lock_knows_it(tmp_path: Path) -> None:
    """Whoever asks while another one shares it is not the last, and has left."""
    first, second, third = (locks.share(tmp_path / "lock") for _ in range(3))
    last = [locks.is_last(lock) for lock in (first, second, third)]
    for lock in (first, second, third):
        os.close(lock)

    assert last == [False, False, True]

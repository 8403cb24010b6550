"""Locks on files of the data directory: who uses it, as the kernel tells.

A lock (flock) lives as long as some process has its descriptor open, however that process ends, so
a lock file that was left behind means nothing and is never removed. Its content, the holder's pid,
is for people. A child may inherit a lock: then the child holds it, and `take_over` can end it after
the death of its parent. Nothing here signals a process that is not proven to hold the lock.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog

from visit_counter.disk import guarded

log = structlog.get_logger()


class HeldError(Exception):
    """Somebody else holds the lock; `pid` is what the file says, "unknown" if nothing."""

    def __init__(self, pid: str) -> None:
        super().__init__(f"held by pid {pid}")
        self.pid = pid


def take(path: Path) -> int:
    """Lock the file for this process and return its descriptor: closing that releases the lock."""
    with _opened(path) as lock:
        if not _try(lock):
            raise HeldError(_signature(lock))
        sign(lock, os.getpid())
        return lock


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Lock the file meanwhile."""
    lock = take(path)
    try:
        yield
    finally:
        os.close(lock)


async def take_after(path: Path, seconds: float) -> int:
    """Lock the file; where its holder is dead but a child of it has the lock, wait so long."""
    with _opened(path) as lock:
        if not _try(lock) and _is_dead(_signature(lock)):
            await _wait(lock, seconds)
        if not _try(lock):
            raise HeldError(_signature(lock))
        sign(lock, os.getpid())
        return lock


def share(path: Path) -> int:
    """Lock the file together with others who share it, and return its descriptor."""
    with _opened(path) as lock:
        _flock(lock, fcntl.LOCK_SH)
        return lock


def is_last(lock: int) -> bool:
    """Give up a shared lock; whether nobody else shares it: then it is ours alone."""
    return _try(lock)


async def take_over(path: Path, ends: Iterable[tuple[signal.Signals, float]]) -> int:
    """Lock the file; end who holds it, by each signal in turn with the seconds to wait for it."""
    with _opened(path) as lock:
        for signum, wait_s in ends:
            if _try(lock):
                return lock
            if pids := _signal_holders(lock, signum):
                log.warning("ending a process that a killed service left behind", pids=pids)
                await _wait(lock, wait_s)
        if not _try(lock):
            raise HeldError(_signature(lock))
        return lock


def sign(lock: int, pid: int) -> None:
    """Write into the lock file who holds it, where the disk takes that: it is for people. A file
    that has another name too is left alone: it may not be a lock there."""
    with suppress(OSError):
        if os.fstat(lock).st_nlink > 1:
            return
        os.ftruncate(lock, 0)
        os.pwrite(lock, b"%d\n" % pid, 0)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """The descriptor of the lock file, closed only when the block fails."""
    lock = guarded.opened(path, os.O_RDWR | os.O_CREAT)
    try:
        yield lock
    except BaseException:
        os.close(lock)
        raise


def _try(lock: int) -> bool:
    try:
        _flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _flock(lock: int, how: int) -> None:
    try:
        fcntl.flock(lock, how)
    except PermissionError as error:  # no file forbids it, but a sandbox does
        raise OSError(errno.ENOLCK, f"flock: {error.strerror}") from None


def _signature(lock: int) -> str:
    return os.pread(lock, 20, 0).decode("ascii", "replace").strip() or "unknown"


def _is_dead(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (ValueError, OverflowError, OSError):
        pass
    return False


def _signal_holders(lock: int, signum: signal.Signals) -> list[int]:
    signalled = []
    for pid in _other_pids():
        with suppress(OSError):
            # A pidfd stays with its process: check and signal cannot meet two of the same number.
            process = os.pidfd_open(pid)
            try:
                if _holds(pid, lock):
                    signal.pidfd_send_signal(process, signum)
                    signalled.append(pid)
            finally:
                os.close(process)
    return signalled


def _other_pids() -> list[int]:
    """All processes, none on a system that could not prove who holds what."""
    if not (hasattr(os, "pidfd_open") and os.path.isdir("/proc/self/fdinfo")):
        return []
    pids = {int(name) for name in os.listdir("/proc") if name.isdigit()}
    return sorted(pids - {os.getpid()})


def _holds(pid: int, lock: int) -> bool:
    """Whether the process has this file open with the lock on it: proc(5), fdinfo, `lock:`."""
    ours = os.fstat(lock)
    for number in os.listdir(f"/proc/{pid}/fd"):
        with suppress(OSError):
            same = os.path.samestat(os.stat(f"/proc/{pid}/fd/{number}"), ours)
            if same and "FLOCK" in Path(f"/proc/{pid}/fdinfo/{number}").read_text():
                return True
    return False


async def _wait(lock: int, seconds: float) -> None:
    clock = asyncio.get_running_loop().time
    deadline = clock() + seconds
    while clock() < deadline:
        if _try(lock):
            return
        await asyncio.sleep(0.01)

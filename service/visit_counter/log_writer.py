"""How output leaves the process: lines wait in a bounded queue, and a thread writes them.

Whoever logs never waits and never fails, whatever is behind the descriptor: a full disk, a reader
that went away or sleeps, a closed terminal. Lines that cannot be written, or that find the queue
full, are dropped and counted; how many were lost is written as soon as writing succeeds again.

The descriptor is not made non-blocking: O_NONBLOCK belongs to the open file description, which a
shell, a parent and other children share (fcntl(2)).
"""

from __future__ import annotations

import io
import os
import select
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue

from visit_counter import metrics

MOST_BYTES = 1 << 20  # that wait
RETRY_S = 1.0  # between two attempts to tell of lost lines
POLL_S = 0.005

SLOW = "its reader was too slow"


class LogWriter:
    """Writes to a descriptor from a thread of its own; `lost_line` words how many lines were lost
    and why."""

    def __init__(
        self,
        descriptor: int,
        lost_line: Callable[[int, str], str],
        most_bytes: int = MOST_BYTES,
        encoding: str = "utf-8",
    ) -> None:
        self.descriptor = descriptor
        self.encoding = encoding
        """The terminal's: what it cannot show is escaped."""
        self._lost_line = lost_line
        self._most_bytes = most_bytes
        self._queue: SimpleQueue[bytes] = SimpleQueue()
        # Reentrant, as the queue is: a finalizer may log while this thread does.
        self._lock = threading.RLock()
        self._waiting_bytes = 0
        self._lost, self._why = 0, ""
        self._torn = False
        """The last line was written in part, without its end."""
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def write(self, text: str) -> None:
        """Take whole lines; returns at once."""
        data = text.encode(self.encoding, "backslashreplace")
        with self._lock:
            if fits := self._waiting_bytes + len(data) <= self._most_bytes:
                self._waiting_bytes += len(data)
                self._queue.put(data)
        if not fits:
            self._lose(data, SLOW)

    def drain(self, until_s: float) -> None:
        """Wait until all is written, at most until an instant of the monotonic clock."""
        while self._waiting_bytes and time.monotonic() < until_s:
            time.sleep(POLL_S)

    def _run(self) -> None:
        while True:
            try:
                data = self._queue.get(timeout=RETRY_S if self._lost else None)
            except Empty:
                data = b""
            try:
                self._tell_lost()
                self._put(data)
            except OSError as error:
                self._lose(data, error.strerror or str(error))
            with self._lock:
                self._waiting_bytes -= len(data)

    def _lose(self, data: bytes, why: str) -> None:
        lines = data.count(b"\n") or bool(data)
        metrics.LOG_LINES_LOST.inc(lines)
        with self._lock:
            self._lost, self._why = self._lost + lines, why

    def _tell_lost(self) -> None:
        if lost := self._lost:
            line = self._lost_line(lost, self._why)
            self._put(line.encode(self.encoding, "backslashreplace"))
            with self._lock:
                self._lost -= lost

    def _put(self, data: bytes) -> None:
        """Raises OSError when not all of it was written."""
        rest = memoryview(b"\n" + data if self._torn and data else data)
        while rest:
            try:
                written = os.write(self.descriptor, rest)
            except BlockingIOError:  # somebody else has made it non-blocking
                self._wait_until_writable()
                continue
            rest = rest[written:]
            self._torn = bool(rest)

    def _wait_until_writable(self) -> None:
        poll = select.poll()
        poll.register(self.descriptor, select.POLLOUT)
        poll.poll(1000 * RETRY_S)


class LineStream(io.TextIOBase):
    """Takes the place of `sys.stdout` or `sys.stderr`: gives whole lines to a writer."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, writer: LogWriter) -> None:
        self.encoding = writer.encoding
        self._writer = writer
        self._lock = threading.RLock()
        self._begun = ""

    def write(self, text: str) -> int:
        with self._lock:
            lines, newline, self._begun = (self._begun + text).rpartition("\n")
        if newline:
            self._writer.write(lines + newline)
        return len(text)

    def flush(self) -> None:
        with self._lock:
            begun, self._begun = self._begun, ""
        if begun:
            self._writer.write(begun)

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return os.isatty(self._writer.descriptor)

    def fileno(self) -> int:
        return self._writer.descriptor

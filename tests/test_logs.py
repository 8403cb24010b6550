"""No state of the log stops, slows or ends the service: full disk, closed, reader gone or asleep.

The service runs as a process of its own, alone and with workers. A hangup has it write a line. What
cannot be written is counted, and told when writing succeeds again.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from loadtests.service_process import free_port
from loadtests.small_disk import SmallDisk
from tests.kit.services.in_process import TOKEN
from tests.kit.services.process import (
    NOTHING,
    ROOT,
    START_S,
    STOP_S,
    call,
    environment,
    signal_all,
    until,
    workers_of,
)
from tests.kit.stores.server import Server
from visit_counter.log_writer import SLOW, LineStream, LogWriter

LOST = "visitcounter_log_lines_lost_total"
PIPE_BYTES = 4096  # a page, and the least that a pipe holds


# -- a writer


def told(lines: int, why: str) -> str:
    return f"{lines} lost: {why}\n"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A small one: the end to read, the end to write."""
    ends = os.pipe()
    fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    yield ends
    for end in ends:
        with suppress(OSError):
            os.close(end)


def read_until(descriptor: int, words: bytes) -> bytes:
    found = b""
    while words not in found:
        found += os.read(descriptor, 1 << 16)
    return found


def test_a_reader_that_sleeps_holds_nobody_and_is_told_what_it_missed(
    pipe: tuple[int, int],
) -> None:
    """The queue is bounded; what waited in it comes in order, and what came later."""
    writer = LogWriter(pipe[1], told, most_bytes=100_000)
    lines = [f"{n:08} {'x' * 990}" for n in range(300)]
    for line in lines:
        writer.write(f"{line}\n")
    writer.drain(time.monotonic() + 0.05)  # in vain, and bounded

    found = read_until(pipe[0], f"{lines[99]}\n".encode())
    writer.write("later\n")
    found += read_until(pipe[0], b"later\n")
    written = found.decode().splitlines()
    (lost,) = [line for line in written if "lost" in line]
    kept = [line for line in written if "x" in line]

    assert kept == lines[: len(kept)]
    assert lost == told(len(lines) - len(kept), SLOW).strip()
    assert written[-1] == "later"


def test_a_descriptor_that_somebody_made_non_blocking_is_waited_for(pipe: tuple[int, int]) -> None:
    """As by ssh or a parent that shares it: no line is torn or lost."""
    os.set_blocking(pipe[1], False)
    writer = LogWriter(pipe[1], told)
    for n in range(20):
        writer.write(f"{n:08} {'x' * 990}\n")
    writer.write("last\n")

    assert len(read_until(pipe[0], b"last\n").splitlines()) == 21


def test_a_stream_gives_whole_lines(pipe: tuple[int, int]) -> None:
    """Whatever the pieces in which they come; a surrogate, as in a path, is no error."""
    stream = LineStream(LogWriter(pipe[1], told))
    for piece in ("a", "b\nc", "d\n", "\udcff\n"):
        stream.write(piece)
    print("end", file=stream, end="", flush=True)

    assert read_until(pipe[0], b"end") == b"ab\ncd\n\\udcff\nend"


def test_a_torn_line_is_ended_before_the_next() -> None:
    """The disk was full in the middle of it."""
    with tempfile.NamedTemporaryFile() as file:
        script = (
            "import os, resource, signal, sys, time\n"
            "from visit_counter.log_writer import LogWriter\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (5, resource.RLIM_INFINITY))\n"
            "writer = LogWriter(1, lambda lines, why: f'{lines} lost: {why}\\n')\n"
            "writer.write('torn line\\n')\n"
            "writer.drain(time.monotonic() + 5)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))\n"
            "writer.write('whole\\n')\n"
            "writer.drain(time.monotonic() + 5)\n"
        )
        subprocess.run([sys.executable, "-c", script], stdout=file, check=True, timeout=30)

        assert Path(file.name).read_text() == "torn \n1 lost: File too large\nwhole\n"


# -- the service


class Logging:
    """A service on a port of its own, whose output goes where it is told."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"

    @property
    def pids(self) -> list[int]:
        return [self.process.pid, *workers_of(self.process.pid)]

    def up(self) -> None:
        def answers() -> bool:
            assert self.process.poll() is None
            with suppress(OSError):
                return call("GET", f"{self.url}/readyz")[0] == 200
            return False

        until(answers, START_S)

    def write_lines(self, number: int = 1) -> None:
        """Each process that can is made to write some."""
        for _ in range(number):
            self.process.send_signal(signal.SIGHUP)
            time.sleep(0.01)  # signals that wait are one

    def counts(self) -> None:
        body = {"id": "portal", "origins": ["*"], "timezone": "UTC"}
        assert call("POST", f"{self.url}/api/v1/sites", body, TOKEN)[0] < 300
        until(lambda: call("POST", f"{self.url}/w/portal", {})[0] == 200, 5)

    def lost(self) -> float:
        with urlopen(f"{self.url}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(f"{LOST} "))

    def ends(self) -> None:
        """With 0 and in time, on SIGTERM."""
        self.process.terminate()
        assert self.process.wait(timeout=STOP_S) == 0


@contextmanager
def logging_to(
    stderr: Any = subprocess.DEVNULL,
    stdout: Any = subprocess.DEVNULL,
    stdin: Any = subprocess.DEVNULL,
    before: str = "",
    under: Sequence[str] = (),
    variables: Mapping[str, str] = NOTHING,
    **settings: str,
) -> Iterator[Logging]:
    """`before` is a command of the shell that starts it."""
    with tempfile.TemporaryDirectory(prefix="vc-", dir="/tmp") as scratch:
        port = free_port()
        given = {
            "LISTEN": f"127.0.0.1:{port}",
            "DATA_DIR": f"{scratch}/data",
            "ADMIN_TOKEN": TOKEN,
            "TIMEZONE": "UTC",
            **settings,
        }
        own = {f"VISIT_COUNTER_{name}": text for name, text in given.items() if text}
        command = [*under, "sh", "-c", f'{before} exec "$@"', "sh"]
        process = subprocess.Popen(
            [*command, sys.executable, "-m", "visit_counter", "serve"],
            cwd=ROOT,
            env=environment({**own, **variables}),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
        )
        try:
            yield Logging(process, port)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(timeout=2 * STOP_S)


Broken = Callable[[ExitStack], dict[str, Any]]


def full(_: ExitStack) -> dict[str, Any]:
    return {"before": "exec >/dev/full 2>&1;"}


def closed(_: ExitStack) -> dict[str, Any]:
    return {"before": "exec <&- >&- 2>&-;"}


def reader_gone(stack: ExitStack) -> dict[str, Any]:
    reader, writer = os.pipe()
    os.close(reader)
    stack.callback(os.close, writer)
    return {"stderr": writer, "stdout": writer}


def reader_asleep(stack: ExitStack) -> dict[str, Any]:
    """Its pipe is full before anything is written."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(PIPE_BYTES))
    os.set_blocking(writer, True)
    for end in (reader, writer):
        stack.callback(os.close, end)
    return {"stderr": writer, "stdout": writer}


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize("broken", [full, closed, reader_gone, reader_asleep])
def test_the_log_may_be_in_any_state(broken: Broken, log_format: str, workers: str) -> None:
    """From the start on, with the token to be printed, and at SIGTERM."""
    with (
        ExitStack() as stack,
        logging_to(
            **broken(stack), ADMIN_TOKEN="", LOG_FORMAT=log_format, WORKERS=workers
        ) as service,
    ):
        service.up()
        service.write_lines(3)
        service.up()
        if broken is not closed:
            assert service.lost() > 0 or broken is reader_asleep
        service.ends()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_terminal_may_be_closed(workers: str) -> None:
    """Which hangs up, and takes nothing any more."""
    ours, theirs = pty.openpty()
    with logging_to(
        theirs, theirs, theirs, under=("setsid", "--ctty"), WORKERS=workers, ADMIN_TOKEN=""
    ) as service:
        os.close(theirs)
        service.up()
        os.close(ours)
        service.write_lines(3)
        service.up()
        service.ends()


def test_a_reader_that_wakes_up_is_told_how_many_lines_it_missed(valkey: Server) -> None:
    """Standard error is a file that may not grow for a while, as on a full disk."""
    with (
        tempfile.NamedTemporaryFile() as log,
        logging_to(log, REDIS_URL=valkey.url, NAMESPACE="lostlines") as service,
    ):
        service.up()
        pid, size = service.process.pid, os.path.getsize(log.name)
        before = resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        service.write_lines(3)
        until(lambda: service.lost() >= 1, 5)
        service.counts()
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
        until(lambda: "lines were lost" in Path(log.name).read_text(), 5)
        events = [json.loads(line) for line in Path(log.name).read_text().splitlines()]
        missed = service.lost()

    (line,) = [each for each in events if "lines" in each]
    assert line["event"] == f"{missed:.0f} lines were lost: File too large"
    assert (line["level"], line["lines"]) == ("warning", missed)


def test_the_disk_of_the_log_may_be_full(tmp_path: Path) -> None:
    """A file system of its own; what a parent of workers could not write is in their sum."""
    try:
        disk = SmallDisk(tmp_path / "disk")
    except OSError as problem:
        pytest.skip(f"needs root: {problem}")
    log = Path(f"{disk.root}{tmp_path}/disk/log")
    try:
        with log.open("ab", buffering=0) as file, logging_to(file, WORKERS="2") as service:
            service.up()
            # To the end of its last page, so that the next line needs another.
            file.write(b"\n".rjust(-log.stat().st_size % PIPE_BYTES))
            disk.fill()
            service.write_lines()
            until(lambda: service.lost() > 0, START_S)
            service.counts()
            disk.free()
            until(lambda: "lines were lost: No space left" in log.read_text(), START_S)
            service.ends()
    finally:
        disk.end()


def test_what_python_itself_writes_goes_the_same_way(valkey: Server) -> None:
    """Here a crash of the interpreter, with faulthandler: it ends, whoever sleeps."""
    variables = {"PYTHONFAULTHANDLER": "1"}
    with (
        ExitStack() as stack,
        logging_to(
            **reader_asleep(stack),
            REDIS_URL=valkey.url,
            NAMESPACE="crash",
            variables=variables,
        ) as service,
    ):
        service.up()
        service.process.send_signal(signal.SIGSEGV)
        assert service.process.wait(timeout=5) == -signal.SIGSEGV


@pytest.mark.parametrize("source", ["warning", "logging", "hook", "thread", "print"])
def test_python_s_own_words_are_written_and_never_wait(source: str) -> None:
    """Warnings, logging, uncaught exceptions, also of threads, and print."""
    sources = {
        "warning": "import warnings; warnings.warn('the words')",
        "logging": "import logging; logging.getLogger('asyncio').error('the %s', 'words')",
        "hook": "raise SystemError('the words')",
        "thread": (
            "import threading\n"
            "def fail(): raise SystemError('the words')\n"
            "t = threading.Thread(target=fail); t.start(); t.join()"
        ),
        "print": "print('the words')",
    }
    code = f"from visit_counter import logs\nlogs.configure('json')\n{sources[source]}\n"
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, capture_output=True, text=True, timeout=30)
    assert "the words" in (done.stdout if source == "print" else done.stderr)
    with ExitStack() as stack:
        broken = reader_asleep(stack)
        process = subprocess.Popen(run, stdout=broken["stdout"], stderr=broken["stderr"])
        assert process.wait(timeout=START_S) == done.returncode


def test_a_wrong_call_of_logging_does_not_fail_its_caller() -> None:
    """As Python's own handlers have it."""
    code = (
        "import logging\nfrom visit_counter import logs\nlogs.configure('json')\n"
        "logging.getLogger('asyncio').error('%d', 'words')\nprint('went on')\n"
    )
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "went on\n"
    assert "Logging error" in done.stderr


def test_a_closed_standard_error_is_no_other_file(valkey: Server) -> None:
    """Its number would be that of the next file that is opened, and get what is written to it."""
    with logging_to(
        before="exec <&- >&- 2>&-;", REDIS_URL=valkey.url, NAMESPACE="closederr"
    ) as service:
        service.up()
        opened = [os.readlink(f"/proc/{service.process.pid}/fd/{n}") for n in (0, 1, 2)]
        service.ends()

    assert opened == ["/dev/null"] * 3


def test_the_exit_code_of_a_start_that_fails_needs_no_log() -> None:
    with Path("/dev/full").open("wb") as full_disk, logging_to(full_disk, DATADIR="x") as service:
        assert service.process.wait(timeout=START_S) == 2


def test_a_stop_in_time_needs_no_reader(valkey: Server) -> None:
    """What is not written then waits for nobody."""
    with (
        ExitStack() as stack,
        logging_to(**reader_asleep(stack), REDIS_URL=valkey.url, NAMESPACE="asleep") as service,
    ):
        service.up()
        service.write_lines(20)
        signal_all([service.process.pid], signal.SIGTERM)
        assert service.process.wait(timeout=STOP_S) == 0

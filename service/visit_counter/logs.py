"""How the service logs: sentences for an operator, on stderr, for eyes or as JSON.

All that the process writes to stdout and stderr goes through a `LogWriter`, be it by structlog,
logging, warnings, print or the interpreter itself: no state of the log stops or slows the service.
No line carries a client's address, a user agent or a path.
"""

from __future__ import annotations

import atexit
import faulthandler
import logging
import os
import signal
import stat
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal, TextIO, cast

import structlog

from visit_counter import deadlines
from visit_counter.adapters.aiohttp_log import SAYS_ADDRESS, is_broken_http
from visit_counter.log_writer import LineStream, LogWriter

Processors = Sequence[structlog.types.Processor]


_writers: list[LogWriter] = []


def configure(log_format: Literal["console", "json"], *, worker: bool = False) -> None:
    """`worker`: each line says which process it is of."""
    timestamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
    renderer: list[structlog.types.Processor] = (
        [_console()]
        if log_format == "console"
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    named: list[structlog.types.Processor] = [_name_worker] if worker else []
    processors: Processors = [structlog.processors.add_log_level, timestamp, *named, *renderer]
    _write_by_threads(processors)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    # What aiohttp and asyncio report goes the same way; their debug chatter does not.
    logging.basicConfig(level=logging.WARNING, handlers=[_ToStructlog()], force=True)
    logging.captureWarnings(True)


def drain() -> None:
    """Wait until all is written, at most LOG_S."""
    until_s = time.monotonic() + deadlines.LOG_S
    for writer in _writers:
        writer.drain(until_s)


def _write_by_threads(processors: Processors) -> None:
    """One for each of the two, so that a reader of stdout that sleeps delays no line of the log."""

    def lost_line(lines: int, why: str) -> str:
        event: structlog.types.EventDict = {
            "event": f"{lines} lines were lost: {why}",
            "lines": lines,
        }
        for process in processors:
            event = cast(structlog.types.EventDict, process(None, "warning", event))
        return f"{event}\n"

    _writers[:] = [
        LogWriter(descriptor, lost_line, encoding=getattr(stream, "encoding", None) or "utf-8")
        for descriptor, stream in ((1, sys.stdout), (2, sys.stderr))
    ]
    sys.stdout, sys.stderr = (cast(TextIO, LineStream(writer)) for writer in _writers)
    atexit.register(drain)
    # A job in the background that writes to its terminal would be stopped where `stty tostop` is.
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    if faulthandler.is_enabled():
        faulthandler.enable(_never_blocking(2))


def _never_blocking(descriptor: int) -> int:
    """For what is written while the process crashes, when no thread runs: a pipe opened anew, since
    it would wait for a reader that sleeps. Other files do not wait."""
    with suppress(OSError):
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK)
    return descriptor


def _name_worker(
    _: structlog.types.WrappedLogger, __: str, event: structlog.types.EventDict
) -> structlog.types.EventDict:
    return {**event, "worker": os.getpid()}


def _console() -> structlog.dev.ConsoleRenderer:
    # Plain: the fancier formatters show local variables, which hold tokens and addresses.
    plain = structlog.dev.plain_traceback
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)


class _ToStructlog(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        fault = record.exc_info[1] if record.exc_info else None
        if is_broken_http(fault):
            return  # nothing for an operator to do
        try:
            text = record.getMessage()
            if str(record.msg).endswith(SAYS_ADDRESS):
                text = str(record.msg).removesuffix(SAYS_ADDRESS)
            log = structlog.get_logger(source=record.name)
            log.log(record.levelno, text, exc_info=record.exc_info)
        except Exception:  # whoever logs must not fail by it
            self.handleError(record)

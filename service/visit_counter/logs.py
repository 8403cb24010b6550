"""How the service logs: sentences for an operator, on stderr, for eyes or as JSON.

All that the process writes to stdout and stderr goes through a `LogWriter`, be it by structlog,
logging, warnings, print or the interpreter itself: no state of the log stops or slows the service.
No line carries a client's address, a user agent or a path. Names and texts that others wrote are
escaped where a terminal might obey them or a line might begin anew; JSON escapes them anyway.

Of lines that strangers can cause the first of a kind is written at once, the others are counted,
and how many they were is written once in QUIET_S (`seldom`): nobody who sends requests decides how
long the log is. Metrics count what is left out.
"""

from __future__ import annotations

import asyncio
import atexit
import faulthandler
import logging
import os
import signal
import stat
import sys
import time
from collections.abc import Hashable, Sequence
from contextlib import suppress
from io import StringIO
from typing import Any, Final, Literal, TextIO, cast

import structlog

from visit_counter import deadlines
from visit_counter.adapters.aiohttp_log import SAYS_ADDRESS, is_clients_doing
from visit_counter.characters import escaped, escaped_lines
from visit_counter.log_writer import LineStream, LogWriter

Processors = Sequence[structlog.types.Processor]


QUIET_S = 60.0
MOST_KINDS = 100  # beyond these all others are of one

_writers: list[LogWriter] = []


def configure(log_format: Literal["console", "json"], *, worker: bool = False) -> None:
    """`worker`: each line says which process it is of."""
    timestamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
    renderer: list[structlog.types.Processor] = (
        [_escape, _console()]
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


def _escape(
    _: structlog.types.WrappedLogger, __: str, event: structlog.types.EventDict
) -> structlog.types.EventDict:
    return {
        name: escaped(value) if isinstance(value, str) else value for name, value in event.items()
    }


def _console() -> structlog.dev.ConsoleRenderer:
    return structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=_plain_traceback
    )


def _plain_traceback(stream: TextIO, fault: structlog.typing.ExcInfo) -> None:
    """The fancier formatters show local variables, which hold tokens and addresses."""
    written = StringIO()
    structlog.dev.plain_traceback(written, fault)
    stream.write(escaped_lines(written.getvalue()))


class _ToStructlog(logging.Handler):
    """For what libraries and Python's warnings say; strangers can cause any number of it."""

    def emit(self, record: logging.LogRecord) -> None:
        fault = record.exc_info[1] if record.exc_info else None
        if is_clients_doing(record.name, fault):
            return  # nothing for an operator to do
        try:
            text, template = record.getMessage(), str(record.msg)
            if template.endswith(SAYS_ADDRESS):
                text = template.removesuffix(SAYS_ADDRESS)
            kind = (record.name, text.partition("\n")[0], origin(fault))
            seldom(record.levelno, text, kind=kind, exc_info=fault, source=record.name)
        except Exception:  # whoever logs must not fail by it
            self.handleError(record)


# -- lines that strangers can cause


OTHERS: Final = "others"


class Kind:
    """A kind of line that was written lately."""

    def __init__(self, until_s: float) -> None:
        self.until_s = until_s
        """Till when the others of it are only counted (monotonic seconds)."""
        self.more = 0
        self.last: tuple[int, str, dict[str, Any]] = (logging.INFO, "", {})


_kinds: dict[Hashable, Kind] = {}


def seldom(
    level: int,
    event: str,
    *,
    kind: Hashable = None,
    exc_info: BaseException | None = None,
    **fields: Any,
) -> None:
    """Write a line, unless one of its kind (by default its event) was written in the last QUIET_S:
    what it says is then in the line that tells how many more there were, if it is the last one."""
    key = event if kind is None else kind
    if key not in _kinds and len(_kinds) >= MOST_KINDS:
        _forget_old()
        key = key if len(_kinds) < MOST_KINDS else OTHERS
    known = _kinds.get(key)
    if known and time.monotonic() < known.until_s:
        known.more += 1
        known.last = (level, event, fields)
        return
    if known:  # no loop has told of the others
        _tell_more(known)
    _kinds[key] = Kind(time.monotonic() + QUIET_S)
    _look_later(key)
    structlog.get_logger().log(
        level, event, **({"exc_info": exc_info} if exc_info else {}), **fields
    )


def mistake(event: str, error: BaseException, **fields: Any) -> None:
    """Write that a bug of this service has shown, with its stack; one bug is one kind."""
    seldom(logging.ERROR, event, kind=(event, origin(error)), exc_info=error, **fields)


def origin(error: BaseException | None) -> Hashable:
    """What tells errors apart that have different causes: their class, and where they began."""
    trace = error.__traceback__ if error else None
    while trace and trace.tb_next:
        trace = trace.tb_next
    place = (trace.tb_frame.f_code.co_filename, trace.tb_lineno) if trace else None
    return type(error).__name__, place


def forget() -> None:
    """Begin anew: for tests."""
    _kinds.clear()


def _look_later(key: Hashable) -> None:
    with suppress(RuntimeError):  # in a thread: then the next line of its kind tells
        asyncio.get_running_loop().call_later(QUIET_S, _look, key)


def _forget_old() -> None:
    """Kinds of a thread, whose time is over without anybody who looked."""
    for key, known in [*_kinds.items()]:
        if time.monotonic() >= known.until_s:
            del _kinds[key]
            _tell_more(known)


def _look(key: Hashable) -> None:
    """Tell of what was counted meanwhile; a kind of which nothing came is forgotten."""
    known = _kinds.pop(key, None)
    if known and known.more:
        _kinds[key] = Kind(time.monotonic() + QUIET_S)
        _look_later(key)
        _tell_more(known)


def _tell_more(known: Kind) -> None:
    if known.more:
        level, event, fields = known.last
        structlog.get_logger().log(level, event, more=known.more, within_s=round(QUIET_S), **fields)

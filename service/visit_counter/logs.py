"""How the service logs: sentences for an operator, on stderr, for eyes or as JSON.

No line carries a client's address, a user agent or a path.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Literal

import structlog

from visit_counter.adapters.aiohttp_private import SAYS_ADDRESS, HttpProcessingError


def configure(log_format: Literal["console", "json"], *, worker: bool = False) -> None:
    """`worker`: each line says which process it is of."""
    timestamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
    renderer: list[structlog.types.Processor] = (
        [_console()]
        if log_format == "console"
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    named: list[structlog.types.Processor] = [_name_worker] if worker else []
    structlog.configure(
        processors=[structlog.processors.add_log_level, timestamp, *named, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    # What aiohttp and asyncio report goes the same way; their debug chatter does not.
    logging.basicConfig(level=logging.WARNING, handlers=[_ToStructlog()], force=True)


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
        if isinstance(fault, HttpProcessingError):
            return  # a stranger's broken HTTP, answered with 400: nothing for an operator to do
        text = record.getMessage()
        if str(record.msg).endswith(SAYS_ADDRESS):
            text = str(record.msg).removesuffix(SAYS_ADDRESS)
        log = structlog.get_logger(source=record.name)
        log.log(record.levelno, text, exc_info=record.exc_info)

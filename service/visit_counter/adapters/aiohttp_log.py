"""What aiohttp 3.14.5 writes into its log; imports nothing of it, for processes without it."""

from __future__ import annotations

import sys

SAYS_ADDRESS = " from %s"
"""The end of the log messages in which aiohttp names a client's address. They are not documented:
the public way is to log nothing of aiohttp's."""


SERVER = "aiohttp.server"
CLOSED = "Connection closed."
"""What the RuntimeError says that reading a body raises when its connection ended before."""


def is_clients_doing(source: str, fault: BaseException | None) -> bool:
    """Whether a line of this logger is about a stranger's broken HTTP, which was answered with 400,
    or a client that went away before its answer. The class of the one and the text of the other are
    not documented."""
    if source != SERVER:
        return False
    http = sys.modules.get("aiohttp.http")
    is_broken = http is not None and isinstance(fault, http.HttpProcessingError)
    return is_broken or isinstance(fault, ConnectionError) or is_closed(fault)


def is_closed(fault: BaseException | None) -> bool:
    """Whether it is of a body that is read when its connection has ended."""
    return isinstance(fault, RuntimeError) and str(fault) == CLOSED

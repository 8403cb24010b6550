"""What aiohttp 3.14.5 writes into its log; imports nothing of it, for processes without it."""

from __future__ import annotations

import sys

SAYS_ADDRESS = " from %s"
"""The end of the log messages in which aiohttp names a client's address. They are not documented:
the public way is to log nothing of aiohttp's."""


def is_broken_http(fault: BaseException | None) -> bool:
    """Whether this is a stranger's broken HTTP, which was answered with 400. Its class is not
    documented."""
    http = sys.modules.get("aiohttp.http")
    return http is not None and isinstance(fault, http.HttpProcessingError)

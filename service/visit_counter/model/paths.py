"""The path of a page, as it is counted."""

from __future__ import annotations

import re
from urllib.parse import unquote

MAX_PATH_BYTES = 512


CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def clean_path(path: str) -> str:
    """The page's path as it is counted; raises ValueError for what is no path.

    Query and fragment go, escapes are decoded (a page is one page however its address is written),
    control characters are refused, more than 512 bytes are cut at a character.
    """
    path = _decoded(path.partition("#")[0].partition("?")[0])
    if not path.startswith("/"):
        raise ValueError('a path begins with "/"')
    if CONTROL.search(path):
        raise ValueError("a path has no control characters")
    encoded = path.encode()
    if len(encoded) <= MAX_PATH_BYTES:
        return path
    return encoded[:MAX_PATH_BYTES].decode(errors="ignore")


def _decoded(path: str) -> str:
    """Without percent escapes, if they stand for text; else as it was written."""
    try:
        decoded = unquote(path, errors="strict")
    except UnicodeDecodeError:
        return path
    return path if CONTROL.search(decoded) else decoded

"""hiredis's undocumented parts, as they are in 3.5.0.

hiredis exports them, and redis-py uses them; its documentation describes neither.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import hiredis

pack_command = cast(Callable[[tuple[str | bytes | int, ...]], bytes], hiredis.pack_command)
"""A call as it is sent. In Python the same takes several times as long (redis-py's own packer is
used only where hiredis is missing)."""

PushNotification = hiredis.PushNotification
"""What the reader gives for a RESP3 push, which is no call's reply."""


def new_reader(parse_error: Callable[[str], Exception]) -> hiredis.Reader:
    """A reader that gives what `parse_error` makes of an error reply instead of raising it.

    The documentation says that `replyError` is a class; any callable does.
    """
    return hiredis.Reader(replyError=cast(Any, parse_error))

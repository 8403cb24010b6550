"""Directories of ours: what is made has its name on disk, so that a power loss does not take it and
all that was synced below it.

All of it blocks and raises OSError. Nothing is ever removed here.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF)
"""What a system call says where a file system does not sync directories, as some network ones."""

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What a system call says where nothing more fits."""


def make(path: Path, mode: int = 0o777) -> None:
    """Make a directory and those above it that are missing; nothing where it is there already."""
    if path.is_dir():
        return
    if not path.parent.is_dir():
        make(path.parent)
    path.mkdir(mode, exist_ok=True)
    sync(path.parent)


def sync(path: Path) -> None:
    """Have the names in a directory on disk, where the file system can do that."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise
    finally:
        os.close(directory)

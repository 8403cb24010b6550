"""Who else may write in the data directory, asked once at a start, before anything is opened there.

Whoever may can put another admin token there, or take what is counted away. On a file system that
others use too that ends the start. On a volume, which is mounted for the service and whose owner
and mode the service does not choose, it is a warning: one of Kubernetes belongs to root and is
given to a group (fsGroup) or to all (emptyDir), one of Docker to a user of the host. What is opened
in it is guarded in any case, see `disk/guarded.py`.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from typing import NamedTuple

from visit_counter.config.host import is_mount_point
from visit_counter.disk import directories
from visit_counter.errors import StartError


class Found(NamedTuple):
    """What is to be said of a directory: who else may write in it, and how to end that."""

    who: str
    remedy: str
    grave: bool
    """It may be any user, and not the members of a group."""


def checked(path: Path) -> str:
    """Make the data directory, for us alone, where it is missing; answers a warning, or "". Raises
    StartError where others may write in it. Whoever needs the directory says what else is wrong."""
    try:
        path.absolute()
    except OSError as error:
        raise StartError(
            f"the directory in which this was started is away ({error.strerror}), so nothing is "
            "counted: start it in another one, or set VISIT_COUNTER_DATA_DIR to a whole path"
        ) from None
    try:
        directories.make(path, 0o700)
        found = _others(path, path.stat())
        on_volume = found is not None and is_mount_point(path)
    except OSError:
        return ""
    if found is None:
        return ""
    if not found.grave or on_volume:
        return (
            f"the data directory {path} {found.who}, who can replace the admin token and take away "
            f"what is counted: hits count; where others use it too, {found.remedy}"
        )
    raise StartError(
        f"the data directory {path} {found.who}, who can replace the admin token and take away "
        f"what is counted, so it is not used and nothing is counted: {found.remedy}, or set "
        "VISIT_COUNTER_DATA_DIR to another directory"
    )


def _others(path: Path, found: os.stat_result) -> Found | None:
    us, mode = os.geteuid(), found.st_mode
    foreign, for_all = found.st_uid not in (0, us), mode & stat.S_IWOTH
    if not (foreign or mode & 0o022):
        return None
    ours = _of_ours(path)
    if foreign and ours.st_uid != found.st_uid:
        return Found(f"belongs to user id {found.st_uid}", f"run chown {us} {path}", True)
    if ours.st_mode & 0o077 or not mode & 0o022:
        return None  # a file system that keeps no modes, where they tell nothing; or it is well
    if for_all:
        grave = not mode & stat.S_ISVTX  # else nobody can take away what is another's
        return Found("may be written by every user", f"run chmod o-w {path}", grave)
    return Found(f"may be written by group id {found.st_gid}", f"run chmod g-w {path}", False)


def _of_ours(path: Path) -> os.stat_result:
    """A file as it becomes when we make it there: network file systems give all to one user."""
    name = path / f".owner-{secrets.token_hex(8)}"
    file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        return os.fstat(file)
    finally:
        os.close(file)
        name.unlink()

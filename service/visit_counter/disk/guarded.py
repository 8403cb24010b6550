"""Opens our files and directories, and never what somebody else has put in their place.

A link in the data directory could lead our writing to any file that we may write, a FIFO or a
device could hold us for ever. So no link in it is followed, only regular files are opened, and what
replaces a file is written into one that did not exist. The data directory itself may be a link:
that is the operator's choice; who may write in it is looked at in `config/data_directory.py`.

All of it blocks and raises OSError, which is Planted where something is in the way.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

from visit_counter.disk import directories

KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a directory",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
REFUSED = (errno.ELOOP, errno.ENXIO, errno.EISDIR, errno.ENODEV, errno.ENOTDIR)
"""What open(2) says of links, FIFOs and sockets, directories, devices, and of no directory."""


class Planted(OSError):
    """Something else lies where our file or directory belongs: it is neither read nor
    written."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(errno.ELOOP, f"{what} is in its place", str(path))


def remedy(error: OSError, otherwise: str) -> str:
    """What to do about an error; `otherwise` where nothing was planted."""
    if isinstance(error, Planted):
        return f"remove {error.filename}, and see who else may write there"
    return otherwise


def opened(path: Path, flags: int, mode: int = 0o600, *, named: bool = False) -> int:
    """The descriptor of a regular file; one that somebody has `named` may be behind a link."""
    ours = os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | (0 if named else os.O_NOFOLLOW)
    try:
        file = os.open(path, flags | ours, mode)
    except OSError as error:
        if error.errno in REFUSED:
            _check(path, stat.S_IFREG)
        raise
    kind = stat.S_IFMT(os.fstat(file).st_mode)
    if kind == stat.S_IFREG:
        return file
    os.close(file)
    raise Planted(path, KINDS.get(kind, "something else"))


def read(path: Path) -> bytes:
    with os.fdopen(opened(path, os.O_RDONLY), "rb") as file:
        return file.read()


def fresh(path: Path) -> int:
    """The descriptor of an empty file that nobody else has open or knows by another name, in the
    place of one that we may have left."""
    with suppress(FileNotFoundError):
        _check(path, stat.S_IFREG)
        path.unlink()
    return opened(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)


def replace(path: Path, content: bytes) -> None:
    """Replace a file so that after a crash there is the old or the new one, whole."""
    new = path.with_name(f"{path.name}.new")
    with os.fdopen(fresh(new), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    directories.sync(path.parent)


def is_ours(path: Path) -> bool:
    """Whether it is a directory and no link, of this user, of root, or of whoever has the directory
    above, who could replace it anyway."""
    try:
        found, above = path.lstat(), path.parent.stat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid in (0, os.geteuid(), above.st_uid)


def directory(path: Path) -> None:
    """Make a directory for us alone; one that is there is made private, as far as it is ours: the
    owner of a volume may be another, and its files be given to a group at each mount."""
    directories.make(path, 0o700)
    _check(path, stat.S_IFDIR)
    if not is_ours(path):
        raise Planted(path, f"a directory of user id {path.lstat().st_uid}")
    home = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(home)
        if found.st_uid == os.geteuid() and found.st_mode & 0o077:
            with suppress(OSError):  # of a file system that keeps no modes
                os.fchmod(home, 0o700)
    finally:
        os.close(home)


def _check(path: Path, wanted: int) -> None:
    """Raises Planted where something of another kind has the name."""
    kind = stat.S_IFMT(path.lstat().st_mode)
    if kind != wanted:
        raise Planted(path, KINDS.get(kind, "a file"))

"""The copy that a migration makes before its first write: `before-<form>.jsonl.gz`.

It holds what the migration will change and nothing else: a line of JSON for the head, one for each
key with its bytes in base64, and one for the end with their number and a hash of all lines before
it. It belongs to one installation, is readable by its owner alone, and is read back before it
counts as made. All but `alone_in` blocks; errors are StartErrors with what to do.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import gzip
import os
import secrets
import time
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import IO, NamedTuple

import msgspec
import structlog
from msgspec import Struct

from visit_counter.disk import directories, guarded
from visit_counter.errors import StartError

KEPT = 2  # the newest ones of a directory
LEFT_S = 3600.0  # what is written for longer was left by a killed process
NO_LOCKS = (errno.EBADF, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)
"""What flock(2) says of a directory on file systems that do not lock those, such as NFS."""

log = structlog.get_logger()


class Head(Struct, frozen=True, kw_only=True):
    """The copy's first line: of which store, when, in which form."""

    form: int
    """The one that the bytes are in."""
    to: int
    """The one that the migration brought them into."""
    namespace: str
    installation: str
    at: str
    """The instant of the copy (RFC 3339)."""


class Key(Struct, frozen=True):
    """A key of a partition, by its tag, and its bytes in base64."""

    tag: str
    key: str
    value: str


class End(Struct, frozen=True):
    keys: int
    blake2b: str


class Saved(NamedTuple):
    """A key as it was before the migration."""

    tag: str
    key: bytes
    value: bytes


class MigrationCopy:
    """A copy that is being written beside its final name."""

    def __init__(self, directory: Path, head: Head) -> None:
        self.path = directory / f"before-{head.form}.jsonl.gz"
        self.keys = 0
        self._fresh = self.path.with_name(f"{self.path.name}.{secrets.token_hex(4)}.new")
        self._hash = blake2b(digest_size=16)
        try:
            directories.make(directory, 0o700)
            self._file = os.open(self._fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise _refused(directory, error) from None
        self._stream: IO[bytes] = os.fdopen(self._file, "wb", buffering=0)
        try:
            self._packed = gzip.GzipFile(fileobj=self._stream, mode="wb", filename="", mtime=0)
            self._line(head)
        except OSError as error:
            self._stream.close()
            self._fresh.unlink()
            raise _refused(directory, error) from None

    def add(self, found: Iterable[Saved]) -> None:
        try:
            for tag, key, value in found:
                self._line(Key(tag, key.decode(), b64encode(value).decode()))
                self.keys += 1
        except OSError as error:
            raise _refused(self.path.parent, error) from None

    def finish(self) -> Path:
        """Sync, read back and rename the copy; returns its path. A copy that had the name gets
        another."""
        try:
            self._line(End(self.keys, self._hash.hexdigest()))
            self._packed.close()
            os.fsync(self._file)
            self._stream.close()
            _, saved = read(self._fresh)
            if (found := sum(1 for _ in saved)) != self.keys:
                raise StartError(f"{self._fresh} holds {found} keys, and {self.keys} were written")
            _make_way(self.path)
            self._fresh.replace(self.path)
            directories.sync(self.path.parent)
        except OSError as error:
            raise _refused(self.path.parent, error) from None
        return self.path

    def discard(self) -> None:
        """Remove it; nothing happens if it has its name already."""
        with suppress(OSError, ValueError):
            self._packed.close()
        self._stream.close()
        self._fresh.unlink(missing_ok=True)

    def _line(self, line: Struct) -> None:
        text = msgspec.json.encode(line) + b"\n"
        self._hash.update(text)
        self._packed.write(text)


@asynccontextmanager
async def alone_in(directory: Path) -> AsyncIterator[None]:
    """Wait until no other process makes a copy in the directory, and keep others out."""
    try:
        held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _refused(directory, error) from None
    try:
        try:
            await asyncio.to_thread(fcntl.flock, held, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise _refused(directory, error) from None
            log.warning(
                "nothing keeps two processes from making the copy at once: they make it twice",
                directory=str(directory),
                why=error.strerror,
            )
        yield
    finally:
        os.close(held)


def keep_newest(directory: Path, head: Head) -> None:
    """Remove all copies of a store but the newest ones, and what killed processes have left."""
    copies = sorted(directory.glob("before-*.jsonl.gz"), key=lambda path: path.lstat().st_mtime_ns)
    found = [path for path in copies if _is_of(path, head)]
    old_s = time.time() - LEFT_S
    left = (path for path in directory.glob("before-*.new") if path.lstat().st_mtime < old_s)
    for path in (*found[:-KEPT], *left):
        path.unlink(missing_ok=True)


def _is_of(path: Path, head: Head) -> bool:
    """Whether a copy is of the same store, and no link to one."""
    if path.is_symlink():
        return False
    try:
        with _lines(path) as lines:
            found = msgspec.json.decode(next(lines, b""), type=Head)
    except (OSError, EOFError, ValueError):
        return False
    return (found.installation, found.namespace) == (head.installation, head.namespace)


def read(path: Path) -> tuple[Head, Iterator[Saved]]:
    """The head of a copy and its keys, after all of it was found whole; raises StartError."""
    try:
        head = _checked(path)
    except OSError as error:
        raise StartError(f"the copy {path} cannot be read ({error.strerror or error})") from None
    except (EOFError, ValueError) as error:
        raise StartError(f"the copy {path} is damaged or incomplete ({error})") from None
    return head, _keys(path)


def _checked(path: Path) -> Head:
    """Read every line once; raises ValueError, EOFError or OSError."""
    digest, keys = blake2b(digest_size=16), 0
    with _lines(path) as lines:
        first = next(lines, b"")
        head = msgspec.json.decode(first, type=Head)
        digest.update(first)
        for line in lines:
            if line.startswith(b'{"keys"'):
                end = msgspec.json.decode(line, type=End)
                if (end.keys, end.blake2b) != (keys, digest.hexdigest()):
                    raise ValueError("its hash or number of keys is another one")
                if next(lines, b""):
                    raise ValueError("there are lines after its end")
                return head
            msgspec.json.decode(line, type=Key)
            digest.update(line)
            keys += 1
    raise ValueError("it has no end")


def _keys(path: Path) -> Iterator[Saved]:
    with _lines(path) as lines:
        next(lines)
        for line in lines:
            if not line.startswith(b'{"keys"'):
                key = msgspec.json.decode(line, type=Key)
                yield Saved(key.tag, key.key.encode(), b64decode(key.value))


@contextmanager
def _lines(path: Path) -> Iterator[Iterator[bytes]]:
    with (
        os.fdopen(guarded.opened(path, os.O_RDONLY, named=True), "rb") as file,
        gzip.GzipFile(fileobj=file) as lines,
    ):
        yield iter(lines)


def _make_way(path: Path) -> None:
    """Rename what has the name, by the time at which it was made."""
    if path.exists():
        made = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        stem = path.name.removesuffix(".jsonl.gz")
        path.replace(path.with_name(f"{stem}.{made:%Y%m%dT%H%M%S.%f}Z.jsonl.gz"))


def _refused(directory: Path, error: OSError) -> StartError:
    return StartError(
        f"the copy that a migration makes before it changes anything cannot be written to "
        f"{directory} ({error.strerror or error}), so nothing was changed: free some space there, "
        "or name another directory in VISIT_COUNTER_BACKUP_DIR"
    )

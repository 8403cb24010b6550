"""The files of a spool: one directory of segments, `00000001.seg` and so on, in order of age.

The spool writes and reads them here, always one call at a time for a segment; `visit-counter spool
show` and `skip` look at them and set damage aside. What a call wrote is on disk when it returns.
All of it blocks. The caller holds the directory's lock; nothing here knows what was confirmed.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from visit_counter.disk import directories, guarded
from visit_counter.disk import format as segment
from visit_counter.disk.directories import FULL
from visit_counter.disk.format import HEADER, MARK, OVERHEAD, NewerSegment, Record, Scan
from visit_counter.errors import SpoolFull, StartError, UnknownForm
from visit_counter.model import forms

UNTOLD = (errno.EPERM, errno.ENOSYS)
"""What statfs(2) says where a sandbox refuses it."""
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
"""What link(2) says where a file system has none."""


def paths(directory: Path) -> list[Path]:
    """Its segments, oldest first."""
    found = [path for path in directory.iterdir() if re.fullmatch(r"\d{8,}\.seg", path.name)]
    return sorted(found, key=number)


def path_of(directory: Path, number: int) -> Path:
    return directory / f"{number:08d}.seg"


def number(path: Path) -> int:
    return int(path.name.partition(".")[0])


def last_number(directory: Path) -> int:
    """The highest that was ever used, also by a segment that was set aside."""
    names = [path for path in directory.iterdir() if re.match(r"\d{8,}\.seg", path.name)]
    return max(map(number, names), default=0)


def settle(directory: Path) -> None:
    """Have the directory's own name on disk, else a power loss takes all that is in it."""
    directories.sync(directory.parent)


def scans(directory: Path) -> Iterator[tuple[Path, bytes, Scan]]:
    """Each segment with its content and what that holds, oldest first; raises StartError for what a
    newer version wrote."""
    found = paths(directory)
    for path in found:
        data = guarded.read(path)
        try:
            held = segment.scan(data, sealed=path != found[-1])
            for record in held.records:
                forms.readable(data[record.at + OVERHEAD :][:1], "")
        except (NewerSegment, UnknownForm):
            raise StartError(
                f"the spool's file {path} was written by a newer version, and this one cannot read "
                "the hits in it: run that version, or a newer one, until the spool is empty"
            ) from None
        yield path, data, held


def create(path: Path) -> None:
    """Make an empty segment. Raises SpoolFull on a full disk; leaves nothing behind any error."""
    try:
        with _opened(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as file:
            _write(file, HEADER, 0)
            _sync(file)
    except OSError as problem:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        if problem.errno not in FULL:
            raise
        raise _full(path.parent) from None
    directories.sync(path.parent)


def append(path: Path, group: bytes, at: int) -> None:
    """Write a group to the end. Raises SpoolFull, and leaves the segment as it was, on a full disk;
    any other error leaves it in doubt."""
    with _opened(path, os.O_WRONLY) as file:
        try:
            _write(file, group, at)
        except OSError as problem:
            if problem.errno not in FULL:
                raise
            os.ftruncate(file, at)
            raise _full(path.parent) from None
        _sync(file)


def prove_room(directory: Path, least: int) -> None:
    """Raises SpoolFull where the disk would not take that many bytes, OSError where it takes none
    at all."""
    try:
        disk = os.statvfs(directory)
    except OSError as error:
        if error.errno in UNTOLD:
            return  # the first write will show it
        raise
    if disk.f_bavail * disk.f_frsize < least or _has_no_inodes(disk):
        raise _full(directory)
    if disk.f_flag & os.ST_RDONLY:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def read(path: Path, at: int) -> Record | None:
    """The record that lies there, None if it is not sound."""
    with os.fdopen(guarded.opened(path, os.O_RDONLY), "rb") as file:
        file.seek(at)
        front = file.read(OVERHEAD)
        if len(front) < OVERHEAD:
            return None
        length = segment.length_at(front)
        if not OVERHEAD <= length <= os.fstat(file.fileno()).st_size:
            return None
        return segment.record_at(front + file.read(length - OVERHEAD), 0)


def close(path: Path, end: int) -> None:
    """Cut off what lies behind `end`; have the rest on disk before a later segment is made, since
    what a killed process wrote may be in memory only."""
    with _opened(path, os.O_WRONLY) as file:
        os.ftruncate(file, end)
        _sync(file)


def remove(found: list[Path]) -> None:
    for path in found:
        path.unlink(missing_ok=True)
    if found:
        directories.sync(found[0].parent)


def damaged(path: Path, at: int) -> str:
    """What is said of a damaged segment."""
    return (
        f"The spool's file {path} is damaged at byte {at}, and batches there may be lost: "
        "`visit-counter spool show` tells what is left, `visit-counter spool skip` sets the damage "
        "aside and keeps the rest; then start again."
    )


@dataclass(frozen=True, slots=True)
class SegmentReport:
    """One segment, as `visit-counter spool show` tells of it."""

    path: Path
    bytes: int
    records: int
    damage: list[tuple[int, int]]
    """From where to where acknowledged records may have been lost: the service does not start."""
    torn: int
    """Bytes of a torn tail: a start cuts them off."""


class Run(NamedTuple):
    """The records of one partition."""

    records: int
    first_seq: int
    last_seq: int


@dataclass(frozen=True, slots=True)
class Report:
    segments: list[SegmentReport]
    partitions: dict[int, Run]


def describe(directory: Path) -> Report:
    """What the directory holds; changes nothing."""
    segments: list[SegmentReport] = []
    seqs: dict[int, list[int]] = {}
    for path, data, found in scans(directory):
        torn = len(data) - found.end
        segments.append(SegmentReport(path, len(data), len(found.records), found.damage, torn))
        for record in found.records:
            seqs.setdefault(record.partition, []).append(record.seq)
    runs = {partition: Run(len(of), min(of), max(of)) for partition, of in sorted(seqs.items())}
    return Report(segments, runs)


class Skipped(NamedTuple):
    """A damaged segment that was set aside."""

    path: Path
    kept_as: Path
    records: int
    """Sound ones, which stay in the spool."""
    lost: int
    """Records that could be lost: at least one for each damaged stretch."""


def skip(directory: Path) -> list[Skipped]:
    """Set the damaged segments aside as `.bad` and keep the sound records, so that a start goes on.

    Can be repeated if it is interrupted.
    """
    skipped = []
    for path, data, found in scans(directory):
        if found.damage:
            kept_as = _set_aside(path, data[: found.end], found)
            lost = sum(max(1, data.count(MARK, *stretch)) for stretch in found.damage)
            skipped.append(Skipped(path, kept_as, len(found.records), lost))
    return skipped


def _set_aside(path: Path, data: bytes, found: Scan) -> Path:
    sound = (segment.record_at(data, place.at) for place in found.records)
    group, _ = segment.pack([record for record in sound if record], len(HEADER))
    mended = path.with_suffix(".mended")
    mended.unlink(missing_ok=True)
    create(mended)
    append(mended, group, len(HEADER))
    kept_as = next(
        name
        for n in itertools.count()
        if not (name := path.with_suffix(f".seg{n or ''}.bad")).exists()
    )
    _keep(path, kept_as)
    mended.replace(path)
    directories.sync(path.parent)
    return kept_as


def _keep(path: Path, kept_as: Path) -> None:
    """Give a file another name, or a copy where the file system knows no second names."""
    try:
        os.link(path, kept_as)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        guarded.replace(kept_as, guarded.read(path))


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    file = guarded.opened(path, flags)
    try:
        yield file
    finally:
        os.close(file)


def _write(file: int, data: bytes, at: int) -> None:
    rest = memoryview(data)
    while rest:
        written = os.pwrite(file, rest, at)
        rest, at = rest[written:], at + written


def _sync(file: int) -> None:
    if sys.platform == "linux":
        os.fdatasync(file)
    else:
        os.fsync(file)


def _full(directory: Path) -> SpoolFull:
    with suppress(OSError):
        if _has_no_inodes(os.statvfs(directory)):
            return SpoolFull(
                f"The disk of the spool {directory} takes no more files (it has no free inodes): "
                "remove some files"
            )
    return SpoolFull(f"The disk of the spool {directory} is full: free some space")


def _has_no_inodes(disk: os.statvfs_result) -> bool:
    return disk.f_files > 0 and disk.f_favail == 0  # some file systems have no number of them

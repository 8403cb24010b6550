"""A segment: the bytes of one file of the spool, and what can be read back after any accident.

    segment = HEADER record*
    record  = MARK crc32c length start partition epoch seq payload     (little endian)

The header's last byte is the version of this framing, and a payload begins with the number of its
form (see model/forms.py), which nothing here looks into.

The spool packs groups of records into segments and scans them when it starts. The CRC covers all
that follows it, `length` counts the whole record. `start` is where the record's group begins: a
group is written only when all before it is on disk, so damage before the `start` of a later record
is damage to what was acknowledged, and damage behind the last one is the tear of a crash. The mark
is no part of any UTF-8 text: behind damage, the next record is found by it. Never touches a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import NamedTuple

from crc32c import crc32c

HEADER = b"vcspool\x01"  # the last byte is the version
MOST_VERSIONS = 48  # a larger number is damage
MARK = b"\xffVC\xfe"

_FRONT = Struct("<4sI")
_REST = Struct("<IIIQQ")
OVERHEAD = _FRONT.size + _REST.size


class Record(NamedTuple):
    """A sealed batch as it lies in a file, and as the function `record` is sent it."""

    partition: int
    epoch: int
    """Its producer's, when it was sealed."""
    seq: int
    payload: bytes
    """See store/batch.py."""


class NewerSegment(Exception):
    """A segment whose framing is of a version that this one does not read."""


class Found(NamedTuple):
    """A sound record and where it lies."""

    at: int
    length: int
    start: int
    partition: int
    epoch: int
    seq: int


@dataclass(frozen=True, slots=True)
class Scan:
    """What a segment holds."""

    records: list[Found]
    damage: list[tuple[int, int]]
    """From where to where acknowledged records may have been lost."""
    end: int
    """Where a torn tail begins, which nobody was promised; else the size of the segment."""


def size_of(records: Iterable[Record]) -> int:
    """Bytes that they take in a segment."""
    return sum(OVERHEAD + len(record.payload) for record in records)


def pack(records: Sequence[Record], start: int) -> tuple[bytes, list[int]]:
    """A group that will begin at `start`, and where in the segment each of its records will lie."""
    parts: list[bytes] = []
    places: list[int] = []
    at = start
    for record in records:
        length = OVERHEAD + len(record.payload)
        rest = _REST.pack(length, start, record.partition, record.epoch, record.seq)
        crc = crc32c(record.payload, crc32c(rest))
        parts += (_FRONT.pack(MARK, crc), rest, record.payload)
        places.append(at)
        at += length
    return b"".join(parts), places


def record_at(data: bytes, at: int) -> Record | None:
    """The record that lies there, None if it is not sound."""
    found = _find(memoryview(data), at)
    if found is None:
        return None
    payload = data[at + OVERHEAD : at + found.length]
    return Record(found.partition, found.epoch, found.seq, payload)


def length_at(data: bytes) -> int:
    """How long the record that begins with these OVERHEAD bytes says it is."""
    return int(_REST.unpack_from(data, _FRONT.size)[0])


def scan(data: bytes, sealed: bool) -> Scan:
    """Read a segment; `sealed`: a later one exists, so that all of it had been on disk. Raises
    NewerSegment."""
    records = list(_records(data))
    if not records and _is_newer(data):
        raise NewerSegment
    gaps = list(_gaps(data, records))
    all_synced = sealed or _foreign(data)
    synced = len(data) + 1 if all_synced else max((found.start for found in records), default=0)
    end = min((begin for begin, _ in gaps if begin >= synced), default=len(data))
    return Scan(
        [found for found in records if found.at < end],
        [gap for gap in gaps if gap[0] < synced],
        end,
    )


def _records(data: bytes) -> Iterator[Found]:
    """All sound records, also behind damage."""
    view = memoryview(data)
    at = len(HEADER)
    while at >= 0:
        if found := _find(view, at):
            yield found
            at += found.length
        else:
            at = data.find(MARK, at + 1)


def _find(data: memoryview, at: int) -> Found | None:
    if len(data) - at < OVERHEAD:
        return None
    mark, crc = _FRONT.unpack_from(data, at)
    length, *fields = _REST.unpack_from(data, at + _FRONT.size)
    if mark != MARK or not OVERHEAD <= length <= len(data) - at:
        return None
    if crc32c(data[at + _FRONT.size : at + length]) != crc:
        return None
    return Found(at, length, *fields)


def _gaps(data: bytes, records: Sequence[Found]) -> Iterator[tuple[int, int]]:
    """What lies between the sound records."""
    at = len(HEADER)
    if not data.startswith(HEADER):
        yield 0, min(at, len(data))
    for found in records:
        if at < found.at:
            yield at, found.at
        at = found.at + found.length
    if at < len(data):
        yield at, len(data)


def _is_newer(data: bytes) -> bool:
    """Whether the header is that of a newer framing."""
    same = data[: len(HEADER) - 1] == HEADER[:-1] and len(data) >= len(HEADER)
    return same and HEADER[-1] < data[len(HEADER) - 1] < MOST_VERSIONS


def _foreign(data: bytes) -> bool:
    """Whether the header is another one, and not just half written."""
    head = data[: len(HEADER)]
    return not HEADER.startswith(head) and any(head)

"""Where in the spool's segments the unconfirmed records lie, by partition, oldest first.

The spool adds a record once it is on disk and confirms it once the store has it; a segment that
holds nothing unconfirmed is handed back to be removed. Payloads stay on disk: a record takes 16
bytes here, since a long outage may leave millions. Never touches a file.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from visit_counter.disk.format import Found, Record

TRIM = 1024  # confirmed entries that a line may keep in front, and at most half of it


@dataclass(slots=True, eq=False)
class Segment:
    """A file of the spool."""

    number: int
    path: Path
    size: int
    live: int = 0
    """Records in it that are unconfirmed or being written."""


class Index:
    """`records` is the number of unconfirmed records."""

    def __init__(self) -> None:
        self.records = 0
        self._segments: dict[int, Segment] = {}
        self._lines: dict[int, _Line] = {}

    def add(self, segment: Segment, places: Iterable[tuple[Record | Found, int]]) -> None:
        """Records, with their places, that lie in the segment and are counted as live there."""
        self._segments[segment.number] = segment
        for record, at in places:
            line = self._lines.setdefault(record.partition, _Line())
            line.add(record.seq, segment.number, at)
            self.records += 1

    def partitions(self) -> list[int]:
        return list(self._lines)

    def pending(self, partition: int) -> bool:
        return partition in self._lines

    def first_seq(self, partition: int) -> int:
        """Of the oldest unconfirmed record, 0 without any."""
        line = self._lines.get(partition)
        return line.seq if line else 0

    def last_seq(self, partition: int) -> int:
        """Of the newest unconfirmed record, 0 without any."""
        line = self._lines.get(partition)
        return line.last_seq if line else 0

    def oldest(self, partition: int, most: int) -> list[tuple[Segment, int]]:
        """Where the oldest unconfirmed records lie."""
        line = self._lines.get(partition)
        places = line.places(most) if line else []
        return [(self._segments[number], at) for number, at in places]

    def confirm(self, partition: int, seq: int) -> list[Segment]:
        """Forget the records up to this one; the segments that hold nothing unconfirmed now."""
        line = self._lines.get(partition)
        emptied = False
        while line and line.seq <= seq:
            segment = self._segments[line.drop()]
            segment.live -= 1
            emptied = emptied or not segment.live
            self.records -= 1
        if line is not None and not line:
            del self._lines[partition]
        return self.take_empty() if emptied else []

    def hold(self, segment: Segment) -> None:
        """A segment to which nothing is added any more, with records or without."""
        self._segments[segment.number] = segment

    def take_empty(self) -> list[Segment]:
        """Forget the segments that hold nothing unconfirmed: they are to be removed."""
        empty = [segment for segment in self._segments.values() if not segment.live]
        for segment in empty:
            del self._segments[segment.number]
        return empty


class _Line:
    """The unconfirmed records of one partition."""

    def __init__(self) -> None:
        self._seqs = array("Q")
        self._places = array("Q")
        self._first = 0

    def __len__(self) -> int:
        return len(self._seqs) - self._first

    @property
    def seq(self) -> int:
        return self._seqs[self._first]

    def places(self, most: int) -> list[tuple[int, int]]:
        """Of the oldest records: the segment, and where the record lies in there."""
        places = self._places[self._first : self._first + most]
        return [divmod(place, 1 << 32) for place in places]

    @property
    def last_seq(self) -> int:
        return self._seqs[-1]

    def add(self, seq: int, segment: int, at: int) -> None:
        self._seqs.append(seq)
        self._places.append(segment << 32 | at)

    def drop(self) -> int:
        """Forget the oldest record; its segment."""
        segment = self._places[self._first] >> 32
        self._first += 1
        if self._first >= TRIM and self._first * 2 >= len(self._seqs):
            del self._seqs[: self._first], self._places[: self._first]
            self._first = 0
        return segment

"""Batches that the store refuses for good, kept in files for people to look at.

Such a batch is a mistake, of ours or of whoever wrote into the store's keys; its hits were answered
503, or 202 if they had been in the spool. One file a batch, in the format of the spool's segments.
"""

from __future__ import annotations

from pathlib import Path

from visit_counter.disk.format import HEADER, Record, pack

MOST = 1000  # files: behind that many the same mistake tells nothing new


class Aside:
    """The directory of rejected batches; None where nothing can be kept."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory

    def keep(self, record: Record) -> Path | None:
        """Write a batch down and answer where; None if that was not possible. It blocks."""
        if self._directory is None or len(found(self._directory)) >= MOST:
            return None
        path = self._directory / f"{record.partition:02}-{record.epoch}-{record.seq}.seg"
        group, _ = pack([record], len(HEADER))
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            path.write_bytes(HEADER + group)
        except OSError:
            return None
        return path


def found(directory: Path) -> list[Path]:
    """The files of rejected batches."""
    return sorted(directory.glob("*.seg"))

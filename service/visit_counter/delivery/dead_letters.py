"""Batches that the store refuses for good, kept in files for people to look at.

Such a batch is a mistake, of ours or of whoever wrote into the store's keys; its hits were answered
503, or 202 if they had been in the spool. One file a batch, in the format of the spool's segments.
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog

from visit_counter.disk import guarded
from visit_counter.disk.format import HEADER, Record, pack

MOST = 1000  # files: behind that many the same mistake tells nothing new
OVER_S = 30.0  # after the last batch of a partition, until its mistake counts as over

log = structlog.get_logger()


@dataclass
class Mistake:
    """Batches of a partition that were rejected, one soon after the other."""

    reason: str
    began: float
    """Seconds since the epoch."""
    last_s: float = 0.0
    """Monotonic seconds."""
    batches: int = 0


class Aside:
    """The directory of rejected batches; None where nothing can be kept."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._mistakes: dict[int, Mistake] = {}
        """By partition."""

    async def put(self, record: Record, reason: str) -> None:
        """Keep a batch, and tell of it, once for all that follow it soon."""
        kept = await asyncio.to_thread(self.keep, record)
        mistake = self._mistakes.get(record.partition)
        if mistake is None:
            log.error("a batch is not counted: kept aside", reason=reason, kept=kept)
            mistake = self._mistakes[record.partition] = Mistake(reason, time.time())
        mistake.reason, mistake.last_s = reason, time.monotonic()  # a later one names the key
        mistake.batches += 1

    @property
    def _where(self) -> str:
        return (
            f"They lie in {self._directory}, {MOST} at most."
            if self._directory
            else "They are lost."
        )

    def settle(self) -> None:
        """To be called now and then: ends mistakes that are over."""
        oldest_s = time.monotonic() - OVER_S
        for partition, mistake in [*self._mistakes.items()]:
            if mistake.last_s < oldest_s:
                del self._mistakes[partition]
                log.info(
                    "no more batches are rejected", partition=partition, batches=mistake.batches
                )

    @property
    def problems(self) -> list[str]:
        """Which hits are not counted, since when and why, in sentences."""
        return [
            f"Since {datetime.fromtimestamp(mistake.began, UTC).isoformat(timespec='seconds')} "
            f"{mistake.batches} batches of partition {partition} were not counted: "
            f"{mistake.reason}. {self._where}"
            for partition, mistake in self._mistakes.items()
        ]

    def keep(self, record: Record) -> Path | None:
        """Write a batch down and answer where; None if that was not possible. It blocks."""
        if self._directory is None or len(found(self._directory)) >= MOST:
            return None
        path = self._directory / f"{record.partition:02}-{record.epoch}-{record.seq}.seg"
        group, _ = pack([record], len(HEADER))
        try:
            guarded.directory(self._directory)
            with os.fdopen(guarded.fresh(path), "wb") as file:
                file.write(HEADER + group)
        except OSError:
            return None
        return path


def found(directory: Path) -> list[Path]:
    """The files of rejected batches."""
    return sorted(directory.glob("*.seg"))

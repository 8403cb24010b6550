"""Who numbers the batches: a producer, with the epoch of this start.

A producer is a directory that one process at a time holds locked. Its id is made once; the epoch
grows with every start, so that the store can fence a process that was believed dead. Where nothing
can be kept, a producer of this run alone does.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import structlog

from visit_counter.disk import directories, guarded, locks
from visit_counter.errors import StartError

NAME = "producer"
MOST = 1000  # of one data directory

log = structlog.get_logger()


class Producer:
    """An id and an epoch; the epoch is on disk before it is used."""

    def __init__(self, producer_id: str, epoch: int, path: Path | None, not_kept: str = "") -> None:
        self.id = producer_id
        self.not_kept = not_kept
        """Why nothing is kept, in a sentence with its remedy."""
        self.epoch = epoch
        self._path = path

    @property
    def directory(self) -> Path | None:
        """Locked for us, for what belongs to this producer alone; None where nothing is kept."""
        return self._path and self._path.parent

    def raise_epoch(self, least: int = 0) -> None:
        """Begin a later epoch, at least the given one."""
        self.epoch = max(self.epoch + 1, least)
        if self._path is not None:
            kept = {"id": self.id, "epoch": self.epoch}
            guarded.replace(self._path, json.dumps(kept).encode())


@contextmanager
def producer_of(data_dir: Path, most: int = 1) -> Iterator[Producer]:
    """The first producer of a data directory that no process has, of so many, locked meanwhile;
    raises StartError if there is none."""
    with ExitStack() as stack:
        try:
            producer = _read(_first_free(data_dir, most, stack) / NAME)
        except locks.HeldError as held:
            raise StartError(
                f"Another visit-counter (pid {held.pid}) is using the data directory {data_dir}: "
                "stop it, or give this one another VISIT_COUNTER_DATA_DIR."
            ) from None
        except OSError as error:
            stack.close()  # what lies there is adopted when it can be
            remedy = (
                "free some space on its disk"
                if error.errno in directories.FULL
                else guarded.remedy(error, f"make it usable for user id {os.geteuid()}")
            )
            why = (
                f"The data directory {data_dir} keeps no spool ({error.strerror or error}: "
                f"{error.filename or data_dir}), so hits are refused while the store is away: "
                f"{remedy}, then restart."
            )
            log.warning("no spool", why=why)
            producer = Producer(secrets.token_hex(16), 1, None, why)
        yield producer


@contextmanager
def producer_in(directory: Path) -> Iterator[Producer]:
    """The producer of this directory; raises HeldError if a process has it, and StartError."""
    with locks.held(directory / "lock"):
        yield _begun(directory / NAME)


def directories_of(data_dir: Path) -> list[Path]:
    """Those of all its producers, in the order of their numbers."""
    home = data_dir / "producers"
    if not guarded.is_ours(home):
        return []
    found = [path for path in home.glob("*") if path.name.isdecimal() and guarded.is_ours(path)]
    return sorted(found, key=lambda path: int(path.name))


def _first_free(data_dir: Path, most: int, stack: ExitStack) -> Path:
    directories.make(data_dir, 0o700)
    guarded.directory(data_dir / "producers")
    for number in range(most):
        directory = data_dir / "producers" / str(number)
        guarded.directory(directory)
        try:
            stack.enter_context(locks.held(directory / "lock"))
            return directory
        except locks.HeldError:
            if number == most - 1:
                raise
    raise ValueError("at least one")


def _begun(path: Path) -> Producer:
    try:
        return _read(path)
    except OSError as error:
        raise StartError(
            f"the producer's epoch cannot be kept in {path} ({error.strerror}): free some space or "
            "mend the disk"
        ) from None


def _read(path: Path) -> Producer:
    try:
        kept = json.loads(guarded.read(path))
        producer = Producer(str(kept["id"]), int(kept["epoch"]), path)
    except FileNotFoundError:
        producer = Producer(secrets.token_hex(16), 0, path)
    except (ValueError, KeyError, TypeError):
        raise StartError(
            f"{path} is damaged: remove it, and this service goes on as a new producer."
        ) from None
    producer.raise_epoch()
    return producer

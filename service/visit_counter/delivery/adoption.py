"""Adopts what a process left behind that has not come back: batches in the spool of a producer that
nobody holds, as after a crash, or where there are fewer workers than there were.

Such a producer is locked, begun anew, and replayed like this process's own. It is given free again
when the store has all of it and could not lose it any more. It takes no hits: nothing is added.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Self

import structlog

from visit_counter.delivery.ledger import RETAIN_S, Ledger
from visit_counter.delivery.order import Heads, number_of
from visit_counter.delivery.replay import Replay, replaying
from visit_counter.disk import files as spool_files
from visit_counter.disk import locks
from visit_counter.disk.format import record_at
from visit_counter.disk.producer import directories_of, producer_in
from visit_counter.errors import StartError
from visit_counter.model.site_settings import PARTITIONS
from visit_counter.store.batch import first_instant
from visit_counter.store.store import Store
from visit_counter.tasks import once, supervised

LOOK_S = 5.0  # also the time that a worker has to come back

log = structlog.get_logger()


class Adoption:
    """Looks for such producers in a data directory, while it is entered."""

    def __init__(self, store: Store, data_dir: Path, heads: Heads | None = None) -> None:
        """`heads`: of all spools of the data directory, see `order`."""
        self._store = store
        self._data_dir = data_dir
        self._heads = heads or Heads()
        self._adopted: dict[Path, asyncio.Task[None]] = {}
        self._faults: dict[Path, str] = {}
        self._parts: dict[Path, tuple[Ledger, Replay]] = {}
        """Of the producers that are adopted now."""
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = supervised(self._run, "adoption")
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = {task for task in (self._task, *self._adopted.values()) if task}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    @property
    def problems(self) -> list[str]:
        """Why batches that others left behind stay where they are, in sentences."""
        problems = [*self._faults.values()]
        for ledger, replay in self._parts.values():
            problems += [ledger.fault] if ledger.fault else []
            problems += ledger.problems + replay.problems
        return problems

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            found = await asyncio.to_thread(_with_batches, self._data_dir)
            for gone in self._faults.keys() - found:
                del self._faults[gone]
            for directory in found:
                if directory not in self._adopted:
                    adopting = once(self._adopt(directory), f"adoption of {directory.name}")
                    self._adopted[directory] = adopting

    async def _adopt(self, directory: Path) -> None:
        try:
            with producer_in(directory) as producer:
                async with replaying(self._store, producer, self._heads) as (ledger, replay):
                    log.info("bringing the store what a process left behind", producer=directory)
                    self._faults.pop(directory, None)
                    self._parts[directory] = (ledger, replay)
                    await replay.until_empty()
                    await asyncio.sleep(RETAIN_S)
        except locks.HeldError:
            self._faults.pop(directory, None)  # it is being looked after
        except (StartError, OSError) as problem:
            if directory not in self._faults:
                log.error("what a process left behind is not counted yet", reason=str(problem))
            self._faults[directory] = str(problem)
        finally:
            self._parts.pop(directory, None)
            del self._adopted[directory]


def _with_batches(data_dir: Path) -> list[Path]:
    """The producers with something in their spool, whoever has them."""
    return [
        directory
        for directory in directories_of(data_dir)
        if (directory / "spool").is_dir() and spool_files.paths(directory / "spool")
    ]


def note_left(heads: Heads, data_dir: Path) -> None:
    """Tell the order of the spools that no process holds yet, before any hit counts: until they
    are adopted the store gets nothing that is later. It blocks, and raises nothing: what is damaged
    is told when it is to be adopted."""
    for directory in directories_of(data_dir):
        number = number_of(directory)
        if number >= 0 and not heads.is_known(number):
            with suppress(locks.HeldError, OSError, StartError), locks.held(directory / "lock"):
                heads.publish(number, _heads_in(directory / "spool"))


def _heads_in(spool: Path) -> list[int]:
    """The instant of the oldest batch of each partition, 0 for none."""
    heads = [0] * PARTITIONS
    for _, data, found in spool_files.scans(spool) if spool.is_dir() else ():
        for place in found.records:
            if not heads[place.partition] and (record := record_at(data, place.at)):
                heads[place.partition] = first_instant(record.payload)
    return heads

"""A process as the state machine plays it: takes hits, numbers them, sends or spools them, ends.

The ledger, the spool and the replay are the service's own. What its recorder does with time and
tasks happens here at a call, and book is kept of what the page of each view was told, by the view's
path.
"""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import MutableMapping
from enum import Enum
from pathlib import Path
from typing import NamedTuple, cast

from tests.kit.ledger_machine.stores import Line
from visit_counter.delivery.ledger import Ledger
from visit_counter.delivery.replay import Replay
from visit_counter.disk import files as spool_files
from visit_counter.disk import format as segment
from visit_counter.disk.format import Record
from visit_counter.disk.producer import Producer
from visit_counter.disk.spool import Spool
from visit_counter.errors import StartError, StoreError
from visit_counter.model.hit import Drop, Hit
from visit_counter.model.kinds import Kind
from visit_counter.model.site import Site
from visit_counter.model.site_settings import PARTITIONS
from visit_counter.store.batch import Batch, Outcome
from visit_counter.store.replies import Fenced, Rejected
from visit_counter.store.store import Store

SPOOL_BYTES = 8 << 20


class Fate(Enum):
    """What is to become of a view."""

    SENT = "nobody was promised anything: counted or not, but never twice"
    ACKED = "it was acknowledged: counted exactly once"
    GONE = "it was, but the store failed together with all who held it: never twice"


Fates = MutableMapping[str, Fate]


class Disk:
    """A producer's directory; it outlives its processes."""

    def __init__(self, directory: Path, producer_id: str, epoch: int = 0) -> None:
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self.producer_id = producer_id
        self.epoch = epoch
        self.paths: dict[str, int] = {}
        """Of acknowledged views that the store may not have yet; the numbers of their batches."""

    def next_producer(self) -> Producer:
        """Its epoch is on disk before it is used: no two starts of a directory share one."""
        self.epoch += 1
        return Producer(self.producer_id, self.epoch, self.directory / "producer")

    def copied_to(self, directory: Path) -> Disk:
        shutil.copytree(self.directory, directory)
        copy = Disk(directory, self.producer_id, self.epoch)
        copy.paths.update(self.paths)
        return copy


class Sealed(NamedTuple):
    """A batch that was not answered for, and the paths of its views."""

    batch: Batch
    paths: list[str]


class Sender:
    """A process of a producer; what it remembers ends with it, but for its disk."""

    def __init__(
        self, line: Line, producer: Producer, site: Site, disk: Disk, fates: Fates
    ) -> None:
        self.producer = producer
        self.site = site
        self.disk = disk
        self.pending: list[Hit | Drop] = []
        self.unconfirmed: deque[Sealed] = deque()
        self.retained: set[str] = set()
        """Paths of views that it would send again."""
        self.superseded = False
        """A later process of the same producer runs: who does not know it yet promises in vain."""
        self._line = line
        self._fates = fates

    async def start(self) -> bool:
        """Whether the store could be asked; else this process has ended."""
        self._spool = await Spool(self.disk.directory, SPOOL_BYTES).__aenter__()
        spooled = [self._spool.last_seq(partition) for partition in range(PARTITIONS)]
        self.ledger = Ledger(cast(Store, self._line), self.producer, spooled)
        self._replay = Replay(self.ledger, self._spool)
        try:
            await self.ledger.__aenter__()
        except StartError:
            await self._spool.__aexit__()
            return False
        finally:
            self.disk.epoch, self.disk.producer_id = self.producer.epoch, self.producer.id
        return True

    async def crash(self, spooled: float = 0) -> None:
        """End; of the spool's group for the unconfirmed batch that part had got to the disk."""
        if spooled and self.unconfirmed:
            await self._tear(self.unconfirmed[0].batch.record, spooled)
        await self.ledger.__aexit__()
        await self._spool.__aexit__()

    async def _tear(self, record: Record, part: float) -> None:
        tail = self._spool._tail or await self._spool._next_segment()
        group, _ = segment.pack([record], tail.size)
        spool_files.append(tail.path, group[: round(part * len(group))], tail.size)

    # -- what the recorder does

    @property
    def spooling(self) -> bool:
        return self._spool.pending(self.site.partition)

    def seal(self, now: int) -> Sealed:
        """Number what is pending."""
        views = [e for e in self.pending if isinstance(e, Hit) and e.kind is Kind.VIEW]
        batch = self.ledger.seal(self.site.partition, self.pending, now)
        sealed = Sealed(batch, [view.path for view in views])
        self.unconfirmed.append(sealed)
        self.pending = []
        return sealed

    async def flush(self, now: int) -> list[list[Outcome] | StoreError]:
        """Send what is sealed or pending, which is settled up to the first batch that is not
        answered for; or spool it behind what lies there already."""
        if self.spooling:
            await self.spill(now)
        if self.pending and not self.unconfirmed:
            self.seal(now)
        results = await self.ledger.commit([sealed.batch for sealed in self.unconfirmed])
        for result in results:
            if isinstance(result, StoreError) and not isinstance(result, (Rejected, Fenced)):
                break
            _, paths = self.unconfirmed.popleft()
            if isinstance(result, list):
                self._acknowledge(paths)
                self.retained.update(paths)
        return results

    async def spill(self, now: int) -> None:
        """Keep in the spool what the store has not answered for, else what is pending."""
        if self.pending and not self.unconfirmed:
            self.seal(now)
        await self._replay.spool([sealed.batch.record for sealed in self.unconfirmed], hits=1)
        while self.unconfirmed:
            batch, paths = self.unconfirmed.popleft()
            self._acknowledge(paths)
            self.disk.paths.update(dict.fromkeys(paths, batch.record.seq))

    async def empty_spool(self) -> None:
        """Bring the spool's batches to the store; raises StoreError."""
        if self.spooling:
            before = self.confirmed
            await self._replay._bring_some(self.site.partition)
            self.retained |= {path for path, seq in self.disk.paths.items() if seq > before}
            self.disk.paths.clear()

    # -- what the ledger does by itself

    @property
    def confirmed(self) -> int:
        """The number of the last batch that the store has answered for."""
        return self.ledger._confirmed[self.site.partition]

    async def verify(self) -> None:
        """Every few seconds."""
        await self.ledger._verify()

    def let_go(self) -> None:
        """When the time of retention has passed."""
        self.ledger._kept.clear()
        self.ledger._kept_bytes = 0
        self.retained.clear()

    def _acknowledge(self, paths: list[str]) -> None:
        if not self.superseded:
            self._fates.update(dict.fromkeys(paths, Fate.ACKED))

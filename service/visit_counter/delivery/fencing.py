"""What becomes of a producer whose number another service goes on with, on a copy of its directory.

Two services on copies of one data directory number their batches alike. The one that starts later
begins a later epoch, and the store fences the other: that counts nothing more until it is stopped.
At its next start it takes an id of its own, and both count. Its spool may hold batches of three
kinds under the old id: counted, with a lost reply; copied, which the other sends too; and some that
nobody else has, under numbers that the other has given to its own. Which is which tells the number
up to which batches had been sealed when the other began, which each start leaves in the store for
three days: up to it a batch is sent under the old id, so that the ledger counts it once, whoever
brings it; beyond it under the new one. Nothing here is asked while a service counts.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Sequence
from contextlib import suppress

import msgspec
from msgspec import Struct

from visit_counter.disk import guarded
from visit_counter.disk.format import Record
from visit_counter.disk.producer import Producer
from visit_counter.errors import StartError
from visit_counter.store.store import Store

NAME = "starts"  # the file in a producer's directory
TRIES, TRY_S = 6, 0.5


class Begun(Struct, frozen=True, kw_only=True):
    """What the store keeps of a start."""

    epoch: int
    after: int
    """The last epoch of its directory before in which batches were sealed."""
    sealed: tuple[int, ...]
    """By partition: the number of the last batch that was sealed before."""
    host: str
    directory: str


class Taken(Struct, frozen=True, kw_only=True):
    """An id that another service has taken over."""

    id: str
    until: int
    """The last epoch in which the directory had this id."""
    sealed: tuple[int, ...] | None
    """By partition: the last number that had been given when the other began. A batch up to it may
    be in the ledger under the old id. None if the store no longer knows: then nobody can tell."""


async def first_after(store: Store, producer_id: str, epoch: int) -> Begun | None:
    """The first start under a producer's id after an epoch; waits a moment for it, since the store
    fences before it is told. Raises StoreError."""
    for _ in range(TRIES):
        later = [begun for begun in await _starts(store, producer_id) if begun.epoch > epoch]
        if later:
            return min(later, key=lambda begun: begun.epoch)
        await asyncio.sleep(TRY_S)
    return None


async def _starts(store: Store, producer_id: str) -> list[Begun]:
    announced = await store.schema.workers()
    found = []
    for name, (_, about) in announced.workers.items():
        if name.startswith(f"{producer_id}/"):
            with suppress(msgspec.MsgspecError):
                found.append(msgspec.json.decode(about, type=Begun))
    return found


def sentence(producer: Producer, other: Begun | None) -> str:
    """What has happened to a fenced service, to which of the two, and the remedy that ends it."""
    where = f" (on host {other.host}, data directory {other.directory})" if other else ""
    return (
        f"Fenced by a copy: another service{where} counts as the producer {producer.id} of this "
        f"one (on host {socket.gethostname()}, data directory {_place(producer)}), so one of the "
        "two data directories is a copy of the other. Hits are refused here and count there. To "
        "end it, stop this service, and start it once more: it then counts beside the other under "
        "an id of its own, and brings the store what is in its spool, each batch once. To give it "
        "up, do the same, and stop it for good when visitcounter_spool_records is 0."
    )


class Kept(Struct):
    """What a producer's directory keeps, beside its id and epoch."""

    began: int = 0
    """The last epoch that was told to the store; before that nothing is sealed in one."""
    taken: list[Taken] = []


class Fencing:
    """The starts of a producer's directory, and the ids that it has lost."""

    def __init__(self, producer: Producer) -> None:
        """Raises StartError if what is kept is damaged."""
        self._path = producer.directory and producer.directory / NAME
        self._kept = Kept()
        if self._path is None or not self._path.exists():
            return
        try:
            self._kept = msgspec.json.decode(guarded.read(self._path), type=Kept)
        except (OSError, msgspec.MsgspecError) as error:
            raise StartError(
                f"{self._path} cannot be read ({error}). It says which batches in the spool "
                "another service may have counted: restore it, or remove it where no copy "
                "of the data directory was ever used"
            ) from None

    async def begin(self, store: Store, producer: Producer, sealed: Sequence[int]) -> None:
        """Leave in the store what a service that is fenced by this start must know; `sealed` are
        the last numbers that were given before. Raises StoreError and OSError."""
        begun = Begun(
            epoch=producer.epoch,
            after=min(self._kept.began, producer.epoch - 1),
            sealed=tuple(sealed),
            host=socket.gethostname(),
            directory=_place(producer),
        )
        about = msgspec.json.encode(begun)
        await store.schema.announce(f"{producer.id}/{producer.epoch}", about)
        if self._kept.began != producer.epoch:
            self._kept.began = producer.epoch
            self._write()

    def is_taken(self, producer: Producer) -> bool:
        """Whether another service has taken over the id that the producer has."""
        return any(taken.id == producer.id for taken in self._kept.taken)

    async def take(self, store: Store, producer: Producer) -> Begun | None:
        """Note that the producer's id is another's by now. Returns the start that took it, None if
        the store no longer knows it; raises StoreError and OSError."""
        began, until = self._kept.began, max(self._kept.began, producer.epoch - 1)
        other = await first_after(store, producer.id, began)
        # With another start between, which is not known any more, the numbers tell nothing.
        sealed = other.sealed if other and other.after <= began else None
        self._kept.taken.append(Taken(id=producer.id, until=until, sealed=sealed))
        self._write()
        return other

    def of(self, record: Record) -> Taken | None:
        """The id of a batch, if it is another's by now."""
        return next((taken for taken in self._kept.taken if record.epoch <= taken.until), None)

    def _write(self) -> None:
        if self._path is None:
            return
        guarded.replace(self._path, msgspec.json.encode(self._kept))


def begin_anew(producer: Producer) -> None:
    """Give a producer another id, on disk before it is used; raises OSError."""
    producer.id = secrets.token_hex(16)
    producer.raise_epoch()


def _place(producer: Producer) -> str:
    """Its data directory, as text: a name may be none in this locale's encoding."""
    directory = producer.directory  # <data directory>/producers/<number>
    place = str(directory.absolute().parents[1]) if directory else "none"
    return place.encode(errors="backslashreplace").decode()

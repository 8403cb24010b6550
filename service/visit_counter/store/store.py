"""The store: all that the service asks of Redis and Valkey, in the service's own words.

Below the recorder, the reader and the sites stands this one class. Below it `store/functions.py`
makes the calls, `store/shards.py` knows the servers, and counter.lua knows the keys. Errors are
StoreErrors: what was sent and not answered is `OutcomeUnknown`, for the caller to say so.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgspec
import structlog

from visit_counter import metrics
from visit_counter.clock import Clock, skew
from visit_counter.disk import migration_copy
from visit_counter.disk.migration_copy import Head, Saved
from visit_counter.disk.producer import Producer
from visit_counter.errors import OutcomeUnknown, StartError, StoreError, StoreUnavailable
from visit_counter.model import forms
from visit_counter.model.counts import Counts, Numbers, numbers_of
from visit_counter.model.kinds import Metric
from visit_counter.model.site import Site
from visit_counter.model.site_settings import PARTITIONS
from visit_counter.store.batch import Batch, Outcome, Packed
from visit_counter.store.checks import Check, examine, merged, refusals
from visit_counter.store.functions import Functions
from visit_counter.store.libraries import Libraries
from visit_counter.store.migration import Installation, Migrating, Migration
from visit_counter.store.replies import Again, Early, is_final, speaking
from visit_counter.store.shards import Shard, Shards

START_WAIT_S = 30.0
NUMBER = re.compile(rb"[1-9]\d{0,14}")
AT_ONCE = 200  # batches that are sent again in one round trip

METRIC_LETTERS: dict[Metric, str] = {"pageviews": "p", "visits": "v", "visitors": "u"}

log = structlog.get_logger()


class PartitionSites(NamedTuple):
    """The sites of a partition as the store keeps them."""

    version: str
    settings: dict[str, bytes]
    generations: dict[str, int]
    """Without those that are not numbers."""


class Announced(NamedTuple):
    """What the store knows of its versions."""

    now: int
    """By the store's clock, in ms since the epoch."""
    installation: Installation
    workers: dict[str, tuple[int, bytes]]
    """When each worker of the last days was seen, and what it said of itself."""


class Done(NamedTuple):
    """What became of a site's settings."""

    kind: str
    """creation or change"""
    now: bool
    """By this call, and not by an earlier one with the same operation id."""


class Store:
    """A store at a URL, under a namespace.

    Entering waits until the store answers (30 s at most), refuses one that would lose numbers
    unless `allow_unsafe`, and loads counter.lua; raises StartError with what to do.
    """

    def __init__(
        self,
        url: str,
        namespace: str,
        clock: Clock,
        *,
        allow_unsafe: bool = False,
        min_replicas: int = 0,
        copies: Path = Path(),
        migrating: Migrating = nullcontext,
        going_back: bool = False,
    ) -> None:
        """`min_replicas`: how many must have a batch, on disk if they can say so, before it is
        confirmed. `copies`: the directory of the copy that a migration makes before; `migrating` is
        entered while one runs at the start; `going_back`: make none."""
        self.secret = b""
        self._namespace = namespace
        self._copies = copies
        self._migrating = migrating
        self._going_back = going_back
        self._clock = clock
        self._allow_unsafe = allow_unsafe
        self._tags = [f"{namespace}:{{p{partition:02}}}" for partition in range(PARTITIONS)]
        self._meta = f"{namespace}:{{meta}}"
        self._shards = Shards(url, [*self._tags, self._meta])
        note = "\n-- on the way back to 0.1" if going_back else ""
        self._libraries = Libraries(self._shards, namespace, note)
        self._functions = Functions(self._shards, self._libraries, self._relearn, min_replicas)
        self._first_info: dict[str, Mapping[str, object]] = {}  # by address

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._shards.close()

    @property
    def address(self) -> str:
        return self._shards.address

    @property
    def installation(self) -> str:
        """Names the data that this store keeps, in every partition, without its secret."""
        return blake2b(self.secret, digest_size=8).hexdigest()

    @property
    def writes(self) -> int:
        """The form in which all write, see model/forms.py."""
        return self._libraries.writes

    @property
    def library(self) -> str:
        """The name of the function library that counts."""
        return self._libraries.name

    @property
    def routes(self) -> int:
        """Another number whenever a partition has gone to another server."""
        return self._shards.changes

    def shard(self, partition: int) -> str:
        """Names the server that takes the partition's writes now."""
        return self._shards.of(self._tags[partition]).address

    # -- hits

    async def record(
        self, producer: Producer, batches: Sequence[Batch]
    ) -> list[list[Outcome] | StoreError]:
        """Count batches, one call each, in one round trip; for each its outcomes or its error."""
        results = await self._exchange(producer, batches)
        again = {n: result for n, result in enumerate(results) if isinstance(result, Again)}
        if again:
            for n, refusal in again.items():
                await self._mend(batches[n], refusal)
            once_more = [batches[n] for n in again]
            for n, result in zip(again, await self._exchange(producer, once_more), strict=True):
                results[n] = result
        if any(isinstance(result, (StoreUnavailable, OutcomeUnknown)) for result in results):
            self._shards.look_soon()
        return results

    async def _mend(self, batch: Batch, refusal: Again) -> None:
        """Mend what kept a batch from being counted."""
        if isinstance(refusal, Early):
            batch.clamp(refusal.now)
            return
        with suppress(StoreError):
            await self._functions.mend(self._tags[batch.packed.partition], refusal)

    async def replay(self, producer: Producer, batches: Sequence[Packed]) -> None:
        """Send batches of a partition, in their order, that nobody waits for; raises the first
        StoreError, behind which nothing was counted."""
        for start in range(0, len(batches), AT_ONCE):
            calls = [self._numbered(producer, each) for each in batches[start : start + AT_ONCE]]
            for reply in await self._functions.write("record", calls):
                if isinstance(reply, Again):
                    with suppress(StoreError):
                        await self._functions.mend(calls[0][0], reply)
                if isinstance(reply, StoreError):
                    self._shards.look_soon()
                    raise reply

    async def open(self, producer: Producer, seqs: Mapping[int, int] | None = None) -> list[int]:
        """Begin the producer's epoch in every partition: the seqs of its last batches there. With
        `seqs` only in those partitions, giving up batches up to that seq. Raises Fenced if the
        epoch is not a later one."""
        passed: Mapping[int, int | str] = seqs or dict.fromkeys(range(PARTITIONS), "")
        calls = [(self._tags[n], producer.id, producer.epoch, seq) for n, seq in passed.items()]
        return [int(last) for last in await self._functions.calls("open", calls)]

    async def last_seqs(self, producer: Producer, partitions: Sequence[int]) -> list[int]:
        """The seq of the producer's last batch in each partition."""
        calls = [(self._tags[n], producer.id, producer.epoch) for n in partitions]
        return [int(last) for last in await self._functions.calls("last_seq", calls)]

    async def _exchange(
        self, producer: Producer, batches: Sequence[Batch]
    ) -> list[list[Outcome] | StoreError]:
        sent = self._clock.local()
        calls = [self._numbered(producer, batch.packed) for batch in batches]
        replies = await self._functions.write("record", calls)
        return [self._read(*pair, sent) for pair in zip(batches, replies, strict=True)]

    def _numbered(self, producer: Producer, packed: Packed) -> tuple[Any, ...]:
        tag = self._tags[packed.partition]
        return (tag, producer.id, producer.epoch, packed.seq, packed.parts, packed.ids)

    def _read(
        self, batch: Batch, reply: list[Any] | StoreError, sent: int
    ) -> list[Outcome] | StoreError:
        if isinstance(reply, Early):
            self._learn(sent, reply.now)
        if isinstance(reply, StoreError):
            return reply
        applied, outcomes = batch.outcomes(reply)
        self._learn(sent, applied.now)
        if applied.full:
            metrics.VISITORS_FULL.inc(applied.full)
        return outcomes

    def _learn(self, sent: int, store_time: int) -> None:
        self._clock.observe(sent, store_time, self._clock.local())

    # -- counts

    async def counts(self, site: Site, now: int, paths: Sequence[str] = ()) -> Counts:
        window = site.settings.online_window * 1000
        request = [site.id, window, "".join(site.calendar.periods(now)), list(paths)]
        tag, packed = self._tags[site.partition], msgspec.msgpack.encode(request)
        sent = self._clock.local()
        store_time, counts = await self._functions.read("counts", tag, packed)
        self._learn(sent, store_time)
        return Counts.of(counts)

    async def days(self, site: Site, labels: Sequence[str]) -> dict[str, Numbers]:
        """What each of these days counted, in their order."""
        packed = await self._functions.read("days", self._tags[site.partition], site.id, *labels)
        return dict(zip(labels, numbers_of(packed), strict=True))

    async def drops(self, site: Site, months: Sequence[str]) -> dict[str, dict[str, int]]:
        """Dropped hits by day and reason, for the given months ('2026-11')."""
        reply = await self._call("drops", site.partition, site.id, *months)
        days: dict[str, dict[str, int]] = {}
        for month, flat in zip(months, reply, strict=True):
            for field, hits in _pairs(flat):
                day, _, reason = field.partition(":")
                days.setdefault(f"{month}-{day}", {})[reason] = int(hits)
        return days

    # -- sites and operations of admins

    async def sites_since(self, versions: Sequence[str]) -> dict[int, PartitionSites]:
        """The partitions whose sites changed; `versions` holds what is known of each."""
        replies = await self._functions.calls("sites", [*zip(self._tags, versions, strict=True)])
        return {
            partition: _partition_sites(reply)
            for partition, reply in enumerate(replies)
            if reply is not None
        }

    async def put_site(
        self, partition: int, site: str, settings: bytes, before: bytes, operation: str = ""
    ) -> Done:
        """Make a site (`before` empty) or change it; Refused with EXISTS, CHANGED or USED."""
        reply = await self._call("put_site", partition, site, settings, before, operation)
        return Done(reply[0].decode(), now=reply[1] == 1)

    async def done(self, partition: int, site: str, operation: str) -> str | None:
        """What kind an operation of the last 30 days was; None: it was not done."""
        kind = await self._call("done", partition, site, operation)
        return kind and str(kind.decode())

    async def reset(self, site: Site, operation: str) -> None:
        await self._call("reset", site.partition, site.id, operation)

    async def undo(self, site: Site, operation: str) -> int:
        """Undo a reset; answers how many visitor numbers are approximate now."""
        reply = await self._call("undo", site.partition, site.id, operation)
        return int(reply[1])

    async def seed(
        self, site: Site, operation: str, metric: Metric, amounts: dict[tuple[str, str], int]
    ) -> None:
        """Add to periods, named by (kind, label)."""
        flat = [value for (kind, label), n in amounts.items() for value in (kind, label, n)]
        letter = METRIC_LETTERS[metric]
        await self._call("seed", site.partition, site.id, operation, letter, *flat)

    # -- versions

    async def announce(self, worker: str, about: bytes) -> Announced:
        """Register a worker as living, and write what all write now."""
        reply = _announced(await self._functions.call("announce", self._meta, worker, about))
        await self._take_over(reply.installation.writes)
        return reply

    async def workers(self) -> Announced:
        """The registered workers; the caller is not one."""
        return _announced(await self._functions.call("announce", self._meta))

    async def upgrade(self, form: int, older: Iterable[str]) -> None:
        """Bring the store into a form while it counts, and fence the libraries of these names;
        raises StartError where the copy cannot be made, and StoreError."""
        record = await self._install()
        if record.converted < form:
            await self._migration(self._head(record, form), older).run(record, self._copies)

    async def convert_rest(self) -> None:
        """Fence and convert what a promoted server may lack of a migration that is complete."""
        record = await self._install()
        if not record.is_unfinished:
            await self._migration(self._head(record, record.writes)).convert_rest()

    async def put_back(self, copy: Path | None) -> int:
        """Bring the store back into the form of 0.1, with the numbers of now; keys that are damaged
        get the bytes of the copy that the migration made. Returns how many keys were changed;
        raises StartError and StoreError. Nobody may count in the store meanwhile."""
        record = await self._install()
        head = self._head(record._replace(converted=0), forms.OLDEST_WRITTEN)
        saved: Iterable[Saved] = ()
        if copy is not None:
            head, saved = await asyncio.to_thread(migration_copy.read, copy)
        if head.installation != self.installation or head.namespace != self._namespace:
            raise StartError(f"{copy} is the copy of another store: installation and namespace")
        if head.form != forms.UNVERSIONED:
            raise StartError(f"{copy} was not made of a store of version 0.1: there is no way back")
        return await self._migration(head).put_back(saved)

    async def remove_libraries(self, unused: Callable[[str], bool]) -> list[str]:
        """Delete function libraries of other versions that nobody uses; their names."""
        return await self._libraries.remove(unused)

    # -- the watch

    async def look(self) -> None:
        """Learn anew which servers take writes."""
        await self._shards.look()

    async def probe(self, partition: int | None = None) -> None:
        """Whether a batch could be counted now, in a partition or in one of every server: the call
        is one that a server refuses when it refuses writes. Raises StoreError with its reason, or
        if the data there is not that with which we started."""
        tags = self._tags if partition is None else [self._tags[partition]]
        sent = self._clock.local()
        for store_time, kept in await self._functions.everywhere("probe", tags):
            self._learn(sent, store_time)
            if (kept or b"").decode() != self.installation:
                raise StoreUnavailable(
                    "its data was removed or replaced while we ran: restore it, or restart the "
                    "service to begin anew"
                )

    async def examine(self) -> tuple[Check, ...]:
        """What makes the store safe or unsafe to count in."""
        await self.look()
        shards = self._shards.all()
        async with speaking():
            found = await asyncio.gather(*(self._examined(shard) for shard in shards))
        names = [shard.address for shard in shards]
        return merged(dict(zip(names, found, strict=True)))

    async def _examined(self, shard: Shard) -> tuple[Check, ...]:
        info = await shard.client.info()
        sent = self._clock.local()
        seconds, micros = await shard.client.time()
        return examine(
            info,
            first=self._first_info.setdefault(shard.address, info),
            skew_ms=skew(sent, seconds * 1000 + micros // 1000, self._clock.local()),
            library=self._libraries.name,
            loaded=await self._libraries.loaded(shard),
        )

    # -- start

    async def _start(self) -> None:
        checks = await self._wait_until_up()
        if found := refusals(checks, allow_unsafe=self._allow_unsafe):
            raise StartError(" ".join(found))
        try:
            for shard in self._shards.all():
                await self._libraries.load(shard)
            sent = self._clock.local()
            for store_time in await self._functions.everywhere("rehearse", self._tags):
                self._learn(sent, store_time)  # before the first hit
            record = await self._install()
            if not record.is_too_old:
                await self._libraries.use(record.writes)
                if not self._going_back:
                    await self._libraries.fence_older((), record.writes)
            elif not self._going_back:
                await self._migrate_first(record)
            await self._functions.calls("adopt", [(tag, self.installation) for tag in self._tags])
        except StoreError as error:
            raise StartError(f"the store refuses the counting function: {error}") from None

    async def _wait_until_up(self) -> tuple[Check, ...]:
        deadline = asyncio.get_running_loop().time() + START_WAIT_S
        delay = 0.05
        while True:
            try:
                return await self.examine()
            except StoreError as error:
                if is_final(error):
                    raise StartError(
                        f"the store at {self.address} refuses us ({error}): mend the user, "
                        "password or database in VISIT_COUNTER_REDIS_URL"
                    ) from None
                if asyncio.get_running_loop().time() + delay > deadline:
                    raise StartError(
                        f"no store at {self.address} within {START_WAIT_S:.0f} s ({error}). "
                        "Start it, mend VISIT_COUNTER_REDIS_URL, or unset it to use the embedded "
                        "Valkey"
                    ) from None
            if delay == 0.05:
                log.info("waiting for the store", address=self.address)
            await asyncio.sleep(delay)
            delay = min(delay * 2, 1.0)

    async def _install(self) -> Installation:
        """The installation's record, made if there is none; raises StartError for one in which this
        version cannot count."""
        arguments = (PARTITIONS, secrets.token_hex(32))
        reply = await self._functions.call("install", self._meta, *arguments)
        partitions, secret, *record = reply
        if int(partitions) != PARTITIONS:
            raise StartError(
                f"the store holds data in {int(partitions)} partitions, and this version counts in "
                f"{PARTITIONS}: use the version that wrote it, or another VISIT_COUNTER_NAMESPACE"
            )
        installation = Installation.of(record)
        installation.check()
        self.secret = bytes.fromhex(secret.decode())
        return installation

    async def _migrate_first(self, record: Installation) -> None:
        """Migrate before anything is counted."""
        await self._libraries.reload()
        migration = self._migration(self._head(record, forms.OLDEST_WRITTEN))
        async with self._migrating(migration.progress):
            await migration.run(record, self._copies)

    def _head(self, record: Installation, form: int) -> Head:
        """Of the copy that is made before the store is brought into a form."""
        return Head(
            form=record.converted or forms.UNVERSIONED,
            to=form,
            namespace=self._namespace,
            installation=self.installation,
            at=datetime.fromtimestamp(self._clock.now() // 1000, UTC).isoformat(),
        )

    def _migration(self, head: Head, older: Iterable[str] = ()) -> Migration:
        return Migration(self._functions, self._libraries, self._tags, self._meta, head, older)

    async def _relearn(self) -> None:
        """Our functions are fenced: go on with those that write what all write now, if we can."""
        async with speaking():
            found: Any = await self._shards.of(self._meta).client.hget(self._meta, "writes")
        await self._take_over(int(found or 0))

    async def _take_over(self, writes: int) -> None:
        """Write what all write now, if this version can."""
        if forms.is_written(writes):
            await self._libraries.use(writes)

    async def _call(self, name: str, partition: int, *arguments: str | bytes | int) -> Any:
        return await self._functions.call(name, self._tags[partition], *arguments)


def _pairs(flat: Any) -> list[tuple[str, bytes]]:
    """Field and value of what HGETALL gives inside a function: a flat list, or a map in RESP3."""
    items = flat.items() if isinstance(flat, dict) else zip(flat[::2], flat[1::2], strict=True)
    return [(field.decode(errors="backslashreplace"), value) for field, value in items]


def _announced(reply: Any) -> Announced:
    now, record, workers = reply
    said = {name: value.partition(b" ") for name, value in _pairs(workers)}
    seen = {name: (int(at), text) for name, (at, _, text) in said.items()}
    return Announced(now, Installation.of(record), seen)


def _partition_sites(reply: Any) -> PartitionSites:
    version, settings, generations = reply
    return PartitionSites(
        version.decode(),
        {site: value for site, value in _pairs(settings) if site != "#"},
        {
            site: int(n)
            for site, n in _pairs(generations)
            if ":" not in site and NUMBER.fullmatch(n)
        },
    )

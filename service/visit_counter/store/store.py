"""The store: all that the service asks of Redis and Valkey, in the service's own words.

Below the recorder, the reader and the sites stands this one class. Below it `store/servers/` knows
the servers and sends them batches, `store/functions.py` makes all other calls, and `store/lua/`
knows the keys. Errors are StoreErrors: what was sent and not answered is `OutcomeUnknown`, for the
caller to say so.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgspec
import structlog
from redis import exceptions

from visit_counter import metrics
from visit_counter.clock import Clock, skew
from visit_counter.config.store_url import tls_options
from visit_counter.disk.format import Record
from visit_counter.disk.producer import Producer
from visit_counter.errors import OutcomeUnknown, StartError, StoreError, StoreUnavailable
from visit_counter.model.calendar import Calendar, Periods
from visit_counter.model.counts import Counts, Day, days_of
from visit_counter.model.kinds import METRIC_LETTERS, Metric
from visit_counter.model.site import Site
from visit_counter.model.site_settings import PARTITIONS
from visit_counter.store.batch import Batch, Outcome, packed_views, sites_in
from visit_counter.store.checks import Check, examine, merged, objections
from visit_counter.store.functions import Functions
from visit_counter.store.libraries import Libraries
from visit_counter.store.migration import Migrating
from visit_counter.store.replies import REFUSING, Again, Early, NotOurs, pairs, speaking
from visit_counter.store.schema import Schema
from visit_counter.store.servers.shards import Shard, Shards
from visit_counter.store.starting.certificates import wrong_files
from visit_counter.store.starting.denied import forbids_info, rules
from visit_counter.store.starting.final import Asked, may_pass, sentence
from visit_counter.store.writer import Call

START_WAIT_S = 30.0
NUMBER = re.compile(rb"[1-9]\d{0,14}")
AT_ONCE = 200  # batches that are sent again in one round trip

log = structlog.get_logger()


class PartitionSites(NamedTuple):
    """The sites of a partition as the store keeps them."""

    version: str
    settings: dict[str, bytes]
    generations: dict[str, int]
    """Without those that are not numbers."""


class Done(NamedTuple):
    """What became of a site's settings."""

    kind: str
    """creation or change"""
    now: bool
    """By this call, and not by an earlier one with the same operation id."""


class Store:
    """A store at a URL, under a namespace.

    Entering waits until the store answers (30 s at most), refuses one that would lose numbers
    unless `allow_unsafe`, and loads the function library; raises StartError with what to do.
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
        belongs_to: Callable[[str, str], None] = lambda _found, _address: None,
    ) -> None:
        """`min_replicas`: how many must have a batch, on disk if they can say so, before it is
        confirmed. `copies`: the directory of the copy that a migration makes before; `migrating` is
        entered while one runs at the start; `going_back`: make none; `belongs_to` is given the
        installation that is found, empty for none, and the address, before anything is written,
        and raises StartError if that is not the store that is meant."""
        self._belongs_to = belongs_to
        self._clock = clock
        self._namespace = namespace
        self._certificates = tls_options(url)
        self._allow_unsafe = allow_unsafe
        self._tags = [f"{namespace}:{{p{partition:02}}}" for partition in range(PARTITIONS)]
        self._meta = f"{namespace}:{{meta}}"
        self._shards = Shards(url, [*self._tags, self._meta], min_replicas)
        note = "\n-- on the way back to 0.1" if going_back else ""
        self._libraries = Libraries(self._shards, namespace, note)
        self._functions = Functions(self._shards, self._libraries, self._relearn)
        self._going_back = going_back
        self._migrating = migrating
        self.schema = Schema(
            self._functions, self._libraries, self._tags, self._meta, clock, copies
        )
        """The forms of the data, and the versions that use it."""
        self.periods: Callable[[str, int], Periods] = _in_utc
        """Names a site's periods as of an instant; who knows the sites sets it."""
        self._first_info: dict[str, Mapping[str, object]] = {}  # by address
        self._denied: dict[str, str] = {}
        """Which commands a server forbids to us, by address."""
        self._had_ours: dict[str, str] = {}
        """The run_id of the server that had our data last, by address."""

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
    def secret(self) -> bytes:
        """The installation's, which keys the hashes of visitors."""
        return self.schema.secret

    @property
    def writes(self) -> int:
        """The form in which all write, see model/forms.py."""
        return self._libraries.writes

    @property
    def routes(self) -> int:
        """Another number whenever a partition has gone to another server."""
        return self._shards.changes

    def now(self) -> int:
        """This machine's instant, ms since the epoch, corrected by the store's time."""
        return self._clock.now()

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
            for n, why in again.items():
                await self._mend(batches[n], why)
            once_more = [batches[n] for n in again]
            for n, result in zip(again, await self._exchange(producer, once_more), strict=True):
                results[n] = result
        if any(isinstance(result, (StoreUnavailable, OutcomeUnknown)) for result in results):
            self._shards.look_soon()
        return results

    async def _mend(self, batch: Batch, why: Again) -> None:
        """Mend what kept a batch from being counted."""
        if isinstance(why, Early):
            batch.count_as_of(why.now)
            return
        with suppress(StoreError):
            await self._functions.mend(self._tags[batch.partition], why)

    async def replay(self, producer: Producer, batches: Sequence[Record]) -> list[bytes]:
        """Send batches of a partition, in their order, that nobody waits for; for each what became
        of its hits, see `Batch.marked`. Raises the first StoreError, after which nothing was
        counted."""
        marks: list[bytes] = []
        for start in range(0, len(batches), AT_ONCE):
            some = batches[start : start + AT_ONCE]
            replies = await self._replay(producer, [(each, b"") for each in some])
            if isinstance(replies[-1], Early):
                now, rest = replies.pop().now, some[len(replies) :]
                replies += await self._replay(producer, [(e, self._views(e, now)) for e in rest])
            if isinstance(replies[-1], Early):
                raise replies[-1]
            marks += [reply[1] for reply in replies]
        return marks

    async def _replay(
        self, producer: Producer, batches: Sequence[tuple[Record, bytes]]
    ) -> list[Any]:
        """The replies, up to the first one that finds its batch too early."""
        calls, replies = [self._numbered(producer, *each) for each in batches], list[Any]()
        for reply in await self._shards.write(calls):
            if isinstance(reply, Early):
                return [*replies, reply]
            if isinstance(reply, Again):
                with suppress(StoreError):
                    await self._functions.mend(calls[0][0], reply)
            if isinstance(reply, StoreError):
                self._shards.look_soon()
                raise reply
            replies.append(reply)
        return replies

    def _views(self, record: Record, now: int) -> bytes:
        """For a batch with hits later than the store's now, which are to count as of then; empty
        for one that cannot be read, which the store rejects."""
        try:
            sites = sites_in(record)
        except msgspec.MsgspecError:
            return b""
        return packed_views(now, ("".join(self.periods(site, now)) for site in sites))

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
        calls = [self._numbered(producer, batch.record, batch.views) for batch in batches]
        replies = await self._shards.write(calls)
        return [self._read(*pair, sent) for pair in zip(batches, replies, strict=True)]

    def _numbered(self, producer: Producer, record: Record, views: bytes = b"") -> tuple[str, Call]:
        """The call that counts a batch, and the tag of its partition."""
        tag, function = self._tags[record.partition], f"{self._libraries.name}_record"
        known = (producer.id, producer.epoch, record.seq, record.payload)
        return tag, ("FCALL", function, 1, tag, *known, *((views,) if views else ()))

    def _read(
        self, batch: Batch, reply: list[Any] | StoreError, sent: int
    ) -> list[Outcome] | StoreError:
        if isinstance(reply, Early):
            self._learn(sent, reply.now)
        if isinstance(reply, StoreError):
            return reply
        now, marks, full, *counts = reply
        self._learn(sent, now)
        if full:
            metrics.VISITORS_FULL.inc(full)
        return batch.outcomes(marks, counts)

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

    async def days(self, site: Site, labels: Sequence[str]) -> dict[str, Day]:
        """What each of these days counted, in their order."""
        packed = await self._functions.read("days", self._tags[site.partition], site.id, *labels)
        return dict(zip(labels, days_of(packed), strict=True))

    async def drops(self, site: Site, months: Sequence[str]) -> dict[str, dict[str, int]]:
        """Dropped hits by day and reason, for the given months ('2026-11')."""
        reply = await self._call("drops", site.partition, site.id, *months)
        days: dict[str, dict[str, int]] = {}
        for month, flat in zip(months, reply, strict=True):
            for field, hits in pairs(flat):
                day, _, reason = field.partition(":")
                days.setdefault(f"{month}-{day}", {})[reason] = int(hits)
        return days

    async def top_pages(self, site: Site, most: int) -> list[str]:
        """The paths of the pages with most views; `(other)` is among them."""
        paths = await self._call("top", site.partition, site.id, most)
        return [path.decode(errors="replace") for path in paths]

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
        """Undo a reset; returns how many numbers of visitors became approximate by it, also when it
        is repeated. A call brings over a part of a large site, so that hits go on in between."""
        timeout, reply = site.settings.visit_timeout * 1000, None
        while reply is None:
            reply = await self._call("undo", site.partition, site.id, operation, timeout)
        return int(reply)

    async def seed(
        self, site: Site, operation: str, metric: Metric, amounts: dict[tuple[str, str], int]
    ) -> None:
        """Add to periods, named by (kind, label), to all of them or none; Refused with BELOW or
        BEYOND, and a text of the period's kind and the largest amount that is possible."""
        flat = [value for (kind, label), n in amounts.items() for value in (kind, label, n)]
        letter = METRIC_LETTERS[metric]
        await self._call("seed", site.partition, site.id, operation, letter, *flat)

    # -- the watch

    async def look(self) -> None:
        """Learn anew which servers take writes."""
        await self._shards.look()

    async def probe(self, partition: int | None = None) -> None:
        """Whether a batch could be counted now, in a partition or in one of every server: the call
        is one that a server refuses when it refuses writes. Raises StoreError with its reason, or
        if the data there is not that with which we started."""
        tags = self._tags if partition is None else [self._tags[partition]]
        one_each = [*{self._shards.of(tag): tag for tag in tags}.values()]
        sent = self._clock.local()
        answers = await self._functions.calls("probe", [(tag,) for tag in one_each])
        denied: dict[str, str] = {}
        for tag, (store_time, kept, forbidden) in zip(one_each, answers, strict=True):
            self._learn(sent, store_time)
            if forbidden:
                denied[self._shards.of(tag).address] = forbidden.decode()
            found = (kept or b"").decode()
            if found != self.schema.installation:
                raise NotOurs(await self._what_became(self._shards.of(tag), found))
            self._had_ours[self._shards.of(tag).address] = self._shards.of(tag).run_id
        if partition is None:
            self._denied = denied

    @property
    def problems(self) -> list[str]:
        """What the store's user is forbidden although hits count, in sentences."""
        return [
            f"The store at {address} forbids what some hits or changes need ({said}): allow it "
            f"with the rule {rules(said, self._namespace)} (ACL SETUSER)."
            for address, said in self._denied.items()
        ]

    def why(self, error: BaseException, *, greeting: bool = False) -> str:
        """An error that no waiting ends, and how to correct it; "" if it may pass. `greeting`: the
        store has answered nothing before."""
        asked = Asked(self.address, self._namespace, self._shards.is_cluster, greeting)
        return sentence(error, asked)

    async def follow(self) -> bool:
        """Whether a server was left, since another one answers at its address by now; raises
        StoreError."""
        return await self._shards.follow()

    async def _what_became(self, shard: Shard, found: str) -> str:
        """Why a server has not the data with which we started, in a sentence with its remedy."""
        if found:
            return (
                f"the server at {shard.address} has the data of another installation ({found} in "
                f"the place of {self.schema.installation}): lead the address back to the server "
                "with ours; a restart says how to count into the other"
            )
        before = self._had_ours.get(shard.address, "")
        async with speaking():
            now = await _run_id(shard)
        if before in ("", now):
            return (
                f"the data of the server at {shard.address} was removed while it ran, as by "
                "FLUSHALL: restore it; a restart says how to begin anew"
            )
        return (
            f"the server at {shard.address} was replaced or restarted and has none of our data, as "
            "a replica that was promoted before it had a copy, or a server that lost its disk: "
            "promote one that has the data or restore a backup; a restart says how to begin anew"
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
        if wrong := await asyncio.to_thread(wrong_files, self._certificates):
            raise StartError(wrong)
        await self._wait_until_up()
        try:
            self._belongs_to(await self.schema.found(), self.address)
            if self._going_back:
                await self.schema.install()
            else:
                await self.schema.open(self._migrating)
            await self._functions.calls(
                "adopt", [(tag, self.schema.installation) for tag in self._tags]
            )
        except StoreError as error:
            raise self._refused(error) from None

    async def _wait_until_up(self) -> None:
        """Wait until the store takes hits; raises StartError at once for what no waiting ends."""
        deadline = asyncio.get_running_loop().time() + START_WAIT_S
        delay, told = 0.05, ""
        while True:
            try:
                await self._judge()
                await self._rehearse()
                return
            except StoreError as error:
                if final := await self._final(error):
                    raise StartError(final) from None
                if (reason := str(error)) != told:
                    log.info("waiting for the store", address=self.address, reason=reason)
                    told = reason
                if asyncio.get_running_loop().time() + delay > deadline:
                    raise StartError(
                        f"no store at {self.address} within {START_WAIT_S:.0f} s ({error}). "
                        "Start it, correct VISIT_COUNTER_REDIS_URL, or unset it to use the "
                        "embedded Valkey"
                    ) from None
            await asyncio.sleep(delay)
            delay = min(delay * 2, 1.0)

    async def _judge(self) -> None:
        """Raises StartError for an unsafe store, unless the admin allows it, and StoreError."""
        try:
            checks = await self.examine()
        except StoreError as error:
            if not (self._allow_unsafe and forbids_info(str(error))):
                raise
            log.warning(
                "the store is not examined: hits count, and may be lost where it evicts keys or "
                "keeps no append-only file; allow INFO (ACL rule +info)",
                why=str(error),
            )
            await self.look()
            return
        if found := objections(checks, allow_unsafe=self._allow_unsafe):
            raise StartError(" ".join(found))

    async def _rehearse(self) -> None:
        """Load our functions and use every command that they use; raises StartError if the store
        refuses one, and StoreError for what may pass."""
        try:
            for shard in self._shards.all():
                await self._libraries.load(shard)
                await shard.rehearse()
            sent = self._clock.local()
            for store_time in await self._functions.everywhere("rehearse", self._tags):
                self._learn(sent, store_time)  # before the first hit
        except StoreError as error:
            if may_pass(error):
                raise
            raise self._refused(error) from None

    def _refused(self, error: StoreError) -> StartError:
        return StartError(self.why(error) or f"the store refuses the counting function: {error}")

    async def _final(self, error: StoreError) -> str:
        """Why no waiting ends an error, and how to correct it; "" if it may pass."""
        if found := self.why(error, greeting=True):
            return found
        if isinstance(error.__cause__, REFUSING):
            return ""  # it has answered
        wrong = await self._shards.wrong_speech()
        return wrong and f"the store at {self.address} refuses us ({error}): {wrong}"

    async def _relearn(self) -> None:
        """Our library is fenced: go on with the one that writes what all write now, if we can."""
        async with speaking():
            found: Any = await self._shards.of(self._meta).client.hget(self._meta, "writes")
        await self._libraries.take_over(int(found or 0))

    async def _call(self, name: str, partition: int, *arguments: str | bytes | int) -> Any:
        return await self._functions.call(name, self._tags[partition], *arguments)


async def _run_id(shard: Shard) -> str | None:
    """Of the server that answers at its address; None where INFO is forbidden."""
    try:
        found: Mapping[str, str] = await shard.client.info("server")
    except exceptions.NoPermissionError:
        return None
    return found.get("run_id")


def _in_utc(_site: str, at: int) -> Periods:
    return Calendar.of("UTC").periods(at)


def _partition_sites(reply: Any) -> PartitionSites:
    version, settings, generations = reply
    return PartitionSites(
        version.decode(),
        {site: value for site, value in pairs(settings) if site != "#"},
        {site: int(n) for site, n in pairs(generations) if ":" not in site and NUMBER.fullmatch(n)},
    )

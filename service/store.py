"""The only speaker of Redis and Valkey.

Below the recorder, the reader and the sites stands this one class; below it only counter.lua, which
knows the keys. Batches travel over one connection that nothing else uses and that never retries by
itself: what was sent and not answered is `OutcomeUnknown`, for the caller to say so. Everything
else (counts, sites, operations of admins) goes through a small pool.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from hashlib import blake2b
from importlib.resources import files
from typing import Any, NamedTuple, Self

import msgspec
import structlog
from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig

from service import metrics
from service.batch import Batch, Outcome, Packed, view_of
from service.checks import Check, examine, refusals
from service.clock import Clock
from service.errors import OutcomeUnknown, StartError, StoreError, StoreUnavailable
from service.model import PARTITIONS, Counts, Metric, Site
from service.producer import Producer
from service.refusals import (
    FUNCTION_MISSING,
    LOST,
    REFUSING,
    Again,
    Early,
    FunctionMissing,
    is_final,
    meaning,
)
from service.writer import Call, Writer

SCHEMA = 1
START_WAIT_S = 30.0
ANSWER_S = 2.0
WRITE_S = 1.0  # a batch that is not answered is sent again, so this may be short
INFO = ("server", "memory", "persistence")
CONNECT_S = 1.0
READERS, OTHERS = 16, 4  # connections
AT_ONCE = 200  # batches that are sent again in one round trip

METRIC_LETTERS: dict[Metric, str] = {"pageviews": "p", "visits": "v", "visitors": "u"}

log = structlog.get_logger()


class PartitionSites(NamedTuple):
    """The sites of a partition as the store keeps them."""

    version: str
    settings: dict[str, bytes]
    generations: dict[str, int]


class Store:
    """A store at a URL, under a namespace.

    Entering waits until the store answers (30 s at most), refuses one that would lose numbers
    unless `allow_unsafe`, and loads counter.lua; raises StartError with what to do.
    """

    def __init__(
        self, url: str, namespace: str, clock: Clock, *, allow_unsafe: bool = False
    ) -> None:
        self.secret = b""
        self._namespace = namespace
        self._clock = clock
        self._allow_unsafe = allow_unsafe
        self._library, self._source = library(namespace)
        # Whoever reads counts cannot take the connections of admins and of the watch.
        self._readers = Redis(connection_pool=_pool(url, READERS, ANSWER_S))
        self._client = Redis(connection_pool=_pool(url, OTHERS, ANSWER_S))
        self._pool = self._client.connection_pool
        make_connection: Callable[[], AbstractConnection] = _pool(url, 1, WRITE_S).make_connection
        self._writer = Writer(make_connection())

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._writer.close()
        for client in (self._readers, self._client):
            await client.aclose()
            await client.connection_pool.disconnect()

    # -- hits

    async def record(
        self, producer: Producer, batches: Sequence[Batch]
    ) -> list[list[Outcome] | StoreError]:
        """Count batches, one call each, in one round trip; for each its outcomes or its error."""
        results = await self._exchange(producer, batches)
        again = {n: result for n, result in enumerate(results) if isinstance(result, Again)}
        if any(isinstance(result, FunctionMissing) for result in again.values()):
            with suppress(StoreError):
                await self._load()
        if again:
            for n, refusal in again.items():
                if isinstance(refusal, Early):
                    batches[n].clamp(refusal.now)
            once_more = [batches[n] for n in again]
            for n, result in zip(again, await self._exchange(producer, once_more), strict=True):
                results[n] = result
        return results

    async def replay(self, producer: Producer, batches: Sequence[Packed]) -> None:
        """Send batches of a partition, in their order, that nobody waits for; raises the first
        StoreError, behind which nothing was counted."""
        for start in range(0, len(batches), AT_ONCE):
            some = batches[start : start + AT_ONCE]
            calls = [self._record_call(producer, packed) for packed in some]
            for reply in await self._writer.exchange(calls):
                if isinstance(reply, StoreError):
                    raise reply

    async def open(self, producer: Producer, seqs: Mapping[int, int] | None = None) -> list[int]:
        """Begin the producer's epoch in every partition: the seqs of its last batches there. With
        `seqs` only in those partitions, giving up batches up to that seq. Raises Fenced if the
        epoch is not a later one."""
        passed: Mapping[int, int | str] = seqs or dict.fromkeys(range(PARTITIONS), "")
        calls = [(n, producer.id, producer.epoch, seq) for n, seq in passed.items()]
        return [int(last) for last in await self._calls("open", calls)]

    async def last_seqs(self, producer: Producer, partitions: Sequence[int]) -> list[int]:
        """The seq of the producer's last batch in each partition."""
        calls = [(n, producer.id, producer.epoch) for n in partitions]
        return [int(last) for last in await self._calls("last_seq", calls)]

    async def _exchange(
        self, producer: Producer, batches: Sequence[Batch]
    ) -> list[list[Outcome] | StoreError]:
        sent = self._clock.local()
        calls = [self._record_call(producer, batch.packed) for batch in batches]
        replies = await self._writer.exchange(calls)
        return [self._read(*pair, sent) for pair in zip(batches, replies, strict=True)]

    def _record_call(self, producer: Producer, packed: Packed) -> Call:
        function, tag = f"{self._library}_record", self._tag(packed.partition)
        numbered = (producer.id, producer.epoch, packed.seq)
        return ("FCALL", function, 1, tag, *numbered, packed.sites, packed.ids)

    def _read(
        self, batch: Batch, reply: bytes | StoreError, sent: int
    ) -> list[Outcome] | StoreError:
        if isinstance(reply, Early):
            self._learn(sent, reply.now)
        if isinstance(reply, StoreError):
            return reply
        applied, outcomes = batch.outcomes(reply)
        self._learn(sent, applied.now)
        metrics.VISITORS_FULL.inc(applied.full)
        return outcomes

    def _learn(self, sent: int, store_time: int) -> None:
        self._clock.observe(sent, store_time, self._clock.local())

    # -- counts

    async def counts(self, site: Site, now: int, paths: Sequence[str] = ()) -> Counts:
        window = site.settings.online_window * 1000
        request = [site.id, window, view_of(site, now), list(paths)]
        function, tag = f"{self._library}_counts", self._tag(site.partition)
        packed = msgspec.msgpack.encode(request)
        sent = self._clock.local()
        async with self._speaking():
            reply = await self._run(lambda: self._readers.fcall(function, 1, tag, packed))
        store_time, counts = msgspec.msgpack.decode(reply, type=tuple[int, Counts])
        self._learn(sent, store_time)
        return counts

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
        replies = await self._calls("sites", list(enumerate(versions)))
        return {
            partition: _partition_sites(reply)
            for partition, reply in enumerate(replies)
            if reply is not None
        }

    async def put_site(self, partition: int, site: str, settings: bytes, before: bytes) -> None:
        """Make a site (`before` empty) or change it; Refused with EXISTS or CHANGED."""
        await self._call("put_site", partition, site, settings, before)

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

    # -- the watch

    async def probe(self) -> None:
        """Whether a batch could be counted now: the call is one that the store refuses when it
        refuses writes. Raises StoreError with its reason, or if the store is not the one that we
        started on."""
        function, sent = f"{self._library}_probe", self._clock.local()
        async with self._speaking():
            reply = await self._run(lambda: self._client.fcall(function, 1, self._meta))
        store_time, kept = reply
        self._learn(sent, store_time)
        if kept is None or bytes.fromhex(kept.decode()) != self.secret:
            raise StoreUnavailable(
                "its data was removed or replaced while we ran: restore it, or restart the service "
                "to begin anew"
            )

    async def examine(self) -> tuple[Check, ...]:
        """What makes the store safe or unsafe to count in."""
        async with self._speaking():
            sections = [await self._client.info(name) for name in INFO]
        return examine({key: value for section in sections for key, value in section.items()})

    # -- start

    async def _start(self) -> None:
        checks = await self._wait_until_up()
        if found := refusals(checks, allow_unsafe=self._allow_unsafe):
            raise StartError(" ".join(found))
        try:
            await self._load()
            self.secret = await self._install()
            await self.probe()  # and the clock knows the store's time before the first hit
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

    async def _load(self) -> None:
        async with self._speaking():
            try:
                await self._client.function_load(self._source)
            except exceptions.ResponseError as error:
                if "already exists" not in str(error):
                    raise

    async def _install(self) -> bytes:
        secret = secrets.token_hex(32)
        function = f"{self._library}_install"
        async with self._speaking():
            reply = await self._run(
                lambda: self._client.fcall(function, 1, self._meta, SCHEMA, PARTITIONS, secret)
            )
        schema, partitions, kept = reply
        if (int(schema), int(partitions)) != (SCHEMA, PARTITIONS):
            raise StartError(
                f"the store holds data of schema {int(schema)} in {int(partitions)} partitions; "
                f"this version writes schema {SCHEMA} in {PARTITIONS}. Use the version that wrote "
                "it, or another VISIT_COUNTER_NAMESPACE"
            )
        return bytes.fromhex(kept.decode())

    # -- calls

    @property
    def address(self) -> str:
        known = self._pool.connection_kwargs
        return str(known.get("path") or f"{known.get('host')}:{known.get('port', 6379)}")

    @property
    def _meta(self) -> str:
        return f"{self._namespace}:{{meta}}"

    def _tag(self, partition: int) -> str:
        return f"{self._namespace}:{{p{partition:02}}}"

    async def _call(self, name: str, partition: int, *arguments: str | bytes | int) -> Any:
        function, tag = f"{self._library}_{name}", self._tag(partition)
        try:
            async with self._speaking():
                return await self._run(lambda: self._client.fcall(function, 1, tag, *arguments))
        except StoreUnavailable as error:
            # The pool does not tell whether a connection was lost before or after sending.
            if isinstance(error.__cause__, REFUSING):
                raise
            raise OutcomeUnknown(str(error)) from error

    async def _calls(self, name: str, calls: Sequence[tuple[Any, ...]]) -> Any:
        """The same function in many partitions, in one round trip; raises the first error."""
        async with self._speaking():
            return await self._run(lambda: self._pipeline(f"{self._library}_{name}", calls))

    async def _pipeline(self, function: str, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for partition, *arguments in calls:
            _ = pipeline.fcall(function, 1, self._tag(partition), *arguments)
        replies: list[Any] = await pipeline.execute(raise_on_error=False)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    async def _run(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """A call; if the server has lost the function, once more with it (nothing ran)."""
        try:
            return await call()
        except exceptions.ResponseError as error:
            if FUNCTION_MISSING not in str(error):
                raise
        await self._load()
        return await call()

    @asynccontextmanager
    async def _speaking(self) -> AsyncIterator[None]:
        """Turns redis-py's errors into ours around calls through the pool."""
        try:
            yield
        except (exceptions.ResponseError, *REFUSING) as error:
            raise meaning(error) from error
        except exceptions.TimeoutError as error:
            raise OutcomeUnknown(f"no answer from the store: {error}") from error
        except LOST as error:
            raise StoreUnavailable(str(error)) from error


def _pool(url: str, connections: int, answer_s: float) -> BlockingConnectionPool:
    return BlockingConnectionPool.from_url(
        url,
        max_connections=connections,
        timeout=answer_s,
        protocol=3,
        socket_timeout=answer_s,
        socket_connect_timeout=CONNECT_S,
        retry=Retry(NoBackoff(), 0),
        # Valkey does not know the command that redis-py would send on every connect.
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
    )


def library(namespace: str) -> tuple[str, str]:
    """counter.lua's name for a namespace and its source; the name carries the source's hash, so
    that two versions of the service can use one store while the newer replaces the older."""
    source = files("service").joinpath("counter.lua").read_text()
    digest = blake2b(source.encode(), digest_size=6).hexdigest()
    name = f"{namespace}_{digest}"
    return name, source.replace("__library__", name)


def _pairs(flat: Any) -> list[tuple[str, bytes]]:
    """Field and value of what HGETALL gives inside a function: a flat list, or a map in RESP3."""
    items = flat.items() if isinstance(flat, dict) else zip(flat[::2], flat[1::2], strict=True)
    return [(field.decode(), value) for field, value in items]


def _partition_sites(reply: Any) -> PartitionSites:
    version, settings, generations = reply
    return PartitionSites(
        version.decode(),
        {site: value for site, value in _pairs(settings) if site != "#"},
        {site: int(value) for site, value in _pairs(generations) if ":" not in site},
    )

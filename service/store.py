"""The only speaker of Redis and Valkey.

Below the recorder, the reader and the sites stands this one class; below it only counter.lua, which
knows the keys. Batches travel over one connection that nothing else uses and that never retries by
itself: what was sent and not answered is `OutcomeUnknown`, for the caller to say so. Everything
else (counts, sites, operations of admins) goes through a small pool.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
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
from service.batch import Applied, Batch, Outcome, view_of
from service.checks import Check, examine, refusals
from service.clock import Clock
from service.errors import OutcomeUnknown, StartError, StoreError, StoreUnavailable
from service.model import PARTITIONS, Counts, Metric, Site

SCHEMA = 1
START_WAIT_S = 30.0
ANSWER_S = 2.0
CONNECT_S = 1.0
POOL = 16

# What a server answers when it refuses a call before running it: nothing was written.
REFUSALS = (
    "OOM", "MISCONF", "READONLY", "LOADING", "NOREPLICAS", "CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN",
    "MOVED", "ASK", "BUSY", "NOPERM", "NOAUTH", "WRONGPASS",
)  # fmt: skip
REFUSING = (
    exceptions.BusyLoadingError,
    exceptions.OutOfMemoryError,
    exceptions.ReadOnlyError,
    exceptions.NoPermissionError,
    exceptions.AuthenticationError,
    exceptions.MasterDownError,
    exceptions.ClusterDownError,
    exceptions.TryAgainError,
)
FUNCTION_MISSING = "Function not found"
# ... and what counter.lua answers before its first write.
NO_SITE, EXISTS, CHANGED, NO_OPERATION, NEWER = (
    "NOSITE",
    "EXISTS",
    "CHANGED",
    "NOOPERATION",
    "NEWER",
)

METRIC_LETTERS: dict[Metric, str] = {"pageviews": "p", "visits": "v", "visitors": "u"}

log = structlog.get_logger()


class Refused(StoreError):
    """counter.lua refused an operation; `word` says why."""

    def __init__(self, message: str) -> None:
        self.word, _, text = message.partition(" ")
        super().__init__(text)


class _FunctionMissing(StoreUnavailable):
    """The server has lost our functions (FUNCTION FLUSH, a new primary)."""


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
        self.checks: tuple[Check, ...] = ()
        self.up = False
        self._namespace = namespace
        self._clock = clock
        self._allow_unsafe = allow_unsafe
        self._library, self._source = library(namespace)
        self._pool = BlockingConnectionPool.from_url(
            url,
            max_connections=POOL,
            timeout=ANSWER_S,
            protocol=3,
            socket_timeout=ANSWER_S,
            socket_connect_timeout=CONNECT_S,
            retry=Retry(NoBackoff(), 0),
            # Valkey does not know the command that redis-py would send on every connect.
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
        )
        self._client = Redis(connection_pool=self._pool)
        make_connection: Callable[[], AbstractConnection] = self._pool.make_connection
        self._writer = make_connection()

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._writer.disconnect(nowait=True)
        await self._client.aclose()
        await self._pool.disconnect()

    # -- hits

    async def record(self, batches: Sequence[Batch]) -> list[list[Outcome] | StoreError]:
        """Count batches, one call each, in one round trip; for each its outcomes or its error."""
        results = await self._send(batches)
        lost = [n for n, result in enumerate(results) if isinstance(result, _FunctionMissing)]
        if lost:
            await self._load()
            again = await self._send([batches[n] for n in lost])
            for n, result in zip(lost, again, strict=True):
                results[n] = result
        return results

    async def _send(self, batches: Sequence[Batch]) -> list[list[Outcome] | StoreError]:
        sent = self._clock.local()
        try:
            await self._writer.connect()  # type: ignore[no-untyped-call]
        except (exceptions.RedisError, OSError) as error:
            return [self._lost(StoreUnavailable(str(error)))] * len(batches)
        replies: list[Any] = []
        try:
            for batch in batches:
                await self._writer.send_packed_command(self._record_call(batch))
            for _ in batches:
                replies.append(await self._reply())
        except (exceptions.RedisError, OSError) as error:
            await self._writer.disconnect(nowait=True)
            lost = self._lost(OutcomeUnknown(f"no answer from the store: {error}"))
            replies += [lost] * (len(batches) - len(replies))
        except BaseException:
            await self._writer.disconnect(nowait=True)
            raise
        return [self._read(*pair, sent) for pair in zip(batches, replies, strict=True)]

    def _record_call(self, batch: Batch) -> list[bytes]:
        function, tag = f"{self._library}_record", self._tag(batch.partition)
        return self._writer.pack_command("FCALL", function, 1, tag, batch.sites, batch.ids)

    async def _reply(self) -> Any:
        """One reply, an error of the call included; raises what ends the connection."""
        try:
            return await self._writer.read_response()
        except (exceptions.ResponseError, *REFUSING) as error:
            return error

    def _read(self, batch: Batch, reply: Any, sent: int) -> list[Outcome] | StoreError:
        if isinstance(reply, StoreError):
            return reply
        if isinstance(reply, Exception):
            return self._refusal(reply)
        applied, outcomes = batch.outcomes(reply)
        self._learn(sent, applied)
        return outcomes

    def _learn(self, sent: int, applied: Applied) -> None:
        self._clock.observe(sent, applied.now, self._clock.local())
        metrics.VISITORS_FULL.inc(applied.full)
        self._answered()

    # -- counts

    async def counts(self, site: Site, now: int, paths: Sequence[str] = ()) -> Counts:
        window = site.settings.online_window * 1000
        request = [site.id, window, view_of(site, now), list(paths)]
        reply = await self._call("counts", site.partition, msgspec.msgpack.encode(request))
        return msgspec.msgpack.decode(reply, type=tuple[int, Counts])[1]

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
        async with self._speaking():
            pipeline = self._client.pipeline(transaction=False)
            for partition, version in enumerate(versions):
                _ = pipeline.fcall(f"{self._library}_sites", 1, self._tag(partition), version)
            replies = await pipeline.execute()
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

    async def ping(self) -> None:
        """Raises StoreError if the store does not answer."""
        async with self._speaking():
            await self._client.ping()

    # -- start

    async def _start(self) -> None:
        self.checks = examine(await self._wait_until_up())
        for check in self.checks:
            metrics.STORE_CHECK.labels(check.name).set(check.ok)
        if found := refusals(self.checks, allow_unsafe=self._allow_unsafe):
            raise StartError(" ".join(found))
        for check in self.checks:
            if not check.ok:
                log.warning("unsafe store", check=check.name, detail=check.detail)
        try:
            await self._load()
            self.secret = await self._install()
        except StoreError as error:
            raise StartError(f"the store refuses the counting function: {error}") from None

    async def _wait_until_up(self) -> dict[str, Any]:
        deadline = asyncio.get_running_loop().time() + START_WAIT_S
        delay = 0.05
        while True:
            try:
                async with self._speaking():
                    return await self._info()
            except StoreError as error:
                if _refused_for_good(error):
                    raise StartError(
                        f"the store at {self._address()} refuses us ({error}): mend the user, "
                        "password or database in VISIT_COUNTER_REDIS_URL"
                    ) from None
                if asyncio.get_running_loop().time() + delay > deadline:
                    raise StartError(
                        f"no store at {self._address()} within {START_WAIT_S:.0f} s ({error}). "
                        "Start it, mend VISIT_COUNTER_REDIS_URL, or unset it to use the embedded "
                        "Valkey"
                    ) from None
            if delay == 0.05:
                log.info("waiting for the store", address=self._address())
            await asyncio.sleep(delay)
            delay = min(delay * 2, 1.0)

    async def _info(self) -> dict[str, Any]:
        sections = [await self._client.info(name) for name in ("server", "memory", "persistence")]
        return {key: value for section in sections for key, value in section.items()}

    async def _load(self) -> None:
        async with self._speaking():
            try:
                await self._client.function_load(self._source)
            except exceptions.ResponseError as error:
                if "already exists" not in str(error):
                    raise
        self._answered()

    async def _install(self) -> bytes:
        secret = secrets.token_hex(32)
        function, key = f"{self._library}_install", f"{self._namespace}:{{meta}}"
        async with self._speaking():
            reply = await self._run(
                lambda: self._client.fcall(function, 1, key, SCHEMA, PARTITIONS, secret)
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

    def _tag(self, partition: int) -> str:
        return f"{self._namespace}:{{p{partition:02}}}"

    async def _call(self, name: str, partition: int, *arguments: str | bytes | int) -> Any:
        function, tag = f"{self._library}_{name}", self._tag(partition)
        async with self._speaking():
            return await self._run(lambda: self._client.fcall(function, 1, tag, *arguments))

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
            raise self._refusal(error) from error
        except exceptions.TimeoutError as error:
            raise self._lost(OutcomeUnknown(f"no answer from the store: {error}")) from error
        except (exceptions.RedisError, OSError) as error:
            raise self._lost(StoreUnavailable(str(error))) from error

    def _refusal(self, error: Exception) -> StoreError:
        message = str(error)
        if isinstance(error, REFUSING) or message.startswith(REFUSALS):
            return StoreUnavailable(message)
        if FUNCTION_MISSING in message:
            return _FunctionMissing(message)
        if message.startswith((NO_SITE, EXISTS, CHANGED, NO_OPERATION, NEWER)):
            return Refused(message)
        return OutcomeUnknown(message)

    def _address(self) -> str:
        known = self._pool.connection_kwargs
        return str(known.get("path") or f"{known.get('host')}:{known.get('port', 6379)}")

    def _answered(self) -> None:
        if not self.up:
            log.info("the store answers", address=self._address())
        self.up = True
        metrics.STORE_UP.set(1)

    def _lost(self, error: StoreError) -> StoreError:
        if self.up:
            log.error("the store does not answer", address=self._address(), error=str(error))
        self.up = False
        metrics.STORE_UP.set(0)
        return error


def library(namespace: str) -> tuple[str, str]:
    """counter.lua's name for a namespace and its source; the name carries the source's hash, so
    that two versions of the service can use one store while the newer replaces the older."""
    source = files("service").joinpath("counter.lua").read_text()
    digest = blake2b(source.encode(), digest_size=6).hexdigest()
    name = f"{namespace}_{digest}"
    return name, source.replace("__library__", name)


def _refused_for_good(error: BaseException | None) -> bool:
    """Whether the store has answered, and no waiting will make it take us: a wrong password, user
    or database. While connecting, redis-py hides that behind a ConnectionError."""
    while error is not None:
        if isinstance(error, (exceptions.AuthenticationError, exceptions.NoPermissionError)):
            return True
        if isinstance(error, exceptions.ResponseError) and not isinstance(error, REFUSING):
            return True
        error = error.__cause__
    return False


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

"""Stores for the ledger's state machine: the model alone, a real one held against it, a bad line.

All have the methods of `visit_counter.store.store.Store` that a ledger and an admin call, with
their errors.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar, cast

from redis.exceptions import ResponseError

from tests.kit.ledger_machine.function import Answer, Function, Period
from visit_counter.clock import Clock
from visit_counter.disk.format import Record
from visit_counter.disk.producer import Producer
from visit_counter.errors import OutcomeUnknown, StoreError
from visit_counter.model.calendar import Calendar, Periods
from visit_counter.model.forms import NEWEST
from visit_counter.model.kinds import Metric
from visit_counter.model.site import Site
from visit_counter.model.site_settings import PARTITIONS
from visit_counter.store.batch import Batch, Outcome, packed_views, sites_in
from visit_counter.store.replies import Early, meaning
from visit_counter.store.store import Store

T = TypeVar("T")
UTC = Calendar.of("UTC")
FRAMES = 8


class Modelled:
    """The model of the function as a store; `partition` is its only one."""

    def __init__(self, function: Function, partition: int) -> None:
        self.function = function
        self._partition = partition
        self._clock = Clock()

    async def record(
        self, producer: Producer, batches: Sequence[Batch]
    ) -> list[list[Outcome] | StoreError]:
        return [self._record_in_time(producer, batch) for batch in batches]

    def _record_in_time(self, producer: Producer, batch: Batch) -> list[Outcome] | StoreError:
        answer = self._record(producer, batch.record, batch.views)
        error = _error_of(answer.text)
        if isinstance(error, Early):
            batch.count_as_of(error.now)
            answer = self._record(producer, batch.record, batch.views)
            error = _error_of(answer.text)
        return error or _outcomes(answer, len(batch.entries))

    def _record(self, producer: Producer, record: Record, views: bytes = b"") -> Answer:
        numbered = (producer.id, producer.epoch, record.seq)
        return self.function.record(*numbered, record.payload, self._clock.local(), views)

    async def replay(self, producer: Producer, batches: Sequence[Record]) -> list[bytes]:
        # They travel together: what stands behind a refused one is tried as well.
        answers = [self._replayed(producer, each) for each in batches]
        for answer in answers:
            if error := _error_of(answer.text):
                raise error
        return [b"1" * answer.new + b"2" * answer.held for answer in answers]

    def _replayed(self, producer: Producer, record: Record) -> Answer:
        answer = self._record(producer, record)
        early = _error_of(answer.text)
        if isinstance(early, Early):
            now = self._told_now(early)
            views = ["".join(UTC.periods(now)) for _ in sites_in(record)]
            answer = self._record(producer, record, packed_views(now, views))
        return answer

    def _told_now(self, early: Early) -> int:
        return early.now

    async def open(self, producer: Producer, seqs: Mapping[int, int] | None = None) -> list[int]:
        passed = seqs[self._partition] if seqs else None
        last = _raised(self.function.open(producer.id, producer.epoch, passed))
        return [last] if seqs else self._in_all_partitions(last)

    async def last_seqs(self, producer: Producer, partitions: Sequence[int]) -> list[int]:
        last = _raised(self.function.last_seq(producer.id, producer.epoch))
        return [last if n == self._partition else 0 for n in partitions]

    async def probe(self, partition: int) -> None:
        pass

    def shard(self, partition: int) -> str:
        return "the only one"

    async def reset(self, site: Site, operation: str) -> None:
        _done(self.function.reset(operation))

    async def undo(self, site: Site, operation: str) -> int:
        _done(self.function.undo(operation, site.settings.visit_timeout * 1000))
        return 0  # visitors are sets here, no sum is approximate

    async def seed(
        self, site: Site, operation: str, metric: Metric, amounts: dict[Period, int]
    ) -> None:
        _done(self.function.seed(operation, metric, amounts))

    def _in_all_partitions(self, last: int) -> list[int]:
        return [last if n == self._partition else 0 for n in range(PARTITIONS)]


class Checked(Modelled):
    """A real store; every answer of it must be the model's."""

    def __init__(self, store: Store, function: Function, partition: int) -> None:
        super().__init__(function, partition)
        self._store = store
        self._now = 0
        store.periods = self._periods

    def _periods(self, _site: str, now: int) -> Periods:
        """Notes the instant as of which the real one has hits counted that came too early."""
        self._now = now
        return UTC.periods(now)

    def _told_now(self, early: Early) -> int:
        return self._now

    async def record(
        self, producer: Producer, batches: Sequence[Batch]
    ) -> list[list[Outcome] | StoreError]:
        results = await self._store.record(producer, batches)
        expected = await super().record(producer, batches)
        shapes = [_shape(result) for result in expected], [_shape(result) for result in results]
        assert shapes[0] == shapes[1], (shapes, results, [b.views for b in batches])
        return results

    async def replay(self, producer: Producer, batches: Sequence[Record]) -> list[bytes]:
        found = self._store.replay(producer, batches)
        return await _alike(found, super().replay(producer, batches))

    async def open(self, producer: Producer, seqs: Mapping[int, int] | None = None) -> list[int]:
        return await _alike(self._store.open(producer, seqs), super().open(producer, seqs))

    async def last_seqs(self, producer: Producer, partitions: Sequence[int]) -> list[int]:
        found = self._store.last_seqs(producer, partitions)
        return await _alike(found, super().last_seqs(producer, partitions))

    async def probe(self, partition: int) -> None:
        await self._store.probe(partition)

    async def reset(self, site: Site, operation: str) -> None:
        await _alike(self._store.reset(site, operation), super().reset(site, operation))

    async def undo(self, site: Site, operation: str) -> int:
        return await _alike(self._store.undo(site, operation), super().undo(site, operation))

    async def seed(
        self, site: Site, operation: str, metric: Metric, amounts: dict[Period, int]
    ) -> None:
        modelled = super().seed(site, operation, metric, amounts)
        await _alike(self._store.seed(site, operation, metric, amounts), modelled)


class Frame(NamedTuple):
    """A batch that was sent: the network may deliver it again, or only now."""

    producer: str
    epoch: int
    record: Record


class Starts(NamedTuple):
    """What the store knows of workers."""

    workers: dict[str, tuple[int, bytes]]


class Line:
    """What lies between a process and its store; loses a request or a reply when told to."""

    def __init__(self, store: Modelled) -> None:
        self.frames: deque[Frame] = deque(maxlen=FRAMES)
        self._store = store
        self._fault = ""
        self._calls_before = 0
        self.writes = NEWEST

    def fail(self, fault: str, calls_before: int) -> None:
        """The next call but so many loses its "request", its "reply", or is "cut" half way."""
        self._fault, self._calls_before = fault, calls_before

    @property
    def whole(self) -> bool:
        return not self._fault

    def mend(self) -> None:
        self._fault = ""

    async def deliver(self, frame: Frame) -> None:
        await self._store.replay(Producer(frame.producer, frame.epoch, None), [frame.record])

    async def record(
        self, producer: Producer, batches: Sequence[Batch]
    ) -> list[list[Outcome] | StoreError]:
        self._note(producer, [batch.record for batch in batches])
        try:
            return await self._call(lambda: self._store.record(producer, batches))
        except OutcomeUnknown as unknown:
            return [unknown] * len(batches)

    async def replay(self, producer: Producer, batches: Sequence[Record]) -> list[bytes]:
        self._note(producer, batches)
        half = batches[: (len(batches) + 1) // 2]
        return await self._call(
            lambda: self._store.replay(producer, batches),
            lambda: self._store.replay(producer, half),
        )

    async def open(self, producer: Producer, seqs: Mapping[int, int] | None = None) -> list[int]:
        return await self._call(lambda: self._store.open(producer, seqs))

    async def last_seqs(self, producer: Producer, partitions: Sequence[int]) -> list[int]:
        return await self._call(lambda: self._store.last_seqs(producer, partitions))

    async def probe(self, partition: int) -> None:
        await self._call(lambda: self._store.probe(partition))

    def shard(self, partition: int) -> str:
        return self._store.shard(partition)

    @property
    def schema(self) -> Line:
        """It has what is asked of a store's schema, too."""
        return self

    async def announce(self, worker: str, about: bytes) -> None:
        async def noted() -> None:
            self._store.function.begun[worker] = (0, about)

        await self._call(noted)

    async def workers(self) -> Starts:
        async def found() -> Starts:
            return Starts(dict(self._store.function.begun))

        return await self._call(found)

    async def _call(
        self,
        whole: Callable[[], Awaitable[T]],
        half: Callable[[], Awaitable[T]] | None = None,
    ) -> T:
        fault = self._next_fault()
        if not fault:
            return await whole()
        if fault != "request":
            await (half or whole)() if fault == "cut" else await whole()
        raise OutcomeUnknown(f"no answer: {fault}")

    def _next_fault(self) -> str:
        if self._fault and self._calls_before:
            self._calls_before -= 1
            return ""
        fault, self._fault = self._fault, ""
        return fault

    def _note(self, producer: Producer, batches: Sequence[Record]) -> None:
        self.frames += [Frame(producer.id, producer.epoch, each) for each in batches]


def _error_of(text: str) -> StoreError | None:
    return None if text in ("", "APPLIED", "DUP") else meaning(ResponseError(text))


def _done(answer: str) -> None:
    if error := _error_of(answer):
        raise error


def _raised(answer: int | str) -> int:
    if isinstance(answer, int):
        return answer
    raise meaning(ResponseError(answer))


def _outcomes(answer: Answer, entries: int) -> list[Outcome]:
    """As many as the entries, that many of them new and held: who it is the model does not say."""
    no_counts = cast(Any, None)
    return [
        Outcome(no_counts, None, new=n < answer.new, held=n < answer.held) for n in range(entries)
    ]


async def _alike(found: Awaitable[T], expected: Awaitable[T]) -> T:
    """What both answer, or the error that both raise."""
    results = [await _result(found), await _result(expected)]
    assert _shape(results[1]) == _shape(results[0])
    if isinstance(results[0], StoreError):
        raise results[0]
    return results[0]


async def _result(call: Awaitable[T]) -> T | StoreError:
    try:
        return await call
    except StoreError as error:
        return error


def _shape(result: object) -> object:
    """What can be compared of an answer."""
    if isinstance(result, StoreError):
        told = {name: value for name, value in vars(result).items() if name != "now"}
        return type(result).__name__, told
    if isinstance(result, list) and result and isinstance(result[0], bytes):
        return [(marks.count(b"1"), marks.count(b"2")) for marks in cast(list[bytes], result)]
    if isinstance(result, list) and result and isinstance(result[0], Outcome):
        outcomes = cast(list[Outcome], result)
        return len(outcomes), sum(o.new for o in outcomes), sum(o.held for o in outcomes)
    return result

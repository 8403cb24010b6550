"""The flow: how many batches are in flight, what overtakes what, and what rests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.kit.counting import Counted, counting, make_site
from tests.kit.services.in_process import until
from tests.kit.stores.server import Server
from visit_counter.delivery.flow import Flow
from visit_counter.delivery.queues import (
    AGAIN_MAX_S,
    AGAIN_MIN_S,
    Became,
    Queue,
    State,
    Waiting,
)
from visit_counter.delivery.replay import Replay, replaying
from visit_counter.disk.producer import Producer, producer_of
from visit_counter.errors import OutcomeUnknown, StoreError, StoreUnavailable
from visit_counter.model.counts import Numbers
from visit_counter.store.batch import Batch, Outcome

Answers = list[list[Outcome] | StoreError]


class Exchange:
    """A flush that the store got: its batches as (partition, number), and when to go on."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self.batches = [(batch.partition, batch.seq) for batch in batches]
        self.goes_on: asyncio.Future[StoreError | None] = asyncio.get_running_loop().create_future()


class Flowing:
    """A flow to a real store whose flushes wait for the test before they are sent."""

    def __init__(self, counted: Counted, replay: Replay | None) -> None:
        self.exchanges: list[Exchange] = []
        self.told: list[Became] = []
        self.queues: dict[int, Queue] = {}
        self._counted = counted
        self._record = counted.store.record
        counted.store.record = self._held  # type: ignore[method-assign]
        self.flow = Flow("here", counted.ledger, replay, counted.clock, lambda: None)

    async def _held(self, producer: Producer, batches: Sequence[Batch]) -> Answers:
        exchange = Exchange(batches)
        self.exchanges.append(exchange)
        error = await exchange.goes_on
        return [error] * len(batches) if error else await self._record(producer, batches)

    def hit(self, number: int, counted: Counted | None = None) -> None:
        entry = (counted or self._counted).hit(number, self._counted.clock.now())
        queue = self.queues.setdefault(entry.site.partition, Queue(entry.site.partition))
        self.flow.add(queue, Waiting(entry, self.told.append, asyncio.get_running_loop().time()))

    async def sent(self, number: int) -> list[tuple[int, int]]:
        """The batches of this flush, once it has left."""
        await until(lambda: len(self.exchanges) >= number)
        return self.exchanges[number - 1].batches

    def answer(self, number: int, error: StoreError | None = None) -> None:
        self.exchanges[number - 1].goes_on.set_result(error)

    async def answered(self, hits: int) -> None:
        await until(lambda: len(self.told) >= hits)

    async def settle(self) -> None:
        """Whatever may leave has left."""
        for _ in range(20):
            await asyncio.sleep(0)


@asynccontextmanager
async def flowing(counted: Counted, replay: Replay | None = None) -> AsyncIterator[Flowing]:
    it = Flowing(counted, replay)
    try:
        yield it
    finally:
        for exchange in it.exchanges:
            if not exchange.goes_on.done():
                exchange.goes_on.set_result(None)
        await it.flow.close(5)


async def test_two_flushes_are_in_flight_and_no_third(valkey: Server) -> None:
    """What comes meanwhile forms one batch, which leaves when the first has landed."""
    async with counting(valkey.url) as counted, flowing(counted) as it:
        for n in (1, 2):
            it.hit(n)
            await it.sent(n)
        for n in (3, 4, 5):
            it.hit(n)
        await it.settle()
        in_flight = len(it.exchanges)
        it.answer(1)
        third = await it.sent(3)
        it.answer(2)
        it.answer(3)
        await it.answered(5)

    assert (in_flight, third) == (2, [(counted.site.partition, 3)])


async def test_the_second_flush_leaves_with_as_many_hits_as_the_first(valkey: Server) -> None:
    """Fewer are not worth a round trip of their own."""
    async with counting(valkey.url) as counted, flowing(counted) as it:
        for n in (1, 2, 3):
            it.hit(n)
        await it.sent(1)
        it.hit(4)
        it.hit(5)
        await it.settle()
        early = len(it.exchanges)
        it.hit(6)
        await it.sent(2)

    assert early == 1


async def test_nothing_overtakes_a_batch_that_comes_again(valkey: Server) -> None:
    """It is sent again alone, with its number; the next one gets a number when it has landed."""
    async with counting(valkey.url) as counted, flowing(counted) as it:
        partition = counted.site.partition
        it.hit(1)
        await it.sent(1)
        it.answer(1, StoreUnavailable("away"))
        it.hit(2)
        again = await it.sent(2)
        it.hit(3)
        await it.settle()
        alone = len(it.exchanges)
        it.answer(2)
        behind = await it.sent(3)
        it.answer(3)
        await it.answered(3)
        counts = await counted.counts(counted.clock.now())

    assert (again, alone, behind) == ([(partition, 1)], 2, [(partition, 2)])
    assert counts.total == Numbers(3, 3, 3)


async def test_two_unanswered_batches_come_again_in_their_order(valkey: Server) -> None:
    """In one flush, once neither is in flight any more."""
    async with counting(valkey.url) as counted, flowing(counted) as it:
        partition = counted.site.partition
        for n in (1, 2):
            it.hit(n)
            await it.sent(n)
        it.answer(1, StoreUnavailable("away"))
        await asyncio.sleep(AGAIN_MIN_S * 2)  # it does not rest any more
        await it.settle()
        waits = len(it.exchanges)
        it.answer(2, StoreUnavailable("away"))
        both = await it.sent(3)
        it.answer(3)
        await it.answered(2)

    assert (waits, both) == (2, [(partition, 1), (partition, 2)])


async def test_a_rest_grows_and_ends_with_an_answer(valkey: Server) -> None:
    """A store that is away is not asked all the time, one that is back is asked at once."""
    async with counting(valkey.url) as counted, flowing(counted) as it:
        it.hit(1)
        pauses = []
        for n in range(1, 8):
            await it.sent(n)
            queue = it.queues[counted.site.partition]
            pauses.append(queue.pause_s)
            it.answer(n, StoreUnavailable("away"))
        await it.sent(8)
        it.answer(8)
        await it.answered(1)

    assert pauses == [min(AGAIN_MIN_S * 2**n, AGAIN_MAX_S) for n in range(7)]
    assert (queue.pause_s, queue.rests_until_s) == (AGAIN_MIN_S, 0.0)


async def test_a_partition_that_rests_keeps_no_other(valkey: Server) -> None:
    """Its batch comes again behind those of others."""
    async with counting(valkey.url) as counted, flowing(counted) as it:
        other = await make_site(counted.ledger, "other")
        it.hit(1)
        await it.sent(1)
        it.answer(1, StoreUnavailable("away"))
        await until(lambda: it.queues[counted.site.partition].rests_until_s > 0)
        it.queues[counted.site.partition].rests_until_s = float("inf")
        for n in range(2, 5):
            it.hit(n, other)
            await it.sent(n)
            it.answer(n)
            await it.answered(n - 1)

    assert [exchange.batches for exchange in it.exchanges[1:4]] == [
        [(other.site.partition, n)] for n in (1, 2, 3)
    ]


async def test_what_is_not_answered_in_time_is_spooled_and_told_once(
    valkey: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its late answer says nothing new; the partition's next batch goes behind it, unsent."""
    monkeypatch.setattr("visit_counter.delivery.flow.SPILL_S", 0.05)
    with producer_of(tmp_path, 1) as producer:
        async with counting(valkey.url) as counted:
            async with replaying(counted.store, producer) as (ledger, replay):
                counted.ledger = ledger
                held = await _keep_from_emptying(replay)
                async with flowing(counted, replay) as it:
                    it.hit(1)
                    await it.sent(1)
                    await it.answered(1)
                    sealed = len(it.queues[counted.site.partition].sealed)
                    it.hit(2)
                    await it.answered(2)
                    it.answer(1)
                    await it.settle()
                held.set_result(None)
                await until(lambda: not replay._spool.records)
            counts = await counted.counts(counted.clock.now())

    assert it.told == [None, None]
    assert (sealed, len(it.exchanges)) == (0, 1)
    assert counts.total == Numbers(2, 2, 2)


async def _keep_from_emptying(replay: Replay) -> asyncio.Future[None]:
    """Batches stay in the spool until the future has a result."""
    held: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    bring = replay._bring

    async def later(partitions: list[int]) -> tuple[int, list[StoreError]]:
        await held
        return await bring(partitions)

    replay._bring = later  # type: ignore[method-assign]
    return held


async def test_what_is_left_at_the_end_is_refused(valkey: Server) -> None:
    """Within the time given; nobody is left without an answer."""
    async with counting(valkey.url) as counted:
        it = Flowing(counted, None)
        for n in (1, 2, 3):
            it.hit(n)
            await it.sent(min(n, 2))
        counted_all = await it.flow.close(0.05)
        await it.answered(3)

    assert not counted_all
    assert [type(each) for each in it.told] == [OutcomeUnknown, OutcomeUnknown, StoreUnavailable]
    assert [each.state for each in it.queues[counted.site.partition].sealed] == [State.SENT] * 2

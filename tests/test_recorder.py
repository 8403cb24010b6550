"""The recorder: batches by themselves, answers after the commit, bounded in memory and time."""

from __future__ import annotations

import asyncio
from collections.abc import Sized
from contextlib import suppress
from functools import partial

import pytest
from prometheus_client import REGISTRY

from tests.kit.counting import Counted, counting, make_site, recorded
from tests.kit.services.in_process import until
from tests.kit.stores.server import Server, run_server, server_binaries
from visit_counter.delivery.queues import State
from visit_counter.delivery.recorder import Recorder
from visit_counter.errors import OutcomeUnknown, StoreError, StoreUnavailable
from visit_counter.model.counts import Numbers
from visit_counter.model.hit import Drop
from visit_counter.model.reasons import Reason
from visit_counter.store.batch import Outcome


def batches() -> float:
    return REGISTRY.get_sample_value("visitcounter_batch_hits_count") or 0


async def test_hits_that_arrive_during_a_flush_share_the_next(valkey: Server) -> None:
    """A thousand hits at once take few calls, and each is answered with counts that hold it."""
    async with counting(valkey.url) as counted, Recorder(counted.ledger, counted.clock) as recorder:
        now, before = counted.clock.now(), batches()
        first = recorded(recorder, counted.hit(1, now))
        await asyncio.sleep(0)
        waiters = [recorded(recorder, counted.hit(n, now)) for n in range(1, 1001)]
        outcomes = await asyncio.gather(first, *waiters)

    assert batches() - before <= 3
    seen = [outcome.counts.total.pageviews for outcome in outcomes if outcome]
    assert seen[0] >= 1
    assert (len(seen), max(seen)) == (1001, 1001)


async def test_two_batches_of_a_partition_are_under_way_and_no_third() -> None:
    """Nobody idles while the store syncs; what comes then waits, and all of it counts once."""
    with run_server(server_binaries()["valkey"]) as own:
        async with (
            counting(own.url) as counted,
            Recorder(counted.ledger, counted.clock) as recorder,
        ):
            now = counted.clock.now()
            await recorded(recorder, counted.hit(1, now))
            own.pause()
            queue = recorder._queues[counted.site.partition]
            waiters = []
            for n in range(2, 6):
                waiters.append(recorded(recorder, counted.hit(n, now)))
                await until(partial(has, queue.sealed, min(2, n - 1)))
            states = [sealed.state for sealed in queue.sealed]
            own.resume()
            outcomes = await asyncio.gather(*waiters)

    assert states == [State.SENT, State.SENT]
    assert [outcome.counts.total.pageviews for outcome in outcomes if outcome] == [2, 3, 5, 5]


async def test_a_connection_lost_under_two_batches_counts_both_once() -> None:
    """Neither was answered for: both are sent again, in their order."""
    with run_server(server_binaries()["valkey"]) as own:
        async with (
            counting(own.url) as counted,
            Recorder(counted.ledger, counted.clock) as recorder,
        ):
            now = counted.clock.now()
            await recorded(recorder, counted.hit(1, now))
            for n in range(2, 40, 2):
                own.pause()
                two = []
                for who in (n, n + 1):
                    two.append(recorded(recorder, counted.hit(who, now)))
                    await asyncio.sleep(0)
                link = counted.shard.writer._link
                assert link is not None
                await until(partial(has, link._awaited, 2))
                link._transport.abort()
                own.resume()
                await asyncio.gather(*two)
            counts = await counted.counts(now)

    assert counts.total == Numbers(39, 39, 39)


async def counted_again(recorder: Recorder, counted: Counted, number: int) -> Outcome | None:
    """A hit's outcome, as soon as the recorder takes hits again."""
    async with asyncio.timeout(10):
        while True:
            with suppress(StoreUnavailable):
                return await recorded(recorder, counted.hit(number, counted.clock.now()))
            await asyncio.sleep(0.01)


def has(things: Sized, number: int) -> bool:
    return len(things) == number


async def test_a_flow_that_has_ended_is_a_fault(valkey: Server) -> None:
    """Its hits are refused at once, and readiness says why; leaving is none."""
    async with counting(valkey.url) as counted:
        async with Recorder(counted.ledger, counted.clock) as recorder:
            well = recorder.fault
            (flow,) = recorder._flows.values()
            flow._task.cancel()
            await until(lambda: flow.ended)
            fault = recorder.fault
            with pytest.raises(StoreUnavailable):
                _ = recorded(recorder, counted.hit(1, counted.clock.now()))
        left = recorder.fault

    assert (well, left) == ("", "")
    assert "restart the service" in fault


async def test_leaving_flushes_what_is_pending(valkey: Server) -> None:
    """Hits recorded before the stop are counted and answered; later ones are refused."""
    async with counting(valkey.url) as counted:
        now = counted.clock.now()
        async with Recorder(counted.ledger, counted.clock) as recorder:
            waiters = [recorded(recorder, counted.hit(n, now)) for n in range(1, 2501)]
        outcomes = await asyncio.gather(*waiters)
        with pytest.raises(StoreUnavailable):
            _ = recorded(recorder, counted.hit(1, now))
        counts = await counted.counts(now)

    assert len(outcomes) == 2500
    assert counts.total.pageviews == 2500


async def test_more_than_can_be_kept_is_refused_at_once(
    valkey: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The buffer is bounded: the hit beyond it is refused before it is taken, and that is told."""
    monkeypatch.setattr("visit_counter.delivery.flow.MAX_PENDING", 10)
    async with counting(valkey.url) as counted, Recorder(counted.ledger, counted.clock) as recorder:
        now = counted.clock.now()
        waiters = [recorded(recorder, counted.hit(n, now)) for n in range(1, 11)]
        with pytest.raises(StoreUnavailable):
            _ = recorded(recorder, counted.hit(11, now))
        problems = recorder.problems
        await asyncio.gather(*waiters)
        counts = await counted.counts(now)

    assert counts.total.pageviews == 10
    assert "Hits were refused in the last 3 s: 10 hits wait" in problems[-1]


async def test_an_unanswered_batch_is_sent_again_until_it_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While the store hangs, its hit is answered as unknown, and later ones are refused at once;
    with it back each counts once."""
    monkeypatch.setattr("visit_counter.delivery.flow.SPILL_S", 0.25)
    with run_server(server_binaries()["valkey"]) as own:
        async with (
            counting(own.url) as counted,
            Recorder(counted.ledger, counted.clock) as recorder,
        ):
            now = counted.clock.now()
            await recorded(recorder, counted.hit(1, now))
            own.pause()
            with pytest.raises(OutcomeUnknown):
                await recorded(recorder, counted.hit(2, now))
            with pytest.raises(StoreUnavailable, match="no spool"):
                await recorded(recorder, counted.hit(3, now))
            own.resume()
            await counted_again(recorder, counted, 3)
            counts = await counted.counts(now)

    assert counts.total == Numbers(3, 3, 3)


async def test_a_short_hang_costs_nothing() -> None:
    """A store that answers within the second loses no hit, and no page learns of it."""
    with run_server(server_binaries()["valkey"]) as own:
        async with (
            counting(own.url) as counted,
            Recorder(counted.ledger, counted.clock) as recorder,
        ):
            now = counted.clock.now()
            await recorded(recorder, counted.hit(1, now))
            own.pause()
            waiters = [recorded(recorder, counted.hit(n, now)) for n in range(2, 100)]
            await asyncio.sleep(0.1)
            own.resume()
            await asyncio.gather(*waiters)
            counts = await counted.counts(now)

    assert counts.total.pageviews == 99


async def test_a_dead_store_refuses_and_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch under way is counted once the store is back; what only waited is forgotten."""
    monkeypatch.setattr("visit_counter.delivery.flow.SPILL_S", 0.25)
    with run_server(server_binaries()["valkey"]) as own:
        async with (
            counting(own.url) as counted,
            Recorder(counted.ledger, counted.clock) as recorder,
        ):
            now = counted.clock.now()
            await recorded(recorder, counted.hit(1, now))
            own.kill()
            sealed = recorded(recorder, counted.hit(2, now))
            with pytest.raises(OutcomeUnknown):
                await sealed
            with pytest.raises(StoreUnavailable):
                await recorded(recorder, counted.hit(3, now))
            own.start()
            await counted_again(recorder, counted, 4)
            counts = await counted.counts(now)

    assert counts.total == Numbers(3, 3, 3)


async def test_a_waiter_that_gave_up_disturbs_nobody(valkey: Server) -> None:
    """A cancelled waiter's hit is counted with its batch, and the others are answered."""
    async with counting(valkey.url) as counted, Recorder(counted.ledger, counted.clock) as recorder:
        now = counted.clock.now()
        gone = recorded(recorder, counted.hit(1, now))
        stays = recorded(recorder, Drop(counted.site, Reason.BOT, now))
        gone.cancel()
        outcome = await stays

    assert outcome is not None
    assert outcome.counts.total.pageviews == 1


async def test_a_mistake_of_ours_costs_its_batch_and_not_the_recorder(
    valkey: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a flush raises, its hits are answered and the next ones count."""
    async with counting(valkey.url) as counted, Recorder(counted.ledger, counted.clock) as recorder:
        now = counted.clock.now()
        with monkeypatch.context() as patch:
            patch.setattr(counted.store, "record", broken)
            with pytest.raises(OutcomeUnknown):
                await recorded(recorder, counted.hit(1, now))
        outcome = await counted_again(recorder, counted, 2)

    assert outcome is not None
    assert outcome.counts.total.pageviews == 2


async def broken(*_: object) -> None:
    raise RuntimeError("a mistake")


async def test_a_store_without_memory_and_function_is_found_again(valkey: Server) -> None:
    """FUNCTION FLUSH while memory is full refuses hits; with memory back they count."""
    with run_server(server_binaries()["valkey"]) as own:
        async with (
            counting(own.url) as counted,
            Recorder(counted.ledger, counted.clock) as recorder,
        ):
            now = counted.clock.now()
            own.call("FUNCTION", "FLUSH")
            own.call("CONFIG", "SET", "maxmemory", "1mb")
            with pytest.raises(StoreError):
                await recorded(recorder, counted.hit(1, now))
            own.call("CONFIG", "SET", "maxmemory", "0")
            outcome = await counted_again(recorder, counted, 2)

    assert outcome is not None
    assert outcome.counts.total.pageviews == 2


async def test_a_connection_that_was_reset_costs_no_later_hit(valkey: Server) -> None:
    """CLIENT KILL, as a firewall's reset of an idle connection, is met with a new connection."""
    async with counting(valkey.url) as counted, Recorder(counted.ledger, counted.clock) as recorder:
        now = counted.clock.now()
        await recorded(recorder, counted.hit(1, now))
        link = counted.shard.writer._link
        assert link is not None
        link._transport.abort()
        outcome = await recorded(recorder, counted.hit(2, now))

    assert outcome is not None
    assert outcome.counts.total.pageviews == 2


async def test_a_partition_that_is_stuck_delays_no_other(
    valkey: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the store cannot take in one partition rests and is tried again, beside the others."""
    monkeypatch.setattr("visit_counter.delivery.flow.WAIT_S", 20)
    async with counting(valkey.url) as counted, Recorder(counted.ledger, counted.clock) as recorder:
        other = await make_site(counted.ledger, "other")
        now = counted.clock.now()
        ledger = f"{counted.tag}:ledger:{counted.ledger._producer.id}"
        ours = await counted.client.dump(ledger)
        await counted.client.delete(ledger)
        await counted.client.rpush(ledger, "foreign")
        stuck = recorded(recorder, counted.hit(1, now))
        began = asyncio.get_running_loop().time()
        for n in range(1, 51):
            await recorded(recorder, other.hit(n, now))
        took_s = asyncio.get_running_loop().time() - began
        await counted.client.restore(ledger, 0, ours or b"", replace=True)
        outcome = await stuck

    assert took_s < 5  # with a pause of half a second behind each flush it would be 25
    assert outcome is not None
    assert outcome.counts.total.pageviews == 1


async def test_a_server_that_is_left_in_mid_exchange_is_a_lost_connection(valkey: Server) -> None:
    """As when another server takes over: whoever is sending learns it as an error of the store."""
    batches = 200
    with run_server(server_binaries()["valkey"]) as own:
        async with counting(own.url) as counted:
            writer, call = counted.shard.writer, ("ECHO", b"x" * 100_000)
            await counted.view(1, counted.clock.now())
            own.pause()
            sending = asyncio.ensure_future(writer.exchange([call] * batches))
            waiting = asyncio.ensure_future(writer.exchange([call]))
            link = writer._link
            await until(lambda: link is not None and len(link._awaited) == 2)
            writer.end()
            results = [*await sending, *await waiting, *await writer.exchange([call])]
            own.resume()

    assert [type(result) for result in results] == [OutcomeUnknown] * (batches + 1) + [
        StoreUnavailable
    ]

"""The ledger: whatever happens to a batch on its way, it counts once."""

from __future__ import annotations

import asyncio
import shutil
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from tests.kit.counting import Counted, at, counting, make_site, open_store
from tests.kit.services.in_process import namespace
from tests.kit.stores.keyspace import last_batch
from tests.kit.stores.server import Server, run_server, server_binaries
from visit_counter.clock import Clock
from visit_counter.delivery.dead_letters import found
from visit_counter.delivery.ledger import Ledger
from visit_counter.disk.format import HEADER, record_at
from visit_counter.disk.producer import Producer, producer_of
from visit_counter.errors import OutcomeUnknown, StartError, StoreError, StoreUnavailable
from visit_counter.model.counts import Numbers
from visit_counter.model.forms import NEWEST
from visit_counter.store.replies import Fenced, Rejected
from visit_counter.store.store import Store

NOON = at("2026-03-10 12:00")


async def send(counted: Counted, *seqs: int) -> list[object]:
    """Send batches of one view under these numbers, past our own bookkeeping."""
    results: list[object] = []
    for seq in seqs:
        batch = counted.seal(counted.hit(seq, NOON))
        record = batch.record._replace(seq=seq)
        try:
            await counted.store.replay(counted.ledger._producer, [record])
            results.append("counted")
        except StoreError as error:
            results.append(type(error).__name__)
    return results


async def test_a_batch_counts_once_however_often_it_comes(store_server: Server) -> None:
    """The same number again only reads, also after later numbers."""
    async with counting(store_server.url) as counted:
        results = await send(counted, 1, 1, 2, 1, 2, 3, 3)
        counts = await counted.counts(NOON)

    assert results == ["counted"] * 7
    assert counts.total == Numbers(3, 3, 3)


async def test_a_number_too_high_is_a_gap_and_counts_nothing(store_server: Server) -> None:
    """Only the next number counts."""
    async with counting(store_server.url) as counted:
        results = await send(counted, 2, 1, 4, 2)
        counts = await counted.counts(NOON)

    assert results == ["Gap", "counted", "Gap", "counted"]
    assert counts.total.pageviews == 2


async def test_a_batch_sent_again_answers_with_the_counts(store_server: Server) -> None:
    """Whoever waits for a batch whose reply was lost gets the counts, once counted."""
    async with counting(store_server.url) as counted:
        batch = counted.seal(counted.hit(1, NOON, path="/a", wants_page=True))
        first, second = [(await counted.ledger.commit([batch]))[0] for _ in range(2)]

    assert isinstance(first, list)
    assert isinstance(second, list)
    assert first[0].counts.total == second[0].counts.total == Numbers(1, 1, 1)
    assert (first[0].new, second[0].new, second[0].page) == (True, False, 1)


async def test_a_batch_that_overtakes_waits_for_the_one_before_it(store_server: Server) -> None:
    """Nothing is filled or passed while the earlier one is still to be sent again."""
    async with counting(store_server.url) as counted:
        first, second = [counted.seal(counted.hit(n, NOON)) for n in (1, 2)]
        (early,) = await counted.ledger.commit([second])
        both = await counted.ledger.commit([first, second])
        counts = await counted.counts(NOON)

    assert isinstance(early, StoreUnavailable)
    assert [type(result) for result in both] == [list, list]
    assert counts.total == Numbers(2, 2, 2)


async def test_two_commits_under_way_fill_one_gap(store_server: Server) -> None:
    """A store that lost batches, met by two flushes at once, gets each of them once."""
    async with counting(store_server.url) as counted:
        await counted.view(1, NOON)
        snapshot = await dump(counted)
        await counted.view(2, NOON)
        await restore(counted, snapshot)
        first, second = [counted.seal(counted.hit(n, NOON)) for n in (3, 4)]
        ahead = asyncio.ensure_future(counted.ledger.commit([first]))
        behind = asyncio.ensure_future(counted.ledger.commit([second], ahead))
        results = [*await ahead, *await behind]
        counts = await counted.counts(NOON)

    assert [type(result) for result in results] == [list, list]
    assert counts.total == Numbers(4, 4, 4)


async def test_a_lost_reply_is_answered_by_sending_again() -> None:
    """A store that hangs while it has the batch: unknown, then counted exactly once."""
    with run_server(server_binaries()["valkey"]) as own:
        async with counting(own.url) as counted:
            await counted.view(1, NOON)
            own.pause()
            batch = counted.seal(counted.hit(2, NOON))
            (unknown,) = await counted.ledger.commit([batch])
            own.resume()
            (known,) = await counted.ledger.commit([batch])
            counts = await counted.counts(NOON)

    assert isinstance(unknown, OutcomeUnknown)
    assert isinstance(known, list)
    assert counts.total == Numbers(2, 2, 2)


async def test_a_store_that_lost_batches_gets_them_again(store_server: Server) -> None:
    """As a replica promoted without the last ones: the gap is filled from what is kept."""
    async with counting(store_server.url) as counted:
        await counted.view(1, NOON)
        snapshot = await dump(counted)
        await counted.view(2, NOON)
        await counted.view(3, NOON)
        await restore(counted, snapshot)
        await counted.view(4, NOON)
        counts = await counted.counts(NOON)

    assert counts.total == Numbers(4, 4, 4)


async def test_an_idle_producer_notices_what_the_store_lost(store_server: Server) -> None:
    """Without another hit the loss behind the last batch is found and filled too."""
    async with counting(store_server.url) as counted:
        await counted.view(1, NOON)
        snapshot = await dump(counted)
        await counted.view(2, NOON)
        await restore(counted, snapshot)
        await counted.ledger._verify()
        counts = await counted.counts(NOON)

    assert counts.total == Numbers(2, 2, 2)


async def test_a_hole_that_nothing_fills_is_told_and_passed(
    store_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is no longer kept is counted as lost, and the later hits count."""
    async with counting(store_server.url) as counted:
        await counted.view(1, NOON)
        snapshot = await dump(counted)
        await counted.view(2, NOON)
        await restore(counted, snapshot)
        monkeypatch.setattr("visit_counter.delivery.ledger.RETAIN_S", -1)
        counted.ledger._let_go()
        await counted.view(3, NOON)
        await counted.view(4, NOON)
        counts = await counted.counts(NOON)

    assert counts.total == Numbers(3, 3, 3)


async def test_an_emptied_store_is_not_filled_blindly() -> None:
    """After FLUSHALL batches are refused with a reason, not replayed into nothing."""
    with run_server(server_binaries()["valkey"]) as own:
        async with counting(own.url) as counted:
            await counted.view(1, NOON)
            own.call("FLUSHALL")
            result = await counted.commit(counted.hit(2, NOON))
            keys = own.call("DBSIZE")

    assert isinstance(result, StoreUnavailable)
    assert "was removed while it ran" in str(result)
    assert keys == b":0\r\n"


async def test_a_batch_that_cannot_be_read_uses_up_its_number(store_server: Server) -> None:
    """A poison batch is rejected once, nothing of it is counted, and the next one counts."""
    async with counting(store_server.url) as counted:
        batch = counted.seal(counted.hit(1, NOON))
        batch.record = batch.record._replace(payload=b"\xc1 no msgpack")
        (rejected,) = await counted.ledger.commit([batch])
        await counted.view(2, NOON)
        counts = await counted.counts(NOON)

    assert isinstance(rejected, Rejected)
    assert counts.total == Numbers(1, 1, 1)


async def test_a_restart_goes_on_behind_its_last_batch(
    store_server: Server, tmp_path: Path
) -> None:
    """The producer is the same, its epoch later, its numbers go on."""
    name, epochs, ids, site = namespace(), [], set(), None
    for start in range(3):
        with producer_of(tmp_path) as producer:
            epochs.append(producer.epoch)
            ids.add(producer.id)
            async with (
                Store(store_server.url, name, Clock()) as store,
                Ledger(store, producer) as ledger,
            ):
                counted = Counted(ledger, site) if site else await make_site(ledger)
                site = counted.site
                await counted.view(start + 1, NOON)
                counts = await counted.counts(NOON)

    assert (epochs, len(ids)) == ([1, 2, 3], 1)
    assert counts.total == Numbers(3, 3, 3)


async def test_a_copied_directory_is_fenced(store_server: Server, tmp_path: Path) -> None:
    """Of two processes that are one producer, only the later one counts; nothing is doubled."""
    name = namespace()
    with producer_of(tmp_path / "a") as producer:
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        async with Store(store_server.url, name, Clock()) as store, Ledger(store, producer) as one:
            first = await make_site(one)
            await first.view(1, NOON)
            with producer_of(tmp_path / "b") as copy:
                assert (copy.id, copy.epoch) == (producer.id, producer.epoch + 1)
                async with Ledger(store, copy) as two:
                    second = Counted(two, first.site)
                    await second.view(2, NOON)
                    fenced = await first.commit(first.hit(3, NOON))
                    await second.view(4, NOON)
            counts = await first.counts(NOON)

    assert isinstance(fenced, Fenced)
    assert one.fenced
    assert counts.total == Numbers(3, 3, 3)


async def test_two_copies_of_one_epoch_do_not_meet(store_server: Server) -> None:
    """The second to open an epoch takes a later one: an epoch is one process's."""
    name = namespace()
    twins = [Producer("ab" * 16, 5, None) for _ in range(2)]
    async with (
        Store(store_server.url, name, Clock()) as store,
        Ledger(store, twins[0]),
        Ledger(store, twins[1]) as two,
    ):
        counted = await make_site(two)
        await counted.view(1, NOON)

    assert [twin.epoch for twin in twins] == [5, 6]


async def test_retention_is_bounded(valkey: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answered batches are kept within a bound of bytes and of time."""
    async with counting(valkey.url) as counted:
        monkeypatch.setattr("visit_counter.delivery.ledger.RETAIN_BYTES", 1000)
        for who in range(1, 51):
            await counted.view(who, NOON)
        within = counted.ledger._kept_bytes
        monkeypatch.setattr("visit_counter.delivery.ledger.RETAIN_S", -1)
        counted.ledger._let_go()

    assert 0 < within <= 1000
    assert counted.ledger._kept_bytes == 0


async def dump(counted: Counted) -> dict[Any, Any]:
    """All keys of the store's namespace, as a replica would have had them."""
    client = counted.client
    keys = await client.keys(f"{counted.namespace}:*")
    return {key: await client.dump(key) for key in keys}


async def restore(counted: Counted, snapshot: dict[Any, Any]) -> None:
    client = counted.client
    await client.delete(*await client.keys(f"{counted.namespace}:*"))
    for key, value in snapshot.items():
        await client.restore(key, 0, value)


async def test_a_batch_that_fails_half_way_is_not_acknowledged(store_server: Server) -> None:
    """Whatever the store stumbles over while it counts, no page is told that it was counted."""
    async with counting(store_server.url) as counted:
        await counted.view(1, NOON)
        await counted.client.delete(f"{counted.tag}:portal:1:pages")
        await counted.client.set(f"{counted.tag}:portal:1:pages", "no sorted set")
        result = await counted.commit(counted.hit(1, NOON))

    assert isinstance(result, Rejected)
    assert "WRONGTYPE" in str(result)


async def test_a_store_that_lost_our_epoch_is_opened_again(store_server: Server) -> None:
    """As after a failover that lost the opening: the epoch is begun anew, and the hit counts."""
    async with counting(store_server.url) as counted:
        await counted.view(1, NOON)
        producer = counted.ledger._producer
        entry = f"{counted.tag}:ledger:{producer.id}"
        await counted.client.set(entry, struct.pack("<B3d", NEWEST, producer.epoch - 1, 1, 0))
        await counted.view(2, NOON)
        written: Any = await counted.client.get(entry)
        counts = await counted.counts(NOON)

    assert last_batch(written) == (producer.epoch, 2)
    assert counts.total == Numbers(2, 2, 2)


async def test_a_producer_that_is_gone_is_forgotten(store_server: Server) -> None:
    """Whoever opens an epoch removes those whose last day is more than 400 days ago."""
    async with counting(store_server.url) as counted:
        index, today = f"{counted.tag}:ledger", int(time.time() // 86_400)
        for name, day in (("gone", today - 401), ("quiet", today - 399)):
            await counted.client.hset(index, name, str(day))
            await counted.client.set(f"{index}:{name}", struct.pack("<B3d", NEWEST, 1, 1, day))
        async with open_store(store_server.url, counted.namespace) as other:
            ours = {counted.ledger._producer.id, other._producer.id}
            known: list[Any] = await counted.client.hkeys(index)
            entries: list[Any] = await counted.client.keys(f"{index}:*")

    left = {"quiet", *ours}
    assert {name.decode() for name in known} == {"#", *left}
    assert {key.decode() for key in entries} == {f"{index}:{name}" for name in left}


async def test_a_repair_and_a_flush_do_not_meet(store_server: Server) -> None:
    """Looking for losses while hits come in counts every hit once, also around a hole."""
    async with counting(store_server.url) as counted:
        await counted.view(1, NOON)
        snapshot = await dump(counted)
        for who in range(2, 30):
            await counted.view(who, NOON)
        await restore(counted, snapshot)

        looks = (counted.ledger._verify() for _ in range(3))
        await asyncio.gather(*looks, counted.view(30, NOON))
        counts = await counted.counts(NOON)

    assert (counts.total.pageviews, counts.total.visits) == (30, 30)
    assert not counted.ledger.fenced


async def test_a_flush_that_repairs_first_keeps_no_partition_from_repair(
    store_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where hits have filled a hole meanwhile, the look goes on with what else was lost."""
    async with counting(store_server.url) as portal:
        other = await make_site(portal.ledger, "other")
        first, second = sorted((portal, other), key=lambda each: each.site.partition)
        snapshot = await dump(portal)
        await first.view(1, NOON)
        await second.view(1, NOON)
        await restore(portal, snapshot)
        ask = portal.store.last_seqs

        async def last_seqs(*asked: Any) -> list[int]:
            found = await ask(*asked)
            await first.view(2, NOON)
            return found

        monkeypatch.setattr(portal.store, "last_seqs", last_seqs)
        await portal.ledger._verify()
        counts = [await each.counts(NOON) for each in (first, second)]

    assert [each.total.pageviews for each in counts] == [2, 1]


async def test_a_rejected_batch_is_kept_aside_and_stays_rejected(
    store_server: Server, tmp_path: Path
) -> None:
    """Sent again, since the answer may have been lost, it is not taken for one that counted."""
    with producer_of(tmp_path) as producer:
        async with (
            Store(store_server.url, namespace(), Clock()) as store,
            Ledger(store, producer) as ledger,
        ):
            counted = await make_site(ledger)
            await counted.view(1, NOON)
            batch = counted.seal(counted.hit(2, NOON))
            batch.record = batch.record._replace(payload=b"\xc1")
            results = [(await ledger.commit([batch]))[0] for _ in range(2)]
            await counted.view(3, NOON)
            counts = await counted.counts(NOON)
        (path,) = found(tmp_path / "producers" / "0" / "rejected")
        kept = record_at(path.read_bytes(), len(HEADER))

    assert [type(result) for result in results] == [Rejected, Rejected]
    assert counts.total == Numbers(2, 2, 2)
    assert kept == batch.record


@pytest.mark.parametrize(
    "name",
    [
        *("seen", "left", "pages", "index", "drops:2026-03", "day:2026-03", "week:2026", "year"),
        *("candidates", "idle"),
        *("visitors:day:2026-03-10", "visitors:month:2026-03", "visitors:total", "month:2026"),
    ],
)
async def test_a_foreign_key_stops_a_batch_whole(store_server: Server, name: str) -> None:
    """Where a key that the day needs is not ours, nothing of the day's first batch counts."""
    async with counting(store_server.url) as counted:
        key = f"{counted.tag}:portal:1:{name}"
        await counted.client.rpush(key, "foreign")
        refused = [await counted.commit(counted.hit(1, NOON)) for _ in range(2)]
        await counted.client.delete(key)
        left = await counted.client.keys(f"{counted.tag}:portal:1:*")
        await counted.view(2, NOON)
        counts = await counted.counts(NOON)

    assert [type(result) for result in refused] == [Rejected, Rejected]
    assert name.partition(":")[2] in str(refused[0])
    assert left == [f"{counted.tag}:portal:1:running".encode()]
    assert counts.total == Numbers(1, 1, 1)


async def test_a_foreign_state_is_left_as_it_is(store_server: Server) -> None:
    """It is not taken for that of a new site, though the command that reads it finds nothing."""
    async with counting(store_server.url) as counted:
        key = f"{counted.tag}:portal:1:running"
        await counted.client.delete(key)
        await counted.client.rpush(key, "foreign")
        refused = await counted.commit(counted.hit(1, NOON))
        left: list[Any] = await counted.client.lrange(key, 0, -1)

    assert isinstance(refused, Rejected)
    assert "WRONGTYPE" in str(refused)
    assert left == [b"foreign"]


async def test_a_key_that_turns_foreign_harms_one_batch_at_most(store_server: Server) -> None:
    """In the middle of the day the first batch may be counted by half, the next ones are not."""
    async with counting(store_server.url) as counted:
        await counted.view(1, NOON)
        key = f"{counted.tag}:portal:1:visitors:year:2026"
        ours = await counted.client.dump(key)
        assert ours
        await counted.client.delete(key)
        await counted.client.rpush(key, "foreign")
        refused = [await counted.commit(counted.hit(n, NOON)) for n in range(2, 6)]
        await counted.client.restore(key, 0, ours, replace=True)
        await counted.view(9, NOON)
        counts = await counted.counts(NOON, "/")

    assert [type(result) for result in refused] == [Rejected] * 4
    assert counts.total.pageviews == 2
    assert counts.pages == [3]


async def test_a_user_who_may_not_run_a_command_is_refused_at_start(store_server: Server) -> None:
    """It would be found out by the first hit that needs it; the message names the command."""
    with run_server(server_binaries()["valkey"]) as own:
        own.call("ACL SETUSER counter on >secret ~* &* +@all -pfmerge")
        url = f"unix://counter:secret@{own.socket_path}"
        with pytest.raises(StartError, match="pfmerge"):
            async with Store(url, namespace(), Clock()):
                pass


async def test_what_was_rejected_leaves_no_hole(store_server: Server) -> None:
    """A store that lost batches gets them all again, those around a rejected one too."""
    async with counting(store_server.url) as counted:
        snapshot = await dump(counted)
        await counted.view(1, NOON)
        await poison(counted)
        await counted.view(2, NOON)
        await restore(counted, snapshot)
        await counted.ledger._verify()
        counts = await counted.counts(NOON)

    assert counts.total == Numbers(2, 2, 2)


async def test_what_was_spooled_beside_a_rejected_batch_is_kept(store_server: Server) -> None:
    """Batches from the spool are sent again after a failover, also those before a rejected one."""
    async with counting(store_server.url) as counted:
        snapshot = await dump(counted)
        batches = [counted.seal(counted.hit(who, NOON)).record for who in (1, 2, 3)]
        batches[1] = batches[1]._replace(payload=b"\xc1 no msgpack")
        await counted.ledger.replay(batches)
        await restore(counted, snapshot)
        await counted.ledger._verify()
        counts = await counted.counts(NOON)

    assert counts.total == Numbers(2, 2, 2)


async def test_a_hole_between_spooled_batches_is_passed(store_server: Server) -> None:
    """Records of an earlier run come before newer ones: they do not stop at what lay between."""
    async with counting(store_server.url) as counted:
        first, _, _, last = [counted.seal(counted.hit(n, NOON)).record for n in (1, 2, 3, 4)]
        await counted.ledger.replay([first, last])
        counts = await counted.counts(NOON)

    assert counts.total == Numbers(2, 2, 2)


async def test_hits_behind_a_reset_that_a_failover_lost_are_counted(store_server: Server) -> None:
    """They were accepted under a generation that the store knows no more: they go into its own."""
    async with counting(store_server.url) as counted:
        snapshot = await dump(counted)
        await counted.store.reset(counted.site, "the reset")
        counted.next_generation()
        await counted.view(1, NOON)
        await restore(counted, snapshot)
        await counted.ledger._verify()
        counts = await counted.counts(NOON)

    assert counts.total == Numbers(1, 1, 1)


async def poison(counted: Counted) -> None:
    """A batch that the store cannot read."""
    batch = counted.seal(counted.hit(9, NOON))
    batch.record = batch.record._replace(payload=b"\xc1 no msgpack")
    await counted.ledger.commit([batch])

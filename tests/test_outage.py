"""The store away, over real HTTP: the service goes on answering, and every answer holds."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from pathlib import Path

import pytest

from tests.kit.services.in_process import PERSON, Service, run_service, until
from tests.kit.services.process import call, serving
from tests.kit.stores.server import Server, run_server, server_binaries
from visit_counter.clock import Clock
from visit_counter.model.site_settings import partition_of


@pytest.fixture(autouse=True)
def _spill_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("visit_counter.delivery.flow.SPILL_S", 0.25)


def spooled(service: Service) -> int | bool:
    replay = service.parts.recorder._replay
    assert replay is not None
    return replay._spool.records or replay.away


async def views(service: Service, first: int, last: int) -> Counter[int]:
    """Views of as many pages at once; how each was answered."""
    return Counter(await asyncio.gather(*(view(service, n) for n in range(first, last))))


async def view(service: Service, number: int) -> int:
    headers = {"User-Agent": PERSON, "Accept-Language": f"x-{number}"}
    url, body = f"{service.url}/w/portal", f'{{"p": "/{number}"}}'
    async with service.client.post(url, data=body.encode(), headers=headers) as answer:
        return answer.status


async def counted(service: Service) -> tuple[int, set[int]]:
    """All pageviews, and which numbers of pageviews pages have."""
    counts = await service.counts()
    store = service.parts.store
    site = service.parts.sites.get("portal")
    assert site is not None
    key = f"{store._tags[site.partition]}:portal:{site.generation}:pages"
    pages: list[tuple[bytes, float]] = list(
        await store._shards.all()[0].client.zrange(key, 0, -1, withscores=True)  # type: ignore[arg-type]
    )
    return counts["total"]["pageviews"], {int(score) for _, score in pages}


@pytest.mark.parametrize("way", ["kill", "pause"])
async def test_hits_are_kept_while_the_store_is_away(way: str, tmp_path: Path) -> None:
    """202 within the second, in the spool; with the store back all are counted once."""
    with run_server(server_binaries()["valkey"]) as own:
        async with run_service(own.url, data_dir=tmp_path) as service:
            await service.site(trusted_networks=["127.0.0.1"])
            before = await views(service, 0, 20)
            own.kill() if way == "kill" else own.pause()
            away = [await views(service, 100 * n, 100 * n + 30) for n in range(1, 5)]
            last_counts = await service.client.get(f"{service.url}/w/portal")
            own.start() if way == "kill" else own.resume()
            await until(lambda: not spooled(service), within_s=10)
            after = await views(service, 900, 920)
            total, per_page = await counted(service)

    assert (before, after) == (Counter({200: 20}), Counter({200: 20}))
    assert sum(away, Counter()) == Counter({202: 120})
    assert last_counts.status == 200
    assert (total, per_page) == (160, {1})


async def test_the_answer_says_that_the_hit_is_kept(tmp_path: Path) -> None:
    """202 with the last counts and their instant."""
    with run_server(server_binaries()["valkey"]) as own:
        async with run_service(own.url, data_dir=tmp_path) as service:
            await service.site()
            first = await service.hit()
            own.kill()
            kept = await service.hit(status=202)
            dropped = await service.hit(status=202, headers={"User-Agent": "curl/8"})
            await until(lambda: service.parts.watch.fault)
            status, state = await service.ready()

    assert (kept["counted"], kept["spooled"], kept["total"]) == (True, True, first["total"])
    assert kept["as_of"] <= first["as_of"] + 1
    assert (dropped["counted"], dropped["reason"], dropped["spooled"]) == (False, "bot", True)
    assert (status, state["status"]) == (200, "degraded")


async def test_spooled_hits_do_not_wait_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where they come one by one: they are not counted among those without a batch, of which
    there may be so many."""
    monkeypatch.setattr("visit_counter.delivery.flow.MAX_PENDING", 10)
    with run_server(server_binaries()["valkey"]) as own:
        async with run_service(own.url, data_dir=tmp_path) as service:
            await service.site()
            own.kill()
            answers = Counter([await view(service, n) for n in range(30)])

    assert answers == Counter({202: 30})


async def test_a_service_that_is_killed_in_an_outage_loses_nothing(tmp_path: Path) -> None:
    """kill -9 with hits in the spool: the next start brings them to the store, once each."""
    with run_server(server_binaries()["valkey"]) as own:
        settings = {"REDIS_URL": own.url, "DATA_DIR": str(tmp_path), "NAMESPACE": "outage"}
        async with run_service(own.url, data_dir=tmp_path, namespace="outage") as service:
            await service.site(trusted_networks=["127.0.0.1"])
        answers: Counter[int] = Counter()
        with serving(**settings) as process:
            url = await asyncio.to_thread(lambda: process.url)
            own.kill()
            answers.update([await asyncio.to_thread(post_view, url, n) for n in range(40)])
            process.kill()
        own.start()
        async with run_service(own.url, data_dir=tmp_path, namespace="outage") as service:
            await until(lambda: not spooled(service), within_s=10)
            total, per_page = await counted(service)

    assert answers == Counter({202: 40})
    assert (total, per_page) == (40, {1})


def post_view(url: str, number: int) -> int:
    return call("POST", f"{url}/w/portal", {"p": f"/{number}"})[0]


async def test_a_full_spool_refuses_before_it_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing more can be kept hits are 503, and nothing of what was kept is lost."""
    monkeypatch.setattr("visit_counter.delivery.replay.SPOOL_BYTES", 10_000)
    monkeypatch.setattr("visit_counter.delivery.replay.MAX_BATCH_BYTES", 2_000)
    with run_server(server_binaries()["valkey"]) as own:
        async with run_service(own.url, data_dir=tmp_path) as service:
            await service.site(trusted_networks=["127.0.0.1"])
            own.kill()
            answers = [await view(service, n) for n in range(20)]
            while 503 not in answers:
                answers.append(await view(service, len(answers)))
            own.start()
            await until(lambda: not spooled(service), within_s=10)
            total, per_page = await counted(service)

    assert {202, 503} == set(answers)
    assert total == answers.count(202)
    assert per_page == {1}


async def test_a_spool_that_fails_ends_acknowledging(
    valkey: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An fsync error is not retried: 503 from then on, and readiness says so."""

    def broken(_: int) -> None:
        raise OSError(5, "Input/output error")

    with run_server(server_binaries()["valkey"]) as own:
        async with run_service(own.url, data_dir=tmp_path) as service:
            await service.site()
            own.kill()
            monkeypatch.setattr("os.fdatasync", broken)
            answers = [await view(service, n) for n in range(3)]
            ready = await service.client.get(f"{service.ops_url}/readyz")

    assert set(answers) == {503}
    assert ready.status == 503


async def test_nobody_waits_for_a_disk_that_hangs(
    valkey: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the store away and the spool's fdatasync without an end a hit is refused in its time;
    what the disk kept in the end counts."""
    goes_on = threading.Event()
    with run_server(server_binaries()["valkey"]) as own:
        async with run_service(own.url, data_dir=tmp_path) as service:
            await service.site(trusted_networks=["127.0.0.1"])
            own.kill()
            monkeypatch.setattr("os.fdatasync", lambda _: goes_on.wait())
            answers = [await view(service, n) for n in range(2)]
            goes_on.set()
            await until(lambda: spooled(service))
            own.start()
            await until(lambda: not spooled(service), within_s=10)
            total, per_page = await counted(service)

    assert answers == [503, 503]
    assert (total, per_page) == (1, {1})  # the second had no number yet


async def test_a_disk_that_hangs_ends_no_counting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a moment without the store, of which the spool's disk kept nothing, hits are counted
    while the disk still hangs; each once."""
    monkeypatch.setattr("visit_counter.disk.spool.DISK_S", 0.3)
    goes_on = threading.Event()
    with run_server(server_binaries()["valkey"]) as own:
        async with run_service(own.url, data_dir=tmp_path) as service:
            await service.site(max_pages=1000, trusted_networks=["127.0.0.1"])
            own.pause()
            monkeypatch.setattr("os.fdatasync", lambda _: goes_on.wait(60))
            watch, recorder = service.parts.watch, service.parts.recorder
            refused = await view(service, 1)
            await until(lambda: watch.fault)
            ready = [await readiness(service)]
            own.resume()
            await until(lambda: not (watch.fault or any(each.refuses for each in recorder._queues)))
            answers = [await view(service, n) for n in range(2, 12)]
            ready.append(await readiness(service))
            goes_on.set()
            await until(lambda: not spooled(service), within_s=10)
            total, per_page = await counted(service)

    assert (refused, set(answers)) == (503, {200})
    assert [status for status, _ in ready] == [503, 200]
    assert all("it has not answered for 0.3 s" in text for _, text in ready)
    assert (total, per_page) == (11, {1})


async def test_a_partition_that_fails_sends_no_other_into_the_spool(tmp_path: Path) -> None:
    """A key of another type stops the batches of its partition; the others' are counted at once."""
    with run_server(server_binaries()["valkey"]) as own:
        async with run_service(own.url, data_dir=tmp_path) as service:
            await service.site(max_pages=1000)
            await service.site("other")
            await service.hit("other")
            recorder, store = service.parts.recorder, service.parts.store
            entry = f"{store._tags[partition_of('other')]}:ledger:{recorder.producer}"
            own.call("RENAME", entry, f"{entry}:away")
            own.call("RPUSH", entry, "foreign")
            await service.hit("other", status=202)
            await until(lambda: any("wait in the spool" in each for each in recorder.problems))
            problems = " ".join(recorder.problems)
            answers = [await view(service, n) for n in range(100)]
            own.call("DEL", entry)
            own.call("RENAME", f"{entry}:away", entry)
            await until(lambda: not spooled(service), within_s=10)
            await until(lambda: not recorder.problems)
            other = (await service.counts("other"))["total"]["pageviews"]

    assert set(answers) == {200}
    assert f"partition {partition_of('other')} wait in the spool: WRONGTYPE" in problems
    assert other == 2


@pytest.mark.parametrize("server", ["valkey", "redis"])
async def test_a_command_that_is_forbidden_for_a_while_loses_nothing(
    tmp_path: Path, server: str
) -> None:
    """The store's access rules stop the function in its middle: readiness names the command, and
    hits wait in the spool. Only what the first try wrote before it was stopped is written twice: a
    page's number, at most."""
    with run_server(server_binaries()[server]) as own:
        async with run_service(own.url, data_dir=tmp_path) as service:
            await service.site(max_pages=1000)
            before = await views(service, 0, 3)
            ours = service.parts.store._meta.partition(":")[0]
            own.call("ACL", "SETUSER", "default", "resetkeys", f"~{ours}:*", "-pfadd")
            answers = [await view(service, n) for n in range(3, 6)]
            await until(lambda: "'pfadd'" in str(service.parts.watch.fault))
            answers += [await view(service, n) for n in range(6, 20)]
            status, text = await readiness(service)
            own.call("ACL", "SETUSER", "default", "+pfadd")
            await until(lambda: not spooled(service), within_s=10)
            await until(lambda: not service.parts.watch.fault)
            total, _ = await counted(service)

    assert before == Counter({200: 3})
    assert set(answers) == {202}
    assert (status, "ACL SETUSER" in text) == (200, True)
    assert total == 20


async def test_readiness_says_why_hits_are_spooled(tmp_path: Path) -> None:
    """The store answers; it is its replicas that do not."""
    with run_server(server_binaries()["valkey"]) as own:
        async with run_service(own.url, data_dir=tmp_path, min_replicas="1") as service:
            await service.site()
            await service.hit(status=202)
            recorder = service.parts.recorder
            await until(lambda: any("replicas" in each for each in recorder.problems))
            problems = recorder.problems

    assert "(only 0 of 1 replicas have confirmed)" in problems[0]


async def readiness(service: Service) -> tuple[int, str]:
    status, told = await service.ready()
    return status, str(told)


async def test_spooled_hits_of_a_clock_that_was_ahead_count_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They hold up nobody, and count as of the store's time, each once."""
    clock = Clock()
    with run_server(server_binaries()["valkey"]) as own:
        async with run_service(own.url, data_dir=tmp_path, clock=clock) as service:
            await service.site(trusted_networks=["127.0.0.1"])
            own.kill()
            with monkeypatch.context() as patch:
                patch.setattr(clock, "now", lambda: clock.local() + 9 * 86_400_000)
                early = await view(service, 1)
            own.start()
            await until(lambda: not spooled(service))
            total, per_page = await counted(service)
            counts = await service.counts()

    assert early == 202
    assert (total, per_page) == (1, {1})
    assert (counts["online"], counts["today"]["visits"]) == (1, 1)

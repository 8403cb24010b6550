"""What operators see: health, readiness and metrics, with the store well and away."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import subprocess
from pathlib import Path

import pytest
from orjson import loads
from prometheus_client import REGISTRY
from redis.asyncio import Redis
from structlog.testing import capture_logs

from tests.kit.services.in_process import Service, run_service, until
from tests.kit.stores.server import Server, run_server, server_binaries
from tests.kit.tools import at_another_time, need

README = Path(__file__).parents[1] / "README.md"
# A write beyond a limit then fails, as on a full disk, instead of ending the server.
SURVIVES_LIMITS = ("sh", "-c", "trap '' XFSZ; exec \"$@\"", "--")


async def get(service: Service, path: str) -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {service.token}"}
    async with service.client.get(service.ops_url + path, headers=headers) as answer:
        return answer.status, await answer.text()


def promtool_check(scrape: str) -> subprocess.CompletedProcess[str]:
    command = [str(need("promtool")), "check", "metrics"]
    return subprocess.run(command, input=scrape, capture_output=True, text=True)


async def test_promtool_accepts_a_live_scrape(service: Service) -> None:
    """Names, types and help texts are as Prometheus wants them."""
    await service.site()
    await service.hit()
    await service.hit(headers={"User-Agent": "curl/8"})
    _, scrape = await get(service, "/metrics")
    check = await asyncio.to_thread(promtool_check, scrape)

    assert (check.returncode, check.stdout, check.stderr) == (0, "", "")
    assert 'visitcounter_hits_dropped_total{reason="bot"}' in scrape


def test_the_readme_lists_exactly_our_metrics() -> None:
    """The names are a contract, so README and code agree."""
    ours = {
        each.name + ("_total" if each.type == "counter" else "")
        for each in REGISTRY.collect()
        if each.name.startswith("visitcounter_")
    }
    listed = re.findall(r"^\| `(visitcounter_\w+)`", README.read_text(), re.MULTILINE)

    assert sorted(listed) == sorted(ours)


async def test_health_and_readiness_while_the_store_is_away() -> None:
    """Alive stays 200; ready is degraded, since hits are kept, and says why; then well again."""
    with run_server(server_binaries()["valkey"]) as own:
        async with run_service(own.url) as service:
            watch = service.parts.watch
            well = await get(service, "/readyz")
            own.kill()
            await until(lambda: watch.fault)
            away, alive = await get(service, "/readyz"), await get(service, "/healthz")
            _, scrape = await get(service, "/metrics")
            own.start()
            await until(lambda: not watch.fault)
            again = await get(service, "/readyz")

    assert (well[0], away[0], alive[0], again[0]) == (200, 200, 200, 200)
    assert '"degraded"' in away[1]
    assert "The store cannot count" in away[1]
    assert "visitcounter_store_up 0.0" in scrape


async def test_counts_stay_readable_while_the_store_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """GET gives the last counts with their own instant, and so does POST, which is 202."""
    monkeypatch.setattr("visit_counter.delivery.flow.SPILL_S", 0.25)
    with run_server(server_binaries()["valkey"]) as own:
        async with run_service(own.url) as service:
            await service.site()
            await service.hit()
            _, before = await get(service, "/w/portal")
            own.kill()
            kept = await service.hit(status=202)
            status, after = await get(service, "/w/portal")

    assert (status, after) == (200, before)
    assert kept["total"]["pageviews"] == 1


async def test_ops_can_have_an_address_of_their_own(service: Service) -> None:
    """With OPS_LISTEN pages see neither the admin API nor the metrics."""
    async with run_service(
        f"unix://{service.parts.store.address}", ops_listen="127.0.0.1:0"
    ) as split:
        statuses = [
            (await split.client.get(base + path)).status
            for base in (split.url, split.ops_url)
            for path in ("/metrics", "/api/v1/sites", "/healthz")
        ]

    assert statuses == [404, 404, 200, 200, 401, 200]


@pytest.mark.parametrize(
    "command",
    [("CONFIG", "SET", "maxmemory", "900kb"), ("REPLICAOF", "127.0.0.1", "1"), ("FLUSHALL",)],
    ids=["out of memory", "turned replica", "emptied"],
)
async def test_a_store_that_answers_but_cannot_count_is_told(command: tuple[str, ...]) -> None:
    """Readiness and the gauge tell what hits would meet, not whether something answers."""
    with run_server(server_binaries()["valkey"]) as own:
        async with run_service(own.url) as service:
            await service.site()
            own.call(*command)
            await until(lambda: service.parts.watch.fault)
            status, text = await get(service, "/readyz")
            _, scrape = await get(service, "/metrics")
            still_known = service.parts.sites.get("portal")

    assert (status, '"degraded"' in text) == (200, True)
    assert "The store cannot count" in text
    assert "visitcounter_store_up 0.0" in scrape
    assert still_known is not None


async def test_batches_that_are_rejected_are_told(
    valkey: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A key of another type: hits of its site are refused, which readiness says; it is one line of
    the log, however many they are, and it is over when it is."""
    monkeypatch.setattr("visit_counter.delivery.dead_letters.OVER_S", 1.0)
    monkeypatch.setattr("visit_counter.delivery.ledger.VERIFY_S", 0.1)
    async with run_service(valkey.url, data_dir=tmp_path) as service:
        await service.site()
        await service.hit()
        site = service.parts.sites.get("portal")
        assert site is not None
        key = f"{service.parts.store._tags[site.partition]}:portal:{site.generation}:pages"
        valkey.call("RENAME", key, f"{key}:away")
        valkey.call("RPUSH", key, "foreign")
        with capture_logs() as lines:
            for _ in range(5):
                await service.hit(status=503)
            ready = loads((await get(service, "/readyz"))[1])
            valkey.call("DEL", key)
            valkey.call("RENAME", f"{key}:away", key)
            await service.hit()
            await until(lambda: not service.parts.recorder.problems)

    assert ready["status"] == "degraded"
    assert f"5 batches of partition {site.partition} were not counted" in str(ready["hints"])
    assert str(tmp_path / "producers/0/rejected") in str(ready["hints"])
    assert [line["event"] for line in lines] == [
        "a batch is not counted: kept aside",
        "no more batches are rejected",
    ]


async def test_a_path_that_is_no_text_can_be_told(valkey: Server, tmp_path: Path) -> None:
    """JSON has no word for the bytes of such a name."""
    directory = tmp_path / os.fsdecode(b"\xff")
    directory.mkdir()
    (directory / "producers").touch()
    async with run_service(valkey.url, data_dir=directory) as service:
        status, text = await get(service, "/readyz")

    assert status == 200
    assert "udcff keeps no spool" in text


@pytest.fixture
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The watch examines the store twenty times a second."""
    monkeypatch.setattr("visit_counter.store.health.EXAMINE_EVERY", 1)
    monkeypatch.setattr("visit_counter.store.health.LOOK_S", 0.05)


def failing(service: Service) -> set[str]:
    return {check.name for check in service.parts.watch.checks if not check.ok}


async def check_of(service: Service, name: str) -> tuple[bool, str, float]:
    """A check's state and detail in /readyz, and its gauge."""
    _, text = await get(service, "/readyz")
    _, scrape = await get(service, "/metrics")
    gauge = re.search(rf'^visitcounter_store_check{{check="{name}"}} (.*)$', scrape, re.MULTILINE)
    told = loads(text)["checks"][name]
    return told["ok"], told["detail"], float(gauge[1]) if gauge else -1.0


@pytest.mark.usefixtures("looks_often")
async def test_a_store_that_turns_unsafe_is_told_and_goes_on() -> None:
    """Keep serving, alarm: degraded, the check's gauge at 0, and hits count; once per change."""
    with run_server(server_binaries()["valkey"]) as own, capture_logs() as logs:
        async with run_service(own.url) as service:
            await service.site()
            own.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
            await until(lambda: failing(service) == {"eviction"})
            status, text = await get(service, "/readyz")
            ok, detail, gauge = await check_of(service, "eviction")
            answer = await service.hit()
            own.call("CONFIG", "SET", "maxmemory-policy", "noeviction")
            await until(lambda: not failing(service))

    assert (status, answer["counted"]) == (200, True)
    assert ('"degraded"' in text, ok, gauge) == (True, False, 0.0)
    assert detail in loads(text)["hints"]
    told = [line for line in logs if line.get("check") == "eviction"]
    assert [line["event"] for line in told] == ["unsafe store", "the store is well again"]


@pytest.mark.usefixtures("looks_often")
async def test_evicted_keys_are_told() -> None:
    """A store that threw keys away stays suspicious, also when it no longer does."""
    with run_server(server_binaries()["valkey"], "--maxmemory-policy", "allkeys-lru") as own:
        async with run_service(own.url, allow_unsafe_store="true") as service:
            own.call("SET", "fat", "x" * 60_000)
            own.call("CONFIG", "SET", "maxmemory", "1")
            await until(lambda: "evicted_keys" in failing(service))
            own.call("CONFIG", "SET", "maxmemory", "0")
            own.call("CONFIG", "SET", "maxmemory-policy", "noeviction")
            await until(lambda: failing(service) == {"evicted_keys"})
            _, detail, gauge = await check_of(service, "evicted_keys")

    assert (re.search(r"thrown \d+ keys away", detail) is not None, gauge) == (True, 0.0)


@pytest.mark.usefixtures("looks_often")
async def test_a_snapshot_that_failed_is_told(store_server: Server) -> None:
    """A directory lies where the snapshot must go; hits count meanwhile, and a later one mends."""
    with run_server(store_server.binary) as own:
        async with run_service(own.url) as service:
            await service.site()
            obstacle = own.directory / "dump.rdb"
            obstacle.mkdir()
            own.call("BGSAVE")
            await until(lambda: failing(service) == {"snapshot"})
            ok, detail, gauge = await check_of(service, "snapshot")
            answer = await service.hit()
            obstacle.rmdir()
            own.call("BGSAVE")
            await until(lambda: not failing(service))

    assert (ok, gauge, answer["counted"]) == (False, 0.0, True)
    assert "run BGSAVE" in detail


@pytest.mark.usefixtures("looks_often")
async def test_an_append_only_file_that_cannot_be_written_is_told(store_server: Server) -> None:
    """Its files may not grow for a while; the check says why hits are not counted."""
    with run_server(store_server.binary, under=SURVIVES_LIMITS) as own:
        async with run_service(own.url) as service:
            resource.prlimit(own.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
            own.call("SET", "fat", "x")
            watch = service.parts.watch
            await until(lambda: watch.fault and failing(service) == {"append_only_file"})
            status, text = await get(service, "/readyz")
            ok, detail, gauge = await check_of(service, "append_only_file")
            endless = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            resource.prlimit(own.pid, resource.RLIMIT_FSIZE, endless)
            await until(lambda: not failing(service))
            await until(lambda: not service.parts.watch.fault)

    assert (ok, gauge, status, detail in text) == (False, 0.0, 200, True)
    assert "The store cannot count" in text


@pytest.mark.parametrize(
    ("offset", "words"), [("+30s", "s ahead of"), ("-30s", "s behind")], ids=["ahead", "behind"]
)
async def test_a_store_whose_clock_differs_is_told(offset: str, words: str) -> None:
    """Hits count by the store's clock; whoever runs it is told to synchronise."""
    with run_server(server_binaries()["valkey"], under=at_another_time(offset)) as own:
        async with run_service(own.url) as service:
            await service.site()
            answer = await service.hit()
            ok, detail, gauge = await check_of(service, "clock")

    assert (ok, gauge, answer["counted"]) == (False, 0.0, True)
    assert words in detail


@pytest.mark.usefixtures("looks_often")
async def test_the_functions_of_another_version_are_a_detail(store_server: Server) -> None:
    """While an upgrade has both, the store is well, and the other one is named."""
    async with (
        run_service(store_server.url, namespace="versions") as service,
        Redis(unix_socket_path=store_server.socket_path) as store,
    ):
        await store.function_load(
            "#!lua name=versions_0123456789ab\n"
            "redis.register_function('versions_0123456789ab_probe', function() end)"
        )
        await until(lambda: "versions_0123456789ab" in functions_of(service))
        ok, detail, gauge = await check_of(service, "functions")
        await store.function_delete("versions_0123456789ab")

    assert (ok, gauge) == (True, 1.0)
    assert "versions_0123456789ab: they are removed" in detail


def functions_of(service: Service) -> str:
    return next(c.detail for c in service.parts.watch.checks if c.name == "functions")


async def test_a_flood_of_reads_does_not_turn_the_service_unready(service: Service) -> None:
    """Hundreds of different reads at once cost some of them, never readiness or hits."""
    await service.site()
    urls = [f"{service.url}/w/portal?path=/{n}" for n in range(800)]
    statuses = await asyncio.gather(*(status_of(service, url) for url in urls))
    ready, _ = await get(service, "/readyz")
    answer = await service.hit()

    assert set(statuses) <= {200, 503}
    assert (ready, answer["counted"]) == (200, True)


async def status_of(service: Service, url: str) -> int:
    async with service.client.get(url) as answer:
        return answer.status

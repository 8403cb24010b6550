"""What operators see: health, readiness and metrics, with the store well and away."""

from __future__ import annotations

import asyncio
import re
import subprocess
from pathlib import Path

import pytest
from prometheus_client.metrics import MetricWrapperBase

from service import metrics
from tests.servers import run_server, server_binaries
from tests.services import Service, run_service, until
from tests.tools import need

README = Path(__file__).parents[1] / "README.md"


async def get(service: Service, path: str) -> tuple[int, str]:
    async with service.client.get(service.ops_url + path) as answer:
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
        each._name + ("_total" if each._type == "counter" else "")
        for each in vars(metrics).values()
        if isinstance(each, MetricWrapperBase)
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
    monkeypatch.setattr("service.recorder.SPILL_S", 0.25)
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


async def test_a_store_that_turns_unsafe_is_told_and_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Keep serving, alarm: degraded, the check's gauge at 0, and hits count."""
    monkeypatch.setattr("service.watch.EXAMINE_EVERY", 1)
    monkeypatch.setattr("service.watch.LOOK_S", 0.05)
    with run_server(server_binaries()["valkey"]) as own:
        async with run_service(own.url) as service:
            await service.site()
            own.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
            await until(lambda: not all(check.ok for check in service.parts.watch.checks))
            status, text = await get(service, "/readyz")
            answer = await service.hit()

    assert (status, answer["counted"]) == (200, True)
    assert '"degraded"' in text
    assert "maxmemory-policy" in text


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

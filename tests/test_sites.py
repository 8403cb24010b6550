"""Sites: made and changed through the store, seen by every service within a second."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.servers import Server
from tests.services import Service, run_service, until


async def test_first_start_makes_demo_for_its_own_origin(service: Service) -> None:
    """The demo counts pages of the service itself, and no others."""
    own = await service.hit("demo", headers={"Origin": service.url})
    other = await service.hit("demo", headers={"Origin": "https://elsewhere.vn"})

    assert own["counted"] is True
    assert (other["counted"], other["reason"]) == (False, "origin")


async def test_settings_reach_the_other_service_within_a_second(valkey: Server) -> None:
    """A new site, a changed setting and a reset are seen by a service that was not asked."""
    async with (
        run_service(valkey.url, namespace="spread") as one,
        run_service(valkey.url, namespace="spread") as two,
    ):
        await one.site("a", online_window=60)
        await one.api("PATCH", "/sites/a", {"online_window": 90})
        await one.api("POST", "/sites/a/reset", {"confirm": "a"})
        await until(lambda: generation(two, "a") == 2, within_s=1)
        site = two.parts.sites.get("a")

    assert site is not None
    assert site.settings.online_window == 90


def generation(service: Service, name: str) -> int:
    site = service.parts.sites.get(name)
    return site.generation if site else 0


async def test_a_change_of_timezone_keeps_the_history(service: Service) -> None:
    """The calendar knows the old zone until the new one takes over."""
    await service.site("a", timezone="UTC")
    await service.api("PATCH", "/sites/a", {"timezone": "Asia/Ho_Chi_Minh"})
    site = service.parts.sites.get("a")

    assert site is not None
    assert [zone for _, zone in site.calendar.zones] == ["UTC", "Asia/Ho_Chi_Minh"]
    assert site.calendar.timezone_at(service.parts.clock.now()) == "UTC"


@pytest.mark.parametrize("embedded", [False, True], ids=["external", "embedded"])
async def test_a_restart_keeps_every_number(
    valkey: Server, embedded: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Counts, drops, pages, seeds and settings are there again after a restart."""
    url = None if embedded else valkey.url
    data_dir = tmp_path_factory.mktemp("d")
    async with run_service(url, namespace=f"r{embedded:d}", data_dir=data_dir) as service:
        await service.site("a", name="Cổng thông tin", metric="pageviews")
        await service.api("POST", "/sites/a/seed", {"metric": "visits", "add": {"total": 1000}})
        await service.hit("a", p="/x")
        await service.hit("a", headers={"User-Agent": "curl/8"})
        before = await everything(service)
    async with run_service(url, namespace=f"r{embedded:d}", data_dir=data_dir) as service:
        after = await everything(service)

    assert before == after
    assert before[0]["total"] == {"pageviews": 1, "visits": 1001, "visitors": 1}


async def everything(service: Service) -> list[Any]:
    paths = ("/sites/a", "/sites/a/drops")
    return [await service.counts("a"), *[await service.api("GET", path) for path in paths]]


async def test_a_slow_change_does_not_undo_a_faster_one(service: Service) -> None:
    """A PATCH whose body takes its time changes what it names, and nothing else."""
    await service.site("a", name="old")

    async def slow_body() -> AsyncIterator[bytes]:
        yield b'{"na'
        await service.api("PATCH", "/sites/a", {"public": False, "online_window": 60})
        yield b'me": "new"}'

    headers = {"Authorization": f"Bearer {service.token}"}
    url = f"{service.ops_url}/api/v1/sites/a"
    async with service.client.patch(url, data=slow_body(), headers=headers) as answer:
        changed = await answer.json()

    assert (changed["name"], changed["public"], changed["online_window"]) == ("new", False, 60)


async def test_the_same_operation_is_done_once(service: Service) -> None:
    """Reset and seed with an id of the caller's may be sent again after an unclear answer."""
    await service.site("a")
    order = {"metric": "visits", "add": {"total": 10}, "operation": "my-seed-1"}
    for _ in range(2):
        seeded = await service.api("POST", "/sites/a/seed", order)
    for _ in range(2):
        undo = await service.api(
            "POST", "/sites/a/reset", {"confirm": "a", "operation": "my-reset"}
        )
    await service.api("POST", "/sites/a/undo/my-reset")
    back = await service.counts("a")

    assert seeded["total"]["visits"] == 10
    assert undo == {"undo": "my-reset"}
    assert back["total"]["visits"] == 10

"""Sites: made and changed through the store, seen by every service within a second."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.kit.services.in_process import Service, run_service, until
from tests.kit.stores.server import Server
from visit_counter.errors import OutcomeUnknown
from visit_counter.model.site_settings import partition_of


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


async def test_a_list_that_is_not_read_is_told(
    service: Service, valkey: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hits are counted, and new sites are not known: no probe of the store finds that."""
    monkeypatch.setattr("visit_counter.reading.sites.OLD_S", 0.1)
    await service.site("a")
    sites = service.parts.sites
    key = f"{service.parts.store._tags[partition_of('a')]}:sites"
    valkey.call("RENAME", key, f"{key}:away")
    valkey.call("RPUSH", key, "foreign")
    await until(lambda: sites.not_read)
    (problem,) = sites.not_read
    _, ready = await service.ready()
    valkey.call("DEL", key)
    valkey.call("RENAME", f"{key}:away", key)
    await until(lambda: not sites.not_read)

    assert "new sites are 404 here" in problem
    assert "WRONGTYPE" in problem
    assert ready["status"] == "degraded"


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


@pytest.fixture
async def anywhere(store_server: Server) -> AsyncIterator[Service]:
    """A service over either server."""
    async with run_service(store_server.url) as running:
        yield running


async def test_settings_sent_again_answer_as_the_first_time(anywhere: Service) -> None:
    """A site that was made is made (201), whichever way; a change is a change (200)."""
    made = {"id": "a", "origins": ["*"], "operation": "my-making"}
    put = {"origins": ["https://a.vn"], "operation": "my-putting"}
    other = {"origins": ["*"], "operation": "my-second"}
    for _ in range(2):
        first = await anywhere.api("POST", "/sites", made, status=201)
        await anywhere.api("PUT", "/sites/a", put, status=200)
        await anywhere.api("PUT", "/sites/b", other, status=201)

    assert first["id"] == "a"
    again = await anywhere.api("POST", "/sites", made, status=201)
    assert again["origins"] == ["https://a.vn"]  # it tells the site as it is now


async def test_a_change_sent_again_does_not_undo_a_later_one(anywhere: Service) -> None:
    """Neither where both name the same field, nor where they would no longer fit together."""
    await anywhere.site("a", online_window=60)
    mine = {"name": "mine", "online_window": 1800, "operation": "my-change"}
    await anywhere.api("PATCH", "/sites/a", mine)
    await anywhere.api("PATCH", "/sites/a", {"name": "theirs", "online_window": 60})
    await anywhere.api("PATCH", "/sites/a", {"visit_timeout": 600})
    again = await anywhere.api("PATCH", "/sites/a", mine, status=200)

    assert again == await anywhere.api("GET", "/sites/a")
    assert (again["name"], again["online_window"], "operation" in again) == ("theirs", 60, False)


async def test_a_put_sent_again_does_not_undo_a_later_change(anywhere: Service) -> None:
    """It is known by its id, whatever the settings are meanwhile."""
    await anywhere.site("a")
    mine = {"origins": ["*"], "name": "mine", "operation": "my-change"}
    await anywhere.api("PUT", "/sites/a", mine)
    await anywhere.api("PATCH", "/sites/a", {"name": "theirs"})
    again = await anywhere.api("PUT", "/sites/a", mine, status=200)

    assert again["name"] == "theirs"


async def test_a_change_whose_answer_is_lost_is_done_once(
    anywhere: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 names the operation's id, also one that the service gave; sent again, it is known."""
    await anywhere.site("a")
    store = anywhere.parts.store
    call = store._call

    async def lose_answer(name: str, *arguments: Any) -> Any:
        answer = await call(name, *arguments)
        if name == "put_site":
            raise OutcomeUnknown("no answer")
        return answer

    with monkeypatch.context() as lossy:
        lossy.setattr(store, "_call", lose_answer)
        unknown = await anywhere.api("PATCH", "/sites/a", {"name": "mine"}, status=503)
    operation = unknown["detail"].split('"')[3]
    await until(lambda: name_of(anywhere, "a") == "mine")
    await anywhere.api("PATCH", "/sites/a", {"name": "theirs"})
    order = {"name": "mine", "operation": operation}
    again = await anywhere.api("PATCH", "/sites/a", order, status=200)

    assert (unknown["field"], again["name"]) == ("operation", "theirs")


def name_of(service: Service, name: str) -> str:
    site = service.parts.sites.get(name)
    return site.settings.name if site else ""


async def test_the_id_of_another_kind_of_operation_is_refused(anywhere: Service) -> None:
    """Else what was asked for would silently not be done."""
    await anywhere.site("a")
    operation = {"operation": "the-same-id"}
    await anywhere.api("POST", "/sites/a/reset", {"confirm": "a", **operation})
    seed = {"metric": "visits", "add": {"total": 10}, **operation}
    refused = [
        await anywhere.api("POST", "/sites/a/seed", seed, status=409),
        await anywhere.api("PATCH", "/sites/a", {"name": "x", **operation}, status=409),
        await anywhere.api("PUT", "/sites/a", {"origins": ["*"], **operation}, status=409),
    ]

    assert [answer["field"] for answer in refused] == ["operation"] * 3
    assert "that operation was a reset" in refused[0]["detail"]


async def test_a_malformed_operation_is_named(service: Service) -> None:
    """As in every other body."""
    await service.site("a")
    refused = await service.api("PATCH", "/sites/a", {"operation": "x y"}, status=400)

    assert refused["field"] == "operation"


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

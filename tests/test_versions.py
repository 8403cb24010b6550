"""Which versions use a store: each worker says so, and admins are told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.kit.services.in_process import Service, namespace, run_service, until
from tests.kit.stores.server import Server
from visit_counter.model import forms
from visit_counter.store import versions
from visit_counter.store.libraries import library


async def said_by_all(url: str, name: str) -> dict[str, str]:
    async with Redis.from_url(url) as client:
        found: Any = await client.hgetall(f"{name}:{{meta}}:workers")
        return {worker.decode(): said.decode() for worker, said in found.items()}


async def test_a_worker_says_that_it_lives_and_that_it_stops(valkey: Server) -> None:
    name = namespace()
    async with run_service(valkey.url, namespace=name) as service:
        (running,) = (await service.api("GET", "/upgrade"))["workers"]
        answer = await service.api("GET", "/upgrade")
    async with run_service(valkey.url, namespace=name) as service:
        stopped = (await service.api("GET", "/upgrade"))["workers"]

    assert running["lives"]
    assert running["newest"] == forms.NEWEST
    assert running["version"] == answer["version"]
    assert (answer["writes"], answer["newest"], answer["finished"]) == (
        forms.NEWEST, forms.NEWEST, True,
    )  # fmt: skip
    assert sorted(worker["lives"] for worker in stopped) == [False, True]


async def test_a_producer_stands_there_once_for_each_form(valkey: Server, tmp_path: Any) -> None:
    """A restart of the same data directory is the same worker."""
    name = namespace()
    for _ in range(3):
        async with run_service(valkey.url, namespace=name, data_dir=tmp_path) as service:
            producer = service.parts.recorder.producer

    said = await said_by_all(valkey.url, name)
    assert [worker for worker in said if "/" not in worker] == [f"{producer}:{forms.NEWEST}"]
    starts = [f"{producer}/{epoch}" for epoch in (1, 2, 3)]  # see delivery/fencing.py
    assert sorted(worker for worker in said if "/" in worker) == starts


async def test_finishing_what_is_finished_changes_nothing(valkey: Server) -> None:
    async with run_service(valkey.url) as service:
        await service.site()
        before = await service.api("GET", "/upgrade")
        after = await service.api("POST", "/upgrade/finish", {})

    for answer in (before, after):
        for worker in answer["workers"]:
            del worker["seen"]
    assert after == before


@pytest.mark.parametrize(("method", "path"), [("GET", "/upgrade"), ("POST", "/upgrade/finish")])
async def test_only_an_admin_is_told(valkey: Server, method: str, path: str) -> None:
    async with run_service(valkey.url) as service:
        url = f"{service.ops_url}/api/v1{path}"
        async with service.client.request(method, url) as answer:
            assert answer.status == 401


async def test_what_another_version_says_of_itself_may_be_unknown(valkey: Server) -> None:
    """It is left out, or read as far as we know it."""
    async with run_service(valkey.url, namespace=namespace()) as service:
        key = f"{_namespace(service)}:{{meta}}:workers"
        now = service.parts.clock.now()
        said = '{"version":"9.9","form":5,"library":"x","host":"h","more":[1]}'
        async with Redis.from_url(valkey.url) as client:
            await client.hset(key, mapping={"a:9": f"{now} {said}", "b:9": f"{now} no JSON"})
        await service.parts.versions._announce()
        workers = (await service.api("GET", "/upgrade"))["workers"]

    assert sorted(worker["version"] for worker in workers)[-1] == "9.9"
    assert len(workers) == 2


async def test_workers_of_long_ago_are_forgotten(valkey: Server) -> None:
    async with run_service(valkey.url, namespace=namespace()) as service:
        name = _namespace(service)
        now = service.parts.clock.now()
        days = {"young:5": now - 2 * 86_400_000, "old:5": now - 4 * 86_400_000}
        async with Redis.from_url(valkey.url) as client:
            for worker, at in days.items():
                await client.hset(f"{name}:{{meta}}:workers", worker, f"{at} {{}}")
        await service.parts.versions._announce()
        known = await said_by_all(valkey.url, name)

    assert "young:5" in known
    assert "old:5" not in known


async def test_many_dead_libraries_are_removed_soon_after_a_start(
    store_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no process lives for an hour they would pile up; those of others stay."""
    monkeypatch.setattr(versions, "ANNOUNCE_S", 0.01)
    name = namespace()
    dead = [f"{name}_{n:012x}" for n in range(40)]
    others = [f"{name}x_{n:012x}" for n in range(3)] + [f"{name}_x_{0:012x}", f"{name}_0"]
    async with Redis.from_url(store_server.url) as client:

        async def left() -> set[str]:
            found: Any = await client.function_list(f"{name}*")
            return {each[1].decode() for each in found}

        for each in (*dead, *others):
            await client.function_load(_library(each, f"writes_{forms.NEWEST}"))
        async with run_service(store_server.url, namespace=name) as service:
            async with asyncio.timeout(5):
                while await left() & {*dead}:  # noqa: ASYNC110 # the store has no event for it
                    await asyncio.sleep(0.01)
            assert await left() == {*others, service.parts.store.schema.library}


async def test_libraries_that_nobody_uses_are_removed(store_server: Server) -> None:
    """Neither those that a worker used within a day, nor those of others, nor fences."""
    async with run_service(store_server.url, namespace=namespace()) as service:
        name = _namespace(service)
        unused, used, fence = (f"{name}_{digit * 12}" for digit in "abc")
        other = f"{name}_x_{'d' * 12}"
        now = service.parts.clock.now()
        said = f'{{"version":"9","form":5,"library":"{used}","host":"h","stopped":true}}'
        async with Redis.from_url(store_server.url) as client:
            for each in (unused, used, other):
                await client.function_load(_library(each, "record"))
            await client.function_load(_library(fence, "fence"))
            await client.hset(
                f"{name}:{{meta}}:workers", "x:5", f"{now - versions.BACK_MS + 60_000} {said}"
            )
            await service.parts.versions._announce()
            await service.parts.versions._tidy()
            found: Any = await client.function_list(f"{name}_*")

    left = {each[1].decode() for each in found}
    assert left == {used, fence, other, library(name)[0]}


def _library(name: str, function: str) -> str:
    call = f"redis.register_function('{name}_{function}', function() return 1 end)"
    return f"#!lua name={name}\n{call}"


def _namespace(service: Service) -> str:
    return service.parts.settings.namespace


async def test_announcing_goes_on_while_the_service_runs(
    valkey: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after a time in which the store was away."""
    monkeypatch.setattr(versions, "ANNOUNCE_S", 0.02)
    async with run_service(valkey.url, namespace=namespace()) as service:
        seen = service.parts.versions.now
        await until(lambda: service.parts.versions.now > seen)

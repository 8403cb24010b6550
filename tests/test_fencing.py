"""Two services on copies of one data directory: the fenced one says so, and what its words say ends
it, with every acknowledged hit counted once.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from loadtests.proxy import Cut, Proxy
from tests.kit.services.in_process import PERSON, Service, namespace, run_service, until
from tests.kit.stores.server import Server, run_server, server_binaries
from visit_counter.delivery.ledger import Ledger


@pytest.fixture(autouse=True)
def _spill_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("visit_counter.delivery.flow.SPILL_S", 0.25)


@pytest.fixture(params=["valkey", "redis"])
def own(request: pytest.FixtureRequest) -> Any:
    binary = server_binaries().get(request.param)
    if binary is None:
        pytest.skip("needs redis-server")
    with run_server(binary) as server:
        yield server


async def views(service: Service, first: int, last: int) -> list[int]:
    """Views of as many pages; how each was answered."""
    return [await view(service, n) for n in range(first, last)]


async def view(service: Service, n: int) -> int:
    headers = {"User-Agent": PERSON, "Accept-Language": f"x-{n}"}
    url = f"{service.url}/w/portal"
    async with service.client.post(url, json={"p": f"/{n}"}, headers=headers) as answer:
        return answer.status


async def pages(service: Service) -> dict[str, int]:
    """The views of every page, as the store has them, when the spool is empty."""
    await is_emptied(service)
    store, site = service.parts.store, service.parts.sites.get("portal")
    assert site is not None
    key = f"{store._tags[site.partition]}:portal:{site.generation}:pages"
    client = store._shards.all()[0].client
    found: Any = await client.zrange(key, 0, -1, withscores=True)
    return {path.decode(): int(views) for path, views in found}


async def is_emptied(service: Service) -> None:
    replay = service.parts.recorder._replay
    assert replay is not None
    await until(lambda: not replay._spool.records, within_s=15)


def once(*ranges: range) -> dict[str, int]:
    return {f"/{n}": 1 for each in ranges for n in each}


class Run:
    """A service on a data directory, which can be stopped and started once more."""

    def __init__(self, url: str, directory: Path, name: str) -> None:
        self.directory = directory
        self._run = partial(run_service, url, data_dir=directory, namespace=name)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Run:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        self.service = await self._stack.enter_async_context(self._run())

    async def stop(self) -> None:
        await self._stack.aclose()

    @property
    def ledger(self) -> Ledger:
        return self.service.parts.recorder._ledger


async def test_the_fenced_one_says_what_ends_it(own: Server, tmp_path: Path) -> None:
    """Who, which of the two, what happens with hits, and what to do: in the log and for /readyz,
    also where no hit comes. Stopped and started as it says, both count."""
    name, a, b = namespace(), tmp_path / "a", tmp_path / "b"
    with capture_logs() as logs:
        async with Run(own.url, a, name) as one:
            await one.service.site(trusted_networks=["127.0.0.1"])
            first = await views(one.service, 0, 3)
            shutil.copytree(a, b)
            async with Run(own.url, b, name) as two:
                fenced = one.ledger
                await until(lambda: [line for line in logs if line["event"] == fenced.fault])
                status, told = await one.service.ready()
                refused = await views(one.service, 10, 12)
                await views(two.service, 20, 23)
                await one.stop()
                await one.start()
                after = await views(one.service, 30, 33) + await views(two.service, 40, 43)
                found = await pages(two.service)
                still = (one.ledger.fenced, two.ledger.fenced)
                await one.stop()
                await one.start()  # its id is its own, and stays
                after += await views(one.service, 50, 53) + await views(two.service, 60, 63)

    assert (first, refused) == ([200] * 3, [503] * 2)
    assert (status, told["faults"]) == (503, [fenced.fault])
    assert (after, still) == ([200] * 12, (False, False))
    assert found == once(range(3), range(20, 23), range(30, 33), range(40, 43))
    told = f"on host {socket.gethostname()}, data directory"
    assert f"another service ({told} {b}) counts as the producer" in fenced.fault
    assert f"of this one ({told} {a})" in fenced.fault
    assert "stop this service, and start it once more" in fenced.fault


async def test_a_copy_of_a_spool_costs_no_hit(own: Server, tmp_path: Path) -> None:
    """Copied while the store was away, and spooled to afterwards: the copied hits, those that came
    later, and those of the other count once each, whoever comes first."""
    name, a, b = namespace(), tmp_path / "a", tmp_path / "b"
    async with Run(own.url, a, name) as one:
        await one.service.site(trusted_networks=["127.0.0.1"])
        await views(one.service, 0, 3)
        own.kill()
        both = await views(one.service, 100, 105)
        shutil.copytree(a, b)
        later = await views(one.service, 200, 205)
        await one.stop()
        own.start()
        async with Run(own.url, b, name) as two:
            await views(two.service, 300, 320)
            await pages(two.service)
            await two.stop()
            await two.start()
            await views(two.service, 320, 340)
            await one.start()
            last = await views(one.service, 400, 405)
            await is_emptied(one.service)
            found = await pages(two.service)

    assert (both, later) == ([202] * 5, [202] * 5)
    assert set(last) <= {200, 202}
    assert found == once(
        range(3), range(100, 105), range(200, 205), range(300, 340), range(400, 405)
    )


async def test_a_hit_whose_reply_was_lost_counts_once(own: Server, tmp_path: Path) -> None:
    """The store has counted it, and a copy has fenced us before we were told: it is in the spool,
    and so are those of an outage that only we had. The remedy's words are followed."""
    name, a, b = namespace(), tmp_path / "a", tmp_path / "b"
    async with Proxy(own.socket_path) as proxy, Run(proxy.url, a, name) as one:
        await one.service.site(trusted_networks=["127.0.0.1"])
        await views(one.service, 0, 3)
        shutil.copytree(a, b)
        cut = asyncio.ensure_future(proxy.cut(Cut.AFTER_SEND, b"_record"))
        await asyncio.sleep(0)
        proxy.upstream = str(tmp_path / "nothing")
        spooled = await views(one.service, 100, 103)
        await cut
        async with Run(own.url, b, name) as two:
            await views(two.service, 200, 220)
            proxy.upstream = own.socket_path
            await until(lambda: one.ledger.fault and str(b) in one.ledger.fault, within_s=15)
            await one.stop()
            await one.start()
            await is_emptied(one.service)
            found = await pages(two.service)

    assert spooled == [202] * 3
    assert found == once(range(3), range(100, 103), range(200, 220))


async def test_what_nobody_can_tell_is_kept_aside(own: Server, tmp_path: Path) -> None:
    """Where the store no longer knows the starts, a spooled batch is neither doubled nor forgotten:
    it lies in a file, and counts as lost."""
    name, a, b = namespace(), tmp_path / "a", tmp_path / "b"
    async with Run(own.url, a, name) as one:
        await one.service.site(trusted_networks=["127.0.0.1"])
        await views(one.service, 0, 3)
        shutil.copytree(a, b)
        own.kill()
        await views(one.service, 100, 101)
        await one.stop()
        own.start()
        async with Run(own.url, b, name) as two:
            await views(two.service, 200, 220)
            own.call("DEL", f"{name}:{{meta}}:workers")
            with capture_logs() as logs:
                await one.start()
                await is_emptied(one.service)
            after = await views(one.service, 300, 303)
            found = await pages(two.service)
        aside = [*(a / "producers/0/rejected").glob("*.seg")]

    assert after == [200] * 3
    assert found == once(range(3), range(200, 220), range(300, 303))
    assert len(aside) == 1
    assert [line["kept"] for line in logs if "kept aside" in line["event"]] == aside

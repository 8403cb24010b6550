"""Fixtures that all tests share: a Valkey and a Redis for each worker, and a service over them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import pytest_asyncio
import uvloop
from hypothesis import HealthCheck, settings
from playwright.async_api import Browser

from tests.kit.pages.browser import chromium
from tests.kit.pages.embedding import Scripted, run_scripted
from tests.kit.services.in_process import Service, run_service
from tests.kit.stores.server import Server, run_server, server_binaries
from tests.kit.tools import need
from visit_counter import logs

# How long an example takes says more of the machine's load than of the code.
settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("long", settings.get_profile("house"), max_examples=2000)
settings.load_profile("house")


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that the service runs on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def valkey() -> Iterator[Server]:
    """A Valkey for this worker's tests."""
    with run_server(server_binaries()["valkey"]) as server:
        yield server


@pytest.fixture(scope="session")
def redis() -> Iterator[Server]:
    """Debian's Redis for this worker's tests."""
    with run_server(server_binaries().get("redis") or need("redis-server")) as server:
        yield server


@pytest.fixture(autouse=True)
def _no_line_was_written() -> None:
    """Which kinds of lines are left out of the log for a while is of the process."""
    logs.forget()


@pytest.fixture(params=["valkey", "redis"])
def store_server(request: pytest.FixtureRequest) -> Server:
    """Each of the two servers in turn."""
    server: Server = request.getfixturevalue(request.param)
    return server


@pytest.fixture
async def service(valkey: Server) -> AsyncIterator[Service]:
    """A service of its own namespace."""
    async with run_service(valkey.url) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chrome() -> AsyncIterator[Browser]:
    """A browser for all tests of a module."""
    async with chromium() as chrome:
        yield chrome


@pytest_asyncio.fixture(loop_scope="module")
async def browser(chrome: Browser) -> AsyncIterator[Browser]:
    """The browser, without the profiles of the test before."""
    yield chrome
    for context in chrome.contexts:
        await context.close()


@pytest_asyncio.fixture(loop_scope="module")
async def scripted() -> AsyncIterator[Scripted]:
    """A service that says what the test wants."""
    async with run_scripted() as service:
        yield service


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loaded machine is no outage: tests of outages spill as soon as the service does."""
    monkeypatch.setattr("visit_counter.delivery.flow.SPILL_S", 5.0)

"""Hits count once, whatever breaks: games of tests/kit/ledger_machine/machine.py over the model and
over real servers.

`--hypothesis-profile=long` searches twenty times longer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import msgspec
import pytest
import uvloop
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from tests.kit.ledger_machine.machine import SITE, STORED, Machine, Real
from tests.kit.services.in_process import namespace
from tests.kit.stores.keyspace import Keyspace
from tests.kit.stores.server import Server
from visit_counter.clock import Clock
from visit_counter.store.store import Store


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner.get_loop()


@pytest.fixture
def real(store_server: Server, loop: asyncio.AbstractEventLoop) -> Iterator[Real]:
    opened = real_store(store_server.url)
    yield loop.run_until_complete(opened.__aenter__())
    loop.run_until_complete(opened.__aexit__(None, None, None))


@asynccontextmanager
async def real_store(url: str) -> AsyncIterator[Real]:
    async with (
        Store(url, namespace(), Clock()) as store,
        Keyspace(url, store._tags[SITE.partition]) as keys,
    ):
        await store.put_site(SITE.partition, SITE.id, msgspec.json.encode(STORED), b"")
        yield Real(store, keys, await keys.dump())


def play(machine: type[Machine], examples: int) -> None:
    """Try so many games, or as many times more as the profile tries."""
    times = settings().max_examples // settings.get_profile("house").max_examples
    run_state_machine_as_test(
        machine, settings=settings(max_examples=examples * times, stateful_step_count=40)
    )


@pytest.mark.timeout(0)  # a failure takes minutes to be made short
def test_the_protocol_counts_once(loop: asyncio.AbstractEventLoop) -> None:
    """Over the model of the store's functions."""

    class OnModel(Machine):
        pass

    OnModel.loop = loop
    play(OnModel, 150)


@pytest.mark.timeout(0)
def test_the_store_counts_once(real: Real, loop: asyncio.AbstractEventLoop) -> None:
    """Over a real server, answer for answer and number for number as the model."""

    class OnServer(Machine):
        pass

    OnServer.loop, OnServer.real = loop, real
    play(OnServer, 50)


@pytest.mark.parametrize("noticed", [True, False])
@pytest.mark.parametrize("on_server", [False, True], ids=["model", "server"])
def test_what_was_sent_under_a_copys_id_is_sent_again(
    real: Real, loop: asyncio.AbstractEventLoop, on_server: bool, noticed: bool
) -> None:
    """A spooled batch that a copy of the directory has too is counted under the id that the copy
    goes on with; then a store is promoted that lacks it."""

    class Scripted(Machine):
        pass

    Scripted.loop, Scripted.real = loop, real if on_server else None
    machine = Scripted()
    machine.remember()
    machine.spill()
    machine.copy_directory()
    machine.restart_first()
    machine.remember()
    machine.calm()
    machine.remember()
    machine.promote(lost=1, noticed=noticed)
    machine.calm()
    machine.every_view_counts_once()
    machine.teardown()

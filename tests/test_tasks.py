"""Background loops: one that fails is named, and goes on by itself."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.kit.services.in_process import run_service, until
from tests.kit.stores.server import Server
from visit_counter import tasks
from visit_counter.tasks import once, supervised

# What each loop does every time, and where its pause stands.
LOOPS = {
    "sites": ("visit_counter.reading.sites.Sites.refresh", "visit_counter.reading.sites.LOOK_S"),
    "hub": ("visit_counter.reading.hub.Hub._tick", "visit_counter.reading.hub.TICK_S"),
    "adoption": (
        "visit_counter.delivery.adoption._with_batches",
        "visit_counter.delivery.adoption.LOOK_S",
    ),
    "ledger": (
        "visit_counter.delivery.ledger.Ledger._verify",
        "visit_counter.delivery.ledger.VERIFY_S",
    ),
    "replay": (
        "visit_counter.delivery.replay.Replay._end_outages",
        "visit_counter.delivery.replay.LOOK_S",
    ),
    "watch": ("visit_counter.store.health.Watch._look", "visit_counter.store.health.LOOK_S"),
    "versions": (
        "visit_counter.store.versions.Versions._announce",
        "visit_counter.store.versions.ANNOUNCE_S",
    ),
    "lane": (
        "visit_counter.web.lane.answering.Desk.tell_the_time",
        "visit_counter.web.lane.lane.SWEEP_S",
    ),
}


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "AGAIN_MIN_S", 0.01)
    monkeypatch.setattr(tasks, "AGAIN_MAX_S", 0.02)
    monkeypatch.setattr(tasks, "WELL_S", 0.1)


@asynccontextmanager
async def running(task: asyncio.Task[None]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_a_loop_that_fails_is_begun_again_and_named() -> None:
    """The log says each reason once; when it has run well for a while it is named no more."""
    reasons = iter(["first", "first", "second"])
    runs = 0

    async def work() -> None:
        nonlocal runs
        runs += 1
        if reason := next(reasons, ""):
            raise OSError(reason)
        await asyncio.Event().wait()

    with capture_logs() as lines:
        async with running(supervised(work, "counting sheep")):
            await until(lambda: runs == 4)
            said = tasks.problems()
            await until(lambda: not tasks.problems())

    assert [line["event"] for line in lines] == ["a background task failed, it is begun again"] * 2
    assert len(said) == 1
    assert "counting sheep" in said[0]
    assert "second" in said[0]


async def test_a_loop_that_is_cancelled_is_not_named() -> None:
    """Nor one that has done its work."""

    async def fail() -> None:
        raise OSError("x")

    async with running(supervised(fail, "a loop")):
        await until(tasks.problems)
    await until(lambda: not tasks.problems())


async def test_what_is_done_once_says_why_it_failed() -> None:
    async def fail() -> None:
        raise OSError("no more files")

    with capture_logs() as lines:
        await asyncio.wait({once(fail(), "a look")})
        await asyncio.sleep(0)

    assert [(line["event"], line["task"]) for line in lines] == [
        ("a background task failed", "a look")
    ]


@pytest.mark.parametrize("name", LOOPS)
async def test_too_many_open_files_end_no_loop(
    valkey: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Nor any other error of the system: readiness names the loop, which goes on by itself."""
    what, pause = LOOPS[name]
    monkeypatch.setattr(pause, 0.01)
    calls = 0

    def fail(*_: Any, **__: Any) -> Any:
        nonlocal calls
        calls += 1
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async with run_service(valkey.url, data_dir=tmp_path) as service:
        await service.site()
        with monkeypatch.context() as patch:
            patch.setattr(what, fail)
            await until(lambda: calls > 2)
            status, degraded = await service.ready()
        hit = await service.hit()
        await until(lambda: not tasks.problems())
        _, well = await service.ready()

    assert (status, degraded["status"]) == (200, "degraded")
    assert [hint for hint in degraded["hints"] if f"The task {name} fails" in hint]
    assert hit["counted"]
    assert not [hint for hint in well["hints"] if "task" in hint]

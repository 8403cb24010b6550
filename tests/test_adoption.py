"""Adoption: what a process left in its spool is counted by another one, and only once."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.kit.services.in_process import (
    Service,
    StoppedClock,
    namespace,
    run_service,
    until,
)
from tests.kit.stores.server import Server, run_server, server_binaries
from visit_counter.clock import Clock
from visit_counter.disk import files as spool_files
from visit_counter.disk import locks


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks for producers twenty times a second, and lets them go at once."""
    monkeypatch.setattr("visit_counter.delivery.adoption.LOOK_S", 0.05)
    monkeypatch.setattr("visit_counter.delivery.adoption.RETAIN_S", 0.0)
    monkeypatch.setattr("visit_counter.delivery.flow.SPILL_S", 0.25)


async def leave_hits(store: Server, place: Path, name: str, number: int = 1) -> Path:
    """A producer of that number with two spooled hits, whose process is gone."""
    async with run_service(store.url, data_dir=place, namespace=name) as service:
        if service.parts.sites.get("portal") is None:
            await service.site()
        store.kill()
        for _ in range(2):
            await service.hit(status=202)
    store.start()
    return (place / "producers/0").rename(place / f"producers/{number}")


def left(producer: Path) -> list[Path]:
    return spool_files.paths(producer / "spool")


async def pageviews(service: Service) -> int:
    total: int = (await service.counts())["total"]["pageviews"]
    return total


async def test_what_nobody_holds_is_counted_and_given_free(tmp_path: Path) -> None:
    """By a process of another producer; a later start of the first one adds nothing."""
    name = namespace()
    with run_server(server_binaries()["valkey"]) as store:
        producer = await leave_hits(store, tmp_path, name)
        async with run_service(store.url, data_dir=tmp_path, namespace=name) as service:
            await until(lambda: not left(producer))
            await until(lambda: is_free(producer))
            counts = [await pageviews(service), (await service.hit())["total"]["pageviews"]]

    assert counts == [2, 3]


def is_free(producer: Path) -> bool:
    try:
        os.close(locks.take(producer / "lock"))
    except locks.HeldError:
        return False
    return True


async def test_what_another_process_holds_is_left_alone(tmp_path: Path) -> None:
    """Until that one has ended."""
    name = namespace()
    with run_server(server_binaries()["valkey"]) as store:
        held = await leave_hits(store, tmp_path, name, 1)
        lock = locks.take(held / "lock")
        free = await leave_hits(store, tmp_path, name, 2)
        async with run_service(store.url, data_dir=tmp_path, namespace=name) as service:
            await until(lambda: not left(free))
            first = (await pageviews(service), service.parts.adoption.problems)
            os.close(lock)
            await until(lambda: not left(held))
            then = await pageviews(service)

    assert (first, then) == ((2, []), 4)


async def test_what_cannot_be_read_is_told_and_disturbs_nobody(tmp_path: Path) -> None:
    """/readyz says what to do, and hits count."""
    name = namespace()
    with run_server(server_binaries()["valkey"]) as store:
        producer = await leave_hits(store, tmp_path, name)
        (producer / "producer").write_text("nonsense")
        async with run_service(store.url, data_dir=tmp_path, namespace=name) as service:
            await until(lambda: service.parts.adoption.problems)
            _, ready = await service.ready()
            counted = (await service.hit())["total"]["pageviews"]
            (producer / "producer").unlink()
            await until(lambda: not left(producer))
            mended = (await pageviews(service), service.parts.adoption.problems)

    assert (ready["status"], counted) == ("degraded", 1)
    assert "is damaged: remove it" in ready["hints"][0]
    assert mended == (3, [])


async def test_what_was_removed_is_told_no_longer(tmp_path: Path) -> None:
    """Whoever does away with a directory that cannot be read has mended it."""
    name = namespace()
    with run_server(server_binaries()["valkey"]) as store:
        producer = await leave_hits(store, tmp_path, name)
        (producer / "producer").write_text("nonsense")
        async with run_service(store.url, data_dir=tmp_path, namespace=name) as service:
            await until(lambda: service.parts.adoption.problems)
            producer.rename(tmp_path / "elsewhere")
            await until(lambda: not service.parts.adoption.problems)


async def test_a_disk_that_takes_no_epoch_keeps_nobody_from_counting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts without a spool and says so; what an earlier run has left is counted when there is
    room again."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    name = namespace()
    with run_server(server_binaries()["valkey"]) as store:
        producer = await leave_hits(store, tmp_path, name, number=0)
        with monkeypatch.context() as patch:
            patch.setattr("visit_counter.disk.guarded.replace", full)
            async with run_service(store.url, data_dir=tmp_path, namespace=name) as service:
                counted = (await service.hit())["total"]["pageviews"]
                problems = service.parts.recorder.problems
                patch.undo()
                await until(lambda: not left(producer))
                counts = await pageviews(service)

    assert (counted, counts) == (1, 3)
    assert "keeps no spool (No space left on device" in problems[0]
    assert "free some space on its disk, then restart" in problems[0]


async def test_a_spool_that_is_not_read_back_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of an adopted producer; when the disk gives it back, its hits are counted."""

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    name = namespace()
    monkeypatch.setattr("visit_counter.delivery.replay.STUCK_S", 0.0)
    with run_server(server_binaries()["valkey"]) as store:
        producer = await leave_hits(store, tmp_path, name)
        with monkeypatch.context() as patch:
            patch.setattr("visit_counter.disk.files.read", fail)
            async with run_service(store.url, data_dir=tmp_path, namespace=name) as service:
                await until(lambda: service.parts.adoption.problems)
                (problem,) = service.parts.adoption.problems
                patch.undo()
                await until(lambda: not left(producer))
                counts = await pageviews(service)

    assert str(producer) in problem
    assert "cannot be read" in problem
    assert counts == 2


async def test_what_is_to_be_adopted_is_counted_before_later_hits(tmp_path: Path) -> None:
    """From the start: the same visitor's hit of now waits in the spool, so that the visits are
    those of one order of time."""
    name, hour = namespace(), 3_600_000
    with run_server(server_binaries()["valkey"]) as store:
        past = StoppedClock(Clock().now() - 3 * hour)
        async with run_service(store.url, data_dir=tmp_path, namespace=name, clock=past) as service:
            await service.site()
            store.kill()
            for _ in range(2):
                await service.hit(status=202)
                past.at += hour
        store.start()
        producer = (tmp_path / "producers/0").rename(tmp_path / "producers/1")
        async with run_service(store.url, data_dir=tmp_path, namespace=name) as service:
            await service.hit(status=202)
            await until(lambda: not left(producer) and not left(tmp_path / "producers/0"))
            total = (await service.counts())["total"]
            status = (await service.hit())["counted"]

    assert (total["pageviews"], total["visits"], status) == (3, 3, True)

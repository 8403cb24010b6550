"""The chaos run in short: every fault once, and proof that its judge is awake.

The long form is `./dev chaos`. The rounds of a world share one service and one store, as there.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from random import Random
from time import monotonic
from typing import TypeVar

import pytest

from loadtests.chaos import WORLDS, make_sites, run_round
from loadtests.faults import FAULTS, QUICK
from loadtests.load import Load
from loadtests.oracle import Verdict, base_of, judge, letters_in, page
from loadtests.world import Options, World
from visit_counter.delivery.dead_letters import Aside
from visit_counter.model.calendar import Calendar
from visit_counter.model.hit import Hit
from visit_counter.model.kinds import Kind
from visit_counter.model.site import Site
from visit_counter.model.site_settings import SiteSettings, StoredSite, partition_of
from visit_counter.store.batch import Batch

SEED = 2026
T = TypeVar("T")
CASES = [
    pytest.param(
        fault,
        world,
        workers,
        id=f"{world.replace(', ', '-').replace(' ', '-')}-{fault}-{workers}",
        marks=pytest.mark.xdist_group(f"chaos {world.partition(',')[0]} {workers}"),
    )
    for workers in (1, 2)
    for world in WORLDS
    for fault in FAULTS
    if world in FAULTS[fault].worlds
    and workers >= FAULTS[fault].workers
    and (workers == 1 or world in ("embedded", "outer") or FAULTS[fault].workers > 1)
]


class Stage:
    """One world at a time, on a loop of its own; made anew when asked for after a failure."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        self._made_of: tuple[str, int] | None = None
        self._world: World | None = None

    def play(self, name: str, act: Callable[[World], Awaitable[T]], workers: int = 1) -> T:
        """Let something happen in a world."""
        return self._runner.run(self._play(name, workers, act))

    def clear(self) -> None:
        """End this world: the next one is fresh."""
        self._world = None
        self._runner.run(self._stack.aclose())

    def close(self) -> None:
        self.clear()
        self._runner.close()

    async def _play(self, name: str, workers: int, act: Callable[[World], Awaitable[T]]) -> T:
        if self._world is None or self._made_of != (name, workers):
            await self._stack.aclose()
            options = Options(workers=workers, small_disk=name.endswith("small disk"))
            self._world = await self._stack.enter_async_context(WORLDS[name](options))
            self._made_of = (name, workers)
        return await act(self._world)


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """What the rounds of this module share."""
    stage = Stage()
    yield stage
    stage.close()


@pytest.mark.parametrize(("fault", "name", "workers"), CASES)
def test_every_acknowledged_hit_is_counted_once(
    stage: Stage, fault: str, name: str, workers: int
) -> None:
    """Whatever breaks: none is lost, none is doubled, and all sums are those of the hits."""
    if name.endswith("small disk") and os.geteuid():
        pytest.skip("needs root, to mount a small disk")
    rng = Random(f"{SEED}/{fault}/{name}")
    found = stage.play(name, lambda world: run_round(world, FAULTS[fault], rng, QUICK), workers)
    if not found.verdict.good:
        stage.clear()

    assert (found.verdict.lost, found.verdict.doubled, found.verdict.wrong) == ([], [], [])
    assert found.acknowledged > 0


@pytest.mark.xdist_group("chaos embedded 1")
def test_the_judge_finds_what_was_lost_and_doubled(stage: Stage) -> None:
    """A page that is not there, one that is counted twice, and the sums that no longer agree."""
    verdict = stage.play("embedded", tampered_with)

    assert [len(verdict.lost), len(verdict.doubled)] == [1, 1]
    told = {line.split(": ")[1] for line in verdict.wrong}
    assert "pageviews (total)" not in told  # one lost and one doubled: a total sees nothing
    assert {"visits (total)", "visits (day)", "visitors:total"} <= told


@pytest.mark.xdist_group("chaos embedded 1")
def test_the_judge_finds_dead_letters(stage: Stage) -> None:
    """A hit that was acknowledged and lies in a dead letter is not told as lost, where that may
    be; one that lies nowhere is."""
    verdict = stage.play("embedded", two_gone_one_kept)

    assert (len(verdict.lost), len(verdict.kept)) == (1, 1)


async def two_gone_one_kept(world: World) -> Verdict:
    (site,) = make_sites(world, Random(SEED + 1))[:1]
    async with Load(world.service.port, [site], Random(SEED + 1), connections=1) as load:
        for _ in range(3):
            await load.until_counting(monotonic(), 10)
    async with world.redis() as store:
        assert (await judge(store, [site])).good
        await store.zrem(f"{base_of(site.name)}pages", page(0), page(1))
        stored = StoredSite(SiteSettings(id=site.name, origins=("*",)), Calendar.of("UTC"))
        hit = Hit(Site(stored, 1), Kind.VIEW, 1, b"visitor1", page(1))
        batch = Batch(partition_of(site.name), 1, [hit], now=1)
        kept = Aside(world.producers / "0" / "rejected").keep(batch.record)
        assert kept
        letters = letters_in(world.producers)
        kept.unlink()
        return await judge(store, [site], letters)


async def tampered_with(world: World) -> Verdict:
    """What the judge says after two pages were changed behind the service's back."""
    (site,) = make_sites(world, Random(SEED))[:1]
    async with Load(world.service.port, [site], Random(SEED), connections=1) as load:
        for _ in range(3):
            await load.until_counting(monotonic(), 10)
    async with world.redis() as store:
        assert (await judge(store, [site])).good
        pages = f"{base_of(site.name)}pages"
        await store.zrem(pages, page(0))
        await store.zincrby(pages, 1, page(1))
        return await judge(store, [site])

"""Shown visitors are the sketch's own count, at any size of a site and of a batch."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import cache
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.kit.counting import Counted, at, counting
from tests.kit.stores.clocked import Clocked, run_clocked
from tests.kit.stores.packed import packed_state, state_in
from visit_counter.clock import Clock
from visit_counter.model import forms
from visit_counter.model.counts import Counts

BEGIN = at("2031-03-03 12:00")  # later than this machine's time
PERIODS = {
    "today": "day:2031-03-03",
    "week": "week:2031-03-03",
    "month": "month:2031-03",
    "year": "year:2031",
    "total": "total",
}
KNOWN = 2**63
AT_ONCE = 500_000
ADD = """
for first = ARGV[1], ARGV[1] + ARGV[2] - 1, 5000 do
  local ids = {}
  for n = 1, math.min(5000, ARGV[1] + ARGV[2] - first) do
    ids[n] = first + n
  end
  redis.call('PFADD', KEYS[1], unpack(ids))
end
"""


@pytest.fixture(scope="module")
def clocked_server() -> Iterator[Clocked]:
    with run_clocked() as server:
        yield server


@pytest.fixture
async def counted(clocked_server: Clocked) -> AsyncIterator[Counted]:
    """A site with one visitor."""
    clocked_server.ahead(ms=BEGIN - Clock().local())
    async with counting(clocked_server.url) as counted:
        await counted.view(KNOWN, BEGIN)
        yield counted


@pytest.mark.parametrize("size", [10, 1000, 10_000, 600_000, 10_000_000])
@pytest.mark.parametrize("batch", [1, 8, 1000])
@pytest.mark.xdist_group("shown visitors")
async def test_the_sketchs_own_count_is_shown(
    clocked_server: Clocked, counted: Counted, size: int, batch: int
) -> None:
    """Who reads is told it at once, and whoever is counted a second later."""
    await fill(counted, size)
    for first in range(1, 60 * batch, batch):
        hits = [counted.hit(n, BEGIN) for n in range(first, first + batch)]
        await counted.record(*hits)
    read = await counted.counts(BEGIN)
    expected = await sketched(counted)
    clocked_server.ahead(ms=clocked_server.ahead_ms + 900)
    told = (await counted.view(KNOWN, BEGIN)).counts

    assert shown(read) == expected
    assert shown(told) == expected


async def test_a_hit_of_a_site_with_few_is_in_its_own_answer(counted: Counted) -> None:
    """Pageviews and visits always are; the visitor where they do not come one after the other."""
    told = [(await counted.view(n, BEGIN)).counts.total.visitors for n in (1, 2, 3)]

    assert told == [2, 3, 4]


async def fill(counted: Counted, size: int) -> None:
    """Add visitors to all running sketches, past the service."""
    for label in PERIODS.values():
        sketch = f"{counted.tag}:portal:1:visitors:{label}"
        await counted.client.restore(sketch, 0, await dump(counted.client, size), replace=True)
    running = f"{counted.tag}:portal:1:running"
    state: Any = await counted.client.get(running)
    fields = {**state_in(state, forms.NEWEST), "changed": 255}
    await counted.client.set(running, packed_state(forms.NEWEST, **fields))


async def dump(client: Redis, size: int) -> bytes:
    """A sketch of so many visitors; made once."""
    if size not in dumps():
        for start in range(0, size, AT_ONCE):
            await client.eval(ADD, 1, "filled", start, min(AT_ONCE, size - start))
        found: Any = await client.dump("filled")
        dumps()[size] = found
        await client.delete("filled")
    return dumps()[size]


@cache
def dumps() -> dict[int, bytes]:
    return {}


async def sketched(counted: Counted) -> dict[str, int]:
    base = f"{counted.tag}:portal:1:visitors:"
    return {name: await counted.client.pfcount(base + of) for name, of in PERIODS.items()}


def shown(counts: Counts) -> dict[str, int]:
    return {name: getattr(counts, name).visitors for name in PERIODS}

"""The benchmark itself, for some seconds: it runs, ends, and gives no figure that does not hold."""

from __future__ import annotations

import asyncio
import itertools
import re
import shlex
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from statistics import median
from typing import Any

import pytest

from loadtests.bench import capacity
from loadtests.bench.__main__ import run_rounds
from loadtests.bench.capacity import Costs, Load
from loadtests.bench.closed_loop import Void
from loadtests.bench.growth import World, grown
from loadtests.bench.measures import Extent, Found, Measure
from loadtests.bench.open_loop import OpenLoop
from loadtests.bench.requests import of_visitor
from loadtests.bench.rows import figure, ratio
from loadtests.bench.servers import Server, service
from loadtests.bench.verify import verify
from loadtests.without import without_ledger
from tests.kit.counting import at, counting
from tests.kit.services.process import ROOT, until
from tests.kit.stores.keyspace import last_batch
from tests.kit.stores.server import Server as Store
from tests.kit.tools import need
from visit_counter.delivery.ledger import Ledger
from visit_counter.store import libraries

NOON = at("2026-03-10 12:00")
VISITORS = itertools.count(1 << 23)

pytestmark = pytest.mark.xdist_group("bench")


@pytest.fixture(autouse=True)
def _tools() -> None:
    for tool in ("nginx", "wrk"):
        need(tool)


async def test_without_the_ledger_the_same_batch_counts_again(
    valkey: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a benchmark takes out of the function library is there, and gone then."""
    monkeypatch.setattr(libraries, "library", libraries.library)
    monkeypatch.setattr(Ledger, "commit", Ledger.commit)
    without_ledger()
    async with counting(valkey.url) as counted:
        batch = counted.seal(counted.hit(1, NOON))
        for _ in range(2):
            await counted.ledger.commit([batch])
        counts = await counted.counts(NOON)
        entry: Any = await counted.client.get(f"{counted.tag}:ledger:{counted.ledger._producer.id}")

    assert counts.total.pageviews == 2
    assert last_batch(entry) == (1, 0)


async def bench(*arguments: str) -> tuple[int | None, str]:
    """Exit code and output; once more where other tests made hits take the way of the spool, which
    makes a figure void though none is lost."""
    for _ in range(4):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "loadtests.bench", *arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, told = await process.communicate()
        if b"'spooled'" not in told:
            break
    return process.returncode, (output + told).decode()


async def test_a_short_round_is_counted_exactly() -> None:
    """What was acknowledged is what is counted, and the table has a row for what was measured."""
    code, output = await bench("--quick", "--only", "nginx 64,lane 64,behind")

    assert code == 0, output
    assert "store: always" in output
    rows = [line.split("|")[1].strip() for line in output.splitlines() if line.startswith("| ")]
    assert rows == [
        "what",
        "nginx `return 204`, 64 connections",
        "**committed hits, 64 connections**",
        "hits against nginx, 64 connections",
        "requests behind nginx, 95 % of them hits, 64 connections",
    ]


async def test_live_viewers_are_all_told_and_cost_little() -> None:
    """Less memory than the budget has for each, also where they are few."""
    code, output = await bench("--quick", "--only", "viewers")

    assert code == 0, output
    assert re.search(r"memory of a viewer .* ≤ 15\.0 KB .* must", output)


def test_counts_that_do_not_agree_make_a_figure_void() -> None:
    """One hit more or less than was acknowledged, and there is no figure."""
    with service() as server:
        hit(server)
        verify(server, 1)
        for wrong in (0, 2):
            with pytest.raises(Void, match=f"{wrong} hits were acknowledged"):
                verify(server, wrong)


def hit(server: Server) -> None:
    """One of the benchmark's own requests, answered 200."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as client:
        client.sendall(of_visitor(server.requests.hits[0], next(VISITORS)))
        assert client.recv(12) == b"HTTP/1.1 200"


def test_a_stall_shows_in_the_times_of_all_who_arrive_meanwhile() -> None:
    """Hits come in spite of a stall, and their times begin when they were due."""
    with service() as server, ThreadPoolExecutor() as thread:
        assert server.service
        loop = OpenLoop(server.port, hits_per_s=200, seconds=2)
        playing = thread.submit(loop.run)
        until(lambda: loop.sent > 0, 10)
        server.service.freeze()
        before = loop.sent
        until(lambda: loop.sent > before + 70, 10)
        server.service.thaw()
        times = playing.result()
        loop.close()

    waited = [seconds for seconds in times.to_answer if seconds > 0.1]
    assert len(waited) > 30
    assert median(times.to_answer) < min(waited)


def test_a_world_is_filled_and_measured() -> None:
    """Of a small world every figure is there, and its hits are counted besides."""
    found = grown(World("tiny", sites=2, visitors=20, pages=10, days=3), quick=True)
    assert all(value for value in asdict(found).values())


COSTS = Costs(
    worker_us=49,
    worker_batch_us=100,
    one_hit_us=60,
    hit_us=5,
    commit_ms=4,
    id_bytes=80,
    year_bytes=12_000,
    request_bytes=500,
    answer_bytes=1000,
    store_bytes=40,
    store_batch_bytes=200,
    file_bytes=90,
    file_batch_bytes=400,
)


def test_what_a_million_hits_take_follows_from_what_one_costs() -> None:
    """Any worker with any site sends batches of few hits, and the store pays for each batch."""
    load = Load(hits_per_s=1_000_000, sites=6400, hits_per_visitor=4, years=0, used=0.5)
    found = capacity.need(load, COSTS, routed=False)
    routed = capacity.need(load, COSTS, routed=True)

    assert (found.workers, found.batch) == (298, 1)  # 7 hits in 2 ms, for 64 partitions
    assert found.shards == 120
    assert found.network_bytes_s == 1740 * 1_000_000
    assert found.file_bytes_s == 490 * 1_000_000
    assert routed.workers < 112
    assert routed.batch > 18
    assert routed.shards < 18


def test_the_command_to_put_own_numbers_in_runs() -> None:
    """It stands in GROWTH.md, with what was measured and what that comes to."""
    text = (ROOT / "loadtests/GROWTH.md").read_text()
    *_, command = text.partition("```\n\n| 1,000,000 hits/s take")[0].rpartition("```sh\n")
    told = subprocess.run(
        [sys.executable, *shlex.split(command.replace("\\\n", ""))[1:]],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip

    assert told.returncode == 0, told.stderr
    assert told.stdout.strip() in text


def test_what_is_kept_of_visitors_takes_the_memory() -> None:
    """Twice the visitors, and twice the ids; sites take what they take."""
    one, two, none = (
        capacity.need(Load(hits_per_s=hits, sites=10), COSTS, routed=True).memory_bytes
        for hits in (1000, 2000, 1e-9)
    )
    assert two - none == pytest.approx(2 * (one - none))
    assert none == pytest.approx(10 * (16 * 12_404 + 5 * 12_000))


def test_a_void_figure_takes_with_it_what_builds_upon_it_and_no_more() -> None:
    """The others of the round are measured, and the next round begins anew."""
    void = Measure("peak", _void)
    upon = Measure("at half of peak", lambda _extent, found: found.update(half=1), needs=("peak",))
    other = Measure("other", lambda _extent, found: found.update(other=1))
    found, voids = run_rounds([void, upon, other], 2, Extent(1, quick=True))

    assert found == [{"other": 1}] * 2
    assert voids == {"peak": 2, "at half of peak": 2}


def _void(_extent: Extent, _found: Found) -> None:
    raise Void("as the test wants it")


@pytest.mark.parametrize(
    ("per_s", "per_cpu_s", "reached"),
    [
        pytest.param(400, 500, "goal", id="both"),
        pytest.param(900, 300, "must", id="the rival was held back"),
        pytest.param(240, 900, "missed", id="it waits"),
    ],
)
def test_the_worse_of_two_ratios_decides(per_s: float, per_cpu_s: float, reached: str) -> None:
    """A ratio is judged by what was done in a second and in a CPU-second."""
    row = ratio("ours", "lane", "nginx", must=0.25, goal=0.4)
    found = {"lane": per_s, "lane cpu": per_cpu_s, "nginx": 1000.0, "nginx cpu": 1000.0}
    assert (row.cells([found]) or [])[-1:] == [reached]


def test_a_figure_is_the_median_of_the_rounds_that_have_it() -> None:
    """A round whose figure was void is left out."""
    row = figure("time", "ms", "{:.0f} ms", 10, 5, less=True)
    rounds, bounds = [{"ms": 9.0}, {}, {"ms": 4.0}, {"ms": 30.0}], ("≤ 10 ms", "≤ 5 ms")
    assert row.cells(rounds) == ["time", "9 ms", "4 ms – 30 ms", "3", "", *bounds, "must"]
    assert row.cells([{}]) is None

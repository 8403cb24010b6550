"""One order of time for the spools of a data directory: visits stay exact after a long outage."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tests.kit.counting import Counted, make_site, recorded, visitor
from tests.kit.services.in_process import StoppedClock, namespace, until
from tests.kit.stores.server import Server, run_server, server_binaries
from visit_counter.clock import Clock
from visit_counter.delivery.ledger import Ledger
from visit_counter.delivery.order import MOST_STEP_MS, PATIENCE_S, STEP_MS, Heads, Order
from visit_counter.delivery.recorder import Recorder
from visit_counter.delivery.replay import Replay, replaying
from visit_counter.disk import directories as disk
from visit_counter.disk.producer import Producer, producer_in
from visit_counter.errors import StoreError
from visit_counter.model.hit import Hit
from visit_counter.model.kinds import Kind
from visit_counter.store.batch import first_instant
from visit_counter.store.store import Store

HOUR = 3_600_000
TIMEOUT_S = 605  # of hits at multiples of ten seconds none is near it


# -- the rule


class Told:
    """A producer of the model: its spool, and what it may send."""

    def __init__(self, heads: Heads, number: int, now: Callable[[], int]) -> None:
        self.order = Order(heads, number, now)
        self.spool: list[int] = []

    def spooled(self, at: int) -> None:
        self.spool.append(at)
        self.order.put(0, self.spool[0])

    def may_send(self) -> bool:
        self.order.look()
        return bool(self.spool) and self.order.is_turn(0, self.spool[0])

    def send(self) -> int:
        sent = self.spool.pop(0)
        self.order.put(0, self.spool[0] if self.spool else 0)
        return sent


steps = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(["hit", "send"]), st.integers(0, 1500)),
    max_size=120,
)


@given(steps)
def test_nothing_is_sent_before_what_is_a_step_older(moves: list[tuple[int, str, int]]) -> None:
    """Whoever spools or sends when: of spooled hits, and of live ones beside them; and there is
    always one that may send."""
    heads, now = Heads(), 1_000_000
    producers = [Told(heads, number, lambda: now) for number in (0, 1, 2, 7)]
    for who, what, pause in moves:
        now += pause
        one = producers[who]
        sent = 0
        if what == "hit":
            one.order.look()
            if one.spool or one.order.holds(0) or pause % 5 == 0:  # or the store is away
                one.spooled(now)
            else:
                sent = now
        elif one.may_send():
            sent = one.send()
        left = [each.spool[0] for each in producers if each.spool]
        if sent:
            assert all(sent <= at + STEP_MS for at in left)
        assert not left or any(each.may_send() for each in producers)


def test_a_hit_of_a_clock_that_was_ahead_keeps_nobody() -> None:
    """It counts as one of now: others go before it, and it goes when they are as far."""
    heads, now = Heads(), 5_000_000
    ahead, other = (Told(heads, number, lambda: now) for number in (0, 1))
    ahead.spooled(now + HOUR)
    other.spooled(now - 60_000)

    assert (other.may_send(), ahead.may_send()) == (True, False)
    other.send()
    assert ahead.may_send()


def test_steps_are_longer_than_the_store_takes_for_one() -> None:
    """Else hits would come in faster than the spools are emptied, step by step."""
    order = Order(Heads(), 0, lambda: 0)
    quick = order.step_ms
    order.took(3.0)
    slow = order.step_ms
    order.took(1000.0)
    most = order.step_ms
    for _ in range(60):
        order.took(0.01)

    assert (quick, slow, most, order.step_ms) == (STEP_MS, 12_000, MOST_STEP_MS, STEP_MS)


@pytest.mark.parametrize("away", ["told", "silent"])
def test_who_does_not_get_on_is_passed_over(monkeypatch: pytest.MonkeyPatch, away: str) -> None:
    """After ten seconds in which the store takes hits; obeyed again when it gets on, told once."""
    seconds = 0
    monkeypatch.setattr("time.monotonic", lambda: seconds)
    heads, now = Heads(), 5_000_000
    stuck, other = (Told(heads, number, lambda: now) for number in (3, 1))
    stuck.spooled(now - HOUR)
    stuck.spooled(now - HOUR + 10)
    other.spooled(now)
    may = []
    with capture_logs() as logs:
        for seconds in range(30):
            may.append(other.may_send())
            if not 7 <= seconds < 14:
                other.order.wait([0])
            elif away == "told":
                other.order.stop_waiting([0])
        stuck.send()
        again = other.may_send()

    assert PATIENCE_S == 10
    assert may == [False] * 25 + [True] * 5
    assert not again
    assert [each["producers"] for each in logs] == [[3]]


def test_the_head_of_a_batch_is_its_first_hit() -> None:
    """Also of a batch of drops; what cannot be read holds nobody."""
    assert [first_instant(payload) for payload in (b"", b"\xc1", b"\x05\x92\xc4\x00\xc4\x00")] == [
        *(0, 0, 0)
    ]


# -- workers over one store


@dataclass
class Worker:
    """A process of the service as far as counting goes."""

    recorder: Recorder
    replay: Replay
    hits: dict[bytes, list[int]] = field(default_factory=dict)
    """The instants that it was told of, by visitor."""

    @property
    def spooled(self) -> int:
        return self.replay._spool.records

    async def hit(self, site: Counted, who: int, kind: str = "view") -> bool:
        """A hit of now; whether it went into the spool."""
        entry = Hit(site.site, Kind(kind), site.clock.now(), visitor(who))
        self.hits.setdefault(entry.visitor, []).append(entry.at)
        return await recorded(self.recorder, entry) is None


@asynccontextmanager
async def working(site: Counted, producer: Path, heads: Heads) -> AsyncIterator[Worker]:
    disk.make(producer)
    with producer_in(producer) as numbering:
        async with (
            replaying(site.store, numbering, heads) as (ledger, replay),
            Recorder(ledger, site.clock, replay) as recorder,
        ):
            yield Worker(recorder, replay)


@asynccontextmanager
async def one_site(server: Server, clock: Clock) -> AsyncIterator[Counted]:
    producer = Producer("p" * 32, 1, None)
    async with Store(server.url, namespace(), clock) as store, Ledger(store, producer) as ledger:
        yield await make_site(ledger, visit_timeout=TIMEOUT_S, online_window=60)


def visits_of(hits: Iterable[int]) -> int:
    """As the contract defines them."""
    ordered = sorted(hits)
    pairs = zip([-HOUR * 24, *ordered], ordered, strict=False)
    return sum(at - before >= TIMEOUT_S * 1000 for before, at in pairs)


def exact(workers: Iterable[Worker]) -> int:
    all_of: dict[bytes, list[int]] = {}
    for worker in workers:
        for who, instants in worker.hits.items():
            all_of.setdefault(who, []).extend(instants)
    return sum(map(visits_of, all_of.values()))


class Visits:
    """Hits of the same visitors through all workers."""

    def __init__(self, site: Counted, workers: list[Worker], seed: int) -> None:
        self._site = site
        self._workers = workers
        self._choose = random.Random(seed)

    async def go_on(self, number: int, apart_ms: int = 10_000) -> None:
        """So many hits, one to seven times as far apart."""
        clock = self._site.clock
        assert isinstance(clock, StoppedClock)
        for _ in range(number):
            clock.at += apart_ms * self._choose.randrange(1, 8)
            worker, who = self._choose.choice(self._workers), self._choose.randrange(1, 12)
            await worker.hit(self._site, who)

    async def counted(self) -> int:
        return (await self._site.counts(self._site.clock.now())).total.visits


@pytest.fixture(autouse=True)
def _spill_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("visit_counter.delivery.flow.SPILL_S", 0.25)


@asynccontextmanager
async def several(
    directories: Iterable[Path], heads: Heads | None
) -> AsyncIterator[tuple[Server, Counted, list[Worker]]]:
    """Workers over one store, a day ago; with heads they are of one data directory."""
    clock = StoppedClock(Clock().now() - 24 * HOUR)
    async with AsyncExitStack() as stack:
        server = stack.enter_context(run_server(server_binaries()["valkey"]))
        site = await stack.enter_async_context(one_site(server, clock))
        workers = [
            await stack.enter_async_context(working(site, directory, heads or Heads()))
            for directory in directories
        ]
        yield server, site, workers


@pytest.mark.parametrize("number", [2, 3])
async def test_visits_are_exact_after_an_outage(tmp_path: Path, number: int) -> None:
    """Of three hours, longer than ids stay: the same visitors' hits went into the spools of several
    workers, and live ones go on while the spools are emptied."""
    places = [tmp_path / f"producers/{n}" for n in range(number)]
    async with several(places, Heads()) as (server, site, workers):
        visits = Visits(site, workers, seed=number)
        await visits.go_on(20)
        server.kill()
        await visits.go_on(250)
        server.start()
        while any(worker.spooled for worker in workers):
            await visits.go_on(1, apart_ms=1)
        await until(lambda: not any(worker.replay.in_use for worker in workers))
        await visits.go_on(20)
        counted = await visits.counted()

    assert counted == exact(workers)


async def test_what_an_ended_process_has_spooled_keeps_its_place(tmp_path: Path) -> None:
    """Until another one has adopted its spool: the store gets nothing later before."""
    clock = StoppedClock(Clock().now() - 24 * HOUR)
    places, heads = [tmp_path / f"producers/{n}" for n in range(2)], Heads()
    async with AsyncExitStack() as stack:
        server = stack.enter_context(run_server(server_binaries()["valkey"]))
        site = await stack.enter_async_context(one_site(server, clock))
        stays = await stack.enter_async_context(working(site, places[0], heads))
        async with working(site, places[1], heads) as ended:
            visits = Visits(site, [stays, ended], seed=5)
            server.kill()
            await visits.go_on(90)
        server.start()
        await until(lambda: not stays.replay.away)
        waits = stays.spooled
        adopter = await stack.enter_async_context(working(site, places[1], heads))
        await until(lambda: not stays.spooled and not adopter.spooled)
        counted = await visits.counted()

    assert waits > 0
    assert counted == exact([stays, ended])


@pytest.mark.parametrize("first", [0, 1])
async def test_over_several_hosts_visits_have_a_bound(tmp_path: Path, first: int) -> None:
    """Hosts do not know what the others have spooled. In the worst order, one spool after the other
    and live hits between, of each visitor at least one visit is counted, and at most as many as the
    hosts would have counted alone; they are not exact. Ids stay for the hour that this takes."""
    places = [tmp_path / f"{n}/producers/0" for n in range(2)]
    async with several(places, None) as (server, site, hosts):
        visits = Visits(site, hosts, seed=1)
        server.kill()
        goes_on = asyncio.Event()
        hold(hosts[1 - first].replay, goes_on)
        await visits.go_on(90)
        server.start()
        await until(lambda: not hosts[first].spooled)
        await Visits(site, [hosts[first]], seed=2).go_on(20)
        goes_on.set()
        await until(lambda: not hosts[1 - first].spooled)
        counted = await visits.counted()

    visitors = {who for host in hosts for who in host.hits}
    most = sum(visits_of(instants) for host in hosts for instants in host.hits.values())
    assert len(visitors) <= counted <= most
    assert counted != exact(hosts)


def hold(replay: Replay, goes_on: asyncio.Event) -> None:
    """It brings nothing until then."""
    bring = replay._bring

    async def later(partitions: list[int]) -> tuple[int, list[StoreError]]:
        await goes_on.wait()
        return await bring(partitions)

    replay._bring = later  # type: ignore[method-assign]


async def test_live_hits_wait_for_older_ones_of_another_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the spool, and readiness says why; not for ever: one that does not get on is passed over
    while the store takes hits, and told once."""
    monkeypatch.setattr("visit_counter.delivery.order.PATIENCE_S", 0.3)
    monkeypatch.setattr("visit_counter.delivery.replay.PROBE_S", 0.05)
    heads = Heads()
    async with AsyncExitStack() as stack:
        server = stack.enter_context(run_server(server_binaries()["valkey"]))
        site = await stack.enter_async_context(one_site(server, Clock()))
        hung = Order(heads, 5, site.clock.now)
        worker = await stack.enter_async_context(working(site, tmp_path / "producers/0", heads))
        before = await worker.hit(site, 1)
        with capture_logs() as logs:
            hung.put(site.site.partition, site.clock.now() - 60_000)
            await until(lambda: worker.replay.in_use)
            held = await worker.hit(site, 2)
            problems = worker.replay.problems
            await until(lambda: not worker.spooled)
            after = await worker.hit(site, 3)
        visits = (await site.counts(site.clock.now())).total.visits

    assert (before, held, after, visits) == (False, True, False, 3)
    assert "Another process has older hits in its spool" in problems[0]
    assert [each["producers"] for each in logs if "producers" in each] == [[5]]


async def test_nobody_is_passed_over_while_the_store_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long that is: the oldest hits are the first when it is back."""
    monkeypatch.setattr("visit_counter.delivery.order.PATIENCE_S", 0.3)
    monkeypatch.setattr("visit_counter.delivery.replay.PROBE_S", 0.05)
    heads = Heads()
    async with AsyncExitStack() as stack:
        server = stack.enter_context(run_server(server_binaries()["valkey"]))
        site = await stack.enter_async_context(one_site(server, Clock()))
        older = Order(heads, 5, site.clock.now)
        older.put(site.site.partition, site.clock.now() - 60_000)
        worker = await stack.enter_async_context(working(site, tmp_path / "producers/0", heads))
        server.kill()
        await until(lambda: worker.replay.in_use)
        with capture_logs() as logs:
            spooled = await worker.hit(site, 1)
            for _ in range(10):
                worker.replay._probed_s.clear()
                await until(lambda: worker.replay._probed_s)
                await asyncio.sleep(0.05)
            patient = not any("producers" in each for each in logs)
            older.put(site.site.partition, 0)
            server.start()
            await until(lambda: not worker.spooled)

    assert (spooled, patient) == (True, True)


async def test_where_nothing_can_be_spooled_live_hits_do_not_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that is well counts on beside a spool that is broken, also where the spool broke
    under hits that were to wait there."""
    heads = Heads()
    async with AsyncExitStack() as stack:
        server = stack.enter_context(run_server(server_binaries()["valkey"]))
        site = await stack.enter_async_context(one_site(server, Clock()))
        worker = await stack.enter_async_context(working(site, tmp_path / "producers/0", heads))
        Order(heads, 5, site.clock.now).put(site.site.partition, site.clock.now() - 60_000)
        await until(lambda: worker.replay.in_use)
        with monkeypatch.context() as patch:
            patch.setattr("os.fdatasync", broken)
            spooled = [await worker.hit(site, who) for who in (1, 2, 3)]
            problem = worker.replay.cannot_keep
        total = (await site.counts(site.clock.now())).total

    assert spooled == [False, False, False]
    assert "cannot be written" in problem
    assert total.visits == 3


def broken(_: int) -> None:
    raise OSError(5, "Input/output error")

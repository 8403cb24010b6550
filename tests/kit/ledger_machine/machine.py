"""The promise of one count, against whatever may break: a state machine plays it, a model knows it.

Processes of one producer take hits, number, send and spool them; requests and replies get lost,
batches come twice, late or out of order; processes crash and start again, or a copied directory
makes two of one; a store is promoted that lacks the last writes; admins reset, undo and seed; the
clock jumps. After every step each acknowledged view is counted exactly once or still on its way,
any other at most once, and the sums agree: every view has a path of its own, by which it is found.

Without a `real` store the rules run over a model of its functions
(tests/kit/ledger_machine/function.py), which tries the protocol; with one every answer and every
number must moreover be the model's.
"""

from __future__ import annotations

import asyncio
import itertools
import pickle
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)

from tests.kit.counting import at, visitor
from tests.kit.ledger_machine.function import Function, Period
from tests.kit.ledger_machine.process import Disk, Fate, Sealed, Sender
from tests.kit.ledger_machine.stores import Checked, Frame, Line, Modelled
from tests.kit.stores.keyspace import Keyspace, State
from visit_counter.clock import Clock
from visit_counter.errors import StoreError
from visit_counter.model.calendar import Calendar, Periods
from visit_counter.model.hit import Drop, Hit
from visit_counter.model.kinds import Kind, Metric
from visit_counter.model.reasons import Reason
from visit_counter.model.site import Site
from visit_counter.model.site_settings import SiteSettings, StoredSite
from visit_counter.reading.reader import DAYS
from visit_counter.rules.limits import Allowance
from visit_counter.store.replies import Fenced
from visit_counter.store.store import Store

NOON = at("2026-03-10 12:00")
SECOND, MINUTE, HOUR, DAY = 1000, 60_000, 3_600_000, 86_400_000
STEPS = [SECOND, 20 * MINUTE, 30 * MINUTE, HOUR, DAY, 20 * DAY, -SECOND, -20 * MINUTE, -DAY]
OPERATIONS = [f"operation {n}" for n in range(8)]
STORED = StoredSite(SiteSettings(id="portal", origins=("*",)), Calendar.of("UTC"))
SITE = Site(STORED, 1)
NETWORKS = [None, Allowance()]
PREFIXES = 8
T = TypeVar("T")

_producers = itertools.count(1)

Rule = Callable[..., Any]


def living(method: Rule) -> Rule:
    """A rule of a running process."""
    return precondition(lambda self: self.living is not None)(method)


class Real(NamedTuple):
    """A real store with the site, the keys of its partition, and what they hold at first."""

    store: Store
    keys: Keyspace
    new: State


class Prefix(NamedTuple):
    """What the store held after one of its last writes, as a replica may have it."""

    model: bytes
    keys: State


class Machine(RuleBasedStateMachine):
    """Without a `real` store over the model alone."""

    loop: ClassVar[asyncio.AbstractEventLoop]
    real: ClassVar[Real | None] = None

    def __init__(self) -> None:
        super().__init__()
        self.now = NOON
        self.fates: dict[str, Fate] = {}
        self.prefixes: list[Prefix] = []
        self.directory = Path(tempfile.mkdtemp(prefix="vc-machine-"))
        self.disk = Disk(self.directory / "0", f"producer-{next(_producers)}")
        self.living: Sender | None = None
        self.copied: Sender | None = None
        """Of two processes of the producer the one that is to give way."""
        self.site = SITE
        self.function = Function()
        self.store = Modelled(self.function, self.site.partition)
        if self.real is not None:
            self.run(self.real.keys.restore(self.real.new))
            self.store = Checked(self.real.store, self.function, self.site.partition)
        self.line = Line(self.store)
        self.start()

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:  # else something was found already
                self._look_a_last_time()
        finally:
            for sender in (self.living, self.copied):
                if sender is not None:
                    self.run(sender.crash())
            shutil.rmtree(self.directory)

    def _look_a_last_time(self) -> None:
        self.line.mend()
        if self.living is None:
            self.start()
        self.calm()

    # -- hits and batches

    @living
    @rule(
        kinds=st.lists(st.sampled_from(["view", "view", "here", "bye", "drop"]), min_size=1),
        who=st.integers(0, 3),
        known_only=st.sampled_from([False, False, True]),
        flushed=st.sampled_from([True, True, False]),
    )
    def hit(self, kinds: list[str], who: int, known_only: bool, flushed: bool) -> None:
        for kind in kinds[:3]:
            self._hit(self._living, kind, who, known_only=known_only)
        if flushed:
            self.flush()

    @living
    @rule()
    def flush(self) -> None:
        self.run(self._living.flush(self.now))

    @living
    @rule()
    def spill(self) -> None:
        """The store is away or takes too long; what was sent it may have, and gets it once more."""
        self._hit(self._living, "view", 2)
        self.run(self._living.spill(self.now))

    @living
    @rule()
    def empty_spool(self) -> None:
        with suppress(StoreError):
            self.run(self._living.empty_spool())

    @precondition(lambda self: self._idle and self.line.whole)
    @rule()
    def hit_by_a_fast_clock(self) -> None:
        """The store takes no hits of the future: they are sent again as of its own time."""
        self._hit(self._living, "view", 1, at=Clock().local() + HOUR)
        self.flush()

    @precondition(lambda self: self._idle)
    @rule()
    def overtake(self) -> None:
        """Of two batches the second arrives first: it counts nothing before the first has."""
        self._sealed()
        second = self._sealed().batch.record
        producer = self._living.producer
        frame = Frame(producer.id, producer.epoch, second)
        with pytest.raises(StoreError):
            self.run(self.line.deliver(frame))
        self.flush()

    @precondition(lambda self: self._idle)
    @rule()
    def two_at_once(self) -> None:
        """Two flushes are under way; whatever becomes of the first, the second passes nothing."""
        self._sealed()
        self._sealed()
        self.flush()

    @precondition(lambda self: self.living is not None and not self.living.unconfirmed)
    @rule()
    def poison(self) -> None:
        """A batch that the store cannot read uses up its number."""
        batch, paths = self._sealed()
        batch.record = batch.record._replace(payload=b"\xc1")
        paths.clear()
        self.flush()

    @precondition(lambda self: self.line.frames)
    @rule(which=st.integers(0, 7))
    def deliver_again(self, which: int) -> None:
        """The network delivers a batch once more, or only now: of whomever, however old."""
        with suppress(StoreError):
            self.run(self.line.deliver(self.line.frames[which % len(self.line.frames)]))

    @rule(
        fault=st.sampled_from(["request", "reply", "reply", "cut"]),
        calls_before=st.sampled_from([0, 0, 0, 1, 2, 3]),
    )
    def fail(self, fault: str, calls_before: int) -> None:
        """One of the next calls loses its request or its reply, or is cut half way."""
        self.line.fail(fault, calls_before)

    # -- processes

    @precondition(lambda self: self.living is None)
    @rule()
    def start(self) -> None:
        """A process of the producer starts, unless the store does not answer it."""
        producer = self.disk.next_producer()
        sender = Sender(self.line, producer, self._current_site, self.disk, self.fates)
        whole = self.line.whole
        if self.run(sender.start()):
            self.living = sender
        assert self.living or not whole

    @living
    @rule(spooled=st.sampled_from([0, 0, 0.1, 0.9, 1]))
    def crash(self, spooled: float) -> None:
        """The process ends, and with it what only its memory held; perhaps while it spooled."""
        if spooled and not self._living.unconfirmed:
            self._sealed()
        self.run(self._living.crash(spooled))
        self.living = None
        self._mourn()

    @precondition(lambda self: self.living is not None and self.copied is None)
    @rule()
    def copy_directory(self) -> None:
        """A second process of the same producer starts while the first one still runs."""
        self._supersede(self.disk.copied_to(self.directory / str(self.disk.epoch)))

    @precondition(lambda self: self.living is not None and self.copied is not None)
    @rule()
    def restart_first(self) -> None:
        """The first of two starts again, and takes an id of its own if it is fenced."""
        assert self.copied
        disk = self.copied.disk
        self.end_first()
        self._supersede(disk)

    def _supersede(self, disk: Disk) -> None:
        self.copied, self.living = self._living, None
        self.copied.superseded = True
        self.disk = disk
        self.start()
        self._mourn()

    @precondition(lambda self: self.copied is not None and self.living is not None)
    @rule()
    def first_goes_on(self) -> None:
        """The first of two counts nothing more, and learns why; unless the second has taken an id
        of its own."""
        first = self.copied
        assert first
        self._hit(first, "view", 1)
        results = self.run(first.flush(self.now))
        with suppress(StoreError):
            self.run(first.empty_spool())
        if first.producer.id != self._living.producer.id:
            return
        assert not any(isinstance(result, list) for result in results)
        assert first.ledger.fenced or not any(isinstance(result, Fenced) for result in results)

    @precondition(lambda self: self.copied is not None)
    @rule()
    def end_first(self) -> None:
        assert self.copied
        self.run(self.copied.crash())
        self.copied = None

    @living
    @rule()
    def verify(self) -> None:
        self.run(self._living.verify())

    @living
    @rule()
    def let_go(self) -> None:
        """The time of retention passes."""
        self._living.let_go()
        self._mourn()

    @living
    @rule()
    def look_at_sites(self) -> None:
        """The process learns of a reset, some time after it."""
        self._living.site = self._current_site

    @living
    @rule()
    def calm(self) -> None:
        """Nothing fails for a while: then nothing that was promised is still on its way."""
        self.line.mend()
        self.flush()
        for _ in range(2):  # the first time may only find that the epoch is to be opened again
            self.empty_spool()
        self.verify()
        assert not self._living.unconfirmed
        assert not self._owed() - self._counted().keys()

    # -- the store

    @precondition(lambda self: len(self.prefixes) > 1)
    @rule(lost=st.integers(1, PREFIXES), noticed=st.booleans())
    def promote(self, lost: int, noticed: bool) -> None:
        """A replica that lacks the last writes takes over, or the file's tail was torn.

        What was on its way to the old store is lost with it, and of its later states none returns.
        Of two processes it may no longer know which came later: the first one has ended by then.
        """
        if self.copied:
            self.end_first()
        self.prefixes = self.prefixes[: -min(lost, len(self.prefixes) - 1)]
        model, keys = self.prefixes[-1]
        vars(self.function).update(pickle.loads(model))
        if self.real is not None:
            self.run(self.real.keys.restore(keys))
        self.line.frames.clear()
        self._mourn()
        if noticed and self.living:
            self.verify()

    # -- admins

    @rule(operation=st.sampled_from(OPERATIONS[:5]), times=st.integers(1, 2))
    def reset(self, operation: str, times: int) -> None:
        for _ in range(times):
            self._operate(self.store.reset(self.site, operation))

    @rule(back=st.sampled_from([0, 0, 1, 2]), times=st.integers(1, 2))
    def undo(self, back: int, times: int) -> None:
        """Mostly of the newest operation; one that is no reset, or not the newest, is refused."""
        done = ["unknown", *self.function.operations]
        for _ in range(times):
            self._operate(self.store.undo(self.site, done[-1 - back % len(done)]))

    @rule(
        operation=st.sampled_from(OPERATIONS[4:]),
        metric=st.sampled_from(["visits", "pageviews", "visitors"]),
        name=st.sampled_from(["today", "week", "month", "year", "total"]),
        amount=st.integers(-3, 1000),
        times=st.integers(1, 2),
    )
    def seed(self, operation: str, metric: Metric, name: str, amount: int, times: int) -> None:
        period = _periods(STORED.calendar.periods(self.now))[name]
        for _ in range(times):
            self._operate(self.store.seed(self.site, operation, metric, {period: amount}))

    # -- time

    @rule(step=st.sampled_from(STEPS), who=st.integers(1, 3))
    def clock_steps(self, step: int, who: int) -> None:
        """A visitor is there before and after it."""
        self._come(who)
        self.now = min(max(self.now + step, NOON - 30 * DAY), NOON + 200 * DAY)
        self._come(who)

    @rule()
    def day_turns(self) -> None:
        self.now = (self.now // DAY + 1) * DAY

    # -- what must hold

    @invariant()
    def every_view_counts_once(self) -> None:
        counted = self._counted()
        assert counted.keys() <= self.fates.keys()
        assert all(n == 1 for n in counted.values()), "counted twice"
        assert not self._owed() - counted.keys() - self._on_their_way(), "lost"
        generations = self.function.generations.values()
        total = sum(each.numbers[("total", ""), "pageviews"] for each in generations)
        assert total == counted.total()

    @invariant()
    def every_number_is_the_models(self) -> None:
        """All but those online, and the peak."""
        if self.real is None:
            return
        assert self.run(self._pages(self.real.keys)) == (
            self.function.pages(), self.function.others(),
        )  # fmt: skip
        counts = self.run(self.real.store.counts(self.site, self.now))
        current = self.function.generations[self.function.current]
        periods = _periods(STORED.calendar.periods(self.now))
        expected = {name: current.shown(period) for name, period in periods.items()}
        assert expected == {name: getattr(counts, name) for name in periods}
        days = STORED.calendar.last_days(self.now, DAYS)
        shown = {day: current.shown(("day", day)) for day in days}
        found = self.run(self.real.store.days(self.site, days))
        assert shown == {day: each.numbers for day, each in found.items()}
        assert current.last == counts.last_hit
        assert current.drops == self.run(self._drops(current.drops))
        assert self.function.ledger == self.run(self.real.keys.ledger())

    @invariant()
    def remember(self) -> None:
        """Not to hold, but to keep the store's states for `promote`."""
        model = pickle.dumps(vars(self.function))
        if not self.prefixes or model != self.prefixes[-1].model:
            keys = self.run(self.real.keys.dump()) if self.real else {}
            self.prefixes = [*self.prefixes[-PREFIXES:], Prefix(model, keys)]

    def _owed(self) -> set[str]:
        return {path for path, fate in self.fates.items() if fate is Fate.ACKED}

    def _on_their_way(self) -> set[str]:
        """Views in the spool, and those that the living sends again as soon as it sees the gap."""
        paths = set(self.disk.paths)
        if self.living is not None:
            _, last = self.function.ledger.get(self.living.producer.id, (0, 0))
            paths |= self.living.retained if last < self.living.confirmed else set()
        return paths

    def _mourn(self) -> None:
        """Nobody can bring back what neither the store nor the living process nor the disk has."""
        there = self._counted().keys() | self._on_their_way()
        self.fates.update(dict.fromkeys(self._owed() - there, Fate.GONE))

    # -- in short

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(call)

    @property
    def _living(self) -> Sender:
        assert self.living
        return self.living

    @property
    def _idle(self) -> bool:
        """Whether a process runs from which nothing is under way."""
        return self.living is not None and not (self.living.unconfirmed or self.living.spooling)

    @property
    def _current_site(self) -> Site:
        return Site(STORED, self.function.current)

    def _hit(
        self, sender: Sender, kind: str, who: int, at: int = 0, known_only: bool = False
    ) -> None:
        at = at or self.now
        if kind == "drop":
            sender.pending.append(Drop(sender.site, Reason.BOT, at))
            return
        path = f"/{len(self.fates) + 1}"
        if kind == "view":
            self.fates[path] = Fate.SENT
        visitor_id = visitor(who) if who else b""
        # Of a trusted network, or one of those whose paths wait for a place.
        network = NETWORKS[len(self.fates) % len(NETWORKS)]
        sender.pending.append(
            Hit(sender.site, Kind(kind), at, visitor_id, path, known_only, network)
        )

    def _come(self, who: int) -> None:
        if self.living is not None:
            self._hit(self.living, "view", who)
            self.flush()

    def _sealed(self) -> Sealed:
        self._hit(self._living, "view", 1)
        return self._living.seal(self.now)

    def _operate(self, operation: Coroutine[Any, Any, Any]) -> None:
        with suppress(StoreError):  # the same of the model, or this is an AssertionError
            self.run(operation)

    def _counted(self) -> Counter[str]:
        """How often each view was counted, by its path."""
        return self.function.pages() + self.function.gone()

    async def _pages(self, keys: Keyspace) -> tuple[Counter[str], int]:
        """As the model has them: by path, also of those that wait, and of the others."""
        generations = range(1, self.function.current + 1)
        pages = await keys.pages(self.site.id, generations)
        others = pages.pop("(other)", 0)
        return pages + await keys.candidates(self.site.id, generations), others

    async def _drops(self, days: Counter[tuple[str, str]]) -> Counter[tuple[str, str]]:
        assert self.real
        months = sorted({day[:7] for day, _ in days})
        found = await self.real.store.drops(self.site, months)
        return Counter({(day, why): n for day, of in found.items() for why, n in of.items()})


def _periods(labels: Periods) -> dict[str, Period]:
    """The periods that are shown, by name."""
    return {
        "today": ("day", labels.today),
        "yesterday": ("day", labels.yesterday),
        "week": ("week", labels.week),
        "last_week": ("week", labels.last_week),
        "month": ("month", labels.month),
        "last_month": ("month", labels.last_month),
        "year": ("year", labels.year),
        "total": ("total", ""),
    }

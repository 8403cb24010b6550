"""A random driver for the corners of counting, held against the definitions.

    python -m loadtests.corners --steps 50000 --seed 7

Workers count for a few sites in a real Valkey whose clock the driver sets (libfaketime). Clocks are
ahead and step back, the store's and the workers', by seconds to years; workers spool hits for
longer than a visit lasts, and bring them in one order of time; byes and views come late; settings
change; sites are quiet over the turn of periods. After every step all numbers of a site must be
those of the hits that were counted, each by the instant at which it was accepted. Exits 1 at the
first difference, and prints the steps that led to it. The model shares no code with the counting
function.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime
from random import Random
from typing import Any

import msgspec
from redis.asyncio import Redis

from tests.kit.counting import visitor
from tests.kit.stores.clocked import Clocked, run_clocked
from visit_counter.clock import Clock
from visit_counter.delivery.ledger import Ledger
from visit_counter.disk.producer import Producer
from visit_counter.model.calendar import Calendar, Periods
from visit_counter.model.counts import Counts, Numbers
from visit_counter.model.hit import Drop, Hit
from visit_counter.model.kinds import Kind
from visit_counter.model.reasons import Reason
from visit_counter.model.site import Site
from visit_counter.model.site_settings import SiteSettings, StoredSite
from visit_counter.rules.limits import Allowance
from visit_counter.store.batch import Batch
from visit_counter.store.store import Store

SECOND, MINUTE, HOUR, DAY = 1000, 60_000, 3_600_000, 86_400_000
BEGIN = 1_930_000_000_000  # in 2031, later than this machine's time
AHEAD_MS, BYE_MS, LATE_MS, TRIM_MS, SKETCH_MS = 2000, 2000, HOUR, MINUTE, 8 * DAY
VISITORS, WORKERS, PATHS = 6, 3, 12
ZONES = ("Asia/Ho_Chi_Minh", "America/New_York", "UTC")
JUMPS = (SECOND, 5 * SECOND, MINUTE, HOUR, DAY, 5 * DAY, 20 * DAY, 400 * DAY)
PASSES = (SECOND, 10 * SECOND, MINUTE, 10 * MINUTE, 29 * MINUTE, 31 * MINUTE, 2 * HOUR, 9 * HOUR)
LONG_PASSES = (DAY, 3 * DAY, 9 * DAY, 35 * DAY)
EPISODE = 400  # steps, of a store of their own
TOLD = 60
PERIODS = {
    "day": ("today", "yesterday"),
    "week": ("week", "last_week"),
    "month": ("month", "last_month"),
    "year": ("year",),
}
LENGTH_DAYS = {"day": 1, "week": 7, "month": 28, "year": 365}  # at least

Period = tuple[str, str]
"""Kind and label: ("day", "2031-03-03"), ("total", "")."""


class Difference(Exception):
    """What is shown is not what the definitions say."""


class Times:
    """The true time and the store's."""

    def __init__(self) -> None:
        self.true = BEGIN
        self.store_ahead = 0
        self.furthest = BEGIN
        """The latest instant that the store's clock has shown."""

    @property
    def store(self) -> int:
        return self.true + self.store_ahead


class WorkerClock(Clock):
    """A worker's clock, which the service's own rule corrects by the store's replies."""

    def __init__(self, times: Times) -> None:
        super().__init__()
        self.ahead = 0
        self._times = times

    def local(self) -> int:
        return self._times.true + self.ahead

    def now(self) -> int:
        return self.local() + self._offset


@dataclass
class Modelled:
    """A site by the definitions: who came when, in sums and sets by period."""

    site: Site
    times: Times
    sums: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    visitors: defaultdict[Period, set[bytes]] = field(default_factory=lambda: defaultdict(set))
    seen: dict[bytes, int] = field(default_factory=dict)
    gone: set[bytes] = field(default_factory=set)
    """Those seen who said bye after that."""
    byes: dict[bytes, int] = field(default_factory=dict)
    """When those who are gone said it."""
    trimmed: int = 0
    expires: int | None = None
    """When a quiet site forgets who was seen."""
    unsure: set[Period] = field(default_factory=set)
    """Counted into after the store's clock may have let the sketch expire."""
    forgot: bool = False
    """It has been quiet for so long that a hit in a spool may not find its visit."""
    most_pages: int = 0
    """So many pages may have had places of their own at some time."""
    came: list[tuple[int, bytes]] = field(default_factory=list)
    """All views and heres that were not held."""

    def expire(self) -> None:
        if self.expires is not None and self.times.store > self.expires:
            self.seen, self.gone, self.expires, self.forgot = {}, set(), None, True

    def count(self, entries: Iterable[Hit | Drop]) -> None:
        hits, now = [entry for entry in entries if isinstance(entry, Hit)], self.times.store
        self.most_pages = max([self.most_pages, *(hit.site.settings.max_pages for hit in hits)])
        is_new = not self.seen and any(hit.visitor not in self.seen for hit in hits)
        self.byes = {who: self.byes[who] for who in self.gone}
        said = {hit.visitor for hit in hits if hit.kind is Kind.BYE} & self.seen.keys()
        for entry in entries:
            for period in self._periods(min(entry.at, now)):
                if self.times.furthest > _may_be_gone(period):
                    self.unsure.add(period)
        for hit in hits:
            self._count(hit, now)
        came = {hit.visitor for hit in hits if hit.kind is not Kind.BYE}
        for who in said | (came & self.gone):
            if min(self.byes[who], now) >= self.seen[who] + BYE_MS:
                self.gone.add(who)
            elif who in came:  # a bye brings nobody back
                self.gone.discard(who)
        newest = max((min(hit.at, now) for hit in hits), default=0)
        if hits and (is_new or newest - self.trimmed >= TRIM_MS or self.trimmed > now):
            self._trim(newest, now, hits[0].site.settings.visit_timeout * 1000)

    def _count(self, hit: Hit, now: int) -> None:
        at, last = min(hit.at, now), self.seen.get(hit.visitor)
        before = last if last is None else min(last, now)
        if hit.kind is Kind.BYE:
            if before is not None:
                self.byes[hit.visitor] = max(at, self.byes.get(hit.visitor, 0))
            return
        held = before is None and hit.known_only
        begins = before is None or at - before >= hit.site.settings.visit_timeout * 1000
        for period in self._periods(now if hit.at > now + AHEAD_MS else hit.at):
            self.sums[(*period, "pageviews")] += hit.kind is Kind.VIEW
            if not held:
                self.sums[(*period, "visits")] += begins
                self.visitors[period].add(hit.visitor)
        if not held:
            self.seen[hit.visitor] = at if before is None else max(at, before)
            self.came.append((at, hit.visitor))

    def _trim(self, newest: int, now: int, timeout: int) -> None:
        oldest = newest - timeout - LATE_MS
        self.seen = {who: min(at, now) for who, at in self.seen.items() if min(at, now) > oldest}
        self.gone &= self.seen.keys()
        self.trimmed = newest if self.seen else 0
        if self.seen:
            self.expires = now + timeout + DAY

    def _periods(self, at: int) -> list[Period]:
        of = self.site.calendar.periods(at)
        return [
            *(("day", of.today), ("week", of.week), ("month", of.month), ("year", of.year)),
            ("total", ""),
        ]

    @property
    def online(self) -> int:
        now = self.times.store
        since = now - self.site.settings.online_window * 1000
        return sum(min(at, now) > since and who not in self.gone for who, at in self.seen.items())

    def visits_by_definition(self) -> int:
        """In one order of time, which is that in which they were counted where clocks are right."""
        timeout, last, visits = self.site.settings.visit_timeout * 1000, dict[bytes, int](), 0
        for at, who in sorted(self.came):
            visits += who not in last or at - last[who] >= timeout
            last[who] = at
        return visits

    def check(self, counts: Counts, view: Periods) -> None:
        """Raises Difference."""
        self._same("online", counts.online, self.online)
        self._same("instants", max(counts.last_hit, counts.peak_at) > self.times.store, False)
        for name, period in _shown(view):
            found: Numbers = getattr(counts, name)
            pageviews, visits = (self.sums[(*period, of)] for of in ("pageviews", "visits"))
            visitors = len(self.visitors[period])
            if period in self.unsure:
                visitors = found.visitors
            elif name in counts.approximate:
                raise Difference(f"{name} is approximate, and no sketch of it can have expired")
            self._same(name, found, Numbers(pageviews, visits, visitors))

    def check_pages(self, pages: dict[bytes, float]) -> None:
        """All pages and `(other)` are all pageviews, and there are not too many."""
        self._same("views of pages", sum(pages.values()), self.sums["total", "", "pageviews"])
        self._same("too many pages", len(pages.keys() - {b"(other)"}) > self.most_pages, False)

    def _same(self, what: str, found: object, expected: object) -> None:
        if found != expected:
            raise Difference(f"{self.site.id} {what}: expected {expected}, found {found}")


def _shown(view: Periods) -> Iterator[tuple[str, Period]]:
    for kind, names in PERIODS.items():
        for name in names:
            yield name, (kind, getattr(view, name))
    yield "total", ("total", "")


def _may_be_gone(period: Period) -> int:
    """Before then no sketch of the period can have expired, in any time zone."""
    kind, label = period
    if kind == "total":
        return 1 << 60
    first = datetime.fromisoformat(f"{label}-01-01"[:10] + "+00:00")
    return round(first.timestamp() * 1000) + (LENGTH_DAYS[kind] - 1) * DAY + SKETCH_MS


@dataclass
class Sealed:
    """A numbered batch of one site, on its way."""

    batch: Batch
    of: Modelled


@dataclass
class Worker:
    """A process that counts."""

    clock: WorkerClock
    store: Store
    ledger: Ledger
    away: bool = False
    """It does not reach the store."""
    spool: deque[Sealed] = field(default_factory=deque)
    late: deque[Sealed] = field(default_factory=deque)
    """Sent and not there yet: nobody else waits for these."""


class Episode:
    """Some steps on a fresh namespace. Where it is `right`, no clock is wrong and nothing is late
    but what was spooled."""

    def __init__(self, server: Clocked, rng: Random, right: bool) -> None:
        self._server = server
        self._rng = rng
        self._right = right
        self._times = Times()
        self._name = f"c{secrets.token_hex(6)}"
        self._workers: list[Worker] = []
        self._sites: list[Modelled] = []
        self._networks = [None, *map(_network, range(1, 5))]
        self.told: deque[str] = deque(maxlen=TOLD)

    async def play(self, steps: int) -> None:
        async with AsyncExitStack() as stack:
            self._client = await stack.enter_async_context(Redis.from_url(self._server.url))
            await self._set_store()
            for _ in range(WORKERS):
                clock = WorkerClock(self._times)
                store = await stack.enter_async_context(Store(self._server.url, self._name, clock))
                producer = Producer(secrets.token_hex(16), 1, None)
                ledger = await stack.enter_async_context(Ledger(store, producer))
                store.periods = self._periods
                self._workers.append(Worker(clock, store, ledger))
            for n, zone in enumerate(ZONES):
                await self._make_site(f"s{n}", zone)
            for _ in range(steps):
                await self._step()
                await self._check()

    async def _make_site(self, name: str, zone: str) -> None:
        settings = SiteSettings(id=name, origins=("*",), timezone=zone)
        stored = StoredSite(settings, Calendar.of(zone, self._rng.randrange(7)))
        site = Site(stored, 1)
        store = self._workers[0].store
        await store.put_site(site.partition, name, msgspec.json.encode(stored), b"")
        self._sites.append(Modelled(site, self._times))

    def _periods(self, site: str, at: int) -> Periods:
        return next(each.site for each in self._sites if each.site.id == site).calendar.periods(at)

    # -- steps

    async def _step(self) -> None:
        acts = [self._hit] * 12 + [self._pass] * 5 + [self._leave, self._come_back, self._set]
        if not self._right:
            acts += [self._jump_store, self._jump_worker, self._send_late, self._pass_long]
        await self._rng.choice(acts)()

    async def _hit(self) -> None:
        """One to three hits of a site, of one worker and one instant."""
        rng, worker, of = self._rng, self._rng.choice(self._workers), self._rng.choice(self._sites)
        at = worker.clock.now()
        if self._right:
            assert at == self._times.true
        entries = [self._entry(of, at) for _ in range(rng.randint(1, 3))]
        batch = worker.ledger.seal(of.site.partition, entries, at)
        what = [f"{e.kind} {e.visitor[-1]}" if isinstance(e, Hit) else "drop" for e in entries]
        self._say(f"worker {self._workers.index(worker)} {of.site.id} {what} at {at}")
        sealed = Sealed(batch, of)
        if worker.away or any(each.spool for each in self._workers):
            worker.spool.append(sealed)
        elif worker.late or (not self._right and rng.random() < 0.1):
            worker.late.append(sealed)
        else:
            await self._commit(worker, sealed)

    def _entry(self, of: Modelled, at: int) -> Hit | Drop:
        kind = self._rng.choice(["view", "view", "view", "here", "bye", "bye", "drop"])
        if kind == "drop":
            return Drop(of.site, Reason.BOT, at)
        who = visitor(1 + self._rng.randrange(VISITORS))
        path = f"/{self._rng.randrange(PATHS)}"
        network = self._rng.choice(self._networks)
        return Hit(of.site, Kind(kind), at, who, path, self._rng.random() < 0.2, network)

    async def _commit(self, worker: Worker, sealed: Sealed) -> None:
        (result,) = await worker.ledger.commit([sealed.batch])
        if not isinstance(result, list):
            raise Difference(f"not counted: {result}")
        sealed.of.count(sealed.batch.entries)

    async def _pass(self) -> None:
        """Time passes; with it all that was late arrives."""
        await self._let_pass(self._rng.choice(PASSES))

    async def _pass_long(self) -> None:
        await self._let_pass(self._rng.choice(LONG_PASSES))

    async def _let_pass(self, ms: int) -> None:
        self._times.true += ms
        await self._set_store()

    async def _send_late(self) -> None:
        for worker in self._workers:
            while worker.late and not worker.away:
                await self._commit(worker, worker.late.popleft())

    async def _leave(self) -> None:
        """A worker loses the store, for as long as chance will have it."""
        self._rng.choice(self._workers).away = True
        self._say("a worker is away")

    async def _come_back(self) -> None:
        """All reach the store; spools are brought in one order of time."""
        self._say("all are back")
        for worker in self._workers:
            worker.away = False
        await self._send_late()
        while waiting := [worker for worker in self._workers if worker.spool]:
            worker = min(waiting, key=lambda each: each.spool[0].batch.entries[0].at)
            sealed = worker.spool.popleft()
            await worker.ledger.replay([sealed.batch.record])
            sealed.of.count(sealed.batch.entries)

    async def _set(self) -> None:
        """Other settings of a site; a longer timeout does not change what was counted."""
        of = self._rng.choice(self._sites)
        timeout = of.site.settings.visit_timeout if self._right else self._rng.choice([600, 1800])
        window, pages = self._rng.choice([60, 300, 600]), self._rng.choice([0, 3, 6, 100])
        settings = msgspec.structs.replace(
            of.site.settings, online_window=window, visit_timeout=timeout, max_pages=pages
        )
        of.site = Site(StoredSite(settings, of.site.calendar), 1)
        self._say(f"{of.site.id}: window {window}, timeout {timeout}")

    async def _jump_store(self) -> None:
        """The store's clock jumps, or is right again."""
        ahead = self._rng.choice([1, 1, -1]) * self._rng.choice(JUMPS)
        self._times.store_ahead = (
            0 if self._times.store_ahead and self._rng.random() < 0.7 else ahead
        )
        await self._set_store()

    async def _jump_worker(self) -> None:
        worker = self._rng.choice(self._workers)
        worker.clock.ahead = self._rng.choice([0, 0, 1, -1]) * self._rng.choice(JUMPS)
        self._say(f"worker {self._workers.index(worker)} is ahead by {worker.clock.ahead}")

    async def _set_store(self) -> None:
        """The store's clock shows its time; what has expired by then is gone."""
        times, keys = self._times, await self._client.keys(f"{self._name}:*")
        self._server.stand_at(times.store)
        times.furthest = max(times.furthest, times.store)
        self._say(f"true time {times.true}, the store is ahead by {times.store_ahead}")
        if keys:
            await self._client.exists(*keys)
        for of in self._sites:
            of.expire()

    # -- the judge

    async def _check(self) -> None:
        store, now = self._rng.choice(self._workers).store, self._times.store
        for of in self._sites:
            of.check(await store.counts(of.site, now), of.site.calendar.periods(now))
            key = f"{store._tags[of.site.partition]}:{of.site.id}:1:pages"
            pages: Any = await self._client.zrange(key, 0, -1, withscores=True)
            of.check_pages(dict(pages))
        if self._right and not any(worker.spool for worker in self._workers):
            for each in (each for each in self._sites if not each.forgot):
                by_definition = each.visits_by_definition()
                if each.sums["total", "", "visits"] != by_definition:
                    raise Difference(f"{each.site.id} visits: by definition {by_definition}")

    def _say(self, text: str) -> None:
        self.told.append(text)


def _network(code: int) -> Allowance:
    """One that has no part in the limits."""
    allowance = Allowance()
    allowance.code = code
    return allowance


async def drive(server: Clocked, seed: int, steps: int) -> int:
    """So many steps; returns how many were made. Raises Difference, after telling of it."""
    for done in range(0, steps, EPISODE):
        number = done // EPISODE
        episode = Episode(server, Random(f"{seed}/{number}"), right=number % 3 == 0)
        try:
            await episode.play(min(EPISODE, steps - done))
        except Exception:
            print(f"episode {number} of seed {seed}:", *episode.told, sep="\n  ", flush=True)
            raise
    return steps


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtests.corners")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    options = parser.parse_args()
    with run_clocked() as server:
        try:
            steps = asyncio.run(drive(server, options.seed, options.steps))
        except Difference as difference:
            print(f"DIFFERENCE {difference}")
            return 1
    print(f"{steps:,} steps of seed {options.seed} without a difference")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

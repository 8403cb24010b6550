"""Holds what a store has counted against what its clients were told, hit by hit.

Each hit has a page of its own, which gets its place at once since the sites trust all networks. So
the pages tell what became of each: an acknowledged hit must be there once, any other at most once.
Sums, visits and visitors must be those of exactly the hits that are there. It reads the keys that
counting.lua and pages.lua write, past the service.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from struct import Struct
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster

from loadtests.beacons import LANGUAGE, NETWORK, USER_AGENT, address_of
from loadtests.load import SiteHits
from visit_counter.delivery import dead_letters
from visit_counter.disk.format import HEADER, record_at
from visit_counter.model.site_settings import partition_of
from visit_counter.rules.visitor_hash import browser_hash, visitor_id

NAMESPACE = "vc"
SCRATCH = "chaos:visitors"
KINDS = ("day", "week", "month", "year")
ADDED = 1000  # ids in one command
EACH_PAGE = {"max_pages": 100_000, "trusted_networks": [NETWORK]}  # of a site that is judged
STATE = Struct("<B10s10s10s10s7s7s4s10s36d")  # STATE of store/lua/keys.lua
LABELS = 9  # before the numbers, with the version byte
PART_FIELDS, SITE, PATHS = 18, 0, 11  # of a part of a batch: see store/batch.py

DeadLetters = frozenset[tuple[str, str]]
"""Site and page of each view in a batch that the store refused for good and that was kept."""


@dataclass
class Verdict:
    """What was found: pages lost or doubled, and in words whatever else does not agree."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    """Acknowledged as spooled, then refused by the store for good and kept as a dead letter."""
    wrong: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not (self.lost or self.doubled or self.wrong)

    def again(self, other: Verdict) -> None:
        """A later verdict on the same hits."""
        self.lost = sorted({*self.lost, *other.lost})
        self.doubled = sorted({*self.doubled, *other.doubled})
        self.kept = sorted({*self.kept, *other.kept})
        self.wrong += other.wrong

    def add(self, other: Verdict) -> None:
        self.lost += other.lost
        self.doubled += other.doubled
        self.kept += other.kept
        self.wrong += other.wrong


@dataclass
class Counted:
    """What the store holds of a site."""

    pages: dict[str, int]
    sums: dict[str, Counter[str]]
    """Pageviews (p) and visits (v): in total, and of each kind of period all periods together."""
    visitors: dict[str, int]
    """By sketch; of a kind of period only if there is but one."""


async def judge(
    store: Redis | RedisCluster, sites: Sequence[SiteHits], letters: DeadLetters = frozenset()
) -> Verdict:
    """All hits of these sites against what the store holds of them now. `letters`: where batches
    are made to be refused for good; elsewhere a hit in a dead letter is lost."""
    verdict = Verdict()
    for site in sites:
        verdict.add(await judge_site(store, site, letters))
    return verdict


def letters_in(producers: Path) -> DeadLetters:
    """What lies in the dead letters of all producers of a data directory."""
    files = [path for each in producers.glob("*/rejected") for path in dead_letters.found(each)]
    return frozenset(view for path in files for view in views_in(path))


def views_in(letter: Path) -> Iterator[tuple[str, str]]:
    record = record_at(letter.read_bytes(), len(HEADER))
    assert record, f"a whole record in {letter}"
    packed, _ = msgspec.msgpack.decode(record.payload[1:], type=tuple[bytes, bytes])
    fields = msgspec.msgpack.decode(packed[1:])
    for at in range(0, len(fields), PART_FIELDS):
        for path in fields[at + PATHS] or ():
            yield fields[at + SITE], path


async def judge_site(
    store: Redis | RedisCluster, site: SiteHits, letters: DeadLetters = frozenset()
) -> Verdict:
    counted = await read(store, site.name)
    hits = [n for n in range(site.sent) if page(n) in counted.pages]
    absent = [n for n in range(site.sent) if site.answered[n] and page(n) not in counted.pages]
    kept = [n for n in absent if (site.name, page(n)) in letters]
    verdict = Verdict(
        lost=[f"{site.name}{page(n)}" for n in sorted({*absent} - {*kept})],
        kept=[f"{site.name}{page(n)}" for n in kept],
        doubled=[f"{site.name}{path}" for path, views in counted.pages.items() if views > 1],
    )
    visitors, visits = {site.visitors[n] for n in hits}, site.visits(hits)
    expected: dict[str, int] = {"pages that nobody viewed": 0}
    found = {"pages that nobody viewed": len(counted.pages) - len(hits)}
    for kind, sums in counted.sums.items():
        expected |= {f"pageviews ({kind})": sum(counted.pages.values())}
        expected |= {f"visits ({kind})": visits}
        found |= {f"pageviews ({kind})": sums["p"], f"visits ({kind})": sums["v"]}
    expected |= dict.fromkeys(counted.visitors, await sketched(store, site.name, visitors))
    found |= counted.visitors
    verdict.wrong = [
        f"{site.name}: {what}: expected {number}, found {found[what]}"
        for what, number in expected.items()
        if found[what] != number
    ]
    return verdict


def base_of(site: str) -> str:
    """What the keys of a site begin with, while it was not reset."""
    return f"{NAMESPACE}:{{p{partition_of(site):02}}}:{site}:1:"


def page(n: int) -> str:
    """The path of a site's n-th hit."""
    return f"/{n}"


async def read(store: Redis | RedisCluster, site: str) -> Counted:
    """A site's numbers, all of the same instant."""
    base = base_of(site)
    names = [name.decode() for name in await _ask(store, "ZRANGE", f"{base}index", 0, -1)]
    ended = [name for name in names if name.partition(":")[0] in KINDS]
    sketches = ["visitors:total", *only_ones(names)]
    pipeline = store.pipeline(transaction=True)
    _ = pipeline.zrange(f"{base}pages", 0, -1, withscores=True)
    _ = pipeline.get(f"{base}running")
    for name in ended:
        _ = pipeline.hgetall(base + name)
    for name in sketches:
        # The method of that name is refused by pipelines of a cluster.
        _ = pipeline.execute_command("PFCOUNT", base + name)
    pages, running, *rest = await pipeline.execute()
    sums = running_sums(running or bytes(STATE.size))
    for name, numbers in zip(ended, rest, strict=False):
        for key, value in numbers.items():
            if key.endswith((b"p", b"v")):  # 22p of a day
                sums[name.partition(":")[0]][key.decode()[-1]] += int(value)
    return Counted(
        pages={path.decode(): int(views) for path, views in pages},
        sums=sums,
        visitors=dict(zip(sketches, rest[len(ended) :], strict=True)),
    )


def running_sums(running: bytes) -> dict[str, Counter[str]]:
    """Pageviews and visits of the running periods, and in total."""
    numbers = [int(number) for number in STATE.unpack(running)[LABELS:]]
    places = dict(zip((*KINDS, "total"), (0, 6, 12, 18, 21), strict=True))
    return {kind: Counter(p=numbers[at], v=numbers[at + 1]) for kind, at in places.items()}


def only_ones(names: Sequence[str]) -> list[str]:
    """The sketches of those kinds of period of which there is one."""
    kinds = Counter(name.rpartition(":")[0] for name in names if name.startswith("visitors:"))
    return [name for name in names if kinds[name.rpartition(":")[0]] == 1]


async def sketched(store: Redis | RedisCluster, site: str, visitors: set[int]) -> int:
    """What a sketch of exactly these visitors counts."""
    if not visitors:
        return 0
    secret = bytes.fromhex((await _ask(store, "HGET", f"{NAMESPACE}:{{meta}}", "secret")).decode())
    browser = browser_hash(secret, site, USER_AGENT, LANGUAGE)
    ids = [visitor_id(browser, address_of(v)) for v in visitors]
    await store.delete(SCRATCH)
    for start in range(0, len(ids), ADDED):
        await store.pfadd(SCRATCH, *ids[start : start + ADDED])
    found: int = await store.pfcount(SCRATCH)
    await store.delete(SCRATCH)
    return found


async def _ask(store: Redis | RedisCluster, *command: str | int) -> Any:
    return await store.execute_command(*command)

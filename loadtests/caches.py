"""What each cache on a hit's way takes and saves: the figures of docs/reference/caches.md.

    PYTHONSAFEPATH=1 PYTHONPATH=build/compiled:. .venv/bin/python -m loadtests.caches

With `build/compiled`, which `./dev bench` makes, as the image has it; with `service` instead, plain
Python. Memory: a cache is filled up to its bound with the largest entries that a client can make,
in a process of its own, and tracemalloc says what stays allocated; at the end one process fills all
that strangers can fill, and its resident memory is read. Time: a call that the cache answers
against one that it does not, and all that a hit passes between socket and recorder with the cache
and without, on the requests of the benchmark.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from itertools import count, cycle
from pathlib import Path
from resource import getpagesize
from time import process_time
from timeit import repeat
from typing import Any

from loadtests.bench.requests import hit as bench_hit
from loadtests.bench.requests import of_visitor
from visit_counter import logs
from visit_counter.app import components
from visit_counter.config.settings import Settings
from visit_counter.model import calendar
from visit_counter.model.calendar import Calendar
from visit_counter.model.counts import Counts, Numbers
from visit_counter.model.hit import Drop, Hit
from visit_counter.model.kinds import Kind
from visit_counter.model.site import Site
from visit_counter.model.site_settings import SiteSettings, StoredSite
from visit_counter.process.startup import store_url
from visit_counter.reading.reader import MOST_MORE, Asked, Key, Reading
from visit_counter.rules import bots, origins
from visit_counter.rules.addresses import Address
from visit_counter.rules.limits import Limits
from visit_counter.store.batch import Outcome
from visit_counter.web.components import Components
from visit_counter.web.hits import beacon
from visit_counter.web.hits import intake as intake_module
from visit_counter.web.hits.answers import MOST_RENDERED
from visit_counter.web.hits.intake import Head
from visit_counter.web.lane import request as lane_request
from visit_counter.web.lane.answering import Desk

REQUESTS = 1000
CALLS = 20_000
ROUNDS = 15


def resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * getpagesize()


def microseconds(call: Callable[[], object]) -> float:
    """CPU time of a call: the best of several rounds."""
    return min(repeat(call, timer=process_time, number=CALLS, repeat=ROUNDS)) / CALLS * 1e6


class World:
    """The parts that a hit passes; store and recorder take no part in what is measured."""

    def __init__(self, parts: Components) -> None:
        self.site = site_of("*")
        self.reader, self.intake, self.answers = parts.reader, parts.intake, parts.answers
        parts.sites.by_id[self.site.id] = self.site
        self.desk = Desk(parts)
        self.desk.tell_the_time()
        self.peer = self.intake.peer("127.0.0.1")

    def judge(self, head: bytes, body: bytes) -> Hit | Drop:
        """What a hit passes between the socket and the recorder."""
        request = lane_request.read_request(head)
        assert request
        site = self.desk.site(request.target)
        assert site
        return self.intake.read(site, request.head, self.peer, request.forwarded, body)


def site_of(allowed: str = "*") -> Site:
    settings = SiteSettings(id="s0", timezone="Asia/Ho_Chi_Minh", origins=(allowed,))
    return Site(StoredSite(settings, Calendar.of("Asia/Ho_Chi_Minh")), 1)


def counts(online: int = 81) -> Counts:
    numbers = Numbers(1886, 900, 700)
    at = 1_795_000_000_000
    values: tuple[Any, ...] = (online, *[numbers] * 8, at, at, 90, at, [], [], [])
    return Counts(*values)


def requests() -> list[tuple[bytes, bytes]]:
    """Head and body of what the benchmark sends, each from an address of its own."""
    hits = [of_visitor(bench_hit("count.example", n, 1), n) for n in range(REQUESTS)]
    split = [each.partition(b"\r\n\r\n") for each in hits]
    return [(head, body) for head, _, body in split]


def common(head: bytes) -> bytes:
    """A head as the lane looks for it: without the visitor's address."""
    return lane_request._cut(head, lane_request.FORWARDED)[0]


def bound_of(cache: Any) -> int:
    return int(cache.cache_info().maxsize)


# -- the largest entries


def wide(n: int, characters: int) -> str:
    """A text of its own; one character outside Latin makes each of them take four bytes."""
    text = f"{n} "
    return text + "a" * (characters - len(text) - 1) + "\U0001f600"


def plain(n: int, characters: int) -> str:
    text = f"{n} "
    return text + "a" * (characters - len(text))


def head_with(n: int) -> bytes:
    first = "GET /w/s0 HTTP/1.1\r\nHost: a\r\nReferer: "
    return (first + plain(n, lane_request.MAX_KNOWN - len(first))).encode()


def big_head(n: int) -> Head:
    value = plain(n, lane_request.MAX_KNOWN - 40)
    return Head("a", "", value, "", "", "", "", False, False, True)


def fill_known(world: World) -> object:
    """Without the two that it fills too."""
    with off(world, "kept_heads", "lines"):
        for n in range(bound_of(lane_request._known)):
            assert lane_request.read_request(head_with(n))
    return lane_request._known


def fill_lines(world: World) -> object:
    for n in range(bound_of(lane_request._known_line)):
        lane_request._known_line(f"Referer: {plain(n, lane_request.MAX_KNOWN - 9)}".encode())
    return lane_request._known_line


def fill_kept_heads(world: World) -> object:
    for n in range(bound_of(lane_request._kept_head)):
        value = plain(n, lane_request.MAX_KNOWN - 40)
        lane_request._kept_head("a", "", value, "", "", "", "", False, False, True)
    return lane_request._kept_head


def fill_beacons(world: World) -> object:
    size = beacon.MAX_KEPT_BODY
    for n in range(bound_of(beacon.known_beacon)):
        body = b'{"p":"/%s"}' % wide(n, size - 12).encode()
        assert len(body) <= size
        beacon.known_beacon(body)
    return beacon.known_beacon


def fill_beginnings(world: World) -> object:
    size = beacon.MAX_KEPT_BODY
    for n in range(bound_of(beacon.known_beginning)):
        beginning = b'{"p":"/%s"' % wide(n, size - 12).encode()
        assert len(beginning) <= size
        beacon.known_beginning(beginning)
    return beacon.known_beginning


def fill_standings(world: World) -> object:
    for n in range(bound_of(world.intake._kept_standing)):
        world.intake._kept_standing(world.site, big_head(n), "empty", vouched=True)
    return world


def fill_bots(world: World) -> object:
    for n in range(bound_of(bots._cached)):
        bots.is_bot(plain(n, bots.MAX_LENGTH))
    return bots._cached


def fill_normal(world: World) -> object:
    for n in range(bound_of(origins._normal)):
        origins.origin_of("https://" + wide(n, 300).replace(" ", "-"))
    return origins._normal


def fill_periods(world: World) -> object:
    calendars = [calendar.Calendar.of(name) for name in ("UTC", "Asia/Ho_Chi_Minh")]
    for n in range(bound_of(calendar._periods)):
        calendars[n % 2].periods(n * 60_000 * 1440)
    return calendar._periods


def fill_days(world: World) -> object:
    own = calendar.Calendar.of("UTC")
    for n in range(bound_of(calendar._periods_of_day)):
        own.periods(n * 60_000 * 1440)
    return calendar._periods_of_day


def fill_answers(world: World) -> object:
    for n in range(MOST_RENDERED):
        settings = SiteSettings(id=f"{n:063}", timezone="Asia/Ho_Chi_Minh", origins=("*",))
        site = Site(StoredSite(settings, world.site.calendar), 1)
        hit, outcome = hit_of(site), Outcome(counts(n), None, new=False, held=False)
        answer = world.answers.of(hit, outcome)
        answer.http = world.desk.write(200, b"x" * 60, answer.body)
    return world


def fill_shown(world: World) -> object:
    for n in range(MOST_RENDERED):
        settings = SiteSettings(id=f"{n:063}", timezone="Asia/Ho_Chi_Minh", origins=("*",))
        site = Site(StoredSite(settings, world.site.calendar), 1)
        world.desk.show(site, Reading(counts(n), 0, 1))
    return world


def fill_kept(world: World) -> object:
    """Of 10,000 sites."""
    for n in range(10_000):
        world.reader._kept[f"{n:063}"] = Reading(counts(n), n, 1)
    return world


def fill_kept_paths(world: World) -> object:
    for n in range(MOST_MORE + 1):
        world.reader._keep(Key(f"{n % 2:063}", Asked("/" + wide(n, 508))), Reading(counts(n), n, 1))
    return world


def fill_limits(world: World) -> object:
    """As long as an IPv6 network can be written."""
    limits = Limits(lambda: 0.0)
    for n in range(65_535):
        network = f"2001:db8:{n >> 8 & 0xFF | 0xFF00:x}:{n & 0xFF | 0xFF00:x}"
        limits.of(Address(f"{network}::/64", 16, 0x20010DB8 << 96 | n << 80))
    return limits


def hit_of(site: Site) -> Hit:
    return Hit(site, Kind.VIEW, 0, b"12345678", "/")


FILLS = {
    name.removeprefix("fill_"): each for name, each in globals().items() if name[:5] == "fill_"
}


# Filled by requests of whoever likes to, in the worst order: what each holds, no other one does.
STRANGERS = (
    *("known", "lines", "kept_heads", "standings", "beacons", "beginnings", "bots", "normal"),
    *("kept_paths", "limits"),
)
ALL = "all"


# -- the time


def timings(world: World) -> Iterator[tuple[str, Callable[[], object], Callable[[], object]]]:
    """A call that the cache answers, and one that does without it."""
    head, body = requests()[7]
    known = common(head)
    request = lane_request.read_request(head)
    assert request
    own, site, intake = request.head, world.site, world.intake
    lines = known.split(b"\r\n")[1:]
    agent, origin, host = own.user_agent, own.origin, own.host
    minute = 1_795_000_000 // 60
    cal, day = site.calendar, date(2026, 11, 16)
    hit = hit_of(site)
    outcomes = cycle([Outcome(counts(n), None, new=False, held=False) for n in (1, 2)])
    same, readings = next(outcomes), cycle([Reading(counts(n), 0, 1) for n in (1, 2)])
    reading = next(readings)
    yield (
        "known",
        lambda: lane_request._known(known),
        lambda: lane_request._known.__wrapped__(known),
    )
    yield (
        "lines",
        lambda: [lane_request._known_line(line) for line in lines],
        lambda: [lane_request.read_line(line) for line in lines],
    )
    fields = (host, origin, own.referer, agent, own.language, "cors", "empty", False, False, True)
    yield "kept_heads", lambda: lane_request._kept_head(*fields), lambda: Head(*fields)
    _, beginning = beacon.split_view(body)
    yield (
        "beginnings",
        lambda: beacon.known_beginning(beginning),
        lambda: beacon.read_beginning(beginning),
    )
    yield (
        "standings",
        lambda: intake._kept_standing(site, own, "empty", True),
        lambda: intake._standing(site, own, "empty", True),
    )
    yield "bots", lambda: bots._cached(agent), lambda: bots._matches(agent)
    page, normal = ("https", "portal.example"), origins._normal
    yield "normal", lambda: normal(*page), lambda: normal.__wrapped__(*page)
    yield (
        "periods",
        lambda: calendar._periods(cal, minute),
        lambda: calendar._periods.__wrapped__(cal, minute),
    )
    yield (
        "days",
        lambda: calendar._periods_of_day(cal, day),
        lambda: calendar._periods_of_day.__wrapped__(cal, day),
    )
    yield (
        "answers",
        lambda: world.answers.of(hit, same),
        lambda: world.answers.of(hit, next(outcomes)),
    )
    yield (
        "shown",
        lambda: world.desk.show(site, reading),
        lambda: world.desk.show(site, next(readings)),
    )
    yield "common headers", lambda: None, world.desk.tell_the_time
    yield "peer", lambda: None, lambda: intake.peer("127.0.0.1")


def whole(world: World, sent: list[tuple[bytes, bytes]]) -> float:
    """Microseconds of a hit between socket and recorder, without what it takes to name it."""
    following = cycle(sent)
    calls = microseconds(lambda: world.judge(*next(following)))
    return calls - microseconds(lambda: next(following))


@contextmanager
def off(world: World, *names: str) -> Iterator[None]:
    """Some caches are left out."""
    places: dict[str, tuple[Any, str, Callable[..., object] | None]] = {
        "known": (lane_request, "_known", None),
        "lines": (lane_request, "_known_line", None),
        "kept_heads": (lane_request, "_kept_head", None),
        "beginnings": (intake_module, "known_beginning", None),
        "standings": (world.intake, "_kept_standing", world.intake._standing),
        "bots": (bots, "_cached", None),
        "normal": (origins, "_normal", None),
    }
    before = {name: getattr(*places[name][:2]) for name in names}
    for name, cached in before.items():
        owner, attribute, instead = places[name]
        setattr(owner, attribute, instead or cached.__wrapped__)
    try:
        yield
    finally:
        for name, cached in before.items():
            setattr(*places[name][:2], cached)


async def measured(fill: str | None) -> None:
    with tempfile.TemporaryDirectory(prefix="vc-") as directory:
        environ = {"DATA_DIR": directory, "LISTEN": "127.0.0.1:0", "TIMEZONE": "UTC"}
        names = {f"VISIT_COUNTER_{name}": value for name, value in environ.items()}
        settings = Settings.from_env(names)
        async with store_url(settings) as url, components(settings, url) as parts:
            world = World(parts)
            if fill == ALL:
                tell_all(world)
            elif fill:
                tell_memory(world, fill)
            else:
                tell_times(world)


def tell_memory(world: World, fill: str) -> None:
    tracemalloc.start()
    kept = FILLS[fill](world)
    gc.collect()
    print(f"{fill}: {tracemalloc.get_traced_memory()[0] / 2**20:.1f} MiB", flush=True)
    del kept


def tell_all(world: World) -> None:
    before = resident()
    kept = [FILLS[name](world) for name in STRANGERS]
    print(f"{', '.join(STRANGERS)}: {(resident() - before) / 2**20:.1f} MiB resident", flush=True)
    del kept


def tell_times(world: World) -> None:
    for name, cached, without in timings(world):
        print(f"{name}: {microseconds(cached):.2f} µs, without {microseconds(without):.2f} µs")
    alike = requests()
    number = count()
    own = [(head + b"\r\nX-Request-Id: %032x" % next(number), body) for head, body in alike * 9]
    on_the_way = ("known", "lines", "kept_heads", "beginnings", "standings", "bots", "normal")
    for names in ((), *((name,) for name in on_the_way), on_the_way[:3], on_the_way):
        with off(world, *names):
            print(
                f"a hit: {whole(world, alike):.2f} µs, with an id of its own "
                f"{whole(world, own):.2f} µs, without {' '.join(names) or 'none'}"
            )


def main() -> None:
    logs.configure("console")
    parser = argparse.ArgumentParser(description="What each cache takes and saves.")
    parser.add_argument("--fill", choices=[*FILLS, ALL], help="one cache's memory")
    parser.add_argument("--times", action="store_true", help="no memory")
    options = parser.parse_args()
    if options.fill is None and not options.times:
        for name in (*FILLS, ALL):
            subprocess.run([sys.executable, "-m", "loadtests.caches", "--fill", name], check=True)
    asyncio.run(measured(options.fill))


if __name__ == "__main__":
    main()

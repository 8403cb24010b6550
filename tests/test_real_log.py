"""A real site's access log, replayed as page hits over HTTP, against an oracle of plain Python.

Each of the 10,000 lines becomes a hit with the line's address, user agent, path and time. What the
service then answers is compared with what the lines say: dicts and sets, exact. The oracle imports
nothing of the service and repeats none of its code, so the two can only agree by being right.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import cache
from itertools import groupby
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

import pytest
from aiohttp import ClientSession, TCPConnector
from crawleruseragents import CRAWLER_USER_AGENTS_DATA  # type: ignore[import-untyped]

from tests.kit.services.in_process import Service, StoppedClock, run_service
from tests.kit.stores.server import Server
from tests.kit.tools import shared_data

CONNECTIONS = 8
VISIT_MS = 30 * 60 * 1000
DAYS = [f"2015-05-{day}" for day in range(16, 22)]  # the log's four, one before, one after

# The closing quote may be missing: one line of the log is cut off in its user agent.
LINE = re.compile(
    r'(?P<address>\S+) \S+ \S+ \[(?P<time>[^]]+)] "[A-Z]+ (?P<target>/\S*) HTTP/1[.][01]" '
    r'\d{3} \S+ "[^"]*" "(?P<user_agent>[^"]*)"?'
)

# The list's pattern names Google's image cache, which fetches for a person who reads a mail.
PERSON_LISTED = "GoogleImageProxy"
PROGRAMS = [
    re.compile(crawler["pattern"])
    for crawler in CRAWLER_USER_AGENTS_DATA
    if crawler["pattern"] != PERSON_LISTED
]
PROGRAMS_NOT_LISTED = (
    "UniversalFeedParser",  # feedparser.org, a library that polls feeds
    "Chef Client",  # configuration management that downloads a file
    "Daumoa",  # the search robot of daum.net
    "BeetleBot",
    "LumiBot",
    "EasouSpider",  # the search robot of easou.com
    "Ezooms",  # the robot of moz.com
    "Digg Feed Fetcher",
    "Google favicon",  # fetches a site's icon
    "Google Desktop",  # indexes what somebody has read
    "Spinn3r",  # collects blogs
    "LiveJournal.com",  # fetches feeds for its readers
    "Superblock-Denim",
    "eZ Publish Link Validator",
    "slurp",  # as Yahoo's robot, in lower case
)


class Line(NamedTuple):
    """What a log line says of a hit."""

    at: int
    day: str
    address: str
    user_agent: str
    target: str


class Expected:
    """The oracle: what the lines of a log, in their order, come to."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self.pageviews: Counter[str] = Counter()
        self.visits: Counter[str] = Counter()
        self.visitors: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
        self.paths: Counter[str] = Counter()
        self.drops: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._last: dict[tuple[str, str], int] = {}
        for line in lines:
            self._count(line)

    def _count(self, line: Line) -> None:
        if is_program(line.user_agent):
            self.drops[line.day]["bot"] += 1
        else:
            visitor = (line.address, line.user_agent)
            self.pageviews[line.day] += 1
            self.paths[path_of(line.target)] += 1
            self.visits[line.day] += line.at - self._last.get(visitor, -VISIT_MS) >= VISIT_MS
            self.visitors[line.day].add(visitor)
            self._last[visitor] = line.at

    def on(self, day: str) -> dict[str, list[str]]:
        """The days that each period holds when one looks on a day."""
        ordinal = datetime.fromisoformat(day).toordinal()
        monday = ordinal - datetime.fromisoformat(day).weekday()
        return {
            "today": [day],
            "yesterday": days_from(ordinal - 1, 1),
            "week": days_from(monday, 7),
            "last_week": days_from(monday - 7, 7),
            "month": DAYS,
            "last_month": [],
            "year": DAYS,
            "total": DAYS,
        }

    def exact(self, days: Sequence[str]) -> tuple[int, int]:
        """Pageviews and visits."""
        return sum(self.pageviews[day] for day in days), sum(self.visits[day] for day in days)

    def distinct(self, days: Sequence[str]) -> int:
        return len(set().union(*(self.visitors[day] for day in days)))


def read_log() -> list[Line]:
    """Every line, in the order of time; a line that cannot be read is an error."""
    text = shared_data("apache_logs").read_text("utf-8")
    return sorted(map(read_line, text.splitlines()), key=lambda line: line.at)


def read_line(text: str) -> Line:
    found = LINE.fullmatch(text)
    assert found, text
    when = datetime.strptime(found["time"], "%d/%b/%Y:%H:%M:%S %z").astimezone(UTC)
    return Line(
        int(when.timestamp()) * 1000,
        when.date().isoformat(),
        found["address"],
        found["user_agent"],
        found["target"],
    )


@cache
def is_program(user_agent: str) -> bool:
    if user_agent == "-" or any(name in user_agent for name in PROGRAMS_NOT_LISTED):
        return True
    return any(program.search(user_agent) for program in PROGRAMS)


def path_of(target: str) -> str:
    """Without the query, and without escapes where they stand for text."""
    path = re.split("[?#]", target)[0]
    try:
        decoded = unquote_to_bytes(path).decode()
    except UnicodeDecodeError:
        decoded = path
    if any(ord(character) < 32 or 126 < ord(character) < 160 for character in decoded):
        decoded = path
    return decoded.encode()[:512].decode(errors="ignore")


def days_from(ordinal: int, number: int) -> list[str]:
    return [datetime.fromordinal(n).date().isoformat() for n in range(ordinal, ordinal + number)]


async def replay(service: Service, clock: StoppedClock, lines: Iterable[Line]) -> None:
    """Send the hits over several connections; no second of the log begins before the last ended."""
    async with ClientSession(
        connector=TCPConnector(limit=CONNECTIONS),
        skip_auto_headers=["User-Agent"],
        raise_for_status=True,
    ) as client:
        for at, hits in groupby(lines, key=lambda line: line.at):
            clock.at = at
            await asyncio.gather(*(send(client, service.url, hit) for hit in hits))


async def send(client: ClientSession, url: str, line: Line) -> None:
    headers = {"X-Forwarded-For": line.address}
    if line.user_agent != "-":
        headers["User-Agent"] = line.user_agent
    async with client.post(f"{url}/w/portal", json={"p": line.target}, headers=headers) as answer:
        await answer.read()


async def look(service: Service, **query: str) -> dict[str, dict[str, int]]:
    async with service.client.get(f"{service.url}/w/portal", params=query) as answer:
        found: dict[str, dict[str, int]] = await answer.json()
        return found


async def look_on(service: Service, clock: StoppedClock, day: str) -> dict[str, dict[str, int]]:
    """The counts as somebody sees them at noon of a day."""
    clock.at = int(datetime.fromisoformat(f"{day}T12:00+00:00").timestamp()) * 1000
    return await look(service)


async def test_a_real_log_counts_as_its_lines_say(store_server: Server) -> None:
    """Pageviews, pages, visits and drops are exact on every day, visitors within 2 %."""
    lines = read_log()
    expected = Expected(lines)
    clock = StoppedClock(lines[0].at)
    # How far a sketch errs depends on the ids, so on the secret: the same in every run.
    store_server.call("HSET", "reallog:{meta}", "secret", b"the secret of this test".hex())
    async with run_service(store_server.url, clock=clock, namespace="reallog") as service:
        await service.site(trusted_networks=["0.0.0.0/0", "::/0"])
        await replay(service, clock, lines)
        seen = {day: await look_on(service, clock, day) for day in DAYS}
        paths = {path: (await look(service, path=path))["page"] for path in expected.paths}
        drops = await service.api("GET", f"/sites/portal/drops?from={DAYS[0]}&to={DAYS[-1]}")

    assert len(lines) == 10_000
    assert expected.drops == drops
    assert expected.paths == {path: page["pageviews"] for path, page in paths.items()}
    assert expected.paths.total() + sum(sum(day.values()) for day in drops.values()) == 10_000
    for day in DAYS:
        for period, days in expected.on(day).items():
            found = seen[day][period]
            assert expected.exact(days) == (found["pageviews"], found["visits"]), (day, period)
            assert expected.distinct(days) == pytest.approx(found["visitors"], rel=0.02)

"""What is done to a release, and what it must then show: the same for every release.

    book = Book()
    write(service, book)        # sites, hits, seeds, resets: noted in the book as acknowledged
    spool(service, book)        # more hits, while the store is away
    check(service, book)        # everything in the book, by another release or the same
    go_on(service, book)        # everybody comes again, and is known

All of it goes through HTTP, as pages and admins do it. `service` is whichever release runs; with
several workers each of them gets a part of the hits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen
from zlib import crc32

from tests.kit.services.process import ServiceProcess, by_each, call, until
from tests.kit.services.releases_book import SEEDED, Book, Hit, Site, differences

ORIGIN = "https://www.example.vn"
OVERFLOW = 4  # max_pages of the site that has more
KEPT = [f"/page/{number}" for number in range(OVERFLOW)]
SPOOLED = ("shop", "browser", "strict", "resets")
"""Sites that get hits while the store is away; the others must be after it as before."""
LATEST = "latest"
"""The site that is made last."""
ROLES = (
    "shop", "browser", "strict", "resets", "moved", "quiet", "past", "hidden", "seeded",
    "neighbour", LATEST,
)  # fmt: skip
PARTITIONS = 64
DAYS = 30  # of spark.svg
KNOWN_S = SHOWN_S = 5.0
DAY_AND_MORE = timedelta(hours=25)
LEFT_S = 10.0  # a bye counts 2 s after a view


def partition(site: str) -> int:
    return crc32(site.encode()) % PARTITIONS


def names(prefix: str) -> dict[str, str]:
    """The ids of the scenario's sites by what they are for, in partitions of their own except that
    `neighbour` shares that of `shop`."""
    found: dict[str, str] = {}
    for role in ROLES:
        if role == "neighbour":
            free = {partition(found["shop"])}
        else:
            free = {*range(PARTITIONS)} - {partition(site) for site in found.values()}
        ids = (f"{prefix}{role}-{n}" for n in count())
        found[role] = next(site for site in ids if partition(site) in free)
    return found


def settings(prefix: str, zones: Sequence[str]) -> list[dict[str, Any]]:
    """The scenario's sites: each differs in something that a release must keep."""
    own: dict[str, dict[str, Any]] = {
        "shop": {"max_pages": OVERFLOW, "name": "Cổng thông tin"},
        "browser": {"identity": "browser", "metric": "visitors", "week_start": "sunday"},
        "strict": {"origins": [ORIGIN], "honour_dnt": True, "metric": "pageviews"},
        "resets": {"week_start": "wednesday"},
        "moved": {"week_start": "saturday"},
        "hidden": {"public": False, "trusted_networks": ["198.51.100.0/24"]},
    }
    long = {"origins": ["*"], "online_window": 7200, "visit_timeout": 7200}
    return [
        {"id": site, "timezone": zones[n % len(zones)], **long, **own.get(role, {})}
        for n, (role, site) in enumerate(names(prefix).items())
    ]


# -- what pages do


def post(url: str, hit: Hit) -> tuple[int, Any]:
    """Send a hit as a visitor's browser would through a proxy on this host."""
    body: dict[str, Any] = {"k": hit.kind, "p": hit.path}
    if hit.visitor is not None:
        body["v"] = f"browser-{hit.visitor}"
    data = b'{"k": ' if hit.drop == "malformed" else json.dumps(body).encode()
    address = f"{url}/w/{hit.site}"
    if hit.picture:
        address, data = f"{address}/dot.gif?p={quote(hit.path)}", b""
    request = Request(address, data or None, headers(hit), method="GET" if hit.picture else "POST")
    try:
        with urlopen(request, timeout=10) as answer:
            return answer.status, {} if hit.picture else json.load(answer)
    except HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def headers(hit: Hit) -> dict[str, str]:
    """Visitors differ by their address or, each second one, by their browser only."""
    number = 0 if hit.visitor is None else hit.visitor
    network = number // 2
    address = f"2001:db8:{network:x}::1" if network % 5 == 0 else f"198.51.100.{network % 250}"
    sent = {
        "User-Agent": f"Mozilla/5.0 (X11; Linux x86_64; rv:{128 + number % 2}.0) Firefox/128.0",
        "Accept-Language": "vi,en;q=0.7",
        "X-Forwarded-For": f"203.0.113.9, {address}",
        "Origin": ORIGIN,
    }
    if hit.visitor is None:
        sent["Sec-GPC"] = "1"
    changed = {
        "bot": {"User-Agent": "curl/8.5.0"},
        "prefetch": {"Sec-Purpose": "prefetch"},
        "origin": {"Origin": "https://elsewhere.example"},
    }
    return sent | changed.get(hit.drop, {})


def deliver(
    service: ServiceProcess, book: Book, hits: Sequence[Hit], *, spooled: bool = False
) -> None:
    """Send hits, many at once and in no order, an equal part to each worker; note those that were
    acknowledged, which all must be."""
    url = service.url
    number = len(service.workers) or 1
    parts = iter([hits[n::number] for n in range(number)])

    def part() -> None:
        mine = next(parts)
        for hit, (status, answer) in zip(mine, _at_once(url, mine), strict=True):
            late = status == 202 and not spooled  # as any may be on a busy machine
            assert late or status == _status(hit, spooled=spooled), (hit, status, answer)
            if status != 400 and not hit.picture:
                assert answer["counted"] is not bool(hit.drop), (hit, answer)
                assert answer.get("reason", "") == hit.drop, (hit, answer)
        book.add(mine, now(service))

    by_each(service, part)


def _at_once(url: str, hits: Sequence[Hit]) -> list[tuple[int, Any]]:
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda hit: post(url, hit), hits))


def _status(hit: Hit, *, spooled: bool) -> int:
    if hit.drop == "malformed":
        return 400
    return 202 if spooled else 200


def now(service: ServiceProcess) -> datetime:
    """The service's time, which is another one under faketime."""
    return datetime.now(UTC) - service.past


# -- what admins do


def make_sites(service: ServiceProcess, book: Book, prefix: str, *, latest: bool) -> None:
    """The last of the scenario's sites, or all others."""
    latest_id = names(prefix)[LATEST]
    made = [each for each in settings(prefix, book.zones) if (each["id"] == latest_id) is latest]
    for each in made:
        service.api("POST", "/sites", {**each, "operation": f"make-{each['id']}"})
    sites = [book.site(each) for each in made]
    known(service, sites)
    for site in sites:
        site.now.since = since(service, site)


def known(service: ServiceProcess, sites: Iterable[Site]) -> None:
    """Wait until all workers know these sites as they are in the book."""

    def is_known(site: Site) -> bool:
        path = f"{service.url}/api/v1/sites/{site.id}"
        status, found = call("GET", path, token=service.token)
        return status == 200 and not differences(site.settings, found, site.id)

    by_each(service, lambda: until(lambda: all(map(is_known, sites)), KNOWN_S))


def change(service: ServiceProcess, site: Site, operation: str, **changes: Any) -> None:
    service.api("PATCH", f"/sites/{site.id}", {**changes, "operation": operation})
    site.change(now(service), **changes)
    known(service, [site])


def seed(service: ServiceProcess, site: Site, operation: str, metric: str, **add: int) -> None:
    order = {"metric": metric, "add": add, "operation": operation}
    service.api("POST", f"/sites/{site.id}/seed", order)
    site.seed(now(service), metric, add)


def reset(service: ServiceProcess, site: Site, operation: str) -> None:
    order = {"confirm": site.id, "operation": operation, "reason": "a test"}
    assert service.api("POST", f"/sites/{site.id}/reset", order) == {"undo": operation}
    site.reset(operation)
    site.now.since = since(service, site)
    # Hits count as the worker knows the site that takes them. It learns of a reset together with
    # settings, and those it shows.
    change(service, site, f"{operation}-known", name=f"after {operation}")


def undo(service: ServiceProcess, site: Site, operation: str) -> None:
    answer = service.api("POST", f"/sites/{site.id}/undo/{operation}")
    assert answer["undone"] == operation
    site.undo(operation)


def since(service: ServiceProcess, site: Site) -> int:
    return int(service.counts(site.id)["since"])


def leave(service: ServiceProcess, book: Book, site: Site, visitor: int) -> None:
    """Say bye until that counts, which it does 2 s after the last view."""
    online = service.counts(site.id)["online"]

    def gone() -> bool:
        post(service.url, Hit(site.id, visitor, kind="bye"))
        return bool(service.counts(site.id)["online"] == online - 1)

    until(gone, LEFT_S)
    book.add([Hit(site.id, visitor, kind="bye")], now(service))


# -- the scenario


def history(now: datetime) -> list[timedelta]:
    """How long ago the past is written, yesterday last: in last month and in last week, wherever
    the sites are."""
    return [*sorted({timedelta(days=now.day + 2), timedelta(days=7)}, reverse=True), DAY_AND_MORE]


def write_past(service: ServiceProcess, book: Book, turn: int, prefix: str = "") -> None:
    """Days before, one call for each, the first with turn 0: numbers that are settled and frozen by
    now, and changes of the calendar that have taken effect since."""
    if turn == 0:
        make_sites(service, book, prefix, latest=False)
    sites = {role: book.sites[site] for role, site in names(prefix).items() if role != LATEST}
    moved, past = sites["moved"], sites["past"]
    many = [
        Hit(sites[role].id, visitor, KEPT[visitor % OVERFLOW])
        for role in ("shop", "moved", "past", "resets")
        for visitor in range(2 * turn, 6 + 3 * turn)
    ]
    deliver(service, book, [*many, Hit(past.id, None, drop="bot")])
    seed(service, past, f"{prefix}seed-past-{turn}", "pageviews", month=50, today=5)
    if turn == 0:
        change(service, moved, f"{prefix}week-start-0", week_start="tuesday")
    elif service.past == DAY_AND_MORE:
        change(service, moved, f"{prefix}timezone-0", timezone=_another_zone(book, moved))


def _another_zone(book: Book, site: Site) -> str:
    return book.zones[book.zones.index(site.settings["timezone"]) - 1]


def write(service: ServiceProcess, book: Book, prefix: str = "") -> None:
    """Sites and hundreds of hits on them, seeds, changes of settings, and three resets of which the
    first is undone."""
    roles = names(prefix)
    if roles["shop"] not in book.sites:
        make_sites(service, book, prefix, latest=False)
    make_sites(service, book, prefix, latest=True)
    sites = {role: book.sites[site] for role, site in roles.items()}
    deliver(service, book, [Hit(roles["shop"], n, path) for n, path in enumerate(KEPT)])
    deliver(service, book, [*_visits(roles), *_drops(roles)])
    _changes(service, book, sites, prefix)
    _seeds(service, sites, prefix)
    _resets(service, book, sites["resets"], prefix)
    leave(service, book, sites["neighbour"], 1)


def _visits(roles: dict[str, str]) -> list[Hit]:
    shop, strict = roles["shop"], roles["strict"]
    hits = [Hit(shop, n % 40, f"/page/{n % 7}") for n in range(100)]
    hits += [Hit(roles["browser"], n % 30, f"/{n % 9}") for n in range(60)]
    hits += [Hit(strict, n % 12, "/tin-tức/ngày-mới") for n in range(24)]
    hits += [Hit(strict, None, "/unknown") for _ in range(8)]
    hits += [Hit(roles["resets"], n, "/first") for n in range(15)]
    hits += [Hit(roles["moved"], n % 10, "/moved") for n in range(20)]
    hits += [Hit(roles["hidden"], n, "/hidden") for n in range(10)]
    hits += [Hit(roles["neighbour"], n % 7, "/neighbour") for n in range(14)]
    hits += [Hit(roles["seeded"], n, "/seeded") for n in range(5)]
    hits += [Hit(shop, n, kind="here") for n in range(30, 50)]  # some of whom have no view
    hits += [Hit(shop, n, KEPT[0], picture=True) for n in range(50, 53)]
    return hits


def _drops(roles: dict[str, str]) -> list[Hit]:
    drops = [Hit(roles["strict"], n, drop="origin") for n in range(5)]
    drops += [Hit(roles["shop"], n, drop="bot") for n in range(4)]
    drops += [Hit(roles["shop"], n, drop="prefetch") for n in range(3)]
    drops += [Hit(roles["shop"], n, drop="malformed") for n in range(2)]
    drops += [Hit(roles["resets"], n, drop="bot") for n in range(2)]
    return drops


def _changes(service: ServiceProcess, book: Book, sites: dict[str, Site], prefix: str) -> None:
    """One of a timezone and one of a week start, which take effect on a later day."""
    moved = sites["moved"]
    change(service, moved, f"{prefix}timezone-1", timezone=_another_zone(book, moved))
    change(service, moved, f"{prefix}week-start-1", week_start="thursday", name="đã chuyển")
    change(service, sites["quiet"], f"{prefix}name-quiet", name="nobody comes")


def _seeds(service: ServiceProcess, sites: dict[str, Site], prefix: str) -> None:
    seeded, shop = sites["seeded"], sites["shop"]
    everything = {period: 1000 + n for n, period in enumerate(SEEDED)}
    seed(service, seeded, f"{prefix}seed-visits", "visits", **everything)
    seed(service, seeded, f"{prefix}seed-visitors", "visitors", total=7_000_000_000, year=70)
    seed(service, seeded, f"{prefix}seed-below", "pageviews", today=-5, week=-2, total=1)
    seed(service, shop, f"{prefix}seed-shop-0", "visits", total=1_891_451, month=20)
    seed(service, shop, f"{prefix}seed-shop-1", "visits", total=-451)
    seed(service, sites["resets"], f"{prefix}seed-resets", "visits", total=100, today=10)


def _resets(service: ServiceProcess, book: Book, site: Site, prefix: str) -> None:
    reset(service, site, f"{prefix}reset-undone")
    deliver(service, book, [Hit(site.id, n, "/second") for n in range(10, 30)])
    undo(service, site, f"{prefix}reset-undone")
    reset(service, site, f"{prefix}reset-older")
    deliver(service, book, [Hit(site.id, n, "/first") for n in range(25, 45)])
    seed(service, site, f"{prefix}seed-between", "visits", total=7)
    reset(service, site, f"{prefix}reset-newer")
    deliver(service, book, [Hit(site.id, n, "/first") for n in range(40, 60)])


def spool(service: ServiceProcess, book: Book, prefix: str = "") -> None:
    """Hits while the store is away: of visitors whom it knows and of others, and drops."""
    roles = names(prefix)
    hits = [Hit(roles["shop"], n, f"/page/{n % 7}") for n in range(35, 60)]
    hits += [Hit(roles["browser"], n, f"/{n % 9}") for n in range(20, 40)]
    hits += [Hit(roles["strict"], n, "/tin-tức/ngày-mới") for n in range(8, 16)]
    hits += [Hit(roles["strict"], None, "/unknown") for _ in range(4)]
    hits += [Hit(roles["resets"], n, "/first") for n in range(50, 65)]
    hits += [Hit(roles["shop"], n, kind="here") for n in range(58, 62)]
    hits += [Hit(roles["shop"], n, drop="bot") for n in range(3)]
    hits += [Hit(roles["strict"], n, drop="origin") for n in range(2)]
    deliver(service, book, hits, spooled=True)


# -- what must be true of it


def snapshot(service: ServiceProcess, book: Book) -> dict[str, Any]:
    """All counts as the store has them now."""
    book.touched.clear()
    return {site: service.counts(site) for site in book.sites}


def unchanged(service: ServiceProcess, book: Book, before: dict[str, Any]) -> list[str]:
    """What differs of the sites that nothing has happened to since, also where it is sketched."""
    return [
        problem
        for site, counts in before.items()
        if site not in book.touched
        for problem in exact(counts, service.counts(site), site)
    ]


def exact(before: dict[str, Any], after: dict[str, Any], where: str) -> list[str]:
    """Every value of an answer; a later release may add fields, which an earlier one lacks: there
    is nothing in them then."""
    return [
        f"{where}.{name}: {after.get(name)!r}, and it was {value!r}"
        for name, value in before.items()
        if after.get(name, []) != value
    ]


def check(service: ServiceProcess, book: Book) -> None:
    """Everything that is in the book."""
    at = now(service)
    problems = [each for site in book.sites.values() for each in wrong(service, site, at)]
    assert not problems, "\n".join(problems)
    for site in book.sites.values():
        _shown_soon(service, site, at)


def _shown_soon(service: ServiceProcess, site: Site, at: datetime) -> None:
    """What anybody is shown may be a second old, by another worker than the one asked before."""
    problems: list[str] = []

    def right() -> bool:
        problems[:] = wrongly_shown(service, site, at)
        return not problems

    with suppress(AssertionError):
        until(right, SHOWN_S)
    assert not problems, "\n".join(problems)


def wrong(service: ServiceProcess, site: Site, at: datetime) -> list[str]:
    """What differs of what admins are shown: the counts as they are in the store, settings and
    drops."""
    problems = differences(site.counts(at), service.counts(site.id), site.id)
    shown = service.api("GET", f"/sites/{site.id}")
    problems += differences(site.settings, shown, f"{site.id} settings")
    if site.now.drops:
        drops = {day: dict(hits) for day, hits in site.now.drops.items()}
        found = service.api("GET", f"/sites/{site.id}/drops?from={min(drops)}")
        problems += exact(drops, found, f"{site.id} drops") + exact(
            found, drops, f"{site.id} drops"
        )
    return problems


def wrongly_shown(service: ServiceProcess, site: Site, at: datetime) -> list[str]:
    """What differs of GET /w/{site}, and of the views of single pages. A page without a place shows
    the views for which it waits, and of those before, by releases that did not know it, none."""
    pages = site.now.pages
    kept = KEPT if site.max_pages == OVERFLOW else pages
    found = {path: get(service, site, path)["page"]["pageviews"] for path in pages}
    expected = {
        path: number if path in kept else min(number, found[path]) for path, number in pages.items()
    }
    problems = differences(site.counts(at), get(service, site), f"GET {site.id}")
    problems += exact(expected, found, f"{site.id} pages")
    for metric in ("pageviews", "visits"):
        days, bars = site.last_days(at, DAYS, metric), spark(service, site, metric)
        parts = [number / max(*days, 1) for number in days]
        if any(abs(bar - part) > 0.02 for bar, part in zip(bars, parts, strict=True)):
            problems.append(f"{site.id} spark.svg, {metric}: {bars} do not stand for {days}")
    return problems


def spark(service: ServiceProcess, site: Site, metric: str) -> list[float]:
    """The bars of spark.svg, as parts of the highest: no other answer of 0.1 shows older days."""
    request = Request(f"{service.url}/w/{site.id}/spark.svg?metric={metric}")
    request.add_header("Authorization", f"Bearer {service.token}")
    with urlopen(request, timeout=10) as answer:
        bars = re.findall(r'<rect class="(?:soft|accent)"([^>]*)>', answer.read().decode())
    heights = [float(re.findall(r' height="([\d.]+)"', bar)[0]) for bar in bars]
    lowest, highest = min(heights), max(heights)  # that of a day on which nobody came is not 0
    return [(height - lowest) / ((highest - lowest) or 1) for height in heights]


def get(service: ServiceProcess, site: Site, path: str = "") -> Any:
    """GET /w/{site}, with the admin token, as a site that is not public needs it."""
    query = f"?path={quote(path)}" if path else ""
    status, answer = call("GET", f"{service.url}/w/{site.id}{query}", token=service.token)
    assert status == 200, answer
    return answer


def repeat_operations(service: ServiceProcess, book: Book, prefix: str = "") -> None:
    """What was done under an id is not done again, and the id is taken for anything else."""
    sites = {role: book.sites[site] for role, site in names(prefix).items()}
    before = snapshot(service, book)
    made = settings(prefix, book.zones)[-1]  # the first ones may be older than 30 days
    service.api("POST", "/sites", {**made, "operation": f"make-{made['id']}"})
    order = {"metric": "visits", "add": {"total": 7}}
    for operation in (f"{prefix}seed-shop-0", f"{prefix}seed-shop-1"):
        service.api("POST", f"/sites/{sites['shop'].id}/seed", {**order, "operation": operation})
    resets = f"/sites/{sites['resets'].id}"
    confirm = {"confirm": sites["resets"].id}
    for operation in ("reset-undone", "reset-older", "reset-newer"):
        service.api("POST", f"{resets}/reset", {**confirm, "operation": f"{prefix}{operation}"})
    quiet = {"name": "nobody comes", "operation": f"{prefix}name-quiet"}
    service.api("PATCH", f"/sites/{sites['quiet'].id}", quiet)
    used = {**order, "operation": f"{prefix}reset-newer"}
    assert _refused(service, "POST", f"{resets}/seed", used) == 409
    assert unchanged(service, book, before) == []


def undo_all(service: ServiceProcess, book: Book, prefix: str = "") -> None:
    """The newest reset first; each brings back what it took away."""
    site = book.sites[names(prefix)["resets"]]
    path = f"/sites/{site.id}/undo"
    assert _refused(service, "POST", f"{path}/{prefix}reset-older") == 409
    for operation in ("reset-newer", "reset-older"):
        undo(service, site, f"{prefix}{operation}")
        check_counts(service, site)
    before = service.counts(site.id)
    for operation in ("reset-newer", "reset-older", "reset-undone"):
        service.api("POST", f"{path}/{prefix}{operation}")
    assert exact(before, service.counts(site.id), site.id) == []


def check_counts(service: ServiceProcess, site: Site) -> None:
    assert differences(site.counts(now(service)), service.counts(site.id), site.id) == []


def _refused(service: ServiceProcess, method: str, path: str, body: Any = None) -> int:
    return call(method, f"{service.url}/api/v1{path}", body, service.token)[0]


def go_on(service: ServiceProcess, book: Book) -> None:
    """All who are in a visit look at another page: no new visit, and no new visitor."""
    before = snapshot(service, book)
    again = [
        Hit(site.id, visitor, _known_path(site))
        for site in book.sites.values()
        for visitor in sorted(site.now.seen)
    ]
    deliver(service, book, again)
    problems = []
    for site in book.sites.values():
        counts, after = before[site.id], service.counts(site.id)
        for period in ("today", "week", "month", "year", "total"):
            for metric in ("visits", "visitors"):
                expected, found = counts[period][metric], after[period][metric]
                if expected != found:
                    problems.append(f"{site.id} {period} {metric}: {found}, not {expected}")
    assert not problems, "\n".join(problems)
    check(service, book)


def _known_path(site: Site) -> str:
    return KEPT[0] if site.max_pages == OVERFLOW else min(site.now.pages)


def come_new(service: ServiceProcess, book: Book) -> None:
    """Visitors whom nobody has seen."""
    hits = [
        Hit(site.id, visitor, _known_path(site))
        for site in book.sites.values()
        if site.now.pages
        for visitor in range(200, 205)
    ]
    deliver(service, book, hits)
    check(service, book)

"""Which paths have a place among a site's pages, and that every page shows its own views.

Straight into the store, with hits of chosen networks on chosen days; over HTTP where it is about
which addresses are a network.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import count
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.kit.counting import Counted, at, counting, make_site, open_store
from tests.kit.ledger_machine.pages import MINUTE_MS, Pages
from tests.kit.services.in_process import run_service
from tests.kit.stores.server import Server
from visit_counter.model.calendar import Calendar
from visit_counter.model.hit import Hit
from visit_counter.model.kinds import Kind
from visit_counter.model.site import Site
from visit_counter.model.site_settings import SiteSettings, StoredSite
from visit_counter.rules.addresses import Address, parsed
from visit_counter.rules.limits import Allowance
from visit_counter.rules.visitor_hash import network_code, network_hash
from visit_counter.store.batch import CODES, EARNED, network_of, with_network

NOON = at("2026-03-10 12:00")
MINUTE, DAY = 60_000, 86_400_000
OTHER = "(other)"
TRUSTED = 0
SITE = Site(StoredSite(SiteSettings(id="portal", origins=("*",)), Calendar.of("UTC")), 1)


def allowance(code: int) -> Allowance | None:
    """That of a network by its code; none for one that the site trusts."""
    if code == TRUSTED:
        return None
    made = Allowance()
    made.code = code
    return made


class Viewed(NamedTuple):
    """What the store holds of a site's pages."""

    kept: dict[str, int]
    others: int
    waiting: dict[str, int]


class Portal:
    """A site in a store, and views of it."""

    def __init__(self, counted: Counted) -> None:
        self.counted = counted
        self.visitors = count(1)

    def hit(self, path: str, network: int, when: int = NOON, **fields: Any) -> Hit:
        who = fields.pop("who", next(self.visitors))
        return self.counted.hit(who, when, path=path, charged=allowance(network), **fields)

    async def view(self, path: str, *networks: int, when: int = NOON) -> int | None:
        """Somebody new from each network, one after the other; what the last one is shown."""
        for network in networks:
            hit = self.hit(path, network, when, wants_page=True)
            (outcome,) = await self.counted.record(hit)
        return outcome.page

    async def shown(self, *paths: str, when: int = NOON) -> list[int]:
        return (await self.counted.counts(when, *paths)).pages

    def set(self, **changes: Any) -> None:
        """As the sites component does after a change of settings."""
        site = self.counted.site
        stored = msgspec.structs.replace(site.settings, **changes)
        self.counted.site = Site(StoredSite(stored, site.calendar), site.generation)

    async def look(self) -> Viewed:
        """All of the current generation; pages and `(other)` are all pageviews."""
        base = f"{self.counted.tag}:{self.counted.site.id}:{self.counted.site.generation}:"
        pipeline = self.counted.client.pipeline(transaction=False)
        _ = pipeline.zrange(f"{base}pages", 0, -1, withscores=True)
        _ = pipeline.hgetall(f"{base}candidates")
        found, candidates = await pipeline.execute()
        pages = Counter({path.decode(): int(views) for path, views in found})
        waiting = {
            path.decode(): int(packed.split(b":")[0])
            for path, packed in candidates.items()
            if path != b"#"
        }
        total = (await self.counted.counts(NOON)).total.pageviews
        assert pages.total() == total
        others = pages.pop(OTHER, 0)
        return Viewed(dict(pages), others, waiting)


# -- a place is earned


async def test_a_new_path_waits_and_shows_its_own_views(store_server: Server) -> None:
    """From the first view on, to who views it and to who asks; in the sums they are others."""
    async with counting(store_server.url) as counted:
        portal = Portal(counted)
        shown = [await portal.view("/new", network) for network in (1, 1, 2)]
        asked = await portal.shown("/new", "/never")
        found = await portal.look()

    assert (shown, asked) == ([1, 2, 3], [3, 0])
    assert found == Viewed({}, 3, {"/new": 3})


async def test_a_third_network_earns_a_place_with_all_views(store_server: Server) -> None:
    """The page takes along exactly its own, and the others keep theirs."""
    async with counting(store_server.url) as counted:
        portal = Portal(counted)
        await portal.view("/waits", 1, 1)
        await portal.view("/new", 1, 1, 2, 2)
        shown = await portal.view("/new", 3)
        after = await portal.look()
        more = await portal.view("/new", 1)
        await portal.view("/waits", 2, 3)
        last = await portal.look()

    assert (shown, more) == (5, 6)
    assert after == Viewed({"/new": 5}, 2, {"/waits": 2})
    assert last == Viewed({"/new": 6, "/waits": 4}, 0, {})


async def test_networks_of_one_batch_count_together(store_server: Server) -> None:
    """Whether three come at once or in turn; of other paths nothing is mixed in."""
    async with counting(store_server.url) as counted:
        portal = Portal(counted)
        await counted.record(*(portal.hit("/at-once", n) for n in (1, 2, 3)))
        await counted.record(*(portal.hit(path, n) for path in ("/a", "/b") for n in (1, 2)))
        await counted.record(portal.hit("/a", 2), portal.hit("/b", 3))
        found = await portal.look()

    assert found == Viewed({"/at-once": 3, "/b": 3}, 3, {"/a": 3})


@pytest.mark.parametrize("fields", [{"who": 0}, {"known_only": True}], ids=["no id", "held"])
async def test_who_has_no_id_earns_no_place(store_server: Server, fields: dict[str, Any]) -> None:
    """Nor does who comes from a network that may bring no new visitors; their views count."""
    async with counting(store_server.url) as counted:
        portal = Portal(counted)
        for network in (1, 2, 3, 4):
            await counted.record(portal.hit("/new", network, **fields))
        found = await portal.look()

    assert found == Viewed({}, 4, {"/new": 4})


async def test_a_trusted_network_earns_a_place_at_once(store_server: Server) -> None:
    """Its owner knows who is there."""
    async with counting(store_server.url) as counted:
        portal = Portal(counted)
        await portal.view("/new", 1, 1)
        shown = await portal.view("/new", TRUSTED)
        found = await portal.look()

    assert shown == 3
    assert found == Viewed({"/new": 3}, 0, {})


async def test_a_site_without_places_keeps_no_paths(store_server: Server) -> None:
    """`max_pages: 0` says that nothing is to be stored by its path."""
    async with counting(store_server.url, max_pages=0) as counted:
        portal = Portal(counted)
        await portal.view("/new", 1, 2, 3)
        await counted.record(*(portal.hit(f"/{n}", TRUSTED) for n in range(40)))
        found = await portal.look()
        keys = await counted.client.keys(f"{counted.tag}:portal:1:candidates")

    assert (found, keys) == (Viewed({}, 43, {}), [])


# -- there are max_pages places


async def test_other_takes_no_place(store_server: Server) -> None:
    """As many pages as `max_pages` says are kept beside it, also when that grows."""
    async with counting(store_server.url, max_pages=2) as counted:
        portal = Portal(counted)
        await portal.view("/waits", 1)
        for path in ("/a", "/b", "/c"):
            await portal.view(path, TRUSTED)
        full = await portal.look()
        portal.set(max_pages=4)
        for path in ("/c", "/d", "/e"):
            await portal.view(path, TRUSTED)
        grown = await portal.look()

    assert full == Viewed({"/a": 1, "/b": 1}, 2, {"/waits": 1, "/c": 1})
    assert grown == Viewed({"/a": 1, "/b": 1, "/c": 2, "/d": 1}, 2, {"/waits": 1, "/e": 1})


async def test_a_page_nobody_viewed_for_30_days_gives_its_place_up(store_server: Server) -> None:
    """The least viewed one, not before, and its views are the others'."""
    async with counting(store_server.url, max_pages=3) as counted:
        portal = Portal(counted)
        await counted.record(*(portal.hit("/much", TRUSTED) for _ in range(9)))
        await counted.record(*(portal.hit("/old", TRUSTED) for _ in range(5)))
        await portal.view("/viewed", TRUSTED)
        await portal.view("/new", 1, 2, 3)
        await portal.view("/viewed", TRUSTED, when=NOON + DAY)
        await portal.view("/new", 1, when=NOON + 30 * DAY - MINUTE)
        before = await portal.look()
        shown = await portal.view("/new", 1, when=NOON + 30 * DAY)
        after = await portal.look()
        back = await portal.view("/old", TRUSTED, when=NOON + 30 * DAY)

    assert before == Viewed({"/much": 9, "/old": 5, "/viewed": 2}, 4, {"/new": 4})
    assert shown == 5
    assert after == Viewed({"/much": 9, "/new": 5, "/viewed": 2}, 5, {})
    assert back == 1


async def test_a_full_site_looks_at_a_few_pages_at_a_time(store_server: Server) -> None:
    """Of many pages each look takes some, from the least viewed on: at last one is found."""
    async with counting(store_server.url, max_pages=200) as counted:
        portal = Portal(counted)
        await counted.record(*(portal.hit(f"/{n}", TRUSTED) for n in range(200)))
        await counted.record(*(portal.hit("/199", TRUSTED) for _ in range(2)))
        minute = count()
        for day in (0, 30):
            for _ in range(5):  # 200 pages and `(other)` in looks of 64
                when = NOON + day * DAY + next(minute) * MINUTE
                # All but one page were viewed since.
                viewed = [portal.hit(f"/{n}", TRUSTED, when) for n in range(199) if day]
                await counted.record(*viewed, portal.hit("/new", TRUSTED, when))
                found = await portal.look()
                calls = await _calls(counted, "zrange")
                await portal.view("/new", TRUSTED, when=when)
                assert await _calls(counted, "zrange") == calls, "one look a minute"
                if "/new" in found.kept:
                    break

    assert "/new" in found.kept
    assert "/199" not in found.kept
    assert found.others == 3


async def _calls(counted: Counted, command: str) -> int:
    """How often a command was called."""
    stats: Any = await counted.client.info("commandstats")
    return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])


# -- candidates are bounded


async def test_junk_of_one_network_hides_no_page(store_server: Server) -> None:
    """10,000 paths by as many visitors of one address: pages that wait keep their views, new ones
    get their place, and the store keeps no more than a bounded number."""
    async with counting(store_server.url, max_pages=10_000) as counted:
        portal = Portal(counted)
        honest = [f"/bài-{n}" for n in range(200)]
        await counted.record(*(portal.hit(path, 10 + n) for n, path in enumerate(honest)))
        for batch in range(25):
            junk = (f"/junk/{batch}/{n}" for n in range(500))
            await counted.record(*(portal.hit(path, 1) for path in junk))
        waiting = await portal.shown(*honest[:100])
        shown = [await portal.view(path, 5, 6, 7) for path in ("/new", honest[0])]
        found = await portal.look()

    assert waiting == [1] * 100
    assert shown == [3, 4]
    assert found.kept == {"/new": 3, honest[0]: 4}
    assert {*honest[1:]} <= found.waiting.keys()
    assert len(found.waiting) <= 10_000


async def test_a_full_site_has_a_thousand_candidates(store_server: Server) -> None:
    """Those go first of which one network has most, the ones viewed longest ago."""
    async with counting(store_server.url, max_pages=1) as counted:
        portal = Portal(counted)
        await portal.view("/kept", TRUSTED)
        await counted.record(*(portal.hit(f"/one/{n}", 10 + n) for n in range(300)))
        for n in range(8):
            paths = [f"/most/{n}/{m}" for m in range(100)]
            await counted.record(*(portal.hit(p, 1, NOON + n * MINUTE) for p in paths))
        found = await portal.look()

    most = [path for path in found.waiting if path.startswith("/most")]
    assert len(found.waiting) == 750
    assert len(most) == 450
    assert {path.split("/")[2] for path in most} == {"3", "4", "5", "6", "7"}


async def test_a_candidate_goes_when_nobody_views_it(store_server: Server) -> None:
    """90 days after its last view; the store forgets all of them a day later by itself."""
    async with counting(store_server.url) as counted:
        portal = Portal(counted)
        await portal.view("/a", 1)
        await portal.view("/b", 1, when=NOON + MINUTE)
        last = NOON + 90 * DAY + MINUTE
        await portal.view("/c", 1, when=last)
        found = await portal.look()
        life = await counted.client.pttl(f"{counted.tag}:portal:1:candidates")

    assert found == Viewed({}, 3, {"/b": 1, "/c": 1})
    assert 90 * DAY < life <= 91 * DAY


# -- a reset is undone


async def test_undo_adds_candidates_and_pages(store_server: Server) -> None:
    """What waited on one side joins its place on the other, or waits with what both know."""
    async with counting(store_server.url) as counted:
        portal = Portal(counted)
        await portal.view("/kept-then", TRUSTED)
        await portal.view("/kept-now", 1)
        await portal.view("/waits", 1)
        await portal.view("/earned", 1, 2)
        await portal.view("/gone", 1)
        await counted.store.reset(counted.site, "r1")
        counted.next_generation()
        await portal.view("/kept-then", 1, 1)
        await portal.view("/kept-now", TRUSTED)
        await portal.view("/waits", 1, 2)
        await portal.view("/earned", 3)
        await counted.store.undo(counted.site, "r1")
        undone = await portal.look()
        life = await counted.client.pttl(f"{counted.tag}:portal:2:candidates")
        left = await counted.client.keys(f"{counted.tag}:portal:1:*")
        await portal.view("/earned", 3)
        await portal.view("/waits", 3)
        last = await portal.look()

    waiting = {"/waits": 3, "/earned": 3, "/gone": 1}
    assert undone == Viewed({"/kept-then": 3, "/kept-now": 2}, 7, waiting)
    assert (life > 0, left) == (True, [])
    assert last.waiting == {"/gone": 1}
    assert (last.kept["/earned"], last.kept["/waits"]) == (4, 4)


# -- any mix of it

PATHS = [f"/{name}" for name in "abcdé"]
steps = st.one_of(
    st.lists(st.tuples(st.sampled_from(PATHS), st.sampled_from([TRUSTED, 1, 1, 2, 3])), min_size=1),
    st.integers(0, 4),
    st.sampled_from(["reset", "undo", "minute", "day", "30 days", "90 days"]),
)
_sites = count()


@given(played=st.lists(steps, min_size=5, max_size=20))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_pages_and_others_are_all_pageviews(store_server: Server, played: list[Any]) -> None:
    """After every batch, change of `max_pages`, reset and undo, on any day; and what is kept, what
    waits and what is shown is what an exact model says."""
    async with open_store(store_server.url, "paths") as store:
        counted = await make_site(store, f"s{next(_sites)}", max_pages=2)
        game = Game(Portal(counted))
        for step in played:
            await game.play(step)
            found = await game.portal.look()
            shown = await game.portal.shown(*PATHS)
            model = game.pages[-1]
            waiting = {path: each.views for path, each in model.waiting.items()}
            assert found == Viewed(dict(model.kept), model.others, waiting)
            assert shown == [model.shown()[path] for path in PATHS]


class Game:
    """Steps that are played on a site and on the model."""

    def __init__(self, portal: Portal) -> None:
        self.portal = portal
        self.now = NOON
        self.pages = [Pages()]
        self.resets: list[str] = []

    async def play(self, step: Any) -> None:
        if isinstance(step, int):
            self.portal.set(max_pages=step)
        elif isinstance(step, list):
            await self._view(step)
        elif step == "reset" or step == "undo":
            await (self._reset() if step == "reset" else self._undo())
        else:
            days = {"minute": 0, "day": 1, "30 days": 30, "90 days": 90}[step]
            self.now = min(self.now + days * DAY + MINUTE, NOON + 200 * DAY)

    async def _view(self, views: Sequence[tuple[str, int]]) -> None:
        portal = self.portal
        hits = [portal.hit(path, network, self.now) for path, network in views]
        await portal.counted.record(*hits)
        networks = dict.fromkeys((path for path, _ in views), 0)
        for hit in hits:
            if networks[hit.path] != EARNED:
                networks[hit.path] = with_network(networks[hit.path], network_of(hit))
        most = portal.counted.site.settings.max_pages
        paths = Counter(path for path, _ in views)
        self.pages[-1].add(paths, [*networks.values()], most, self.now // MINUTE_MS)

    async def _reset(self) -> None:
        counted, name = self.portal.counted, f"r{next(_sites)}"
        await counted.store.reset(counted.site, name)
        counted.next_generation()
        self.pages.append(Pages())
        self.resets.append(name)

    async def _undo(self) -> None:
        if self.resets:
            counted = self.portal.counted
            await counted.store.undo(counted.site, self.resets.pop())
            self.pages[-1].merge(self.pages.pop(-2))


# -- what a network is


def test_a_code_says_nothing_of_the_network() -> None:
    """It depends on the secret, fits into two bytes, and is never that of no network."""
    addresses = [_address(f"10.{n >> 8}.{n & 255}.1") for n in range(2000)]
    one, other = [
        [network_code(network_hash(secret), address) for address in addresses]
        for secret in (b"one", b"other")
    ]
    assert one != other
    assert all(0 < code < CODES for code in one)
    assert len(set(one)) > 1900


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("203.0.113.1", "203.0.113.254", True),
        ("203.0.113.1", "203.0.114.1", False),
        ("203.0.113.1", "::ffff:203.0.113.9", True),
        ("2001:db8:1:2::1", "2001:db8:1:ffff::1", True),
        ("2001:db8:1::1", "2001:db8:2::1", False),
        ("0.0.0.0", "::", False),
    ],
)
def test_a_network_is_what_one_customer_has(one: str, other: str, same: bool) -> None:
    """A /24 of IPv4, a /48 of IPv6."""
    keyed = network_hash(b"secret")
    codes = [network_code(keyed, _address(text)) for text in (one, other)]
    assert (codes[0] == codes[1]) is same


def _address(text: str) -> Address:
    found = parsed(text)
    assert found
    return found


@given(st.lists(st.sampled_from([TRUSTED, 1, 2, 3, CODES - 1])))
def test_three_networks_or_a_trusted_one_are_enough(networks: list[int]) -> None:
    """Whatever the order, and however often each comes."""
    known = 0
    for code in networks:
        hit = Hit(SITE, Kind.VIEW, NOON, b"visitor1", charged=allowance(code))
        known = EARNED if known == EARNED else with_network(known, network_of(hit))
    expected = TRUSTED in networks or len(set(networks)) >= 3
    assert (known == EARNED) is expected
    if not expected:
        assert {known % CODES, known // CODES} - {0} == set(networks)


async def test_visitors_of_three_networks_earn_a_place(valkey: Server) -> None:
    """Behind a proxy, by their addresses; those of one network do not, nor does a forged Origin
    help. On a site that trusts them one is enough."""
    async with run_service(valkey.url) as service:
        await service.site(origins=["https://a.vn"])
        await service.site("trusting", origins=["https://a.vn"], trusted_networks=["192.0.2.0/24"])
        site = service.parts.sites.by_id["portal"]

        async def view(path: str, address: str, name: str = "portal") -> int:
            headers = {"Origin": "https://a.vn", "X-Forwarded-For": address}
            answer = await service.hit(name, headers=headers, p=path, page=True)
            pageviews: int = answer["page"]["pageviews"]
            return pageviews

        junk = [await view("/junk", f"192.0.2.{n}") for n in range(1, 9)]
        real = [await view("/real", f"198.51.{n}.1") for n in range(3)]
        await view("/trusted", "192.0.2.9", "trusting")
        store = service.parts.store
        client = store._shards.of(store._tags[site.partition]).client
        found = {
            name: await client.zrange(f"{store._tags[there.partition]}:{name}:1:pages", 0, -1)
            for name, there in service.parts.sites.by_id.items()
        }

    assert (junk, real) == ([*range(1, 9)], [1, 2, 3])
    assert found["portal"] == [b"/real", OTHER.encode()]
    assert found["trusting"] == [b"/trusted"]

"""Intake: a request becomes a hit or a drop, is recorded, and is answered after the commit.

The lane and the routes read what a page says, `Intake` decides, in this order, whether it counts:
malformed, prefetch, origin, bot, ignored, rate limit. A drop is counted by its reason and answered
like a hit, so that nobody loses the number because of it. Nothing here knows how counting is done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Container
from functools import lru_cache, partial
from hashlib import blake2b
from typing import Final

from visit_counter import metrics
from visit_counter.clock import Clock
from visit_counter.delivery.queues import Became, Tell, fulfil
from visit_counter.delivery.recorder import Recorder
from visit_counter.errors import StoreError
from visit_counter.model.hit import Drop, Hit
from visit_counter.model.kinds import Kind
from visit_counter.model.paths import PathRules, path_of
from visit_counter.model.reasons import Reason
from visit_counter.model.site import Site
from visit_counter.rules.addresses import Address, Networks, Peer, client_address
from visit_counter.rules.bots import is_bot
from visit_counter.rules.limits import Limits
from visit_counter.rules.origins import is_own_host, origin_of, wrong_fetch
from visit_counter.rules.visitor_hash import (
    browser_hash,
    network_code,
    network_hash,
    visitor_id,
)
from visit_counter.store.batch import Outcome
from visit_counter.web.hits.beacon import (
    MAX_KEPT_BODY,
    UNRESOLVED,
    Beacon,
    Malformed,
    known_beacon,
    known_beginning,
    read_beacon,
    read_beginning,
    split_view,
)
from visit_counter.web.hits.forwarding import Forwarding
from visit_counter.web.hits.full_sets import FullSets
from visit_counter.web.hits.views import Repeated, Views, key_of

PURPOSES: Final = ("Sec-Purpose", "Purpose", "X-Purpose", "X-Moz")
"""The headers that `fetched_ahead` takes, in their order."""

Standing = tuple[Reason | None, blake2b | None]
"""What a request's head says, whenever and from wherever it comes: why it is dropped, if it is; and
what the visitor's id begins with, None where no identity is made."""


class Head:
    """What a request says before its body: values as they were sent; what was not sent is empty.

    The lane makes it from bytes, the routes from aiohttp's request.
    """

    def __init__(
        self,
        host: str,
        origin: str,
        referer: str,
        user_agent: str,
        language: str,
        fetch_mode: str,
        fetch_dest: str,
        prefetch: bool,
        no_identity: bool,
        kept: bool = False,
    ) -> None:
        self.host = host
        self.origin = origin
        self.referer = referer
        self.user_agent = user_agent
        self.language = language
        self.fetch_mode = fetch_mode
        self.fetch_dest = fetch_dest
        self.prefetch = prefetch
        self.no_identity = no_identity
        """DNT or Global Privacy Control."""
        self.kept = kept
        """The same head comes again with every request that says the same."""


class Intake:
    """Judges what pages send, and hands it to the recorder."""

    def __init__(
        self,
        clock: Clock,
        recorder: Recorder,
        limits: Limits,
        secret: bytes,
        trusted_proxies: Networks,
        forwarding: Forwarding,
        views: Views,
        own_names: Container[str] = (),
    ) -> None:
        self.clock = clock
        self.limits = limits
        self.forwarding = forwarding
        self.views = views
        self.full_sets = FullSets()
        self._recorder = recorder
        self._secret = secret
        self._network_hash = network_hash(secret)
        self._trusted_proxies = trusted_proxies
        self._beyond = forwarding.beyond
        self._own_names = own_names
        # Many visitors have the same browser and language, and come from the same pages: the rules
        # and the keyed part of the visitor's hash are done once for all of them.
        self._kept_standing = lru_cache(maxsize=4096)(self._standing)

    def peer(self, text: str) -> Peer:
        """Whoever holds the other end of a connection."""
        return self._trusted_proxies.peer(text)

    def client(self, peer: Peer, forwarded: str) -> Address:
        """Where a request comes from, behind the proxies that we trust."""
        if forwarded and not peer.trusted:
            self.forwarding.ignore()
        return client_address(peer, forwarded, self._trusted_proxies, self._beyond)

    def read(
        self,
        site: Site,
        head: Head,
        peer: Peer,
        forwarded: str,
        body: bytes,
        *,
        not_accepted: bool = False,
    ) -> Hit | Drop:
        """What a page posted; raises Malformed, or Repeated for a view that may have been accepted
        before, unless `not_accepted`. Then nothing was noted of the request."""
        view, rest = split_view(body)
        is_short = len(rest) <= MAX_KEPT_BODY
        if view:
            beacon = known_beginning(rest) if is_short else read_beginning(rest)
        else:
            beacon = known_beacon(rest) if is_short else read_beacon(rest)
            view = beacon.i.encode()
        path = beacon.p
        if path is None:
            path = referred_path(site, head, self.own_host(site, head.host, peer.trusted))
        elif path[0] == UNRESOLVED:
            host = self.own_host(site, head.host, peer.trusted)
            path = posted_path(site, head, host, path[1:])
        elif site.paths is not None:
            path = site.paths.styled(path)
        key = 0
        if view and beacon.k is Kind.VIEW:
            key = key_of(site.id, view)
            if not not_accepted and (beacon.again or self.views.came_lately(key)):
                raise Repeated(view.decode(), path, wants_page=beacon.page)
        elif beacon.again:
            raise Malformed("again: only a view that has an id (i) can be sent again", "again")
        client = self.client(peer, forwarded)
        return self.judge(site, head, peer, client, beacon, path, "empty", key)

    def own_host(self, site: Site, host: str, vouched: bool) -> str:
        """The Host header, unless the site has `self` and it is no name of this service; `vouched`:
        it came by a trusted proxy, which passes on what is sent to its own names."""
        if vouched or not site.origins.own or is_own_host(host):
            return host
        return host if host.partition(":")[0].lower() in self._own_names else ""

    def judge(
        self,
        site: Site,
        head: Head,
        peer: Peer,
        client: Address,
        beacon: Beacon,
        path: str,
        destination: str,
        view: int = 0,
    ) -> Hit | Drop:
        """Whether this counts, and as what; `view` is by what the view is known."""
        at = self.clock.now()
        standing_of = self._kept_standing if head.kept else self._standing
        drop_reason, browser = standing_of(site, head, destination, peer.trusted)
        if drop_reason is not None:
            return Drop(site, drop_reason, at)
        if site.ignores and site.ignored.holds(client):
            return Drop(site, Reason.IGNORED, at)
        visitor = b""
        if browser is not None:
            first_party = beacon.v if site.settings.identity == "browser" else ""
            visitor = visitor_id(browser, client.network, first_party)
        if site.trusted.holds(client):
            return Hit(site, beacon.k, at, visitor, path, wants_page=beacon.page, view=view)
        limits, allowance = self.limits, self.limits.of(client)
        if not limits.allow(allowance, view=beacon.k is Kind.VIEW):
            return Drop(site, Reason.RATE_LIMIT, at)
        if visitor and not allowance.code:
            allowance.code = network_code(self._network_hash, client)
        if known_only := not limits.may_bring_visitors(allowance):
            self.forwarding.held(client)
        return Hit(site, beacon.k, at, visitor, path, known_only, allowance, beacon.page, view)

    def _standing(self, site: Site, head: Head, destination: str, vouched: bool) -> Standing:
        if head.prefetch:
            return (Reason.PREFETCH, None)
        host = self.own_host(site, head.host, vouched)
        if not comes_from_site(site, head, host, destination):
            return (Reason.ORIGIN, None)
        if is_bot(head.user_agent):
            return (Reason.BOT, None)
        if site.settings.honour_dnt and head.no_identity:
            return (None, None)
        return (None, browser_hash(self._secret, site.id, head.user_agent, head.language))

    def record(self, entry: Hit | Drop, tell: Tell) -> None:
        """Hand an entry to the recorder; raises StoreUnavailable if it takes no more."""
        if isinstance(entry, Drop):
            metrics.DROPS.labels(entry.reason.value).inc()
        self._recorder.record(entry, tell)
        if isinstance(entry, Hit) and entry.view:
            self.views.begin(entry.view)

    def settle(self, entry: Hit | Drop, outcome: Outcome | None) -> None:
        """Once an entry is counted or spooled: remember the view, charge the network for a new
        visitor, note which sites have no room for one."""
        if not isinstance(entry, Hit):
            return
        if entry.view:
            self.views.settle(entry.view, accepted=True)
        if outcome is None:
            return
        if outcome.new:
            if entry.charged:
                self.limits.charge_visitor(entry.charged)
            if self.full_sets.any:
                self.full_sets.fits(entry.site.id)
        elif outcome.held and not entry.known_only:
            self.full_sets.held(entry.site.id)

    def forget(self, entry: Hit | Drop) -> None:
        """Once it is refused: it may come again as if it were new."""
        if isinstance(entry, Hit) and entry.view:
            self.views.settle(entry.view, accepted=False)

    async def count(self, entry: Hit | Drop) -> Outcome | None:
        """Record an entry and wait for its commit, None if only the spool has it yet; raises
        StoreError if neither was confirmed."""
        future: asyncio.Future[Outcome | None] = asyncio.get_running_loop().create_future()
        self.record(entry, partial(self._fulfil, future, entry))
        return await future

    def _fulfil(
        self, future: asyncio.Future[Outcome | None], entry: Hit | Drop, became: Became
    ) -> None:
        """Also where nobody waits any more."""
        if isinstance(became, StoreError):
            self.forget(entry)
        else:
            self.settle(entry, became)
        fulfil(future, became)


def fetched_ahead(sec_purpose: str, purpose: str, x_purpose: str, x_moz: str) -> bool:
    """Whether a browser says that nobody looks at what it asks for: it loads a page ahead, or draws
    a picture of it (`preview`: the top sites of Safari, as of old Opera and Chromium)."""
    told = f"{sec_purpose},{purpose},{x_purpose},{x_moz}".lower()
    return "prefetch" in told or "preview" in told


def referred_path(site: Site, head: Head, host: str) -> str:
    """That of the Referer, "/" if there is none or it is no page of the site."""
    return _referred(site, head, host, site.paths)


def posted_path(site: Site, head: Head, host: str, address: str) -> str:
    """That of a beacon's `p`, as its site counts it; raises Malformed."""
    try:
        return named_page(site, head, host, address)
    except ValueError as error:
        raise Malformed(f"p: {error}", "p") from None


def named_page(site: Site, head: Head, host: str, address: str) -> str:
    """The path of a page that a request names by any address; raises ValueError if it is none of
    the site's. What is relative is so to the page that the request comes from."""
    page = "/" if address[:1] == "/" else _referred(site, head, host, None)
    return _path(site, head, host, address, page, site.paths)


def _referred(site: Site, head: Head, host: str, rules: PathRules | None) -> str:
    if origin_of(head.referer) is None:
        return "/"
    try:
        return _path(site, head, host, head.referer, "/", rules)
    except ValueError:  # no page has such a URL
        return "/"


def _path(
    site: Site, head: Head, host: str, address: str, page: str, rules: PathRules | None
) -> str:
    def is_own(url: str) -> bool | None:
        origin = origin_of(url, typed=True)
        if site.origins.open:
            return (origin and origin == origin_of(head.origin or head.referer)) or None
        return origin is not None and site.origins.allow(origin, host)

    return path_of(address, page, rules, is_own)


def comes_from_site(site: Site, head: Head, host: str, destination: str) -> bool:
    """Whether Fetch Metadata shows a page's report, and its origin is one of the site's.

    Where there is no Origin header the Referer decides, and where there is none either only a site
    open to all origins counts.
    """
    if wrong_fetch(head.fetch_mode, head.fetch_dest, destination):
        return False
    origin = head.origin or origin_of(head.referer)
    if origin is None:
        return site.origins.open
    return site.origins.allow(origin, host)

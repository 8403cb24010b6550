"""How many connections there are, and who has to go when there are too many.

`staying` may stay for request after request. Beside those there are `newcomers` places for those
who have not sent a whole request yet: each gets one answer, so a health check is answered however
many clients there are. When all places are taken the longest silent newcomer goes if these fill
theirs, else the connection that `web/lane/places.py` names. No client network has more than its
share: one that has it gives up a place of its own. Connections that are aiohttp's (`lent.py`)
count as well, and go as well.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from contextlib import suppress
from typing import Final, Protocol

import structlog
from aiohttp import web

from visit_counter import metrics
from visit_counter.rules.addresses import NOWHERE, Networks, Peer
from visit_counter.rules.shares import Blocks, blocks_of, share
from visit_counter.web.lane.places import BUSY, Group, Placed

STALL_S = 30.0  # for a client to read its answer
UNDER_WAY_S = 0.25  # in which a request arrives that was sent before the client knew of the end
SPARED_S = 5.0  # in which a kept connection that is idle gives no place to one that is not
TOLD_S = 60.0  # between two lines of the log
MOST_HELD = 64 * 1024 * 1024  # bytes of all requests that cannot be acted upon yet
LOOK_AFTER = 4  # when so large a part of that has come anew

# One address has at most a quarter of the places, so that three others remain for everybody else;
# the widest network around it half of them (rules/shares.py). A proxy is one address and needs
# more: that is one reason to name it in VISIT_COUNTER_TRUSTED_PROXIES.
SHARE: Final = 4
LEAST_SHARE: Final = 4  # what a browser opens at once, where there are few places

log = structlog.get_logger()


class Timed(Placed, Protocol):
    """A connection in the lane."""

    until_s: float
    """When its time is over (seconds of the loop)."""

    def expire(self) -> None:
        """Its time is over."""

    def finish(self) -> None:
        """End it after its next answer."""

    def stop(self) -> None:
        """End it now, unless it waits for an answer."""


class Connections:
    """Those in the lane, and those that `aiohttp` has got."""

    def __init__(
        self,
        aiohttp: web.Server,
        staying: int,
        newcomers: int,
        trusted: Networks,
        idle_s: float,
    ) -> None:
        self.aiohttp = aiohttp
        self.idle_s = idle_s
        """How long a connection is kept for its next request."""
        self.stopping = self._stopped = False
        self._staying = staying
        self._for_newcomers = newcomers
        self._most_of_one = max(LEAST_SHARE, (staying + newcomers) // SHARE)
        self._trusted = trusted
        self._lane: set[Timed] = set()
        self._newcomers: OrderedDict[Placed, None] = OrderedDict()
        self._settled = Group()
        """All others."""
        self._of_network: dict[int, Group] = {}
        self._crowd = Crowd()
        self._come = 0
        """Bytes that may be held and have come since all were looked at."""
        self._left = asyncio.Event()

    def __len__(self) -> int:
        return len(self._newcomers) + len(self._settled)

    @property
    def timed(self) -> list[Timed]:
        """Those in the lane."""
        return [*self._lane]

    def peer(self, transport: asyncio.BaseTransport) -> Peer:
        """Who holds the other end."""
        name = transport.get_extra_info("peername")
        return self._trusted.peer(name[0] if isinstance(name, tuple) else "")

    def enter(self, connection: Timed, peer: Peer) -> bool:
        """Whether there is a place for a new connection of the lane."""
        if not self._admit(connection, peer):
            return False
        self._lane.add(connection)
        self._newcomers[connection] = None
        return True

    def enter_settled(self, connection: Placed, peer: Peer) -> bool:
        """The same for a connection that is aiohttp's from its beginning."""
        if not self._admit(connection, peer):
            return False
        self._settled.add(connection)
        return True

    def may_stay(self, connection: Placed) -> bool:
        """It has sent a whole request: whether it may send another."""
        self._newcomers.pop(connection, None)
        stays = not self.stopping and (len(self._settled) < self._staying or self._end_idle())
        self._settled.add(connection)
        return stays

    def lend(self, connection: Timed, lent: Placed) -> None:
        """What was in the lane is aiohttp's from now on."""
        lent.blocks = connection.blocks
        self.leave(connection)
        self._settled.add(lent)
        self._count(lent)

    def leave(self, connection: Placed) -> None:
        """It has ended; a second time changes nothing."""
        self._lane.discard(connection)
        self._newcomers.pop(connection, None)
        self._settled.discard(connection)
        for block in connection.blocks:
            if group := self._of_network.get(block):
                group.discard(connection)
                if not group:
                    del self._of_network[block]
        if not self._lane:
            self._left.set()

    async def stop(self, within_s: float) -> None:
        """End those in the lane, the idle ones when no request can be under way to them any more;
        aiohttp ends its own."""
        self.stopping = True
        await asyncio.sleep(0)  # those that were accepted already are made
        for connection in self.timed:
            connection.finish()
        await self._wait_for_all(UNDER_WAY_S)
        for connection in self.timed:
            connection.stop()
        await self._wait_for_all(within_s - UNDER_WAY_S)
        self._stopped = True
        for connection in self.timed:
            connection.abort()

    async def _wait_for_all(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._lane:
                    self._left.clear()
                    await self._left.wait()

    # -- places

    def _admit(self, connection: Placed, peer: Peer) -> bool:
        connection.blocks = self._blocks(peer)
        if self._stopped or not self._make_room_among(connection.blocks):
            return False
        if len(self) >= self._staying + self._for_newcomers:
            self._make_room()
        self._count(connection)
        return True

    def _blocks(self, peer: Peer) -> Blocks:
        """None for proxies, which are one address and speak for many, and for unix sockets."""
        unbounded = peer.trusted or peer.address.network == NOWHERE
        return () if unbounded else blocks_of(peer.address)

    def _count(self, connection: Placed) -> None:
        for block in connection.blocks:
            self._of_network.setdefault(block, Group()).add(connection)

    def _make_room_among(self, blocks: Blocks) -> bool:
        """False if a network has its share, all of it busy: what waits for an answer is worth more
        than what may come."""
        for block in blocks:
            group = self._of_network.get(block)
            if group is None or len(group) < share(block, self._most_of_one):
                continue
            first = group.first_to_go()
            self._crowd.note("network", share(block, self._most_of_one))
            if first is None or first.rank() == BUSY:
                return False
            self._end(first)
        return True

    def _make_room(self) -> None:
        """Whoever goes first, also one that waits for an answer: else a store that hangs would keep
        a health check out."""
        newcomer = next(iter(self._newcomers), None)
        reserved = newcomer is not None and len(self._newcomers) >= self._for_newcomers
        first = newcomer if reserved else self._settled.first_to_go() or newcomer
        if first is not None:
            self._crowd.note("all", len(self))
            self._end(first)

    def _end_idle(self) -> bool:
        """End one that has been idle for long; False if there is none."""
        first = self._settled.first_to_go()
        now_s = asyncio.get_running_loop().time()
        if first is None or first.rank() == BUSY or now_s - first.since_s < SPARED_S:
            return False
        self._crowd.note("all", len(self))
        self._end(first)
        return True

    def hold_more(self, size: int) -> None:
        """So many bytes have come to be held."""
        self._come += size
        if self._come > MOST_HELD // LOOK_AFTER:
            self._come = 0
            self._bound_memory()

    def _bound_memory(self) -> None:
        """End those that hold most where all of them hold too much, until a quarter is free: many
        files may be open, and a head may be long."""
        held = [(each.held_bytes, each) for each in (*self._newcomers, *self._settled)]
        excess = sum(size for size, _ in held) - MOST_HELD
        if excess <= 0:
            return
        excess += MOST_HELD // 4
        for size, connection in sorted(held, key=lambda each: -each[0]):
            if excess <= 0:
                break
            excess -= size
            self._crowd.note("memory", len(self))
            self._end(connection)

    def _end(self, connection: Placed) -> None:
        self.leave(connection)
        connection.abort()


class Crowd:
    """Says that connections were ended for want of places: a metric, and a line of the log at most
    once a minute. Neither names a network: its address is personal data."""

    def __init__(self) -> None:
        self._ended = Counter[str]()
        self._told_s: dict[str, float] = {}

    def note(self, limit: str, places: int) -> None:
        REFUSED[limit].inc()
        self._ended[limit] += 1
        now_s = time.monotonic()
        if now_s - self._told_s.get(limit, -TOLD_S) >= TOLD_S:
            log.warning(REASONS[limit], places=places, closed=self._ended.pop(limit))
            self._told_s[limit] = now_s


REASONS: Final = {
    "all": "all places for connections are taken: idle ones are closed for new ones, so clients "
    "connect more often. Allow more open files (ulimit -n), or keep idle connections for less time "
    "(VISIT_COUNTER_KEEPALIVE)",
    "memory": "connections have sent more of requests that are not whole than there is memory "
    "for: those with most are closed. Browsers do not do that; where it goes on, let a proxy in "
    "front take requests whole",
    "network": "a client network has its share of the places for connections: its idle ones are "
    "closed for its new ones, others notice nothing. If it is your proxy, name it in "
    "VISIT_COUNTER_TRUSTED_PROXIES",
}
REFUSED: Final = {limit: metrics.CONNECTIONS_REFUSED.labels(limit) for limit in REASONS}

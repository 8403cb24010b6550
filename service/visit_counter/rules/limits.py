"""What one network may do: token buckets for views, for signs of presence, and for new visitors.

A bucket is one number, the instant at which it will be full again (the generic cell rate algorithm,
GCRA), and a network's buckets lie together, so that a hit looks them up once. Time comes in:
seconds of a monotonic clock.
An IPv6 network is a /64, and whoever has a /48 has 65,536 of them, each with a burst of its own:
they would fill a site's set of visitors within minutes. So a /48 has buckets too, of which a hit
takes so small a part that they last for `AROUND` networks; a carrier's phones, a /64 each, need
less.
Memory is bounded, in two halves: when the young one is full it becomes the old one, and who was not
seen since is forgotten with the old one before it, and starts full when they come back. Dropped
hits are seen too, so nobody gains a new burst by hammering; to push out a network whose buckets are
still empty takes half as many other networks as `capacity` in the meantime, and whoever commands
those already has that many bursts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from visit_counter.rules.addresses import Address

AROUND: Final = 64
PART: Final = 1 / AROUND

_ROUNDING = 1e-6
"""Tokens: what adding floats may lose before a bucket that has one left would withhold it."""


class Rate:
    """Buckets of *burst* tokens that refill at *per_s*."""

    def __init__(self, per_s: float, burst: float) -> None:
        if not (per_s > 0 and burst > 0):
            raise ValueError("per_s and burst must be greater than 0")
        self._token_s = 1 / per_s
        self._burst_s = (burst + _ROUNDING) / per_s
        self._debt_s = 2 * burst / per_s

    def take(self, full_at_s: float, now_s: float, n: float = 1) -> float | None:
        """When the bucket is full again behind *n* tokens; None when it has fewer."""
        full_at_s = (full_at_s if full_at_s > now_s else now_s) + n * self._token_s
        return full_at_s if full_at_s <= now_s + self._burst_s else None

    def charge(self, full_at_s: float, now_s: float, n: float = 1) -> float:
        """The same in any case; the debt ends at one burst below zero."""
        return min(max(full_at_s, now_s) + n * self._token_s, now_s + self._debt_s)

    def give_back(self, full_at_s: float, n: float = 1) -> float:
        """When the bucket is full again with *n* tokens more."""
        return full_at_s - n * self._token_s


class Allowance:
    """What is left to a network: when each of its buckets is full again."""

    __slots__ = ("around", "code", "presence_s", "views_s", "visitors_s")

    def __init__(self) -> None:
        self.code = 0
        """Of the larger network around it, see `network_code`; 0 until it is made."""
        self.views_s = 0.0
        self.presence_s = 0.0
        self.visitors_s = 0.0
        self.around: Allowance | None = None
        """Of the /48 around a network of IPv6."""


class Limits:
    """What networks may do.

    Their hits reach each of several workers, so that each grants them an equal part.

    A network without room for new visitors still counts those who were seen before; its other
    views count as pageviews only (held). `clock` gives seconds that never go back.
    """

    def __init__(
        self, clock: Callable[[], float], workers: int = 1, capacity: int = 65_536
    ) -> None:
        self._clock = clock
        self._views = Rate(per_s=50 / workers, burst=500 / workers)
        self._presence = Rate(per_s=50 / workers, burst=500 / workers)
        self._visitors = Rate(per_s=1 / workers, burst=1000 / workers)
        self._half = max(1, capacity // 2)
        self._young: dict[str, Allowance] = {}
        self._old: dict[str, Allowance] = {}

    def __len__(self) -> int:
        """How many networks are remembered."""
        return len(self._young.keys() | self._old.keys())

    def of(self, client: Address) -> Allowance:
        """What is left to a client's network."""
        allowance = self._young.get(client.network)
        if allowance is None:
            allowance = self._remembered(client.network)
            if client.size == 16:  # each time, so that it is not forgotten before the last of them
                allowance.around = self._remembered(f"{client.number >> 80:x}")
        return allowance

    def _remembered(self, network: str) -> Allowance:
        allowance = self._young.get(network) or self._old.get(network) or Allowance()
        self._young[network] = allowance
        if len(self._young) >= self._half:
            self._young, self._old = {}, self._young
        return allowance

    def allow(self, allowance: Allowance, *, view: bool) -> bool:
        now_s = self._clock()
        if view:
            full_at_s = self._views.take(allowance.views_s, now_s)
            allowance.views_s = full_at_s or allowance.views_s
        else:
            full_at_s = self._presence.take(allowance.presence_s, now_s)
            allowance.presence_s = full_at_s or allowance.presence_s
        if full_at_s is None or allowance.around is None:
            return full_at_s is not None
        return self._allow_around(allowance.around, now_s, view=view)

    def _allow_around(self, around: Allowance, now_s: float, *, view: bool) -> bool:
        """Takes from the /48's bucket after the network's own, so that a network which is refused
        takes nothing from its /48."""
        if view:
            full_at_s = self._views.take(around.views_s, now_s, PART)
            around.views_s = full_at_s or around.views_s
        else:
            full_at_s = self._presence.take(around.presence_s, now_s, PART)
            around.presence_s = full_at_s or around.presence_s
        return full_at_s is not None

    def may_bring_visitors(self, allowance: Allowance) -> bool:
        now_s, around = self._clock(), allowance.around
        if self._visitors.take(allowance.visitors_s, now_s) is None:
            return False
        return around is None or self._visitors.take(around.visitors_s, now_s, PART) is not None

    def charge_visitor(self, allowance: Allowance) -> None:
        now_s, around = self._clock(), allowance.around
        allowance.visitors_s = self._visitors.charge(allowance.visitors_s, now_s)
        if around is not None:
            around.visitors_s = self._visitors.charge(around.visitors_s, now_s, PART)

    def give_back_visitor(self, allowance: Allowance) -> None:
        allowance.visitors_s = self._visitors.give_back(allowance.visitors_s)
        if (around := allowance.around) is not None:
            around.visitors_s = self._visitors.give_back(around.visitors_s, PART)

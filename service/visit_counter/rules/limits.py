"""What one network may do: token buckets for views, for signs of presence, and for new visitors.

A bucket is one number, the instant at which it will be full again (the generic cell rate algorithm,
GCRA), and a network's buckets lie together, so that a hit looks them up once. Time comes in:
seconds of a monotonic clock.
Memory is bounded, in two halves: when the young one is full it becomes the old one, and who was not
seen since is forgotten with the old one before it, and starts full when they come back. Dropped
hits are seen too, so nobody gains a new burst by hammering; to push out a network whose buckets are
still empty takes half as many other networks as `capacity` in the meantime, and whoever commands
those already has that many bursts.
"""

from __future__ import annotations

from collections.abc import Callable

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

    __slots__ = ("code", "presence_s", "views_s", "visitors_s")

    def __init__(self) -> None:
        self.code = 0
        """Of the larger network around it, see `network_code`; 0 until it is made."""
        self.views_s = 0.0
        self.presence_s = 0.0
        self.visitors_s = 0.0


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

    def of(self, network: str) -> Allowance:
        """What is left to a network."""
        allowance = self._young.get(network)
        if allowance is None:
            allowance = self._young[network] = self._old.get(network) or Allowance()
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
        return full_at_s is not None

    def may_bring_visitors(self, allowance: Allowance) -> bool:
        return self._visitors.take(allowance.visitors_s, self._clock()) is not None

    def charge_visitor(self, allowance: Allowance) -> None:
        allowance.visitors_s = self._visitors.charge(allowance.visitors_s, self._clock())

    def give_back_visitor(self, allowance: Allowance) -> None:
        allowance.visitors_s = self._visitors.give_back(allowance.visitors_s)

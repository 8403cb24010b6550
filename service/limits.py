"""Token buckets: how much one key, an address for example, may do.

A bucket is one number, the instant at which it will be full again (the generic cell rate algorithm,
GCRA), so a take is a lookup and a store. Time comes in: seconds of a monotonic clock.
Memory is bounded, in two halves: when the young one is full it becomes the old one, and what was
untouched since is forgotten with the old one before it, and starts full when its key comes back.
Refused takes touch too, so nobody gains a new burst by hammering; to push out a bucket that is
still empty takes half as many other keys as `capacity` in the meantime, and whoever commands those
already has that many bursts.
"""

from __future__ import annotations

from collections.abc import Callable

_ROUNDING = 1e-6
"""Tokens: what adding floats may lose before a bucket that has one left would refuse it."""


class Buckets:
    """Buckets of *burst* tokens that refill at *rate_per_s*, at most *capacity* of them."""

    def __init__(self, rate_per_s: float, burst: float, capacity: int = 65_536) -> None:
        if not (rate_per_s > 0 and burst > 0 and capacity > 0):
            raise ValueError("rate_per_s, burst and capacity must be greater than 0")
        self._token_s = 1 / rate_per_s
        self._burst_s = (burst + _ROUNDING) / rate_per_s
        self._debt_s = 2 * burst / rate_per_s
        self._half = max(1, capacity // 2)
        self._young: dict[str, float] = {}
        self._old: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._young) + sum(key not in self._young for key in self._old)

    def take(self, key: str, now_s: float, n: float = 1) -> bool:
        """Take *n* tokens, or none and say False when there are fewer."""
        full_at = self._full_at(key, now_s)
        granted = full_at + n * self._token_s <= now_s + self._burst_s
        self._keep(key, full_at + n * self._token_s if granted else full_at)
        return granted

    def charge(self, key: str, now_s: float, n: float) -> None:
        """Take *n* tokens in any case; the debt ends at one burst below zero."""
        full_at = self._full_at(key, now_s) + n * self._token_s
        self._keep(key, min(full_at, now_s + self._debt_s))

    def has_room(self, key: str, now_s: float) -> bool:
        """Whether a take of one token would be granted."""
        return self._full_at(key, now_s) + self._token_s <= now_s + self._burst_s

    def _full_at(self, key: str, now_s: float) -> float:
        full_at = self._young.get(key) or self._old.get(key, now_s)
        return full_at if full_at > now_s else now_s

    def _keep(self, key: str, full_at: float) -> None:
        self._young[key] = full_at
        if len(self._young) >= self._half:
            self._young, self._old = {}, self._young


class Limits:
    """What one network may do: views, signs of presence, and new visitors.

    Its hits reach each of several workers, so that each grants it an equal part.

    A network without room for new visitors still counts those who were seen before; its other
    views count as pageviews only (held). `clock` gives seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float], workers: int = 1) -> None:
        self._clock = clock
        self._views = Buckets(rate_per_s=50 / workers, burst=500 / workers)
        self._presence = Buckets(rate_per_s=50 / workers, burst=500 / workers)
        self._visitors = Buckets(rate_per_s=1 / workers, burst=1000 / workers)

    def allow(self, network: str, *, view: bool) -> bool:
        return (self._views if view else self._presence).take(network, self._clock())

    def may_bring_visitors(self, network: str) -> bool:
        return self._visitors.has_room(network, self._clock())

    def charge_visitor(self, network: str) -> None:
        self._visitors.charge(network, self._clock(), 1)

"""A site's numbers at one instant, as store/lua/counting.lua packs them."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from msgspec import Struct

from visit_counter.model.kinds import METRICS, PERIODS
from visit_counter.model.seeds import Seed

_OF_PERIODS = len(PERIODS) * len(METRICS)


class Numbers(Struct, frozen=True, array_like=True):
    """What a period counted: the METRICS."""

    pageviews: int
    visits: int
    visitors: int


class Counts(Struct, frozen=True):
    """A site's numbers at one instant, with those of all PERIODS."""

    online: int
    today: Numbers
    yesterday: Numbers
    week: Numbers
    last_week: Numbers
    month: Numbers
    last_month: Numbers
    year: Numbers
    total: Numbers
    since: int
    last_hit: int
    peak: int
    peak_at: int
    approximate: list[str]
    """The PERIODS whose visitors are a sum of numbers that may have counted somebody twice."""
    seeds: list[Seed]
    pages: list[int]
    """Pageviews of the paths that were asked for, in that order."""

    @classmethod
    def of(cls, packed: bytes) -> Counts:
        """As counting.lua packs them, see its counts_of."""
        online, number_of_seeds, *numbers = _unpacked(packed)
        periods = [Numbers(*numbers[n : n + 3]) for n in range(0, _OF_PERIODS, 3)]
        since, last_hit, peak, peak_at, bits, *rest = numbers[_OF_PERIODS:]
        approximate = [period for n, period in enumerate(PERIODS) if bits >> n & 1]
        seeds = [_seed(*rest[3 * n : 3 * n + 3]) for n in range(number_of_seeds)]
        pages = rest[3 * number_of_seeds :]
        instants = (since, last_hit, peak, peak_at)
        values: tuple[Any, ...] = (online, *periods, *instants, approximate, seeds, pages)
        return cls(*values)


class Day(NamedTuple):
    """What a day counted."""

    numbers: Numbers
    is_approximate: bool
    """Of its visitors, see `Counts.approximate`."""


def days_of(packed: bytes) -> list[Day]:
    """As store/lua/sites.lua packs days."""
    numbers = _unpacked(packed)
    days = (numbers[n : n + 4] for n in range(0, len(numbers), 4))
    return [Day(Numbers(*day[:3]), bool(day[3])) for day in days]


def _unpacked(packed: bytes) -> list[int]:
    return [*map(int, struct.unpack(f"<{len(packed) // 8}d", packed))]  # all of them are whole


def _seed(period: int, metric: int, amount: int) -> Seed:
    return Seed(PERIODS[period - 1], METRICS[metric - 1], amount)

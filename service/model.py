"""What the service talks about: what is set of a site, kinds of hits, reasons of drops, counts.

`hit.py` has what is made anew for each request. Values only: nothing here reads a clock, a socket
or the environment.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, Literal
from urllib.parse import unquote
from zlib import crc32

from msgspec import Meta, Struct

from service.addresses import Networks
from service.origins import Origins
from service.periods import WEEKDAYS, Calendar, zone

PARTITIONS = 64
MAX_PATH_BYTES = 512
MAX_SITE_ID = 63
SITE_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}\Z")
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class Kind(StrEnum):
    """What a page reports: it was looked at, is still looked at, was left."""

    VIEW = "view"
    HERE = "here"
    BYE = "bye"


class Reason(StrEnum):
    """Why a hit is not counted."""

    BOT = "bot"
    PREFETCH = "prefetch"
    ORIGIN = "origin"
    RATE_LIMIT = "rate_limit"
    MALFORMED = "malformed"


Metric = Literal["visits", "pageviews", "visitors"]
METRICS: tuple[Metric, ...] = ("pageviews", "visits", "visitors")
Weekday = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
Seconds = Annotated[int, Meta(ge=10, le=86_400)]


class SiteSettings(Struct, frozen=True, kw_only=True):
    """A site as the API and the store spell it; durations in seconds.

    Fields of a newer version are ignored here; the API refuses them, and `stored.py` keeps them.
    """

    id: str
    origins: tuple[str, ...]
    name: Annotated[str, Meta(max_length=200)] = ""
    timezone: str = "UTC"
    week_start: Weekday = "monday"
    online_window: Seconds = 300
    visit_timeout: Seconds = 1800
    identity: Literal["address", "browser"] = "address"
    metric: Metric = "visits"
    honour_dnt: bool = False
    max_pages: Annotated[int, Meta(ge=0, le=100_000)] = 10_000
    trusted_networks: tuple[str, ...] = ()
    public: bool = True

    def check(self) -> None:
        """Refuse what the types cannot: raises ValueError as `field: what is wrong`."""
        if not SITE_ID.match(self.id):
            raise ValueError("id: use 1 to 63 of a-z 0-9 . _ -, the first a letter or digit")
        if not self.origins:
            raise ValueError('origins: name at least one, such as "https://example.vn", or "*"')
        if self.online_window > self.visit_timeout:
            raise ValueError("online_window: must not be longer than visit_timeout")
        for field, parse in _PARSED.items():
            try:
                parse(getattr(self, field))
            except ValueError as error:
                raise ValueError(f"{field}: {error}") from None


_PARSED: dict[str, Callable[[Any], object]] = {
    "origins": Origins.parse,
    "trusted_networks": Networks.parse,
    "timezone": zone,
}


class StoredSite(Struct, frozen=True):
    """What the store keeps of a site: its settings and the history of its calendar."""

    settings: SiteSettings
    calendar: Calendar


class Numbers(Struct, frozen=True, array_like=True):
    """What a period counted."""

    pageviews: int
    visits: int
    visitors: int


class Seed(Struct, frozen=True, array_like=True):
    """What an admin added to a period."""

    period: str
    metric: Metric
    amount: int


class Counts(Struct, frozen=True):
    """A site's numbers at one instant."""

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
    seeds: list[Seed]
    pages: list[int]
    """Pageviews of the paths that were asked for, in that order."""

    @classmethod
    def of(cls, packed: bytes) -> Counts:
        """As counter.lua packs them, see its counts_of."""
        online, number_of_seeds, *numbers = _unpacked(packed)
        periods = [Numbers(*numbers[n : n + 3]) for n in range(0, 24, 3)]
        since, last_hit, peak, peak_at, *rest = numbers[24:]
        seeds = [_seed(*rest[3 * n : 3 * n + 3]) for n in range(number_of_seeds)]
        pages = rest[3 * number_of_seeds :]
        values: tuple[Any, ...] = (online, *periods, since, last_hit, peak, peak_at, seeds, pages)
        return cls(*values)


def numbers_of(packed: bytes) -> list[Numbers]:
    """Of periods, as counter.lua packs those of days."""
    numbers = _unpacked(packed)
    return [Numbers(*numbers[n : n + 3]) for n in range(0, len(numbers), 3)]


def _unpacked(packed: bytes) -> list[int]:
    return [*map(int, struct.unpack(f"<{len(packed) // 8}d", packed))]  # all of them are whole


def _seed(period: int, metric: int, amount: int) -> Seed:
    return Seed(Counts.__struct_fields__[period], METRICS[metric - 1], amount)


def partition_of(site: str) -> int:
    return crc32(site.encode()) % PARTITIONS


def clean_path(path: str) -> str:
    """The page's path as it is counted; raises ValueError for what is no path.

    Query and fragment go, escapes are decoded (a page is one page however its address is written),
    control characters are refused, more than 512 bytes are cut at a character.
    """
    path = _decoded(path.partition("#")[0].partition("?")[0])
    if not path.startswith("/"):
        raise ValueError('a path begins with "/"')
    if CONTROL.search(path):
        raise ValueError("a path has no control characters")
    encoded = path.encode()
    if len(encoded) <= MAX_PATH_BYTES:
        return path
    return encoded[:MAX_PATH_BYTES].decode(errors="ignore")


def _decoded(path: str) -> str:
    """Without percent escapes, if they stand for text; else as it was written."""
    try:
        decoded = unquote(path, errors="strict")
    except UnicodeDecodeError:
        return path
    return path if CONTROL.search(decoded) else decoded


def weekday_number(name: Weekday) -> int:
    return WEEKDAYS.index(name)

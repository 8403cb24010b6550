"""What is set of a site, as the API and the store spell it.

Values only: nothing here reads a clock, a socket or the environment.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal
from zlib import crc32

from msgspec import Meta, Struct

from visit_counter.model.calendar import WEEKDAYS, Calendar, zone
from visit_counter.model.kinds import Metric
from visit_counter.model.paths import keys_of
from visit_counter.rules.addresses import Networks
from visit_counter.rules.origins import Origins

PARTITIONS = 64


MAX_SITE_ID = 63


SITE_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}\Z")


Weekday = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]


Seconds = Annotated[int, Meta(ge=10, le=86_400)]


class SiteSettings(Struct, frozen=True, kw_only=True):
    """A site as the API and the store spell it; durations in seconds.

    Fields of a newer version are ignored here; the API refuses them, and `model/stored_site.py`
    keeps them.
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
    ignored_networks: tuple[str, ...] = ()
    public: bool = True
    path_style: Literal["exact", "directory"] = "exact"
    query_keys: tuple[str, ...] = ()

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
    "ignored_networks": Networks.parse,
    "timezone": zone,
    "query_keys": keys_of,
}


class StoredSite(Struct, frozen=True):
    """What the store keeps of a site: its settings and the history of its calendar."""

    settings: SiteSettings
    calendar: Calendar


def partition_of(site: str) -> int:
    return crc32(site.encode()) % PARTITIONS


def weekday_number(name: Weekday) -> int:
    return WEEKDAYS.index(name)

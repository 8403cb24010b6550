"""Sites whose set of visitors is full: new visitors are held, and operators are to know."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import structlog

MOST_NAMED = 10
QUIET_S = 60.0

log = structlog.get_logger()


class Full:
    """A set that is full: since when, and what was held since."""

    def __init__(self) -> None:
        self.began = time.time()
        """Seconds since the epoch."""
        self.hits = 0
        self.last_s = 0.0
        """When the last one was held (monotonic seconds)."""


class FullSets:
    """Since when a site's set is full, as far as this process has seen, and how many hits of new
    visitors were held since. It ends when a new visitor fits in again, or when none was held for
    QUIET_S."""

    def __init__(self) -> None:
        self._full: dict[str, Full] = {}
        """By site."""
        self.any = False
        """Whether there is one: to be asked for each new visitor."""

    def held(self, site: str) -> None:
        """A new visitor did not fit in."""
        known = self._full.get(site)
        if known is None:
            log.warning("the set of visitors is full, new ones are held", site=site)
            known = self._full[site] = Full()
        known.hits += 1
        known.last_s = time.monotonic()
        self.any = True

    def fits(self, site: str) -> None:
        """A new visitor did fit in."""
        if known := self._full.pop(site, None):
            log.info("the set of visitors has room again", site=site, held=known.hits)
        self.any = bool(self._full)

    @property
    def problems(self) -> list[str]:
        """Which sites, since when, and how many hits were held: some by name, and how many more."""
        oldest_s = time.monotonic() - QUIET_S
        for quiet in [site for site, full in self._full.items() if full.last_s < oldest_s]:
            self.fits(quiet)
        problems = [
            f"The set of visitors of {site} is full since "
            f"{datetime.fromtimestamp(full.began, UTC).isoformat(timespec='seconds')}: {full.hits} "
            "hits of new visitors count as pageviews only. It empties as visitors stay away; a "
            "shorter visit_timeout or online_window lets it empty sooner."
            for site, full in [*self._full.items()][:MOST_NAMED]
        ]
        if more := len(self._full) - len(problems):
            problems.append(f"And the sets of {more} more sites are full.")
        return problems

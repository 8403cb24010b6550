"""What those are told who count: whether it counted, why not, and the counts."""

from __future__ import annotations

from typing import Any, Final

import orjson

from visit_counter.clock import Clock
from visit_counter.model.counts import Counts
from visit_counter.model.hit import Drop, Hit
from visit_counter.model.site import Site
from visit_counter.reading.reader import Reader, Reading
from visit_counter.store.batch import Outcome
from visit_counter.web.counts import counts_json

MOST_RENDERED: Final = 1000  # answers that are kept, of as many sites


class Answer:
    """Status and JSON of the answer to a hit."""

    def __init__(self, status: int, body: bytes) -> None:
        self.status = status
        self.body = body
        self.http = b""
        """As the lane writes it, once it has."""


class HitAnswers:
    """Answers to POST /w/{site}.

    The hits of a batch are answered with the same counts: the last answer of each site is kept.
    """

    def __init__(self, clock: Clock, reader: Reader) -> None:
        self._clock = clock
        self._reader = reader
        self._last: dict[str, tuple[Site, Counts, Answer]] = {}

    def of(self, entry: Hit | Drop, outcome: Outcome | None) -> Answer:
        """`outcome`: None if the hit is in the spool."""
        site = entry.site
        if isinstance(entry, Hit) and outcome and not outcome.held and outcome.page is None:
            last = self._last.get(site.id)
            if last and last[0] is site and last[1] is outcome.counts:
                return last[2]
            answer = self._counted(site, _begun(site, counted=True), outcome, None)
            if len(self._last) >= MOST_RENDERED:
                self._last.clear()
            self._last[site.id] = (site, outcome.counts, answer)
            return answer
        body = _begun(site, counted=isinstance(entry, Hit))
        if isinstance(entry, Drop):
            body["reason"] = entry.reason.value
        if outcome is None:
            return self._spooled(site, body)
        if outcome.held:
            body["held"] = True
        page = None
        if isinstance(entry, Hit) and outcome.page is not None:
            page = (entry.path, outcome.page)
        return self._counted(site, body, outcome, page)

    def repeated(self, site: Site, reading: Reading | None, path: str | None) -> Answer:
        """For a view that was accepted before: `reading` as it is now, with the page at `path` if
        that was wanted; None while the store is away."""
        body = _begun(site, counted=True) | {"repeated": True}
        if reading is None:
            return self._spooled(site, body)
        page = (path, reading.counts.pages[0]) if path is not None else None
        if site.settings.public:
            counts = counts_json(site, reading.counts, reading.as_of, page)
            body |= counts | {"as_of": reading.as_of // 1000}
        return Answer(200, orjson.dumps(body))

    def _counted(
        self, site: Site, body: dict[str, Any], outcome: Outcome, page: tuple[str, int] | None
    ) -> Answer:
        now = self._clock.now()
        self._reader.keep(site, outcome.counts, now)
        if site.settings.public:
            body |= counts_json(site, outcome.counts, now, page) | {"as_of": now // 1000}
        return Answer(200, orjson.dumps(body))

    def _spooled(self, site: Site, body: dict[str, Any]) -> Answer:
        """The store is away or late: with the last counts if there are any, and their instant."""
        body["spooled"] = True
        self._reader.renew(site)
        kept = self._reader.kept(site)
        if kept and site.settings.public:
            body |= counts_json(site, kept.counts, kept.as_of) | {"as_of": kept.as_of // 1000}
        return Answer(202, orjson.dumps(body))


def _begun(site: Site, *, counted: bool) -> dict[str, Any]:
    """What every answer says; by the window a page knows how often to say that it is looked at."""
    return {"counted": counted, "online_window": site.settings.online_window}

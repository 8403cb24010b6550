"""What a picture shows: a site's numbers, as text in the language and format that its URL asks for.

Where there are no numbers right now each of them is a dash, never 0; old ones say of when they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from visit_counter.model.calendar import zone
from visit_counter.model.counts import Numbers
from visit_counter.model.kinds import METRICS
from visit_counter.model.site import Site
from visit_counter.reading.reader import Reading
from visit_counter.web.pictures.query import Query
from visit_counter.web.words.languages import DEFAULT, FORMATS, LANGUAGES, Words, number

SHOWN = ("online", "today", "week", "total")  # as the element does
OLD_MS = 60_000
DASH = "–"
ABOUT = "≈"  # before what is approximate


class Panel(NamedTuple):
    """A site's numbers and how to say them."""

    site: Site
    reading: Reading | None
    """None: there are no numbers right now."""
    language: str
    words: Words
    metric: str
    format: str
    now: int

    @classmethod
    def of(cls, site: Site, reading: Reading | None, query: Query, now: int) -> Panel:
        language = query.one_of("lang", LANGUAGES, DEFAULT)
        words = LANGUAGES[language]
        metric = query.one_of("metric", METRICS, site.settings.metric)
        written = query.one_of("number-format", FORMATS, words.format)
        return cls(site, reading, language, words, metric, written, now)

    @property
    def rtl(self) -> bool:
        return self.words.direction == "rtl"

    @property
    def note(self) -> str:
        """That there are no numbers, or of when they are if they are old."""
        if self.reading is None:
            return self.words.none
        if self.now - self.reading.as_of < OLD_MS:
            return ""
        timezone = self.site.calendar.timezone_at(self.reading.as_of)
        local = datetime.fromtimestamp(self.reading.as_of / 1000, zone(timezone))
        return self.words.as_of.format(time=f"{local:%Y-%m-%d %H:%M}")

    @property
    def days(self) -> list[int]:
        """The numbers of the last days, today's last; of none where there are none."""
        if self.reading is None:
            return []
        return [self.measured(day.numbers) for day in self.reading.days.values()]

    @property
    def rough_days(self) -> list[str]:
        """The labels of those whose numbers are approximate."""
        if self.reading is None or self.metric != "visitors":
            return []
        return [label for label, day in self.reading.days.items() if day.is_approximate]

    @property
    def rough_rows(self) -> list[str]:
        """The rows whose numbers are approximate: visitors of a period, where sums were made of
        them."""
        if self.reading is None or self.metric != "visitors":
            return []
        return self.reading.counts.approximate

    def label(self, row: str) -> str:
        return str(getattr(self.words, row))

    def value(self, row: str) -> str:
        """A number as it is seen, with a sign if it is approximate."""
        sign = f"{ABOUT}\N{NO-BREAK SPACE}" if row in self.rough_rows else ""
        return sign + self.plain_value(row)

    def said(self, row: str) -> str:
        """A number as it is heard."""
        word = f"{self.words.about} " if row in self.rough_rows else ""
        return word + self.plain_value(row)

    def plain_value(self, row: str) -> str:
        found = self.number(row)
        return DASH if found is None else self.written(found)

    def number(self, row: str) -> int | None:
        """Of a row; None where there are none."""
        if self.reading is None:
            return None
        counts = self.reading.counts
        return counts.online if row == "online" else self.measured(getattr(counts, row))

    def measured(self, numbers: Numbers) -> int:
        """By the metric that is shown."""
        return int(getattr(numbers, self.metric))

    def written(self, value: int) -> str:
        return number(value, self.format)

    def sentence(self, row: str) -> str:
        """A row as it is heard."""
        return f"{self.label(row)}{self.words.colon}{self.said(row)}"

    def approximate(self, what: Iterable[str]) -> str:
        """The sentence that names what is approximate; empty if nothing is."""
        names = self.words.comma.join(what)
        return self.words.approximate.format(periods=names) if names else ""

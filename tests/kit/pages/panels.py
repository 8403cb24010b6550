"""Pictures without a service: a site's numbers as a test wants them, drawn for any parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from xml.etree import ElementTree

from tests.kit.counting import at
from visit_counter.model.calendar import Calendar
from visit_counter.model.counts import Counts, Day, Numbers
from visit_counter.model.seeds import Seed
from visit_counter.model.site import Site
from visit_counter.model.site_settings import SiteSettings, StoredSite
from visit_counter.reading.reader import DAYS, Reading
from visit_counter.web.pictures import frame
from visit_counter.web.pictures.drawn import badge, block, button, digits, spark
from visit_counter.web.pictures.drawn.panel import Panel
from visit_counter.web.pictures.query import Query

SVG = "{http://www.w3.org/2000/svg}"
NOW = at("2026-11-22 17:20", "Asia/Ho_Chi_Minh")

SITE = Site(
    StoredSite(SiteSettings(id="portal", origins=("*",)), Calendar.of("Asia/Ho_Chi_Minh")), 1
)
DRAWN: dict[str, Callable[[Panel, Query], str]] = {
    "block": block.draw,
    "badge": badge.draw,
    "digits": digits.draw,
    "spark": spark.draw,
    "button": button.draw,
}


def numbers(visits: int) -> Numbers:
    return Numbers(2 * visits, visits, visits // 2)


def reading(
    online: int = 81,
    today: int = 1886,
    week: int = 20657,
    total: int = 1891451,
    approximate: Sequence[str] = (),
    approximate_days: int = 0,
) -> Reading:
    """As in the portal's block; of the days the last ones before today may be approximate."""
    counts = Counts(
        online=online,
        today=numbers(today),
        yesterday=numbers(1234),
        week=numbers(week),
        last_week=numbers(30123),
        month=numbers(81234),
        last_month=numbers(91234),
        year=numbers(901234),
        total=numbers(total),
        since=NOW - 10**9,
        last_hit=NOW,
        peak=99,
        peak_at=NOW,
        approximate=[*approximate],
        seeds=[Seed("total", "visits", 1800000)],
        pages=[],
    )
    labels = SITE.calendar.last_days(NOW, DAYS)
    rough = labels[DAYS - 1 - approximate_days : DAYS - 1]
    days = {label: Day(numbers(100 * (n % 7)), label in rough) for n, label in enumerate(labels)}
    return Reading(counts, NOW, 1, days)


def panel(given: Mapping[str, str], read: Reading | None, now: int = NOW) -> Panel:
    return Panel.of(SITE, read, Query(given), now)


def drawn(
    name: str, given: Mapping[str, str], read: Reading | None, now: int = NOW
) -> ElementTree.Element:
    """The picture, which must be well-formed."""
    return ElementTree.fromstring(DRAWN[name](panel(given, read, now), Query(given)))


def framed(given: Mapping[str, str], read: Reading | None, now: int = NOW) -> str:
    discovery = "https://count.example.vn/oembed?url=x&y"
    shown = panel(given, read, now)
    return frame.draw(frame.Frame(shown, Query(given)), shown, given, discovery)


def lines(picture: ElementTree.Element) -> list[str]:
    """The texts of a picture as they read."""
    return ["".join(text.itertext()) for text in picture.iter(f"{SVG}text")]


def spoken(picture: ElementTree.Element) -> tuple[str, str]:
    """What is heard of a picture: its name and its description."""
    return picture.findtext(f"{SVG}title", ""), picture.findtext(f"{SVG}desc", "")

"""The last thirty days as bars, today's last; the highest one fills the picture."""

from __future__ import annotations

from visit_counter.reading.reader import DAYS
from visit_counter.web.pictures.drawn.colors import THEMES, style
from visit_counter.web.pictures.drawn.markup import Markup, element, picture, text
from visit_counter.web.pictures.drawn.panel import DASH, Panel
from visit_counter.web.pictures.query import Query

STEP, BAR = 6, 4
PAD, HIGH = 6, 40
STUB = 1  # of a day on which nobody came


def draw(panel: Panel, query: Query) -> Markup:
    theme = query.one_of("theme", THEMES, "auto")
    days = panel.days
    most = max([*days, 1])
    wide = 2 * PAD + DAYS * STEP - (STEP - BAR)
    high = 2 * PAD + HIGH
    name = panel.words.last_days.format(number=panel.written(DAYS))
    bars = [
        _bar(wide - PAD - BAR - n * STEP if panel.rtl else PAD + n * STEP, value / most, n)
        for n, value in enumerate(days)
    ]
    told = [f"{panel.sentence(row)}." for row in ("yesterday", "today")]
    told += [panel.approximate(panel.rough_days), panel.note]
    return picture(
        wide,
        high,
        f"{panel.label(panel.metric)}, {name}",
        element("rect", class_="ground", x=0.5, y=0.5, width=wide - 1, height=high - 1, rx=4),
        *(bars or [_dash(wide, high)]),
        style=style(theme),
        told=" ".join(filter(None, told)),
        lang=panel.language,
    )


def _dash(wide: float, high: float) -> Markup:
    """There are no numbers."""
    middle = {"x": wide / 2, "y": high / 2 + 5}
    return element("text", text(DASH), class_="soft", text_anchor="middle", font_size=14, **middle)


def _bar(x: float, part: float, number: int) -> Markup:
    high = STUB + (HIGH - STUB) * part
    of_today = number == DAYS - 1
    return element(
        "rect",
        class_="accent" if of_today else "soft",
        x=x,
        y=PAD + HIGH - high,
        width=BAR,
        height=high,
        rx=1,
    )

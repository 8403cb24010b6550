"""The button of 88 by 31 that websites used to show in a row: who is online, and a number."""

from __future__ import annotations

from visit_counter.web.pictures.drawn.colors import THEMES, style
from visit_counter.web.pictures.drawn.markup import Markup, element, picture, text
from visit_counter.web.pictures.drawn.panel import Panel
from visit_counter.web.pictures.drawn.widths import width
from visit_counter.web.pictures.query import Query
from visit_counter.web.words.languages import ROWS

WIDE, HIGH = 88, 31
PAD = 6
DOT = 7  # room for the one before who is online
UPPER, LOWER = 9.0, 13.0  # sizes of type, if there is room


def draw(panel: Panel, query: Query) -> Markup:
    theme = query.one_of("theme", THEMES, "blue")
    period = query.one_of("period", ROWS, "total")
    online, number = panel.sentence("online"), panel.value(period)
    dot = WIDE - PAD - 2.5 if panel.rtl else PAD + 2.5
    return picture(
        WIDE,
        HIGH,
        f"{online}. {panel.sentence(period)}",
        element("rect", class_="ground", x=0.5, y=0.5, width=WIDE - 1, height=HIGH - 1, rx=3),
        element("circle", class_="accent", cx=dot, cy=9.5, r=2.5),
        _fitting(panel, online, PAD + DOT, 12.5, UPPER, class_="soft"),
        _fitting(panel, number, PAD, 25.5, LOWER, class_="ink", font_weight="bold"),
        style=style(theme),
        told=panel.note,
        lang=panel.language,
    )


def _fitting(
    panel: Panel, said: str, indent: float, baseline: float, size: float, **more: str
) -> Markup:
    """Text in a size in which it has room."""
    room = WIDE - indent - PAD
    size *= min(1, room / width(said, size, bold="font_weight" in more))
    attributes: dict[str, str | float] = {**more}
    if panel.rtl:
        attributes["direction"] = "rtl"
        indent = WIDE - indent
    return element("text", text(said), x=indent, y=baseline, font_size=size, **attributes)

"""A badge as projects have them: a label, and a number on a colour. Also as shields.io draws it."""

from __future__ import annotations

from typing import Any

from visit_counter.web.pictures.drawn.colors import readable_on
from visit_counter.web.pictures.drawn.markup import Markup, element, picture, text
from visit_counter.web.pictures.drawn.panel import Panel
from visit_counter.web.pictures.drawn.widths import width
from visit_counter.web.pictures.query import Query
from visit_counter.web.words.languages import ROWS

SHAPES = {"flat": 4, "square": 0}  # how round the corners are
HEIGHT, SIZE, PAD = 20, 11, 7
CACHE_S = 300  # the least that shields.io knows


class Badge:
    """What a badge is asked to show."""

    def __init__(self, panel: Panel, query: Query) -> None:
        period = query.one_of("period", ROWS, "total")
        named = panel.metric if period == "total" else period
        self.label = query.text("label", panel.label(named))
        self.number = panel.value(period)
        self.said = panel.said(period)
        self.color = query.color("color", "blue")
        self.label_color = query.color("label-color", "grey")
        self.shape = query.one_of("shape", SHAPES, "flat")


def draw(panel: Panel, query: Query) -> Markup:
    badge = Badge(panel, query)
    widths = [2 * PAD + width(each, SIZE) if each else 0 for each in (badge.label, badge.number)]
    parts = [(badge.label, badge.label_color), (badge.number, badge.color)]
    if panel.rtl:
        parts, widths = parts[::-1], widths[::-1]
    whole = sum(widths)
    left, right = parts
    return picture(
        whole,
        HEIGHT,
        f"{badge.label}{panel.words.colon}{badge.said}" if badge.label else badge.said,
        element("clipPath", _box(0, whole, rx=SHAPES[badge.shape]), id="r"),
        element(
            "g",
            _box(0, whole, fill=right[1]),
            _box(0, widths[0], fill=left[1]),
            clip_path="url(#r)",
        ),
        _middle(left, 0, widths[0]),
        _middle(right, widths[0], widths[1]),
        told=panel.note,
        lang=panel.language,
    )


def shields(panel: Panel, query: Query) -> dict[str, Any]:
    """The answer that shields.io asks an endpoint for (shields.io/badges/endpoint-badge)."""
    badge = Badge(panel, query)
    error = {"isError": True} if panel.reading is None else {}
    old = panel.note and not error
    return {
        "schemaVersion": 1,
        "label": badge.label,
        "message": f"{badge.number} ({panel.note})" if old else badge.number,
        "color": badge.color,
        "labelColor": badge.label_color,
        "cacheSeconds": CACHE_S,
        **error,
    }


def _box(x: float, wide: float, **more: str | float) -> Markup:
    return element("rect", x=x, width=wide, height=HEIGHT, **more)


def _middle(part: tuple[str, str], x: float, wide: float) -> Markup:
    said, ground = part
    return element(
        "text",
        text(said),
        x=x + wide / 2,
        y=14,
        font_size=SIZE,
        text_anchor="middle",
        fill=readable_on(ground),
    )

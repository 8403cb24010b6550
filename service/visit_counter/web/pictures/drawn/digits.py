"""A number in drawn digits, as old counters had it: four sets, each drawn here as paths.

Three sets share one alphabet of strokes, on a field of 10 by 16; the seven segments are their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from visit_counter.web.pictures.drawn.colors import THEMES, style
from visit_counter.web.pictures.drawn.markup import Markup, element, picture
from visit_counter.web.pictures.drawn.panel import ABOUT, Panel
from visit_counter.web.pictures.query import Query
from visit_counter.web.words.languages import ROWS

MOST_DIGITS = 12  # to fill up with zeros
PAD = 4

STROKES = (
    "M5 1C2.4 1 1 3.6 1 8s1.4 7 4 7 4-2.6 4-7-1.4-7-4-7z",
    "M2.2 3.8 5.6 1v14",
    "M1.3 4.9C1.5 2.5 3 1 5.1 1c2.2 0 3.7 1.5 3.7 3.7C8.8 8 1.6 11 1.2 15H9",
    "M1.6 3.4C2.2 1.9 3.4 1 5 1c2.1 0 3.6 1.3 3.6 3.4S7 7.7 5 7.7c2.3 0 4 1.4 4 3.6S7.3 15 5 15"
    "c-1.9 0-3.4-1-4-2.7",
    "M7 15V1L.9 10.9h8.4",
    "M8.4 1H2.5l-.8 6.6C2.6 6.6 3.7 6.2 5 6.2c2.4 0 4 1.8 4 4.3S7.3 15 5 15c-1.8 0-3.2-.9-3.9-2.5",
    "M8.4 3.1C7.7 1.8 6.6 1 5.3 1 2.5 1 1 4 1 8.8 1 12.8 2.6 15 5 15s4-1.9 4-4.4-1.6-4.3-4-4.3"
    "-4 1.9-4 4.3",
    "M1 1h8C6.2 5 4.4 9.6 4.2 15",
    "M5 7.6C2.9 7.6 1.5 6.3 1.5 4.3S2.9 1 5 1s3.5 1.3 3.5 3.3S7.1 7.6 5 7.6 1 9 1 11.3 2.6 15 5 15"
    "s4-1.4 4-3.7-1.9-3.7-4-3.7z",
    "M1.6 12.9C2.3 14.2 3.4 15 4.7 15 7.5 15 9 12 9 7.2 9 3.2 7.4 1 5 1S1 2.9 1 5.4s1.6 4.3 4 4.3"
    " 4-1.9 4-4.3",
)
# Top, upper right, lower right, bottom, lower left, upper left, middle; and which are lit.
SEGMENTS = (
    *("M2.3 1h5.4", "M9 2.3v4.4", "M9 9.3v4.4", "M2.3 15h5.4"),
    *("M1 9.3v4.4", "M1 2.3v4.4", "M2.3 8h5.4"),
)
LIT = ("012345", "12", "01346", "01236", "1256", "02356", "023456", "012", "0123456", "012356")
NO_LIT = "6"
WAVES = "M1 6.6c1.3-2 2.7-2 4 0s2.7 2 4 0M1 10.6c1.3-2 2.7-2 4 0s2.7 2 4 0"
SIGNS = {"-": "M2 8h6", ABOUT: WAVES}  # a dash: there is no number

CELL, HIGH, GAP = 20, 32, 2
FIELD = "translate(2.5 4) scale(1.5)"

SHADE = element(
    "linearGradient",
    element("stop", offset=0, stop_color="#08090a"),
    element("stop", offset=0.5, stop_color="#3a3f46"),
    element("stop", offset=1, stop_color="#08090a"),
    id="shade",
    x2=0,
    y2=1,
)


def draw(panel: Panel, query: Query) -> Markup:
    made = SETS[query.one_of("set", SETS, "odometer")]
    period = query.one_of("period", ROWS, "total")
    theme = query.one_of("theme", THEMES, "auto")
    filled = query.whole("zero-pad", 0, MOST_DIGITS, 0)
    color = query.color("color", made.color)
    value = panel.number(period)
    shown = "-" * max(filled, 1) if value is None else str(value).zfill(filled)
    if period in panel.rough_rows:
        shown = ABOUT + shown
    cells = [
        element(
            "g", *made.cell(digit, color), transform=f"translate({PAD + n * (CELL + GAP)} {PAD})"
        )
        for n, digit in enumerate(shown)
    ]
    wide, high = 2 * PAD + len(shown) * (CELL + GAP) - GAP, 2 * PAD + HIGH
    return picture(
        wide,
        high,
        panel.sentence(period),
        element("rect", width=wide, height=high, rx=5, **made.ground),
        *made.shared,
        *cells,
        style=style(theme) if made.themed else "",
        told=panel.note,
        lang=panel.language,
    )


def _segments(digit: str, color: str) -> list[Markup]:
    if digit == ABOUT:
        return [_drawn(WAVES, 1.9, stroke=color)]
    lit = NO_LIT if digit == "-" else LIT[int(digit)]
    ways = {0.13: SEGMENTS, 1: [SEGMENTS[int(n)] for n in lit]}
    return [
        _drawn("".join(way), 1.9, stroke=color, stroke_opacity=opacity)
        for opacity, way in ways.items()
    ]


def _odometer(digit: str, color: str) -> list[Markup]:
    return [_box(rx=1.5, fill="url(#shade)"), _drawn(_stroke(digit), 1.7, stroke=color)]


def _flip(digit: str, color: str) -> list[Markup]:
    return [
        _box(rx=3, fill="#23272e"),
        element("path", d="M0 16V3a3 3 0 0 1 3-3h14a3 3 0 0 1 3 3v13z", fill="#343a43"),
        _drawn(_stroke(digit), 2, stroke=color),
        element("path", d="M0 16h20", stroke="#0d0f12", stroke_width=1.4),
    ]


def _plain(digit: str, color: str) -> list[Markup]:
    return [_drawn(_stroke(digit), 1.8, class_="drawn")]


def _stroke(digit: str) -> str:
    return SIGNS.get(digit) or STROKES[int(digit)]


def _box(**more: str | float) -> Markup:
    return element("rect", width=CELL, height=HIGH, **more)


def _drawn(path: str, thick: float, **more: str | float) -> Markup:
    return element(
        "path",
        d=path,
        transform=FIELD,
        fill="none",
        stroke_width=thick,
        stroke_linecap="round",
        stroke_linejoin="round",
        **more,
    )


class DigitSet(NamedTuple):
    """How a set draws a digit on its cell, its usual colour, and what lies under all."""

    cell: Callable[[str, str], list[Markup]]
    color: str
    ground: dict[str, str]
    shared: tuple[Markup, ...] = ()
    """What its cells refer to."""
    themed: bool = False


SETS = {
    "odometer": DigitSet(_odometer, "white", {"fill": "#1b1e22"}, (SHADE,)),
    "seven-segment": DigitSet(_segments, "#ff5a45", {"fill": "#1a0f0d"}),
    "flip": DigitSet(_flip, "white", {"fill": "none"}),
    "plain": DigitSet(_plain, "black", {"class_": "ground"}, themed=True),
}

"""The block as a picture: a title, and a row for each number, as in a page's footer."""

from __future__ import annotations

from visit_counter.web.pictures.drawn.colors import THEMES, style
from visit_counter.web.pictures.drawn.markup import Markup, element, picture, text
from visit_counter.web.pictures.drawn.panel import SHOWN, Panel
from visit_counter.web.pictures.drawn.widths import width
from visit_counter.web.pictures.query import Query
from visit_counter.web.words.languages import ROWS

PAD = 14
TITLE, ROW, NOTE = 15, 14, 12  # sizes of type
LINE = 23
INDENT = 16  # of a row, behind its bullet


class Block:
    """What a block is asked to show."""

    def __init__(self, panel: Panel, query: Query) -> None:
        self.theme = query.one_of("theme", THEMES, "auto")
        self.rows = query.some_of("rows", ROWS, SHOWN)
        self.title = query.text("title", panel.words.title)
        self.note = panel.note
        self.rtl = panel.rtl
        sentences = [panel.sentence(row) for row in self.rows]
        lines = [f"{panel.label(row)}{panel.words.colon}{panel.value(row)}" for row in self.rows]
        self.width = 2 * PAD + max(
            width(self.title, TITLE, bold=True),
            width(self.note, NOTE),
            *(INDENT + width(line, ROW, bold=True) for line in lines),
        )
        high = len(self.rows) + bool(self.title) + bool(self.note)
        self.height = 2 * PAD + high * LINE - (LINE - ROW)
        self.told = ". ".join(sentences)


def draw(panel: Panel, query: Query) -> Markup:
    block = Block(panel, query)
    baseline, lines = PAD + TITLE - 3, []
    if block.title:
        lines.append(_line(block, PAD, baseline, TITLE, text(block.title), font_weight="bold"))
        baseline += LINE
    for row in block.rows:
        lines += _row(block, panel, row, baseline)
        baseline += LINE
    if block.note:
        lines.append(_line(block, PAD, baseline, NOTE, text(block.note), class_="soft"))
    ground = element(
        "rect", class_="ground", x=0.5, y=0.5, width=block.width - 1, height=block.height - 1, rx=6
    )
    said = block.title or panel.words.title
    told = f"{block.told}. {block.note}".strip()
    return picture(
        block.width,
        block.height,
        said,
        ground,
        *lines,
        style=style(block.theme),
        told=told,
        lang=panel.language,
    )


def _row(block: Block, panel: Panel, row: str, baseline: float) -> list[Markup]:
    x = PAD + 4
    bullet = element(
        "circle", class_="accent", cx=block.width - x if block.rtl else x, cy=baseline - 5, r=2.5
    )
    label = element("tspan", text(panel.label(row) + panel.words.colon), class_="soft")
    value = element("tspan", text(panel.value(row)), class_="ink", font_weight="bold")
    return [bullet, _line(block, PAD + INDENT, baseline, ROW, label, value)]


def _line(
    block: Block, indent: float, baseline: float, size: float, *content: Markup, **more: str
) -> Markup:
    """Text that begins where the language begins its lines."""
    attributes: dict[str, str | float] = {"class_": "ink", **more}
    if block.rtl:
        attributes["direction"] = "rtl"
        indent = block.width - indent
    return element("text", *content, x=indent, y=baseline, font_size=size, **attributes)

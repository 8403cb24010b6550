"""The block as a page of its own, to stand in a frame where a website takes neither script nor
element.

No script runs in it. With `refresh` the browser loads it anew, and a link in it pauses that (WCAG
2.2, 2.2.2). It says of itself which websites may frame it: those that count for the site.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from urllib.parse import urlencode

from visit_counter.model.calendar import zone
from visit_counter.rules.origins import ANY, SELF, Origins
from visit_counter.web.pictures.drawn.block import NOTE, PAD, Block
from visit_counter.web.pictures.drawn.colors import variables
from visit_counter.web.pictures.drawn.markup import FONT, Markup, element, text
from visit_counter.web.pictures.drawn.panel import ABOUT, Panel
from visit_counter.web.pictures.drawn.widths import width
from visit_counter.web.pictures.query import Query
from visit_counter.web.words.languages import fraction

SELDOM_S, OFTEN_S = 3600, 10
YES_NO = ("no", "yes")
STANDARD_ERROR = "0.81"  # per cent, of HyperLogLogs of 16,384 registers: 1.04 / sqrt(16384)


class Frame(Block):
    """What a frame is asked to show."""

    def __init__(self, panel: Panel, query: Query) -> None:
        super().__init__(panel, query)
        self.refresh = query.whole("refresh", OFTEN_S, SELDOM_S, 0)
        self.paused = query.one_of("paused", YES_NO, "no") == "yes"
        self.how = query.one_of("how", YES_NO, "no") == "yes"
        control = panel.words.resume if self.paused else panel.words.pause
        summary = panel.words.how if self.how else ""
        small = [each for each in (self.note, control * bool(self.refresh), summary) if each]
        self.width = max([self.width, *(2 * PAD + 16 + width(each, NOTE) for each in small)])
        self.height = 24 + 28 * bool(self.title) + 23 * len(self.rows) + 26 * len(small)


def draw(frame: Frame, panel: Panel, given: Mapping[str, str], discovery: str) -> str:
    """The page; `given` are the parameters of its URL, `discovery` is where oEmbed tells of it."""
    name = frame.title or panel.words.title
    page = element(
        "html",
        element("head", *_head(frame, name, discovery)),
        # By its name it is another main than that of the page around the frame.
        element("body", element("main", *_body(frame, panel, name, given), aria_label=name)),
        lang=panel.language,
        dir=panel.words.direction,
    )
    return f"<!doctype html>{page}"


def headers(frame: Frame) -> dict[str, str]:
    """When to load it again."""
    return {"Refresh": str(frame.refresh)} if frame.refresh and not frame.paused else {}


def ancestors(origins: Origins) -> str:
    """Who may frame it, as frame-ancestors lists them."""
    sources = [f"'{SELF}'" if text == SELF else text for text in origins.texts]
    return "*" if ANY in sources else " ".join(dict.fromkeys(("'self'", *sources)))


def how(panel: Panel) -> list[str]:
    """How the numbers come about, as sentences."""
    words, settings, calendar = panel.words, panel.site.settings, panel.site.calendar
    timezone = calendar.timezone_at(panel.now)
    seconds = settings.online_window
    unit, many = (words.seconds, 1) if seconds % 60 else (words.minutes, 60)
    lines = [
        words.zone.format(zone=timezone),
        words.week_start.format(day=words.days[calendar.week_start_at(panel.now)]),
        words.window.format(time=unit.format(number=panel.written(seconds // many))),
    ]
    if panel.reading is None:
        return lines
    counts = panel.reading.counts
    since = datetime.fromtimestamp(counts.since / 1000, zone(timezone))
    lines.append(words.since.format(date=f"{since:%Y-%m-%d}"))
    if panel.metric == "visitors":
        lines.append(words.estimate.format(error=fraction(STANDARD_ERROR, panel.format)))
        lines += filter(None, [panel.approximate(map(panel.label, panel.rough_rows))])
    for seed in counts.seeds:
        if (seed.period, seed.metric) == ("total", panel.metric) and seed.amount > 0:
            lines.append(words.seeded.format(number=panel.written(seed.amount)))
    return lines


def _head(frame: Frame, name: str, discovery: str) -> list[Markup]:
    return [
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width"),
        element("title", text(name)),
        element("style", Markup(_style(frame.theme))),
        element("link", rel="alternate", type="application/json+oembed", href=discovery),
    ]


def _body(frame: Frame, panel: Panel, name: str, given: Mapping[str, str]) -> list[Markup]:
    unseen = {} if frame.title else {"class_": "unseen"}
    heading = element("h1", text(name), **unseen)
    body = [heading, element("ul", *(_row(panel, row) for row in frame.rows))]
    if frame.note:
        body.append(element("p", text(frame.note)))
    if frame.refresh:
        body.append(_pause(panel, given, frame.paused))
    if frame.how:
        summary = element("summary", text(panel.words.how))
        body.append(element("details", summary, *(element("p", text(line)) for line in how(panel))))
    return body


def _row(panel: Panel, row: str) -> Markup:
    label = element("span", text(panel.label(row) + panel.words.colon))
    value = [text(panel.plain_value(row))]
    if row in panel.rough_rows:
        sign = element("span", text(ABOUT), role="img", aria_label=panel.words.about)
        value = [sign, text("\N{NO-BREAK SPACE}"), *value]
    return element("li", label, element("b", *value))


def _pause(panel: Panel, given: Mapping[str, str], paused: bool) -> Markup:
    href = "?" + urlencode({**given, "paused": YES_NO[not paused]})
    said = panel.words.resume if paused else panel.words.pause
    return element("p", element("a", text(said), href=href))


def _style(name: str) -> str:
    return variables(name) + (
        f"body{{margin:0;font:14px/1.6 {FONT};background:var(--ground);color:var(--ink)}}"
        "main{padding:10px 14px;border:1px solid var(--line);border-radius:6px}"
        "h1{margin:0 0 4px;font-size:15px}ul{margin:0;padding:0;list-style:'•\u2002' inside}"
        "li::marker{color:var(--accent)}li span,p,summary{color:var(--soft)}"
        "b{font-variant-numeric:tabular-nums}p,details{margin:6px 0 0;font-size:12px}"
        "a{color:var(--accent)}.unseen{position:absolute;clip-path:inset(50%)}"
    )

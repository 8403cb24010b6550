"""The privacy text as a page: what visitors of a site are told, without a script."""

from __future__ import annotations

from visit_counter.web.pictures.drawn.colors import variables
from visit_counter.web.pictures.drawn.markup import FONT, Markup, element, text
from visit_counter.web.words import languages
from visit_counter.web.words.privacy import LANGUAGES, Notice, Section

STYLE = Markup(
    variables("auto")
    + f"body{{margin:0;font:16px/1.65 {FONT};background:var(--ground);color:var(--ink)}}"
    "main{max-width:42rem;margin:0 auto;padding:2rem 1.25rem 4rem}"
    "h1{margin:1rem 0;font-size:1.6rem;line-height:1.25}h2{margin:2rem 0 .5rem;font-size:1.1rem}"
    "ul{margin:0;padding-inline-start:1.2rem}li{margin:.4rem 0}li::marker{color:var(--accent)}"
    "a{color:var(--accent)}.made{margin-top:2rem;color:var(--soft);font-size:.9rem}"
    "code{padding:.1em .3em;border:1px solid var(--line);border-radius:3px;font-size:.9em}"
)


def draw(notice: Notice, language: str) -> str:
    """The page, with links to itself in the other languages."""
    others = [_link(other) for other in LANGUAGES if other != language]
    page = element(
        "html",
        element(
            "head",
            element("meta", charset="utf-8"),
            element("meta", name="viewport", content="width=device-width"),
            element("title", text(notice.title)),
            element("style", STYLE),
        ),
        element(
            "body",
            element(
                "main",
                *others,
                element("h1", text(notice.title)),
                element("p", text(notice.brief)),
                *(part for section in notice.sections for part in _section(section)),
                element("p", text(notice.made_of), class_="made"),
            ),
        ),
        lang=language,
    )
    return f"<!doctype html>{page}"


def _link(language: str) -> Markup:
    name = languages.LANGUAGES[language].name
    return element("a", text(name), href=f"?lang={language}", lang=language, hreflang=language)


def _section(section: Section) -> list[Markup]:
    lines = (element("li", *_inline(line)) for line in section.lines)
    return [element("h2", text(section.heading)), element("ul", *lines)]


def _inline(line: str) -> list[Markup]:
    """Text, and between backticks code."""
    parts = enumerate(line.split("`"))
    return [element("code", text(part)) if n % 2 else text(part) for n, part in parts]

"""Elements of SVG and HTML from values: every text and every attribute is escaped here."""

from __future__ import annotations

from html import escape
from typing import NewType

Markup = NewType("Markup", str)

FONT = "system-ui,'Segoe UI',Roboto,'Noto Sans',Verdana,sans-serif"


def text(value: str) -> Markup:
    return Markup(escape(value))


def element(name: str, /, *content: Markup, **attributes: str | float) -> Markup:
    """`class_` is the attribute class, `stroke_width` stroke-width."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_value(value))}"'
        for key, value in attributes.items()
    )
    if not content:
        return Markup(f"<{name}{written}/>")
    return Markup(f"<{name}{written}>{''.join(content)}</{name}>")


def picture(
    width: float,
    height: float,
    said: str,
    *content: Markup,
    lang: str,
    style: str = "",
    told: str = "",
) -> Markup:
    """An SVG; `said` is its name and `told` its description, for those who hear it."""
    head = [element("title", text(said))]
    if told:
        head.append(element("desc", text(told)))
    if style:
        head.append(element("style", Markup(style)))
    return element(
        "svg",
        *head,
        *content,
        xmlns="http://www.w3.org/2000/svg",
        width=width,
        height=height,
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        lang=lang,
        font_family=FONT,
    )


def _value(value: str | float) -> str:
    return value if isinstance(value, str) else f"{round(value, 2):g}"

"""The colours of pictures: themes, names for those of badges, and what can be read on them."""

from __future__ import annotations

from typing import NamedTuple


class Theme(NamedTuple):
    """Colours that can be read on each other: at least 4.5 to 1 for text, 3 to 1 for the rest."""

    ground: str
    line: str
    ink: str
    soft: str
    """Less important text."""
    accent: str


LIGHT = Theme("#ffffff", "#d5dae0", "#1f2733", "#5a6472", "#0b5cad")
DARK = Theme("#1c2026", "#3d454f", "#e4e7eb", "#a0a9b5", "#7fb8f0")

# `auto` is light or dark, as the system of whoever looks at it is; the clear ones have no ground.
# What is drawn in `clear` is seen on dark pages too, where an element without a theme may stand.
THEMES = {
    "auto": LIGHT,
    "light": LIGHT,
    "dark": DARK,
    "blue": Theme("#12395f", "#12395f", "#f1f6fb", "#c3d7ea", "#ffd166"),
    "contrast": Theme("#000000", "#ffffff", "#ffffff", "#ffffff", "#ffff00"),
    "clear": LIGHT._replace(ground="none", line="none", soft="#6b7480", accent="#2a78cf"),
    "clear-dark": DARK._replace(ground="none", line="none"),
}

NAMED = {
    "blue": "#0b5cad",
    "green": "#237a3b",
    "brightgreen": "#44cc11",
    "teal": "#0f766e",
    "yellow": "#dfb317",
    "orange": "#c2500a",
    "red": "#c5281c",
    "purple": "#6d3fb0",
    "grey": "#555555",
    "lightgrey": "#9f9f9f",
    "black": "#1f2328",
    "white": "#ffffff",
}


def style(theme: str) -> str:
    """The style sheet of a picture's classes; `drawn` is ink for strokes."""
    sheet = _rules(THEMES[theme])
    if theme == "auto":
        sheet += f"@media (prefers-color-scheme:dark){{{_rules(DARK)}}}"
    return sheet + (
        "@media (forced-colors:active){.ground{fill:Canvas;stroke:CanvasText}"
        ".ink,.soft{fill:CanvasText}.accent{fill:LinkText}.drawn{stroke:CanvasText}}"
    )


def _rules(theme: Theme) -> str:
    return (
        f".ground{{fill:{theme.ground};stroke:{theme.line}}}.ink{{fill:{theme.ink}}}"
        f".soft{{fill:{theme.soft}}}.accent{{fill:{theme.accent}}}"
        f".drawn{{stroke:{theme.ink}}}"
    )


def variables(name: str) -> str:
    """The same for a page: a theme's colours as custom properties."""
    sheet = _properties(THEMES[name])
    if name == "auto":
        sheet += f"@media (prefers-color-scheme:dark){{{_properties(DARK)}}}"
    return sheet


def _properties(theme: Theme) -> str:
    ground, line = (color.replace("none", "transparent") for color in (theme.ground, theme.line))
    scheme = "dark" if luminance(theme.ink) > 0.5 else "light"
    return (
        f":root{{color-scheme:{scheme};--ground:{ground};--line:{line};--ink:{theme.ink};"
        f"--soft:{theme.soft};--accent:{theme.accent}}}"
    )


def readable_on(ground: str) -> str:
    """Black or white, whichever is read better on a colour."""
    return "#ffffff" if contrast(ground, "#ffffff") >= contrast(ground, "#000000") else "#000000"


def contrast(one: str, other: str) -> float:
    """WCAG 2.2, contrast ratio."""
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def luminance(color: str) -> float:
    """WCAG 2.2, relative luminance of `#rrggbb`."""
    channels = (int(color[at : at + 2], 16) / 255 for at in (1, 3, 5))
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue

"""The scripts that pages embed, put together from `assets/`, once each.

Counting is written in one file, showing in another: `embed.count.js` is the first alone, `embed.js`
both, with the words of some languages. They are packed within a function, so that they leave no
name behind, by `./dev pack`, which writes `assets/packed/`. A script has a version, the hash of its
text, by which a page may pin it. Nothing here knows requests.
"""

from __future__ import annotations

from base64 import b64encode
from functools import cache, lru_cache
from hashlib import sha256, sha384
from html import escape
from importlib.resources import files
from string import digits
from typing import NamedTuple

import orjson

from visit_counter.reading.reader import DAYS
from visit_counter.web.words.languages import FORMATS, LANGUAGES, ROWS, number

SPOKEN = ("en", "vi")
"""The languages of a script that is asked for in none."""
MOST_LANGUAGES = 3
SAID = (
    "format",
    "title",
    "none",
    "colon",
    "about",
    "as_of",
    "pause",
    "resume",
    "how",
    "opted_out",
    "opted_in",
)

NOTHING_ELSE = {"__proto__": None}
"""In an object's literal: it has no other keys, whatever name a page asks for."""


class Script(NamedTuple):
    """One text that pages embed."""

    text: str

    @property
    def version(self) -> str:
        return sha256(self.text.encode()).hexdigest()[:16]

    @property
    def integrity(self) -> str:
        """As a page's `integrity` attribute has it."""
        return "sha384-" + b64encode(sha384(self.text.encode()).digest()).decode()


@cache
def counting() -> Script:
    return Script(source("packed/embed.count.js").strip())


@lru_cache(maxsize=256)
def embedding(languages: tuple[str, ...] = SPOKEN) -> Script:
    """Counting and the element, in some languages: that of the page, else the first."""
    spoken = {"en", "vi", *languages}
    formats = {
        name: f"{each.grouped_from}{each.group}{each.digits.lstrip(digits)}"
        for name, each in FORMATS.items()
        if name == "plain" or name.partition("-")[0] in spoken
    }
    bundle = {
        "formats": NOTHING_ELSE | formats,
        "words": [words(language) for language in languages],
    }
    return Script(
        source("packed/embed.js").strip().replace("BUNDLE", orjson.dumps(bundle).decode())
    )


def snippet(
    address: str, site: str, languages: tuple[str, ...] = (), *, alone: bool, pinned: bool
) -> str:
    """The lines to put into a page, from the service at an address; `alone` only counts."""
    script = counting() if alone else embedding(languages or SPOKEN)
    name = "embed.count" if alone else "embed"
    version = f".{script.version}" if pinned else ""
    query = f"?lang={','.join(languages)}" if languages and not alone else ""
    integrity = f' integrity="{script.integrity}" crossorigin="anonymous"' if pinned else ""
    source = escape(f"{address.rstrip('/')}/{name}{version}.js{query}")
    line = f'<script async src="{source}"{integrity} data-site="{escape(site)}"></script>'
    return line if alone else f"{line}\n<visit-counter></visit-counter>"


def words(language: str) -> dict[str, str]:
    """What the element says in a language."""
    spoken = LANGUAGES[language]
    days = spoken.last_days.format(number=number(DAYS, spoken.format))
    return {
        "lang": language,
        **{name: getattr(spoken, name) for name in SAID},
        "labels": NOTHING_ELSE
        | {row: getattr(spoken, row) for row in ROWS}
        | {"page": spoken.pageviews},
        "last_days": days,
    }


def source(name: str) -> str:
    return files("visit_counter.web").joinpath("assets", name).read_text("utf-8")

"""The scripts that pages embed, put together from `assets/`, once each.

Counting is written in one file, showing in another: `embed.count.js` is the first alone, `embed.js`
both, with the words of some languages. They are served within a function, so that they leave no
name behind, and as they were written, but for comments, blanks and the length of our own names. A
script has a version, the hash of its text, by which a page may pin it. Nothing here knows requests.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections import Counter
from functools import cache, lru_cache
from hashlib import sha256, sha384
from html import escape
from importlib.resources import files
from itertools import islice, product
from string import ascii_letters, digits
from typing import NamedTuple

import orjson

from visit_counter.reading.reader import DAYS
from visit_counter.web.words.languages import FORMATS, LANGUAGES, ROWS, number

SPOKEN = ("en", "vi")
"""The languages of a script that is asked for in none."""
MOST_LANGUAGES = 3
SAID = ("format", "title", "none", "colon", "about", "as_of", "pause", "resume", "how")

NOTHING_ELSE = {"__proto__": None}
"""In an object's literal: it has no other keys, whatever name a page asks for."""

START = "// ---- start ----"

# A comment begins a line, or is a type between `/**` and `*/`.
COMMENT = re.compile(r"^[ \t]*//[^\n]*$|/\*\*.*?\*/\s*", re.M | re.S)
REGEX = r"/(?![*/ ])(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\[\\\n])+/g?"
NAME = r"[A-Za-z_]\w*"
TOKEN = re.compile(
    rf'(?P<quoted>"[^"\n]*"|{REGEX})|`(?P<template>[^`]*)`'
    rf"|(?P<name>\.?{NAME})|\s*(?P<sign>[=+*?:<>!&|{{}}(),;-]+)\s*"
)
GIVEN = re.compile(rf"\b(?:const|let|function) ({NAME})|\(([\w\s,]*(?:\.{{3}}\w+)?)\) (?:=>|{{)")
# What one statement gives and no other one knows may be called the same in all of them.
STATEMENT = re.compile(r"^(?=[\w(])", re.M)
SHARED = re.compile(rf"^(?:const|let|(?:async )?function) ({NAME})", re.M)
MOST_LOCAL = 7
KEY = re.compile(rf"(?:(?<!\$){{|,)\s*({NAME})(?=\s*[:,=}}])|(?<!\.\.)\.({NAME})")
# What our own records hold, but for what others' hold too.
OWNED = re.compile(rf"@property {{.*?}} \[?(?!(?:title|values|words)\b)({NAME})")
# What the end of a block, of arguments and of a keyword can do without.
NEEDLESS = re.compile(r";(?=})|,(?=\))|(?<=return) (?=[\"\[`/])")
RULES = re.compile(r"\s*([{};,>])\s*|(?<=:)\s+")


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
    return Script(f"(()=>{{{packed(source('embed.count.js'))}}})();")


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
    return Script(f"(bundle=>{{{_showing()}}})({orjson.dumps(bundle).decode()});")


@cache
def _showing() -> str:
    setup, start = source("embed.count.js").split(START)
    return packed(setup + source("embed.element.js") + start)


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


def packed(code: str) -> str:
    """Without comments and needless blanks, with short names for what is ours alone, and with one
    word for all that is declared: what is the same takes less room."""
    owned, code = _found(OWNED, code), COMMENT.sub("", code)
    names = Counter(re.findall(NAME, code))
    known = owned | _found(SHARED, code)
    shared = owned | _found(SHARED, code) - _found(KEY, code)

    def often(name: str) -> tuple[int, str]:
        return -names[name], name

    # Letters that stand there often already are coded by fewer bits.
    letters = sorted(ascii_letters, key=lambda letter: -code.count(letter))
    free = ("".join(some) for size in (1, 2) for some in product(letters, repeat=size))
    unused = (name for name in free if name not in names)
    local_names = list(islice(unused, MOST_LOCAL))
    short = dict(zip(sorted(shared, key=often), unused, strict=False))

    def pack(statement: str) -> str:
        given = _found(GIVEN, statement) - _found(KEY, statement) - known
        local = dict(zip(sorted(given, key=often), local_names, strict=False))
        return _renamed(statement, short | local)

    text = "".join(map(pack, STATEMENT.split(code))).strip()
    return NEEDLESS.sub("", text.replace("const ", "let "))


def _renamed(code: str, short: dict[str, str]) -> str:
    def pack(token: re.Match[str]) -> str:
        if token["template"] is not None:
            inner = re.sub(r"\$\{(.*?)\}", lambda hole: TOKEN.sub(pack, hole[0]), token["template"])
            return f"`{inner if len(inner.splitlines()) < 2 else _sheet(inner)}`"
        if token["sign"]:
            return token["sign"]
        if token["quoted"]:
            return token["quoted"]
        dot = "." * token["name"].startswith(".")
        name = token["name"].removeprefix(".")
        return dot + short.get(name, name)

    return TOKEN.sub(pack, code)


def _sheet(rules: str) -> str:
    return RULES.sub(r"\1", rules).strip()


def _found(names: re.Pattern[str], code: str) -> set[str]:
    return {
        name
        for found in names.finditer(code)
        for group in found.groups(default="")
        for name in re.findall(NAME, group)
    }

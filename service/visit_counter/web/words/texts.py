"""What the generator page and the installation checker say, in Vietnamese and in English.

`assets/generator.json` is the one place for both: `page` is what stands in the page, `said` what
its script says, `check` what the checker finds. Words in braces are places for values.
"""

from __future__ import annotations

import re
from importlib.resources import files

import msgspec
from aiohttp import web
from msgspec import Struct

from visit_counter.web.words.languages import DEFAULT


class Texts(Struct, frozen=True, forbid_unknown_fields=True):
    """Of one language."""

    page: dict[str, str]
    said: dict[str, str]
    check: dict[str, str]


TEXTS = msgspec.json.decode(
    files("visit_counter.web").joinpath("assets", "generator.json").read_bytes(),
    type=dict[str, Texts],
)
LANGUAGE = re.compile(r"[a-z]+", re.IGNORECASE)
WEIGHT = re.compile(r"q=([01](?:\.\d{0,3})?)", re.IGNORECASE)


def language_of(request: web.Request) -> str:
    """That of `?lang=`, else the one of ours that the browser likes best."""
    asked = request.query.get("lang")
    return _best(request.headers.get("Accept-Language", "") if asked is None else asked)


def _best(accepted: str) -> str:
    """Of RFC 9110's list; of equals the first. Takes a time that grows with the list's length only:
    patterns with spaces on both sides of what may be absent do not."""
    best, most = DEFAULT, 0.0
    for each in accepted.split(","):
        tag, _, weight = map(str.strip, each.partition(";"))
        language, liked = LANGUAGE.match(tag), WEIGHT.fullmatch(weight or "q=1")
        if language and liked and language[0].lower() in TEXTS and float(liked[1]) > most:
            best, most = language[0].lower(), float(liked[1])
    return best

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

from service.web.languages import DEFAULT


class Texts(Struct, frozen=True, forbid_unknown_fields=True):
    """Of one language."""

    page: dict[str, str]
    said: dict[str, str]
    check: dict[str, str]


TEXTS = msgspec.json.decode(
    files("service.web").joinpath("assets", "generator.json").read_bytes(), type=dict[str, Texts]
)
RANGE = re.compile(r"\s*([a-z]+)[\w-]*\s*(?:;\s*q=([01](?:\.\d{0,3})?))?\s*", re.IGNORECASE)


def language_of(request: web.Request) -> str:
    """That of `?lang=`, else the one of ours that the browser likes best."""
    asked = request.query.get("lang")
    return _best(request.headers.get("Accept-Language", "") if asked is None else asked)


def _best(accepted: str) -> str:
    """Of RFC 9110's list; of equals the first."""
    ranges = (RANGE.fullmatch(each) for each in accepted.split(","))
    liked = [(float(each[2] or 1), each[1].lower()) for each in ranges if each]
    ours = [(weight, tag) for weight, tag in liked if tag in TEXTS and weight]
    return max(ours, key=lambda each: each[0], default=(0, DEFAULT))[1]

"""What a picture's URL asks for: every value one of a list, within bounds, or text to be escaped.

A value that is none of those is a Problem 400 that names its parameter. Names that we do not know
are left alone: others append theirs to URLs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from visit_counter.characters import UNFIT
from visit_counter.errors import Problem
from visit_counter.web.pictures.drawn.colors import NAMED

MAX_TEXT = 60
HEX = re.compile(r"#?([0-9a-f]{3}|[0-9a-f]{6})", re.IGNORECASE)


class Query:
    """The parameters of one URL; each method raises Problem 400."""

    def __init__(self, given: Mapping[str, str]) -> None:
        self._given = given

    def one_of(self, name: str, values: Iterable[str], default: str) -> str:
        """One of some words."""
        value = self._given.get(name, default)
        if value not in values:
            raise malformed(name, f"use one of {' '.join(values)}")
        return value

    def some_of(self, name: str, values: Iterable[str], default: Iterable[str]) -> tuple[str, ...]:
        """Any of some words, in any order, between commas or spaces."""
        if name not in self._given:
            return tuple(default)
        found = tuple(dict.fromkeys(re.split(r"[,\s]+", self._given[name].strip(", "))))
        if not {*found} <= {*values}:
            raise malformed(name, f"use any of {' '.join(values)}, with commas between them")
        return found

    def whole(self, name: str, least: int, most: int, default: int) -> int:
        """A whole number; the default may be any."""
        if name not in self._given:
            return default
        value = self._given[name]
        if not re.fullmatch(r"[0-9]{1,6}", value) or not least <= int(value) <= most:
            raise malformed(name, f"use a whole number from {least} to {most}")
        return int(value)

    def text(self, name: str, default: str) -> str:
        """Any text of a line; empty to show none."""
        value = self._given.get(name, default)
        if value is not default and (len(value) > MAX_TEXT or UNFIT.search(value)):
            raise malformed(name, f"use at most {MAX_TEXT} characters, and only such as are seen")
        return value

    def color(self, name: str, default: str) -> str:
        """A colour as `#rrggbb`, given by name or number."""
        value = self._given.get(name, default)
        if value in NAMED:
            return NAMED[value]
        found = HEX.fullmatch(value)
        if not found:
            raise malformed(name, f"use rrggbb or one of {' '.join(NAMED)}")
        digits = found[1].lower()
        return f"#{digits if len(digits) == 6 else ''.join(digit * 2 for digit in digits)}"


def malformed(name: str, remedy: str) -> Problem:
    return Problem(400, "Malformed parameter", f"{name}: {remedy}.", name)

"""How wide a text may be, at most, in the sans-serif fonts that browsers have.

A picture is as wide as its text, which only the browser can measure. These are the widths of DejaVu
Sans Bold, the widest of the usual ones, or a little more; scripts that join are guessed high.
"""

from __future__ import annotations

import re
from functools import lru_cache
from math import ceil
from unicodedata import category, east_asian_width, normalize

NARROW = " .,:;'’!|ijlI[]()/\\-–·ftr\u00a0\u202f"
WIDE = "mwMW@%"
SUBSCRIPT = "\u17d2"  # in Khmer the letter behind it stands below


REGULAR = 0.92  # as wide as bold type


def width(text: str, size: float, *, bold: bool = False) -> int:
    """In the unit of the font's size."""
    return ceil(
        (size if bold else size * REGULAR) * sum(map(_em, re.sub(SUBSCRIPT + ".", "", text)))
    )


@lru_cache(maxsize=4096)
def _em(letter: str) -> float:
    kind, base = category(letter), normalize("NFD", letter)[0]
    if kind in ("Mn", "Me", "Cf"):
        return 0
    if east_asian_width(letter) in "WF":
        return 1
    if base in NARROW:
        return 0.46
    if base in WIDE:
        return 1.1
    if "\u0e80" <= base <= "\u0eff" or "\u1780" <= base <= "\u17ff":  # Lao, Khmer
        return 0.4 if kind == "Mc" else 0.88
    return 0.84 if base.isupper() else 0.74

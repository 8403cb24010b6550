"""Invisible characters, and those that change how the text around them is shown: controls, which
a terminal obeys, line separators, overrides of the writing direction, zero width, surrogates.

They are refused where an admin writes a name, and escaped where text goes to a terminal or into the
log. U+200C and U+200D are none of them: Persian, Hindi and emoji are written with these.
"""

from __future__ import annotations

import re

_UNFIT = "\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufff9-\uffff\ud800-\udfff"
UNFIT = re.compile(f"[{_UNFIT}]")
"""What no line of text may have, not even in a language that needs zero width between words."""
UNSEEN = re.compile(f"[{_UNFIT}\u061c\u200b\u200e\u200f\u2060-\u2065\u206a-\u206f\ufeff]")


def unseen_in(text: str) -> str | None:
    """The first such character, as U+202E."""
    found = UNSEEN.search(text)
    return f"U+{ord(found[0]):04X}" if found else None


def escaped(text: str) -> str:
    """With `\\u202e` for such a character, which JSON reads as the same text."""
    return UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def escaped_lines(text: str) -> str:
    """The same, of several lines."""
    return "\n".join(map(escaped, text.split("\n")))

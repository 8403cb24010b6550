"""The forms of the bytes that we keep, by number, and what this version does with each.

One number stands for all packed bytes: a site's state, a producer's entry in the ledger, a batch, a
record of the spool. Each begins with that number as a byte; those of version 0.1, form 4, begin
without one and are told by their first byte. A change of any of them takes the next number: then
the version that brings it reads and writes the form before as well, and all go on writing that one
until the upgrade is finished (see store/migration.py). What each form changed:
docs/reference/forms.md. Values only.
"""

from __future__ import annotations

from typing import Final

from visit_counter.errors import UnknownForm

UNVERSIONED: Final = 4
"""Of version 0.1, whose schema had this number."""
NEWEST: Final = 6
OLDEST_WRITTEN: Final = 6
"""The oldest form that this version can write, and so the oldest store that it counts in."""

FIRST_UNVERSIONED: Final = 48
"""The least byte but 0 that packed bytes without a version byte begin with: the digit 0."""


def is_written(form: int) -> bool:
    return OLDEST_WRITTEN <= form <= NEWEST


def form_of(packed: bytes) -> int:
    """Returns the form, read from the first byte: 1 to 47 is a version byte, all else is form 4."""
    first = packed[0] if packed else 0
    return first if 0 < first < FIRST_UNVERSIONED else UNVERSIONED


def readable(packed: bytes, where: str) -> int:
    """Returns the form of packed bytes; raises UnknownForm, which names where they lie, if this
    version does not read it."""
    form = form_of(packed)
    if not UNVERSIONED <= form <= NEWEST:
        raise UnknownForm(form, where)
    return form

"""The packed bytes of the store as this project's tests know them, apart from store/lua/.

A state is read here field by field under its own names, so that a test can say what a field holds,
and notices where two of them have changed places.
"""

from __future__ import annotations

import json
from pathlib import Path
from struct import Struct
from typing import Any

FROZEN = Path(__file__).with_name("frozen_forms.json")

_LABELS = ("day", "yesterday", "week", "last_week", "month", "last_month", "year", "began")
_PERIODS = ("day", "yesterday", "week", "last_week", "month", "last_month", "year", "total")
_NUMBERS = tuple(f"{period}.{metric}" for period in _PERIODS for metric in "pvu")
_INSTANTS = ("since", "last", "peak", "peak_at")
_REST = ("trimmed", "seeded", "left", "current", "sketched")
FIELDS = (*_LABELS, *_NUMBERS, *_INSTANTS, "approximate", *_REST, "changed", "read")
"""Of the newest form."""
OLD_FIELDS = (*_LABELS, *_NUMBERS, *_INSTANTS, *(f"changes.{p}" for p in _PERIODS), *_REST)
"""Of forms 4 and 5."""

_TEXTS = "<10s10s10s10s7s7s4s10s"
_ENTRY = Struct("<3d")


def frozen() -> dict[int, dict[str, bytes]]:
    """The bytes of every form, by its number and what they are of."""
    kept: dict[str, dict[str, str]] = json.loads(FROZEN.read_text())
    return {
        int(form): {name: bytes.fromhex(text) for name, text in of.items()}
        for form, of in kept.items()
    }


def head(form: int) -> bytes:
    """What packed bytes of a form begin with: 0.1 had no version byte."""
    return b"" if form == 4 else bytes((form,))


def fields_of(form: int) -> tuple[str, ...]:
    """The names of a state's fields, in their order."""
    return FIELDS if form > 5 else OLD_FIELDS


def packed_state(form: int, **fields: str | int) -> bytes:
    values = [
        fields[name].encode() if isinstance(fields[name], str) else fields[name]  # type: ignore[union-attr]
        for name in fields_of(form)
    ]
    return head(form) + _state(form).pack(*values)


def _state(form: int) -> Struct:
    return Struct(f"{_TEXTS}{len(fields_of(form)) - len(_LABELS)}d")


def migrated(before: bytes, form: int) -> bytes:
    """What a state or an entry of form 4 is in a newer form."""
    if len(before) != _state(4).size:
        return head(form) + before
    fields = {"approximate": 0, "changed": 255, "read": 0, **state_in(before, 4)}
    return packed_state(form, **fields)


def state_in(packed: bytes, form: int) -> dict[str, Any]:
    """The fields of a state by their names."""
    assert packed.startswith(head(form)), packed[:1]
    values = _state(form).unpack(packed[len(head(form)) :])
    return {
        name: value.decode() if isinstance(value, bytes) else int(value)
        for name, value in zip(fields_of(form), values, strict=True)
    }


def packed_entry(form: int, epoch: int, seq: int, day: int, *rejected: int) -> bytes:
    """A producer's entry in the ledger."""
    tail = "".join(f":{number}" for number in rejected).encode()
    return head(form) + _ENTRY.pack(epoch, seq, day) + tail

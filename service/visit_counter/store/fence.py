"""Fences an older version: replaces its function library by one that refuses every call.

A process of an older version would go on writing bytes in its own form, beside those that a newer
one has migrated. Its library's name is its own, so a library of that name that only refuses stops
it at its next call, between two of them, and it does not load its own again. Version 0.1 takes the
refusal for a newer process of its producer, and ends; later ones look which form is written now.
What a start asks first is answered, so that it gets as far as the sentence it has for a store that
is newer than itself. Text only: store/functions.py loads it.
"""

from __future__ import annotations

from collections.abc import Iterable

FENCE = "fence"
"""A function that only such a library has."""

LIBRARY_OF_0_1 = "868c55f0e87b"
"""The hash in the name of version 0.1's library, which may not be loaded when it is fenced."""

_FUNCTIONS_OF_0_1 = (
    *("record", "open", "last_seq", "put_site", "reset", "undo", "seed", "install", "adopt"),
    *("probe", "rehearse", "counts", "sites", "done", "drops", "days"),
)
_RECORD_OF_0_1 = "'schema', 'partitions', 'secret'"
_RECORD = "'partitions', 'secret', 'schema', 'copied', 'writes', 'converted'"


def fence(name: str, functions: Iterable[str], form: int) -> str:
    """The source of a library with these functions, or all that 0.1 had, which refuses calls since
    the store is in this form."""
    of_0_1 = name.endswith(f"_{LIBRARY_OF_0_1}")
    # Epoch 0 does not raise the epoch that 0.1 has on its disk.
    refusal = "FENCED 0" if of_0_1 else f"OUTDATED {form}"
    record = _RECORD_OF_0_1 if of_0_1 else _RECORD
    callbacks = {
        f"{name}_rehearse": "return redis.call('TIME')[1] * 1000",
        f"{name}_install": f"return redis.call('HMGET', keys[1], {record})",
    }
    known = {f"{name}_{each}" for each in _FUNCTIONS_OF_0_1} if of_0_1 else set[str]()
    lines = [f"#!lua name={name}"]
    for function in sorted({*functions, *known, f"{name}_{FENCE}"}):
        body = callbacks.get(function, f"return redis.error_reply('{refusal}')")
        lines.append(
            f"redis.register_function{{function_name='{function}',"
            f" callback=function(keys) {body} end, flags={{'no-writes', 'allow-oom'}}}}"
        )
    return "\n".join(lines)

"""What stands in the place of an older version's function library: it refuses every call.

A process of an older version would go on writing bytes in its own form, beside those that a newer
one has migrated. Its library's name is its own, so a library of that name that only refuses stops
it at its next call, between two of them, and it does not load its own again. Version 0.1 takes the
refusal for a newer process of its producer, and ends; later ones look which form is written now.
Text only: functions.py loads it.
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

# A start of 0.1 is to get as far as the schema, for which it has a sentence of its own.
_CALLBACKS = {
    "rehearse": "function() return tonumber(redis.call('TIME')[1]) * 1000 end",
    "install": "function(keys)"
    " return redis.call('HMGET', keys[1], 'schema', 'partitions', 'secret') end",
}


def fence(name: str, functions: Iterable[str], form: int) -> str:
    """The source of a library with these functions, or all that 0.1 had, which refuses calls since
    the store is in this form. Epoch 0 does not raise the epoch that 0.1 has on its disk."""
    of_0_1 = name.endswith(f"_{LIBRARY_OF_0_1}")
    refusal = "FENCED 0" if of_0_1 else f"OUTDATED {form}"
    names = {*functions, *(f"{name}_{each}" for each in _FUNCTIONS_OF_0_1 if of_0_1)}
    lines = [f"#!lua name={name}"]
    for function in sorted({*names, f"{name}_{FENCE}"}):
        kind = function.removeprefix(f"{name}_") if of_0_1 else ""
        callback = _CALLBACKS.get(kind, f"function() return redis.error_reply('{refusal}') end")
        lines.append(
            f"redis.register_function{{function_name='{function}', callback={callback},"
            " flags={'no-writes', 'allow-oom', 'allow-stale'}}"
        )
    return "\n".join(lines)

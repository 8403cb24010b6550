"""Which access rule (ACL) a server's refusal asks for."""

from __future__ import annotations

import re

# In the words of Redis 7.0, of later ones, of Valkey, and of our functions.
_COMMANDS = re.compile(r"permissions? to run the ((?:'[^']+'(?:, )?)+) command")
_KEYS = re.compile(r"permissions? to access (?:a key|one of the keys|the keys)")


def rules(refusal: str, namespace: str) -> str:
    """The rules that allow it, such as `+fcall` or `~vc:*`; "" if the server does not say what it
    refuses."""
    if found := _COMMANDS.search(refusal):
        return " ".join(f"+{command}" for command in re.findall(r"'([^']+)'", found[1]))
    return f"~{namespace}:*" if _KEYS.search(refusal) else ""


def forbids_info(refusal: str) -> bool:
    """Whether INFO is what is refused, or is not known there, as where it was renamed."""
    return rules(refusal, "") == "+info" or "unknown command 'INFO'" in refusal

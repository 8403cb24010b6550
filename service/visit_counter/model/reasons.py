"""The reasons for which a hit is dropped, by their names."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why a hit is not counted."""

    BOT = "bot"
    PREFETCH = "prefetch"
    ORIGIN = "origin"
    RATE_LIMIT = "rate_limit"
    MALFORMED = "malformed"
    IGNORED = "ignored"
    """From one of the site's `ignored_networks`."""

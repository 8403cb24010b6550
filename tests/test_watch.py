"""The watch: what the log says of an outage, look by look, and what is not shown during it."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from tests.kit.services.in_process import Service, StoppedClock, run_service, until
from tests.kit.stores.server import run_server, server_binaries
from visit_counter.store.health import Told

AWAY = "Error 111 connecting to 10.0.0.1:6379."
EMPTY = "the data of the server at 10.0.0.1:6379 was removed"
LATE = "it takes these hits from 12:00:0{} on"


@pytest.mark.parametrize(
    ("looks", "told"),
    [
        ([AWAY] * 9, ["cannot AWAY"]),
        ([AWAY, None, None, None], ["cannot AWAY", "again"]),
        ([AWAY, None, AWAY, None, None], ["cannot AWAY"]),
        ([AWAY, EMPTY, AWAY, EMPTY, AWAY, EMPTY], ["cannot AWAY"]),
        ([AWAY, EMPTY, EMPTY, EMPTY], ["cannot AWAY", "another EMPTY"]),
        ([AWAY, *[EMPTY] * 3, *[AWAY] * 3, *[EMPTY] * 3], ["cannot AWAY", "another EMPTY"]),
        ([LATE.format(n) for n in range(9)], ["cannot LATE"]),
        ([AWAY, *[None] * 3, EMPTY], ["cannot AWAY", "again", "cannot EMPTY"]),
        ([None] * 5, []),
    ],
    ids=[
        "away",
        "back",
        "back for a moment",
        "two reasons in turn",
        "another reason",
        "each reason once",
        "a number changes",
        "twice",
        "well",
    ],
)
def test_the_log_says_each_change_once(looks: list[str | None], told: list[str]) -> None:
    """It began and why, another reason that lasts, and that it is over when it has been a while."""
    with capture_logs() as logs:
        log = Told("10.0.0.1:6379")
        for fault in looks:
            log.hear(fault)

    assert [short(str(line["event"]), str(line.get("reason", ""))) for line in logs] == told


def short(event: str, reason: str) -> str:
    word = next(word for word in ("another", "cannot", "again") if word in event)
    name = {AWAY: " AWAY", EMPTY: " EMPTY", "": ""}.get(reason, " LATE")
    return word + name


async def test_what_was_known_of_a_store_that_is_gone_is_not_shown_as_current() -> None:
    """Checks and their gauges are absent until it can be examined; lists say of when they are."""
    clock = StoppedClock(1_800_000_000_000)
    with run_server(server_binaries()["valkey"]) as own:
        async with run_service(own.url, clock=clock) as service:
            watch = service.parts.watch
            before = (await body(service, "/readyz"), await body(service, "/metrics"))
            lists = [await service.api("GET", path) for path in ("/sites", "/upgrade")]
            assert watch.since_s is None
            own.kill()
            await until(lambda: watch.fault and not watch.checks)
            clock.at += 60_000
            service.parts.versions.now = clock.at - 60_000
            after = (await body(service, "/readyz"), await body(service, "/metrics"))
            old = [await service.api("GET", path) for path in ("/sites", "/upgrade")]
            assert watch.since_s is not None
            own.start()
            await until(lambda: watch.checks)

    assert '"eviction"' in before[0]
    assert 'visitcounter_store_check{check="eviction"} 1.0' in before[1]
    assert '"eviction"' not in after[0]
    assert "visitcounter_store_check{" not in after[1]
    assert "as_of" not in lists[0]
    assert [each["as_of"] for each in old] == [1_800_000_000] * 2


async def test_a_store_that_cannot_be_examined_is_told() -> None:
    """It counts, and nobody knows whether it is safe."""
    with run_server(server_binaries()["valkey"]) as own:
        async with run_service(own.url) as service:
            watch = service.parts.watch
            own.call("ACL", "SETUSER", "default", "-info")
            await until(lambda: watch.problems)
            (problem,) = watch.problems
            ready = await body(service, "/readyz")
            own.call("ACL", "SETUSER", "default", "+info")
            await until(lambda: watch.checks and not watch.problems)

    assert "cannot be examined" in problem
    assert "'info'" in problem
    assert '"degraded"' in ready


async def test_a_password_that_was_changed_is_named_with_the_remedy() -> None:
    """As at a start."""
    with run_server(server_binaries()["valkey"]) as own:
        async with run_service(own.url) as service:
            watch = service.parts.watch
            own.call("CONFIG", "SET", "requirepass", "new")
            async with Redis(unix_socket_path=own.socket_path, password="new") as admin:
                await admin.execute_command("CLIENT", "KILL", "TYPE", "normal")  # type: ignore[no-untyped-call]
            await until(lambda: watch.fault)

    assert "correct the user, password or database in VISIT_COUNTER_REDIS_URL" in str(watch.fault)


async def body(service: Service, path: str) -> str:
    headers = {"Authorization": f"Bearer {service.token}"}
    async with service.client.get(service.ops_url + path, headers=headers) as answer:
        return await answer.text()

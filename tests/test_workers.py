"""Several workers as users run them: one port, one count, one /metrics, and nobody left behind.

That every acknowledged hit is counted once, whichever process is killed, is in test_chaos.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from redis import Redis

from tests.kit.services.in_process import TOKEN
from tests.kit.services.in_process import until as soon
from tests.kit.services.process import (
    STOP_S,
    ServiceProcess,
    by_each,
    call,
    holding,
    runs,
    serving,
    signal_all,
    until,
    valkey_of,
)
from tests.kit.stores.server import Server, run_server, server_binaries
from visit_counter.config.settings import Settings
from visit_counter.process.systemd import Systemd
from visit_counter.workers import supervisor
from visit_counter.workers.pool import Workers

UP_S = 20.0
KNOWN_S = 1.0  # the promise; the tests give a busy machine twice as long


@pytest.fixture
def place() -> Iterator[Path]:
    """A data directory with a short path."""
    with tempfile.TemporaryDirectory(prefix="vc-", dir="/tmp") as path:
        yield Path(path) / "data"


@contextmanager
def two(**settings: str) -> Iterator[ServiceProcess]:
    """A service with two workers, both up."""
    with serving(WORKERS="2", **settings) as service:
        assert (service.url != "", len(service.workers)) == (True, 2)
        yield service


def hits_by_each(service: ServiceProcess, number: int) -> None:
    """So many views through each worker."""
    by_each(service, lambda: [service.hit() for _ in range(number)])


def known(service: ServiceProcess) -> None:
    """Make a site, and wait until all workers know it."""
    service.site()
    shown = f"{service.url}/w/portal"
    until(
        lambda: all(status == 200 for status, _ in by_each(service, lambda: call("GET", shown))), 5
    )


def counted(service: ServiceProcess) -> float:
    return service.metric('visitcounter_hits_total{outcome="counted"}')


def up(service: ServiceProcess, *, without: set[int]) -> bool:
    """Whether two workers are up, none of them one of these."""
    try:
        workers = service.metric("visitcounter_workers")
    except HTTPError as error:  # the parent of a busy machine's workers was not in time
        if error.code != 503:
            raise
        return False
    return workers == 2 and not without & {*service.workers}


# -- one count


def test_one_worker_is_one_process(valkey: Server) -> None:
    """As before: nobody stands above it."""
    with serving(REDIS_URL=valkey.url, NAMESPACE="alone", WORKERS="1") as service:
        service.site()
        service.hit()

        assert (service.workers, service.metric("visitcounter_workers")) == ([], 1)


def test_all_workers_make_one_count_and_one_metrics() -> None:
    """Whichever is asked: the sum of all, of histograms too, and once what all of them know."""
    with two() as service:
        known(service)
        hits_by_each(service, 3)
        total = service.counts()["total"]
        series = 'visitcounter_request_seconds_count{method="POST",route="/w/{site}",status="2xx"}'
        answers = [
            (counted(service), service.metric(series), service.metric("visitcounter_store_up"))
            for _ in range(4)
        ]

    assert total["pageviews"] == 6
    assert answers == [(6, 6, 1)] * 4


def test_a_worker_that_hangs_keeps_nobody_from_the_metrics() -> None:
    """Of one that does not answer, what it told last."""
    with two() as service:
        known(service)
        hits_by_each(service, 2)
        before = counted(service)
        answers = by_each(service, lambda: counted(service))

    assert (before, answers) == (4, [4, 4])


def test_hits_go_on_while_the_parent_hangs() -> None:
    """Only the metrics need it, and say so."""
    with two() as service:
        known(service)
        with holding([service.process.pid]):
            hits_by_each(service, 1)
            status, problem = call("GET", f"{service.url}/metrics")

    assert (status, problem["title"]) == (503, "No metrics")


def test_a_change_of_a_site_reaches_all_workers_within_a_second() -> None:
    """Whoever of them was asked to make it."""
    with two() as service:
        known(service)
        service.api("PATCH", "/sites/portal", {"metric": "pageviews"})

        def metrics() -> list[str]:
            return by_each(service, lambda: call("GET", f"{service.url}/w/portal")[1]["metric"])

        until(lambda: metrics() == ["pageviews", "pageviews"], 2 * KNOWN_S)


def test_live_hits_wait_for_older_ones_in_the_spool_of_another_worker() -> None:
    """As of one that hangs after an outage: they go into the spool, and take their turn."""
    with (
        run_server(server_binaries()["valkey"]) as store,
        two(REDIS_URL=store.url, NAMESPACE="inorder") as service,
    ):
        known(service)
        first, second = service.workers
        store.kill()
        with holding([second]):
            statuses = [view(service)]
        with holding([first]):
            store.start()
            until(lambda: "Another process has older hits" in told(service, statuses), 8)
            statuses.append(view(service))
        until(lambda: service.counts()["total"]["pageviews"] == len(statuses), 8)
        until(lambda: view(service) == 200, 8)

    assert (statuses[0], statuses[-1]) == (202, 202)


def view(service: ServiceProcess) -> int:
    return call("POST", f"{service.url}/w/portal", {})[0]


def told(service: ServiceProcess, statuses: list[int]) -> str:
    """What /readyz says after one more view."""
    statuses.append(view(service))
    return str(service.ready())


# -- ends


def test_a_killed_worker_is_replaced_and_its_counts_stay(place: Path) -> None:
    """The log says why it ended, /readyz that one is missing, and no series goes backwards."""
    with two(DATA_DIR=str(place)) as service:
        known(service)
        hits_by_each(service, 2)
        before, (killed, left) = counted(service), service.workers
        os.kill(killed, signal.SIGKILL)
        until(lambda: "Only 1 of 2 workers" in str(service.ready()), 5)
        until(lambda: up(service, without={killed}), UP_S)
        after, ready = counted(service), service.ready()

        assert (before, after) == (4, 4)
        assert (left in service.workers, service.process.poll()) == (True, None)
        assert (ready[0], ready[1]["status"]) == (200, "ok")
        assert '"why": "SIGKILL"' in service.errors
        assert sorted(path.name for path in (place / "producers").iterdir()) == ["0", "1"]


def test_a_worker_that_hangs_is_named_by_the_others(place: Path) -> None:
    """While its connections wait; and no longer when it goes on."""
    with two(DATA_DIR=str(place)) as service:
        hanging, _ = service.workers
        with holding([hanging]):
            until(lambda: f"Worker {hanging} hangs" in said(service), 5)
            status = ready(service)[0]
        until(lambda: ready(service)[1]["status"] == "ok", 5)

    assert status == 200


def test_what_is_wrong_with_a_worker_is_said_by_each(place: Path) -> None:
    """Whichever is asked: here the spool of one is gone."""
    with two(DATA_DIR=str(place)) as service:
        spool = place / "producers/1/spool"
        spool.rename(spool.with_name("elsewhere"))
        until(lambda: all("is gone" in text for text in by_each(service, lambda: said(service))), 9)
        told = by_each(service, lambda: ready(service))
        spool.with_name("elsewhere").rename(spool)
        until(lambda: ready(service)[1]["status"] == "ok", 5)

    assert [status for status, _ in told] == [200, 200]
    assert sum("Worker " in str(body) for _, body in told) == 1


def test_a_parent_that_hangs_is_named(place: Path) -> None:
    """Nobody would start a worker again."""
    with two(DATA_DIR=str(place)) as service:
        with holding([service.process.pid]):
            until(lambda: f"(pid {service.process.pid}) does not answer" in said(service), 6)
        until(lambda: ready(service)[1]["status"] == "ok", 5)


def ready(service: ServiceProcess) -> tuple[int, Any]:
    """The status and JSON of /readyz, of a worker that is there."""
    with suppress(TimeoutError):
        asked = Request(f"{service.url}/readyz", headers={"Authorization": f"Bearer {TOKEN}"})
        with urlopen(asked, timeout=1) as answer:
            return answer.status, json.load(answer)
    return 0, {"status": "no answer"}


def said(service: ServiceProcess) -> str:
    return str(ready(service)[1])


async def test_a_worker_that_hangs_is_killed_and_replaced(
    monkeypatch: pytest.MonkeyPatch, place: Path, valkey: Server
) -> None:
    """After some looks of its parent, which runs in this process."""
    monkeypatch.setattr("visit_counter.workers.pool.SILENT", 2)
    monkeypatch.setattr("visit_counter.workers.pool.HUNG", 3)
    monkeypatch.setattr("sys.orig_argv", [sys.executable, "-m", "visit_counter", "serve"])
    settings = {
        "LISTEN": "127.0.0.1:0",
        "DATA_DIR": str(place),
        "REDIS_URL": valkey.url,
        "NAMESPACE": "hung",
        "WORKERS": "2",
    }
    for name, value in settings.items():
        monkeypatch.setenv(f"VISIT_COUNTER_{name}", value)
    read = Settings.from_env({f"VISIT_COUNTER_{name}": v for name, v in settings.items()})
    made: list[Workers] = []

    class Watched(Workers):
        def __init__(self, number: int) -> None:
            super().__init__(number)
            made.append(self)

    def up_pids() -> set[int]:
        return {worker.pid for worker in made[0]._up}

    monkeypatch.setattr("visit_counter.workers.supervisor.Workers", Watched)
    running = asyncio.create_task(supervisor.run(read, asyncio.Event(), Systemd({})))
    try:
        await soon(lambda: made and made[0].up == 2, UP_S)
        before = up_pids()
        hanging = min(before)
        os.kill(hanging, signal.SIGSTOP)
        await soon(lambda: not runs(hanging), 10)
        await soon(lambda: up_pids() != before and made[0].up == 2, UP_S)
        after = up_pids()
    finally:
        running.cancel()
        await asyncio.wait({running})

    assert len(before & after) == 1


def test_sigterm_ends_all_of_them_in_time(place: Path) -> None:
    """With 0, and nobody is left behind."""
    with two(DATA_DIR=str(place)) as service:
        pids = [*service.workers, valkey_of(place)]

        assert service.terminate() == 0
        assert not [pid for pid in pids if runs(pid)]


def test_a_second_sigterm_changes_nothing(place: Path) -> None:
    """All are waited for as before."""
    with two(DATA_DIR=str(place)) as service:
        pids = [*service.workers, valkey_of(place)]
        with holding(service.workers):
            for _ in range(2):
                service.process.terminate()
                until(lambda: is_pending(service.workers, signal.SIGTERM), 5)

        assert service.exit_code(STOP_S) == 0
        assert not [pid for pid in pids if runs(pid)]


def is_pending(pids: list[int], signum: signal.Signals) -> bool:
    """Whether all of them are to get a signal, as soon as they are let go on."""
    masks = [
        int(Path(f"/proc/{pid}/status").read_text().partition("ShdPnd:\t")[2].split()[0], 16)
        for pid in pids
    ]
    return all(mask >> (signum - 1) & 1 for mask in masks)


def test_ctrl_c_is_for_the_parent(place: Path) -> None:
    """Workers are in sessions of their own, so that none ends before it is told to."""
    with two(DATA_DIR=str(place)) as service:
        assert [os.getsid(pid) for pid in service.workers] == service.workers
        service.process.send_signal(signal.SIGINT)

        assert service.exit_code(STOP_S) == 0
        assert "a worker has ended" not in service.errors


@pytest.mark.parametrize("embedded", [True, False], ids=["embedded", "external"])
def test_a_killed_parent_leaves_nobody_behind(place: Path, valkey: Server, embedded: bool) -> None:
    """Its workers drain and end, the last one with the embedded Valkey; the next start waits."""
    store = {} if embedded else {"REDIS_URL": valkey.url, "NAMESPACE": "killedparent"}
    with two(DATA_DIR=str(place), **store) as first:
        known(first)
        hits_by_each(first, 2)
        pids = [*first.workers, *([valkey_of(place)] if embedded else [])]
        first.kill()
        with two(DATA_DIR=str(place), **store) as second:
            assert not [pid for pid in pids if runs(pid)]
            assert second.counts()["total"]["pageviews"] == 4
        until(lambda: first.errors.count('"event": "stopped"') == 2, STOP_S)
        assert "Traceback" not in first.errors


def test_a_parent_that_is_killed_alone_takes_its_valkey_along(place: Path) -> None:
    """Also where no other start comes to tidy up."""
    with two(DATA_DIR=str(place)) as service:
        pids = [*service.workers, valkey_of(place)]
        service.kill()
        until(lambda: not any(runs(pid) for pid in pids), STOP_S)


# -- SIGHUP


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("first-" + "x" * 32)
    path.chmod(0o600)
    return path


def test_sighup_replaces_all_workers_with_secrets_read_anew(token_file: Path) -> None:
    """The parent stays, and so do the counts."""
    with two(ADMIN_TOKEN="", ADMIN_TOKEN_FILE=str(token_file)) as service:
        before = service.workers
        token_file.write_text("second-" + "x" * 32)
        service.process.send_signal(signal.SIGHUP)
        until(lambda: up(service, without={*before}), UP_S)
        until(lambda: "the workers are replaced" in service.errors, STOP_S)
        sites = f"{service.url}/api/v1/sites"
        statuses = [call("GET", sites, token=f"{n}-{'x' * 32}")[0] for n in ("first", "second")]

        assert statuses == [401, 200]
        assert not any(runs(pid) for pid in before)


def test_workers_stay_if_their_successors_cannot_start(token_file: Path) -> None:
    """And the log says what is wrong."""
    with two(ADMIN_TOKEN="", ADMIN_TOKEN_FILE=str(token_file)) as service:
        before = service.workers
        token_file.write_text("")
        service.process.send_signal(signal.SIGHUP)
        until(lambda: "a new worker could not start: the others stay" in service.errors, UP_S)

        assert service.workers == before
        assert f"the file '{token_file}' is empty" in service.errors


def test_when_none_is_up_and_none_can_start_the_parent_ends_too(token_file: Path) -> None:
    """With their exit code, for a service manager to act upon."""
    with two(ADMIN_TOKEN="", ADMIN_TOKEN_FILE=str(token_file)) as service:
        token_file.write_text("")
        signal_all(service.workers, signal.SIGKILL)

        assert service.exit_code(UP_S) == 2
        assert f"the file '{token_file}' is empty" in service.errors


# -- starts


def test_what_keeps_all_from_starting_is_said_once() -> None:
    """And the exit code is that of one worker."""
    with run_server(server_binaries()["valkey"]) as server:
        assert server.call("CONFIG", "SET", "requirepass", "right").startswith(b"+OK")
        with serving(WORKERS="2", REDIS_URL=server.url) as service:
            assert service.exit_code(UP_S) == 1
            assert service.errors.count("refuses us") == 1
            assert "Traceback" not in service.errors


def test_one_that_cannot_start_ends_no_other() -> None:
    """The store refuses the second while the first counts already: it is started again."""
    with (
        run_server(server_binaries()["valkey"]) as server,
        serving(WORKERS="2", REDIS_URL=server.url) as service,
        Redis(unix_socket_path=server.socket_path) as admin,
    ):
        until(lambda: '"event": "the store answers"' in service.errors, UP_S)
        admin.config_set("requirepass", "right")
        until(lambda: "a worker has ended, another takes its place" in service.errors, UP_S)
        assert service.process.poll() is None
        admin.config_set("requirepass", "")
        until(lambda: up(service, without=set()), UP_S)


def test_a_taken_port_is_named(valkey: Server) -> None:
    """Before any worker is started."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with serving(WORKERS="2", REDIS_URL=valkey.url, LISTEN=listen) as service:
            assert service.exit_code(UP_S) == 1
            assert service.errors.count(f"cannot listen on {listen}") == 1


def test_several_workers_need_a_data_directory(place: Path, valkey: Server) -> None:
    """Unlike one, that may count in an outer store without."""
    place.write_text("")
    with serving(WORKERS="2", REDIS_URL=valkey.url, DATA_DIR=str(place)) as service:
        assert service.exit_code(UP_S) == 1
        assert "set VISIT_COUNTER_DATA_DIR" in service.errors


def test_a_second_service_on_the_directory_names_the_first(place: Path) -> None:
    """At once, for the first one is alive."""
    with two(DATA_DIR=str(place)) as first:
        with serving(DATA_DIR=str(place), WORKERS="2") as second:
            assert second.exit_code(UP_S) == 1
            assert f"pid {first.process.pid}" in second.errors
        assert [runs(pid) for pid in first.workers] == [True, True]


def test_ops_can_have_an_address_of_their_own(valkey: Server) -> None:
    """All workers answer there too."""
    with two(REDIS_URL=valkey.url, NAMESPACE="opsworkers", OPS_LISTEN="127.0.0.1:0") as service:
        ops = service.errors.partition('"admin_api": "')[2].partition("/api")[0]

        assert ops != service.url
        assert call("GET", f"{service.url}/metrics")[0] == 404
        with urlopen(f"{ops}/metrics", timeout=5) as answer:
            assert "visitcounter_workers 2.0" in answer.read().decode()

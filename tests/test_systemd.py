"""Under a service manager such as systemd: sockets that it passes, and states that it is told."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests.bench.restart import restart
from loadtests.service_process import free_port
from tests.kit.services.activated import Manager
from tests.kit.services.in_process import TOKEN
from tests.kit.services.process import (
    ROOT,
    START_S,
    STOP_S,
    call,
    environment,
    holding,
    until,
)
from tests.kit.stores.server import Server, server_binaries
from tests.kit.tools import need

UNITS = ROOT / "deploy/systemd"


@pytest.fixture
def manager() -> Iterator[Manager]:
    with Manager() as there:
        yield there


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short path."""
    with tempfile.TemporaryDirectory(prefix="vc-", dir="/tmp") as path:
        yield Path(path)


# -- states


@pytest.mark.parametrize("abstract", [False, True], ids=["path", "abstract"])
def test_it_tells_when_it_is_ready_what_it_does_and_that_it_stops(
    valkey: Server, abstract: bool
) -> None:
    with (
        Manager(abstract=abstract) as manager,
        manager.running(REDIS_URL=valkey.url, NAMESPACE=f"told{abstract:d}") as service,
    ):
        manager.wait_for("READY=1")
        url = service.url
        assert call("GET", f"{url}/readyz")[0] == 200
        assert service.terminate() == 0

    states = [line for line in manager.told if not line.startswith("EXTEND_TIMEOUT")]
    assert states[0] == "STATUS=starting"
    assert states[1:] == ["READY=1", f"STATUS=counting at {url}", "STOPPING=1", "STATUS=stopping"]


def test_the_status_says_what_is_wrong(manager: Manager, place: Path) -> None:
    own = Server(server_binaries()["valkey"], place)
    own.start()
    with manager.running(REDIS_URL=own.url):
        manager.wait_for("READY=1")
        own.kill()
        until(lambda: any("STATUS=" in line and "store" in line for line in manager.told), 15)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_watchdog_is_told_while_the_loop_runs(
    manager: Manager, valkey: Server, workers: str
) -> None:
    """And no more when it hangs."""
    variables = {"WATCHDOG_USEC": "200000"}
    store = {"REDIS_URL": valkey.url, "NAMESPACE": f"watchdog{workers}"}
    with manager.running(variables, WORKERS=workers, **store) as service:
        manager.wait_for("READY=1")
        manager.wait_for("WATCHDOG=1", times=5)
        with holding([service.process.pid]):
            before = manager.told.count("WATCHDOG=1")
            with pytest.raises(AssertionError):
                manager.wait_for("WATCHDOG=1", times=before + 2, within_s=0.5)


def test_a_long_start_asks_for_more_time(manager: Manager, place: Path) -> None:
    with manager.running(REDIS_URL=f"unix://{place}/nothing"):
        until(
            lambda: any(line.startswith("EXTEND_TIMEOUT_USEC=") for line in manager.told), START_S
        )
        assert "READY=1" not in manager.told


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_reload_is_told_from_beginning_to_end(
    manager: Manager, valkey: Server, workers: str
) -> None:
    """With the instant that systemd compares with that of its signal."""
    store = {"REDIS_URL": valkey.url, "NAMESPACE": f"reload{workers}"}
    with manager.running(WORKERS=workers, **store) as service:
        manager.wait_for("READY=1")
        before = service.workers
        service.process.send_signal(signal.SIGHUP)
        manager.wait_for("READY=1", times=2)

        reloading = manager.told.index("RELOADING=1")
        assert re.fullmatch(r"MONOTONIC_USEC=\d+", manager.told[reloading + 1])
        assert not {*before} & {*service.workers}
        assert service.terminate() == 0


def test_nobody_else_speaks_for_the_service(manager: Manager) -> None:
    """Neither workers nor the embedded Valkey have the variables."""
    manager.open("pages")
    with manager.running({"WATCHDOG_USEC": "10000000"}, WORKERS="2") as service:
        manager.wait_for("READY=1")
        children = Path(f"/proc/{service.process.pid}/task").glob("*/children")
        pids = [pid for each in children for pid in each.read_text().split()]
        environs = [Path(f"/proc/{pid}/environ").read_bytes() for pid in pids]

    assert len(pids) == 3
    assert not [e for e in environs for name in (b"NOTIFY", b"WATCHDOG", b"LISTEN_F") if name in e]


def test_a_manager_that_is_away_harms_nothing(manager: Manager, valkey: Server) -> None:
    with manager.running(
        {"NOTIFY_SOCKET": "/nothing/there", "WATCHDOG_USEC": "soon"},
        REDIS_URL=valkey.url,
        NAMESPACE="notold",
    ) as service:
        assert call("GET", f"{service.url}/readyz")[0] == 200
        assert service.terminate() == 0


# -- sockets


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("named", [True, False], ids=["by names", "by addresses"])
def test_passed_sockets_are_used(
    manager: Manager, valkey: Server, named: bool, workers: str
) -> None:
    """In any order; pages may have several, as one of IPv6."""
    ops = manager.open("ops" if named else "visit-counter-ops.socket")
    pages = manager.open("pages" if named else "")
    also = manager.open("pages" if named else "", socket.AF_INET6)
    settings = {"LISTEN": f"127.0.0.1:{pages}", "OPS_LISTEN": f"127.0.0.1:{ops}"}
    store = {"REDIS_URL": valkey.url, "NAMESPACE": f"passed{named:d}{workers}"}
    with manager.running(WORKERS=workers, **settings, **store) as service:
        manager.wait_for("READY=1")
        statuses = [
            call("GET", f"http://{where}/api/v1/sites", token=TOKEN)[0]
            for where in (f"127.0.0.1:{pages}", f"[::1]:{also}", f"127.0.0.1:{ops}")
        ]

        assert service.url == f"http://127.0.0.1:{pages}"
        assert statuses == [404, 404, 200]
        assert service.terminate() == 0


def test_an_address_that_is_not_passed_is_bound(manager: Manager, valkey: Server) -> None:
    pages, ops = manager.open("pages"), free_port()
    settings = {"LISTEN": f"127.0.0.1:{pages}", "OPS_LISTEN": f"127.0.0.1:{ops}"}
    with manager.running(REDIS_URL=valkey.url, NAMESPACE="halfpassed", **settings):
        manager.wait_for("READY=1")
        assert call("GET", f"http://127.0.0.1:{ops}/healthz")[0] == 200


def test_other_addresses_than_the_settings_are_told(manager: Manager, valkey: Server) -> None:
    """Since commands on this host ask at the address of the settings."""
    pages = manager.open("pages")
    with manager.running(
        REDIS_URL=valkey.url, NAMESPACE="otherpassed", LISTEN="127.0.0.1:8080"
    ) as service:
        assert service.url == f"http://127.0.0.1:{pages}"
        assert f"set VISIT_COUNTER_LISTEN=127.0.0.1:{pages}" in service.errors


def test_sockets_of_another_process_are_not_taken(manager: Manager, valkey: Server) -> None:
    """As where a shell that got them has started us."""
    environ = environment(
        {
            "LISTEN_PID": "1",
            "LISTEN_FDS": "1",
            "VISIT_COUNTER_LISTEN": f"127.0.0.1:{(port := free_port())}",
            "VISIT_COUNTER_REDIS_URL": valkey.url,
            "VISIT_COUNTER_NAMESPACE": "anothers",
            "VISIT_COUNTER_ADMIN_TOKEN": TOKEN,
        }
    )
    command = [sys.executable, "-m", "visit_counter", "serve"]
    with tempfile.TemporaryDirectory() as cwd:
        process = subprocess.Popen(command, env=environ, cwd=cwd, stderr=subprocess.DEVNULL)
        try:
            until(lambda: answers(port), START_S)
        finally:
            process.terminate()
            assert process.wait(timeout=STOP_S) == 0


def answers(port: int) -> bool:
    try:
        return call("GET", f"http://127.0.0.1:{port}/readyz")[0] == 200
    except OSError:
        return False


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("datagrams", "not a TCP socket that listens"),
        ("connection", "not a TCP socket that listens"),
        ("path", "not a TCP socket that listens"),
        ("none", "(Socket operation on non-socket)"),
        ("number", "LISTEN_FDS='many' is not the number"),
        ("ops", "set VISIT_COUNTER_OPS_LISTEN=127.0.0.1:"),
    ],
)
def test_sockets_that_cannot_be_used_are_named(
    manager: Manager, place: Path, kind: str, words: str
) -> None:
    """At once, with what to write in the unit or the settings."""
    variables = {}
    match kind:
        case "datagrams":
            manager.keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        case "connection":
            manager.keep(socket.socket())
        case "path":
            manager.keep(listening := socket.socket(socket.AF_UNIX))
            listening.bind(f"{place}/socket")
            listening.listen()
        case "none":
            variables = {"LISTEN_FDS": "1"}  # descriptor 3 is what Python reads, or nothing
        case "number":
            variables = {"LISTEN_FDS": "many"}
        case "ops":
            manager.open("ops")
    with manager.running(variables) as service:
        assert service.exit_code(START_S) == 1
        assert words in service.errors
        assert "Traceback" not in service.errors


def test_systemd_socket_activate_starts_it(valkey: Server, place: Path) -> None:
    """The first connection starts it, and is answered."""
    port = free_port()
    passed = {
        "VISIT_COUNTER_LISTEN": f"127.0.0.1:{port}",
        "VISIT_COUNTER_REDIS_URL": valkey.url,
        "VISIT_COUNTER_NAMESPACE": "activated",
        "VISIT_COUNTER_ADMIN_TOKEN": TOKEN,
    }
    activate = [str(need("systemd-socket-activate")), "--listen", f"127.0.0.1:{port}"]
    environ = environment(passed)
    kept = [f"--setenv={name}" for name in environ]
    command = [*activate, *kept, "--fdname=pages", sys.executable, "-m", "visit_counter", "serve"]
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environ, cwd=place, stdout=log, stderr=log)
    try:
        until(lambda: answers(port), START_S)
        assert "cannot listen" not in (place / "log").read_text()
    finally:
        process.terminate()
        assert process.wait(timeout=STOP_S) == 0


# -- a restart


@pytest.mark.parametrize("workers", [1, 2])
def test_a_restart_refuses_no_connection(workers: int) -> None:
    """Under 300 hits/s: all that came are answered and counted once, meanwhile they wait."""
    seen = restart(kept=True, workers=workers)

    assert (seen.refused, seen.others) == (0, {})
    assert seen.acknowledged == seen.pageviews > 100


def test_without_a_manager_connections_are_refused_meanwhile() -> None:
    """So the load would see it; and what was acknowledged is counted."""
    seen = restart(kept=False)

    assert seen.refused > 0
    assert seen.pageviews == seen.acknowledged


# -- the units


def test_the_units_name_the_same_address_and_stop_in_time() -> None:
    """What `./dev lint` cannot see."""
    service, listens = (
        (UNITS / f"visit-counter.{kind}").read_text() for kind in ("service", "socket")
    )
    (address,) = re.findall(r"^ListenStream=(.*)$", listens, re.M)

    assert f"VISIT_COUNTER_LISTEN={address}\n" in service
    assert "FileDescriptorName=pages\n" in listens
    assert "KillMode=mixed\n" in service  # the embedded Valkey is ours to stop, last
    assert float(re.findall(r"^TimeoutStopSec=(\d+)$", service, re.M)[0]) > STOP_S

"""The addresses that a service takes: both kinds of IP, several at once, and what a host lacks."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from loadtests.service_process import free_port
from tests.kit.services.process import call, environment, serving, this_version
from tests.kit.services.sandbox import refusing
from tests.kit.stores.server import Server
from visit_counter.config.settings import Settings
from visit_counter.errors import StartError
from visit_counter.process.listeners import bound

V4, V6 = "127.0.0.1", "::1"

needs_ipv6 = pytest.mark.skipif(
    "00000000000000000000000000000001" not in Path("/proc/net/if_inet6").read_text()
    if Path("/proc/net/if_inet6").exists()
    else True,
    reason="needs a host with IPv6",
)


def settings_of(listen: str) -> Settings:
    return Settings.from_env({"VISIT_COUNTER_LISTEN": listen}, tty=False)


def quiet_port() -> int:
    """One that is free on all addresses, and that no connection of this host gets by chance."""
    for port in range(20_000 + os.getpid() % 10_000, 32_768):
        with suppress(StartError), bound(settings_of(f"[::]:{port}")):
            return port
    raise OSError("no port is free")


def taken(listen: str) -> list[tuple[str, int, bool]]:
    """Of each socket: its host, whether it has the first one's port, whether it is IPv6 alone."""
    with bound(settings_of(listen)) as listeners:
        sockets = listeners.pages.sockets
        port = sockets[0].getsockname()[1]
        return [
            (
                each.getsockname()[0],
                int(each.getsockname()[1] == port),
                each.family == socket.AF_INET6
                and bool(each.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)),
            )
            for each in sockets
        ]


@needs_ipv6
def test_all_of_ipv6_takes_ipv4_too_unless_that_is_named() -> None:
    """As in a pod that has IPv6 alone, or both."""
    port = quiet_port()

    assert taken("[::]:0") == [("::", 1, False)]
    assert taken(f"[::]:{port},0.0.0.0:{port}") == [("::", 1, True), ("0.0.0.0", 1, False)]
    assert taken(f"0.0.0.0:{port},[::]:{port}") == [("0.0.0.0", 1, False), ("::", 1, True)]


@needs_ipv6
def test_a_name_has_one_port_on_all_its_addresses() -> None:
    """Also where it is a free one: whoever asks for localhost tries them in some order."""
    assert {same_port for _, same_port, _ in taken("localhost:0")} == {1}


@pytest.mark.parametrize(
    ("listen", "words"),
    [
        ("192.0.2.1:0", "no interface of this host has that address: set another"),
        ("[2001:db8::1]:0", "this host lacks that address or all of IPv6: write 0.0.0.0"),
        ("no-such-host.invalid:0", "correct the name, or write an IP address in"),
    ],
)
def test_an_address_that_this_host_lacks(listen: str, words: str) -> None:
    with pytest.raises(StartError) as refused:
        taken(listen)

    assert f"cannot listen on {listen} (" in str(refused.value)
    assert f"so nothing is counted: {words}" in str(refused.value)


@pytest.mark.skipif(
    os.geteuid() == 0
    or int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 79,
    reason="needs a user who is not root, and ports for root alone",
)
def test_a_port_of_root() -> None:
    with pytest.raises(StartError, match="ports below 1024 are for root"):
        taken("127.0.0.1:79")


WITHOUT = """
from visit_counter.config.settings import Settings
from visit_counter.errors import StartError
from visit_counter.process.listeners import bound
for listen in ("localhost:0", "[::]:0"):
    try:
        with bound(Settings.from_env({"VISIT_COUNTER_LISTEN": listen})) as listeners:
            print([each.getsockname()[0] for each in listeners.pages.sockets])
    except StartError as error:
        print(error)
"""


def test_a_host_without_ipv6() -> None:
    """Its localhost may be one of IPv6 all the same, and [::] is named."""
    command = [*refusing("socket:10=EAFNOSUPPORT"), sys.executable, "-c", WITHOUT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    first, second = done.stdout.splitlines()

    assert done.stderr == ""
    assert first == f"['{V4}']"
    assert second.startswith("cannot listen on [::]:0 (Address family not supported")
    assert "write 0.0.0.0 instead of [::]" in second


def healthy(**settings: str) -> bool:
    """What the image's health check says."""
    given = {f"VISIT_COUNTER_{name}": text for name, text in settings.items()}
    command = [*this_version().command, "healthcheck"]
    return subprocess.run(command, env=environment(given), timeout=30).returncode == 0


WITHOUT_LOOPBACK = """
ip link set lo up || exit 77
echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6 || exit 77
exec "$@"
"""


def test_a_container_with_an_ipv6_that_has_no_loopback() -> None:
    """As Docker makes them: [::] is there, and takes IPv4; ::1 is not."""
    program = """
import socket
from visit_counter.cli.calls import here
from visit_counter.config.settings import Settings
from visit_counter.process.listeners import bound
settings = Settings.from_env({"VISIT_COUNTER_LISTEN": "[::]:8080"})
with bound(settings) as listeners:
    listeners.pages.sockets[0].listen()
    print(here(settings))
    socket.create_connection(here(settings).removeprefix("http://").rsplit(":", 1)).close()
"""
    command = ["unshare", "-n", "sh", "-c", WITHOUT_LOOPBACK, "sh", sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    if done.returncode == 77 or (done.returncode == 1 and not done.stdout):
        pytest.skip(f"no networks of its own here: {done.stderr.strip()}")

    assert (done.stdout, done.stderr) == ("http://127.0.0.1:8080\n", "")


@needs_ipv6
def test_a_service_counts_on_all_its_addresses(valkey: Server) -> None:
    """Who comes by IPv4 to an address of IPv6 is the same client, and so is its proxy."""
    port, other, ops = quiet_port(), free_port(), free_port()
    both = f"[::]:{port},127.0.0.1:{other}"
    store = {"REDIS_URL": valkey.url, "NAMESPACE": "addresses"}
    with serving(LISTEN=both, OPS_LISTEN=f"[::1]:{ops}", **store) as service:
        assert service.url == f"http://[::]:{port}"
        urls = [f"http://{each}" for each in (f"{V4}:{port}", f"[{V6}]:{port}", both.split(",")[1])]
        answers = [
            call(
                "POST",
                f"{url}/w/demo",
                {"p": "/"},
                headers={"X-Forwarded-For": "192.0.2.7", "Origin": url},
            )
            for url in urls
        ]

        assert [status for status, _ in answers] == [200] * 3
        assert answers[-1][1]["total"] == {"pageviews": 3, "visits": 1, "visitors": 1}
        assert healthy(LISTEN=both)
        with suppress(OSError):  # what is for admins is not there
            assert call("GET", f"http://{V4}:{ops}/healthz")[0] != 200
        assert call("GET", f"http://[{V6}]:{ops}/healthz")[0] == 200
        assert service.terminate() == 0

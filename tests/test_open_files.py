"""Connections and all else that a process opens stay below the file limit, whatever that is."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.service_process import free_port
from tests.kit.services.process import ServiceProcess, call, running, this_version
from tests.kit.stores.server import Server
from visit_counter.errors import StartError
from visit_counter.process.open_files import (
    ENDLESS,
    LEAST_FILES,
    MOST_VIEWERS,
    allow_many,
    most_files,
    own_files,
    places,
)

FEW = 128
LOOK = b"GET /w/demo HTTP/1.1\r\nHost: localhost\r\nUser-Agent: Firefox\r\n\r\n"


@given(st.integers(min_value=64, max_value=1 << 30))
def test_the_shares_add_up(files: int) -> None:
    """And each has some as soon as a start is not refused."""
    shares = places(files)

    assert sum(shares) + own_files(files) == files
    assert min(shares) >= 0
    assert min(shares) > 0 or files < LEAST_FILES
    assert shares.viewers <= MOST_VIEWERS
    assert shares.viewers <= sum(shares) / 2


@given(st.integers(min_value=64, max_value=1 << 24))
def test_a_higher_limit_takes_no_place_away(files: int) -> None:
    less, more = places(files), places(files + 1)

    assert sum(less) <= sum(more)
    assert less.viewers <= more.viewers


@contextmanager
def limited(soft: int, hard: int) -> Iterator[None]:
    """Only the soft limit of this process is changed: a hard one cannot be raised again."""
    with pytest.MonkeyPatch.context() as patch:
        limits = [(soft, hard)]
        patch.setattr("resource.getrlimit", lambda _: limits[-1])
        patch.setattr("resource.setrlimit", lambda _, both: limits.append(both))
        yield


def test_the_soft_limit_is_raised_to_the_hard_one() -> None:
    with limited(1024, 4096):
        allow_many()
        assert most_files() == 4096


def test_no_limit_is_a_high_one() -> None:
    with limited(1024, resource.RLIM_INFINITY):
        allow_many()
        assert most_files() == ENDLESS


def test_a_limit_that_is_too_low_is_named_with_the_remedy() -> None:
    with limited(64, LEAST_FILES - 1), pytest.raises(StartError) as refusal:
        allow_many()
    assert f"only {LEAST_FILES - 1} files may be open" in str(refusal.value)
    assert "LimitNOFILE" in str(refusal.value)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_start_with_too_few_files_is_refused(workers: str) -> None:
    command = [sys.executable, "-m", "visit_counter", "serve", "--workers", workers]
    start = f'ulimit -n {LEAST_FILES - 1}; exec "$@"'
    done = subprocess.run(
        ["sh", "-c", start, "sh", *command], capture_output=True, text=True, timeout=30
    )

    assert done.returncode == 1
    assert f"at least {LEAST_FILES}" in done.stderr
    assert "Traceback" not in done.stderr


def with_few_files(**settings: str) -> AbstractContextManager[ServiceProcess]:
    command = ("sh", "-c", f'ulimit -n {FEW}; exec "$@"', "sh", *this_version().command)
    return running(this_version()._replace(command=command), settings)


@pytest.mark.parametrize("embedded", [True, False], ids=["embedded", "external"])
def test_a_service_with_few_files_goes_on_under_too_many_connections(
    valkey: Server, embedded: bool
) -> None:
    """Idle ones, begun requests, viewers, and some of the ops address, all more than fit."""
    store = {} if embedded else {"REDIS_URL": valkey.url, "NAMESPACE": "fewfiles"}
    ops = f"127.0.0.1:{free_port()}"
    with with_few_files(OPS_LISTEN=ops, **store) as service, ExitStack() as stack:
        pages = urlsplit(service.url).netloc
        for begun in (b"", LOOK[:-2], LOOK, LOOK.replace(b"demo", b"demo/live")):
            for _ in range(FEW):
                stack.enter_context(connected(pages)).sendall(begun)
        for _ in range(FEW):
            stack.enter_context(connected(ops))

        status, ready = call("GET", f"{service.url}/readyz")
        opened = len(os.listdir(f"/proc/{service.process.pid}/fd"))
        counted = [hit(service, n) for n in range(20)]

        assert (status, ready["status"]) == (200, "ok")
        assert counted == [200] * 20
        assert opened < FEW
        assert "Traceback" not in service.errors
        assert "ended" not in service.errors
        assert call("GET", f"http://{ops}/healthz")[0] == 200
        assert service.terminate() == 0


def connected(address: str) -> socket.socket:
    host, _, port = address.partition(":")
    return socket.create_connection((host, int(port)), timeout=5)


def hit(service: ServiceProcess, number: int) -> int:
    origin = {"Origin": service.url}
    return call("POST", f"{service.url}/w/demo", {"p": f"/{number}"}, headers=origin)[0]

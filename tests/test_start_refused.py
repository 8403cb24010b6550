"""A start that cannot reach its store: what no waiting ends is said at once, with its remedy; what
may pass is waited for, with its reason in the log.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.kit.services.in_process import run_service, until
from tests.kit.stores.node import HOST, Node, places, running, wait_until
from tests.kit.stores.sentinel import Sentinel
from tests.kit.stores.server import server_binaries
from tests.kit.tools import need
from visit_counter.errors import StartError

AT_ONCE_S = 5.0
URL = "VISIT_COUNTER_REDIS_URL"


@pytest.fixture(params=["valkey", "redis"])
def binary(request: pytest.FixtureRequest) -> Path:
    found = server_binaries().get(request.param)
    if found is None:
        pytest.skip("needs redis-server")
    return found


@pytest.fixture(scope="module")
def certificate() -> Iterator[tuple[Path, Path]]:
    with tempfile.TemporaryDirectory(prefix="vc-", dir="/tmp") as directory:
        cert, key = Path(directory) / "cert", Path(directory) / "key"
        name = ("-subj", "/CN=a store", "-addext", f"subjectAltName=IP:{HOST}")
        made = ["-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(cert)]
        command = [str(need("openssl")), "req", "-x509", *made, *name]
        subprocess.run(command, check=True, capture_output=True)
        yield cert, key


@contextmanager
def node(binary: Path, *args: str) -> Iterator[Node]:
    with places(1) as (place,):
        made = Node(binary, place, args)
        with running([made]):
            yield made


@contextmanager
def encrypted(certificate: tuple[Path, Path], clients: str) -> Iterator[Node]:
    """A Redis that speaks TLS; the embedded Valkey is built without."""
    cert, key = map(str, certificate)
    with places(1) as (place,):
        args = ["--port", "0", "--tls-port", str(place.port), "--tls-cert-file", cert]
        args += ["--tls-key-file", key, "--tls-ca-cert-file", cert, "--tls-auth-clients", clients]
        made = Node(server_binaries().get("redis") or need("redis-server"), place, args)
        with running([made]):
            yield made


@contextmanager
def stranger(greeting: bytes, answer: bytes, only: bytes = b"") -> Iterator[int]:
    """The port of something that is no Redis: it greets, and answers what has these bytes, once."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(2)
                try:
                    connection.sendall(greeting)
                    if only in connection.recv(4096):
                        connection.sendall(answer)
                        if only:
                            connection.recv(4096)
                except OSError:
                    pass

    with socket.create_server((HOST, 0)) as listening:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(5)


async def refusal(url: str) -> str:
    """What a start says that ends at once."""
    since = time.monotonic()
    with pytest.raises(StartError) as refused:
        await run_service(url).__aenter__()
    assert time.monotonic() - since < AT_ONCE_S, f"it waited: {refused.value}"
    return str(refused.value)


@pytest.mark.parametrize(
    ("scheme", "tail", "words"),
    [
        ("redis+cluster://", "", "it is one server and no cluster: write redis://"),
        ("redis+sentinel://", "/counter", "it is not a sentinel: name the sentinels"),
        ("rediss://", "", "it does not speak TLS: write redis://"),
        ("rediss+cluster://", "", "it does not speak TLS: write redis://"),
        ("rediss+sentinel://", "/counter", "it does not speak TLS: write redis://"),
        ("redis://", "/99", "it has no such database: correct the number"),
        ("redis://somebody:wrong@", "", "correct the user, password or database"),
    ],
)
async def test_the_wrong_url_of_a_server(binary: Path, scheme: str, tail: str, words: str) -> None:
    with node(binary) as server:
        said = await refusal(f"{scheme}{HOST}:{server.port}{tail}")

    assert words in said
    assert f"the store at {HOST}:{server.port} refuses us" in said
    assert URL in said
    assert "wrong@" not in said


@pytest.mark.parametrize(
    ("password", "login"), [("right", ":wrong@"), ("right", "")], ids=["wrong", "none"]
)
async def test_a_wrong_password(binary: Path, password: str, login: str) -> None:
    with node(binary) as server:
        server.ask("CONFIG", "SET", "requirepass", password)
        said = await refusal(f"redis://{login}{HOST}:{server.port}")

    assert "correct the user, password or database" in said


@pytest.mark.parametrize(
    ("scheme", "clients", "trusted", "words"),
    [
        ("redis", "no", True, "it speaks TLS: write rediss://"),
        ("rediss", "no", False, "its certificate is not trusted"),
        ("rediss", "yes", True, "it asks for a client's certificate"),
        ("rediss+cluster", "no", False, "its certificate is not trusted"),
    ],
)
async def test_a_server_with_tls(
    certificate: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    scheme: str,
    clients: str,
    trusted: bool,
    words: str,
) -> None:
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    with encrypted(certificate, clients) as server:
        said = await refusal(f"{scheme}://{HOST}:{server.port}")

    assert words in said


async def test_a_certificate_of_another_name(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    with encrypted(certificate, "no") as server:
        said = await refusal(f"rediss://localhost:{server.port}")

    assert "a host that is in the certificate" in said


@pytest.mark.parametrize(
    ("greeting", "answer"),
    [(b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"), (b"SSH-2.0-OpenSSH_9.9\r\n", b"")],
    ids=["HTTP", "SSH"],
)
async def test_a_server_of_another_kind(greeting: bytes, answer: bytes) -> None:
    with stranger(greeting, answer) as port:
        said = await refusal(f"redis://{HOST}:{port}")

    assert "what answers there is neither Valkey nor Redis" in said


async def test_protected_mode() -> None:
    denied = b"-DENIED Redis is running in protected mode because protected mode is enabled\r\n"
    with stranger(b"", denied) as port:
        said = await refusal(f"redis://{HOST}:{port}")

    assert "takes connections from its own host only: set a password there" in said


async def test_a_server_without_hello() -> None:
    with stranger(b"", b"-ERR unknown command `HELLO`, with args beginning with: `3`\r\n") as port:
        said = await refusal(f"redis://{HOST}:{port}")

    assert "it is too old, or a proxy without functions" in said
    assert "a Valkey 7.2 or Redis 7.0 or newer" in said


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"-ERR unknown command 'HELLO', with args beginning with: '3'\r\n", "without functions"),
        (b"-unsupported command 'hello'\r\n", "a proxy that does not pass this command"),
        (b"-ERR Command is not available: 'HELLO'.\r\n", "it lacks this command"),
    ],
    ids=["Envoy", "an older Envoy", "a hosted store"],
)
async def test_a_proxy_that_passes_no_functions(answer: bytes, words: str) -> None:
    with stranger(b"", answer) as port:
        said = await refusal(f"redis://{HOST}:{port}")

    assert words in said


async def test_a_proxy_that_hangs_up() -> None:
    """As twemproxy does at commands that it does not pass; an inline PING is one."""
    with stranger(b"", b"+PONG\r\n", only=b"$4\r\nPING\r\n") as port:
        said = await refusal(f"redis://{HOST}:{port}")

    assert "as a proxy (twemproxy) that passes no functions" in said


@pytest.mark.parametrize("command", ["PFADD", "FCALL", "FUNCTION", "INFO"])
async def test_a_command_that_was_renamed(binary: Path, command: str) -> None:
    with node(binary, "--rename-command", command, "own") as server:
        said = await refusal(f"redis://{HOST}:{server.port}")

    assert f"unknown command '{command}'".lower() in said.lower()
    assert "give it back" in said


async def test_what_hosted_stores_keep_to_themselves(binary: Path) -> None:
    """CONFIG, INFO if that is allowed, the user `default`; and a user without a password who has a
    database of its own."""
    hosted = ("--rename-command", "CONFIG", "own1", "--rename-command", "INFO", "own2")
    with node(binary, *hosted) as server:
        server.ask("ACL", "SETUSER", "counter", "on", "nopass", "allkeys", "allcommands")
        url = f"redis://counter@{HOST}:{server.port}/3"
        async with run_service(url, allow_unsafe_store="true", min_replicas="0") as service:
            await service.site()
            answer = await service.hit()
        in_database_0 = server.ask("DBSIZE")
        server.ask("ACL", "SETUSER", "default", "off")
        said = await refusal(f"redis://{HOST}:{server.port}/3")

    assert answer["counted"]
    assert in_database_0 == 0
    assert "correct the user, password or database" in said


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster"])
async def test_a_sentinel_is_no_store(binary: Path, scheme: str) -> None:
    with node(binary) as server, places(1) as (place,):
        sentinel = Sentinel(binary, place, server)
        with running([sentinel]):
            said = await refusal(f"{scheme}://{HOST}:{sentinel.port}")

    assert "it is a sentinel: write redis+sentinel://" in said


async def test_one_server_of_a_cluster(binary: Path) -> None:
    """It has a part of the slots only."""
    with places(2) as found:
        nodes = [Node(binary, place, ("--cluster-enabled", "yes")) for place in found]
        with running(nodes):
            first, second = nodes
            first.ask("CLUSTER", "ADDSLOTSRANGE", 0, 8000)
            second.ask("CLUSTER", "ADDSLOTSRANGE", 8001, 16383)
            first.ask("CLUSTER", "MEET", HOST, second.port, second.port + 10_000)
            wait_until(lambda: first.info("cluster")["cluster_state"] == "ok", 15)
            said = await refusal(f"redis://{HOST}:{first.port}")

    assert "it is one server of a cluster: write redis+cluster://" in said


async def test_a_database_of_a_cluster(binary: Path) -> None:
    """Redis and Valkey word it differently, and Valkey as one that does not exist."""
    with node(binary, "--cluster-enabled", "yes") as server:
        said = await refusal(f"redis://{HOST}:{server.port}/1")

    assert "redis+cluster:// without one" in said


# -- what may pass


Later = Callable[[Node], None]


def promoted(server: Node) -> None:
    server.ask("REPLICAOF", "NO", "ONE")


def given_memory(server: Node) -> None:
    server.ask("CONFIG", "SET", "maxmemory", "0")


def without_replicas(server: Node) -> None:
    server.ask("CONFIG", "SET", "min-replicas-to-write", "0")


@pytest.mark.parametrize(
    ("before", "later", "words"),
    [
        (("REPLICAOF", HOST, "1"), promoted, "read only replica"),
        (("CONFIG", "SET", "maxmemory", "1"), given_memory, "maxmemory"),
        (("CONFIG", "SET", "min-replicas-to-write", "1"), without_replicas, "NOREPLICAS"),
    ],
    ids=["replica", "no memory", "no replicas"],
)
async def test_a_store_that_may_take_hits_later_is_waited_for(
    binary: Path, before: tuple[str, ...], later: Later, words: str
) -> None:
    """The log says why, once; and then the service counts."""
    with node(binary) as server, capture_logs() as logs:
        server.ask(*before)
        url = f"redis://{HOST}:{server.port}"
        starting = run_service(url)
        started = asyncio.ensure_future(starting.__aenter__())
        await until(lambda: any(words in reason for reason in waits(logs)))
        later(server)
        service = await started
        await service.site()
        answer = await service.hit()
        await starting.__aexit__(None, None, None)

    assert answer["counted"]
    assert len(waits(logs)) == len({*waits(logs)})


def waits(logs: Sequence[MutableMapping[str, Any]]) -> list[str]:
    return [line["reason"] for line in logs if line["event"] == "waiting for the store"]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (f"redis://{HOST}:1", "Connection refused"),
        ("redis://no-such-name.invalid:6379", "connecting to no-such-name.invalid:6379"),
        ("unix:///tmp/vc-no-such-socket", "No such file"),
    ],
    ids=["refused", "unknown name", "no socket"],
)
async def test_what_is_not_there_yet_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, url: str, words: str
) -> None:
    """Containers get their names and sockets when they are up."""
    monkeypatch.setattr("visit_counter.store.store.START_WAIT_S", 0.5)
    with capture_logs() as logs, pytest.raises(StartError) as refused:
        await run_service(url).__aenter__()

    assert words in waits(logs)[0]
    assert f"within 0 s ({waits(logs)[0]})" in str(refused.value)


async def test_a_sentinel_that_does_not_know_the_name_yet_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, binary: Path
) -> None:
    """Operators tell it what to watch after it is up."""
    monkeypatch.setattr("visit_counter.store.store.START_WAIT_S", 0.5)
    with node(binary) as server, places(1) as (place,):
        sentinel = Sentinel(binary, place, server)
        with running([sentinel]), capture_logs() as logs, pytest.raises(StartError):
            await run_service(f"redis+sentinel://{HOST}:{sentinel.port}/other").__aenter__()

    assert "watches no primary called other" in waits(logs)[0]

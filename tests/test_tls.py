"""Stores behind TLS and passwords, with a certificate that was made for the test."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.kit.services.in_process import run_service
from tests.kit.stores.node import HOST, Node, Place, places, running, wait_until
from tests.kit.stores.sentinel import NAME
from tests.kit.stores.server import server_binaries
from tests.kit.tools import need
from visit_counter.errors import StartError

PASSWORD = "a /?#@ of many kinds"
QUOTED = "a%20%2F%3F%23%40%20of%20many%20kinds"
OK_S = 10.0

Certificate = tuple[Path, Path]
"""A certificate that signs itself, and its key."""


@pytest.fixture(scope="module")
def certificate() -> Iterator[Certificate]:
    """For the address of loopback."""
    yield from made()


@pytest.fixture(scope="module")
def another() -> Iterator[Certificate]:
    """Which no server here trusts."""
    yield from made()


def made() -> Iterator[Certificate]:
    with tempfile.TemporaryDirectory(prefix="vc-", dir="/tmp") as directory:
        cert, key = Path(directory) / "cert", Path(directory) / "key"
        name = ("-subj", "/CN=a store", "-addext", f"subjectAltName=IP:{HOST}")
        made = ["-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(cert)]
        command = [str(need("openssl")), "req", "-x509", *made, *name]
        subprocess.run(command, check=True, capture_output=True)
        yield cert, key


@pytest.fixture(scope="module")
def locked(certificate: Certificate) -> Path:
    """A key behind a password."""
    path = certificate[1].with_name("locked")
    made = ["genrsa", "-aes256", "-passout", "pass:secret", "-out", str(path)]
    subprocess.run([str(need("openssl")), *made], check=True, capture_output=True)
    return path


@pytest.fixture
def binary() -> Path:
    """Debian's Redis: the embedded Valkey is built without TLS."""
    return server_binaries().get("redis") or need("redis-server")


def options(port: int, certificate: Certificate, clients: str = "no") -> dict[str, str]:
    """Of a server that speaks nothing but TLS; `clients`: whether it asks for a certificate."""
    cert, key = map(str, certificate)
    return {
        "port": "0",
        "tls-port": str(port),
        "tls-cert-file": cert,
        "tls-key-file": key,
        "tls-ca-cert-file": cert,
        "tls-auth-clients": clients,
        "tls-replication": "yes",
    }


class Encrypted(Node):
    """A server, or a sentinel that watches one."""

    def __init__(self, binary: Path, place: Place, certificate: Certificate, **more: str) -> None:
        wanted = {**options(place.port, certificate), "appendonly": "yes", **more}
        words = [word for name, value in wanted.items() for word in (f"--{name}", value)]
        super().__init__(binary, place, words)

    @classmethod
    def sentinel(
        cls, primary: Node, place: Place, certificate: Certificate, clients: str = "no"
    ) -> Encrypted:
        file, wanted = place.directory / "sentinel.conf", options(place.port, certificate, clients)
        lines = [f"{name} {value}" for name, value in wanted.items()]
        watched = [f"sentinel monitor {NAME} {HOST} {primary.port} 1", "unixsocket s"]
        watched += [f'sentinel auth-pass {NAME} "{PASSWORD}"']
        file.write_text("\n".join([*lines, *watched, ""]))
        made = cls(primary.binary, place, certificate)
        made._command = [str(primary.binary), file.name, "--sentinel"]
        return made

    def lock(self) -> None:
        """From now on it asks for a password."""
        self.ask("ACL", "SETUSER", "default", "resetpass", f">{PASSWORD}")


async def count_in(url: str) -> int:
    """A service over this store counts a hit."""
    async with run_service(url) as service:
        await service.site()
        answer = await service.hit()
    return int(answer["total"]["pageviews"])


@pytest.mark.parametrize("asks", [True, False], ids=["asks too", "asks for none"])
async def test_sentinels_get_the_password_that_they_ask_for(
    binary: Path, certificate: Certificate, monkeypatch: pytest.MonkeyPatch, asks: bool
) -> None:
    """By TLS, the one in the URL: for both, or for the servers alone."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    with places(2) as (first, second):
        primary = Encrypted(binary, first, certificate)
        sentinel = Encrypted.sentinel(primary, second, certificate)
        with running([primary]):
            primary.lock()
            with running([sentinel]):
                if asks:
                    sentinel.lock()
                url = f"rediss+sentinel://:{QUOTED}@{HOST}:{sentinel.port}/{NAME}"
                counted = await count_in(url)

    assert counted == 1


async def test_a_cluster_is_spoken_to_by_tls(
    binary: Path, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each server of it."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    cluster = {"cluster-enabled": "yes", "tls-cluster": "yes"}
    with places(1) as (place,):
        node = Encrypted(binary, place, certificate, **cluster)
        with running([node]):
            node.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            wait_until(lambda: node.info("cluster")["cluster_state"] == "ok", OK_S)
            counted = await count_in(f"rediss+cluster://{HOST}:{node.port}")

    assert counted == 1


CLIENTS = {"tls-auth-clients": "yes"}


def with_certificate(certificate: Certificate) -> str:
    """The end of a URL."""
    cert, key = map(str, certificate)
    return "?" + urlencode({"ssl_certfile": cert, "ssl_keyfile": key, "ssl_ca_certs": cert})


async def test_servers_of_a_cluster_get_our_certificate(
    binary: Path, certificate: Certificate
) -> None:
    """The one that is asked for the others, and those; without it the sentence says so."""
    cluster = {"cluster-enabled": "yes", "tls-cluster": "yes", **CLIENTS}
    with places(2) as found:
        nodes = [Encrypted(binary, place, certificate, **cluster) for place in found]
        with running(nodes):
            first, second = nodes
            first.ask("CLUSTER", "ADDSLOTSRANGE", 0, 8000)
            second.ask("CLUSTER", "ADDSLOTSRANGE", 8001, 16383)
            first.ask("CLUSTER", "MEET", HOST, second.port, second.port + 10_000)
            wait_until(lambda: all_ok(nodes), OK_S)
            url = f"rediss+cluster://{HOST}:{first.port}"
            counted = await count_in(url + with_certificate(certificate))
            with pytest.raises(StartError) as refused:
                await count_in(f"{url}?{urlencode({'ssl_ca_certs': str(certificate[0])})}")

    assert counted == 1
    assert "it asks for a client's certificate" in str(refused.value)
    assert "ssl_certfile=" in str(refused.value)


def all_ok(nodes: list[Encrypted]) -> bool:
    return all(node.info("cluster")["cluster_state"] == "ok" for node in nodes)


async def test_sentinels_and_their_primary_get_our_certificate(
    binary: Path, certificate: Certificate
) -> None:
    """And each its own user: the sentinels' is named apart."""
    with places(2) as (first, second):
        primary = Encrypted(binary, first, certificate, **CLIENTS)
        sentinel = Encrypted.sentinel(primary, second, certificate, "yes")
        with running([primary]):
            primary.lock()
            with running([sentinel]):
                sentinel.ask("ACL", "SETUSER", "watcher", "on", ">a+b", "+sentinel")
                sentinel.ask("ACL", "SETUSER", "default", "off")
                url = f"rediss+sentinel://:{QUOTED}@{HOST}:{sentinel.port}/{NAME}"
                url += f"{with_certificate(certificate)}&sentinel_username=watcher"
                with pytest.raises(StartError) as refused:
                    await count_in(f"{url}&sentinel_password=wrong")
                counted = await count_in(f"{url}&sentinel_password=a+b")

    assert counted == 1
    assert "correct the sentinels' user and password" in str(refused.value)


async def test_a_cluster_that_tells_no_port_is_not_looked_for_at_another(
    binary: Path, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without tls-cluster its servers tell each other their plain port only, here none: redis-py
    would ask 6379, where somebody else's store may be."""
    monkeypatch.setattr("visit_counter.store.store.START_WAIT_S", 0.1)
    with places(1) as (place,):
        node = Encrypted(binary, place, certificate, **{"cluster-enabled": "yes"})
        with running([node]):
            node.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            wait_until(lambda: all_ok([node]), OK_S)
            url = f"rediss+cluster://{HOST}:{node.port}{with_certificate(certificate)}"
            with pytest.raises(StartError, match="set tls-cluster yes"):
                await count_in(url)


async def test_a_certificate_of_ours_that_is_not_trusted(
    binary: Path, certificate: Certificate, another: Certificate
) -> None:
    with places(1) as (place,):
        node = Encrypted(binary, place, certificate, **CLIENTS)
        with running([node]):
            named = {"ssl_certfile": str(another[0]), "ssl_keyfile": str(another[1])}
            query = urlencode({**named, "ssl_ca_certs": str(certificate[0])})
            for url in ("rediss", "rediss+cluster"):
                with pytest.raises(StartError, match=r"our certificate \(ssl_certfile\)"):
                    await count_in(f"{url}://{HOST}:{node.port}?{query}")


async def test_a_server_is_told_which_name_is_meant(certificate: Certificate) -> None:
    """SNI: hosted stores have many behind one address."""
    names: list[str | None] = []
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    context.sni_callback = lambda _socket, name, _context: names.append(name)

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(hang_up, HOST, 0, ssl=context)
    async with server:
        port = server.sockets[0].getsockname()[1]
        checks = urlencode({"ssl_ca_certs": str(certificate[0]), "ssl_check_hostname": "false"})
        with pytest.raises(StartError, match="neither Valkey nor Redis"):
            await count_in(f"rediss://localhost:{port}?{checks}")

    assert set(names) == {"localhost"}


@pytest.mark.parametrize("check", ["true", "false"])
async def test_the_name_in_a_certificate_may_be_left_unchecked(
    binary: Path, certificate: Certificate, check: str
) -> None:
    """As where servers of a cluster tell addresses and their certificate has a name."""
    cluster = {"cluster-enabled": "yes", "tls-cluster": "yes"}
    cluster |= {"cluster-announce-hostname": "localhost"}
    cluster |= {"cluster-preferred-endpoint-type": "hostname"}
    with places(1) as (place,):
        node = Encrypted(binary, place, certificate, **cluster)
        with running([node]):
            node.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            wait_until(lambda: all_ok([node]), OK_S)
            url = f"rediss+cluster://{HOST}:{node.port}?ssl_check_hostname={check}&" + urlencode(
                {"ssl_ca_certs": str(certificate[0])}
            )
            if check == "false":
                assert await count_in(url) == 1
                return
            with pytest.raises(
                StartError, match="tell such names, or add ssl_check_hostname=false"
            ):
                await count_in(url)


async def test_files_of_certificates_are_looked_at_before_the_store(
    certificate: Certificate, locked: Path, tmp_path: Path
) -> None:
    """Else a wrong one would be a store that is away, for half a minute."""
    cert, key = map(str, certificate)
    text, none, directory = tmp_path / "text", tmp_path / "none", tmp_path / "directory"
    text.write_text("no certificate")
    directory.mkdir()
    wrong = {
        "ssl_certfile in VISIT_COUNTER_REDIS_URL is the file": {"ssl_certfile": str(none)},
        "No such file or directory": {"ssl_certfile": cert, "ssl_keyfile": str(none)},
        "is not a certificate (PEM)": {"ssl_certfile": str(text), "ssl_keyfile": key},
        "with the key of ssl_keyfile": {"ssl_certfile": cert, "ssl_keyfile": str(locked)},
        "another password than ssl_password": {
            "ssl_certfile": cert, "ssl_keyfile": str(locked), "ssl_password": "wrong",
        },
        "has no certificates (PEM)": {"ssl_ca_certs": str(text)},
        "Is a directory": {"ssl_ca_certs": str(directory)},
        "is not a directory": {"ssl_ca_path": str(none)},
    }  # fmt: skip
    for words, named in wrong.items():
        for url in (f"rediss://{HOST}:1", f"rediss+cluster://{HOST}:1"):
            with pytest.raises(StartError) as refused:
                await count_in(f"{url}?{urlencode(named)}")
            assert words in str(refused.value)
            assert "VISIT_COUNTER_REDIS_URL" in str(refused.value)
            assert "wrong" not in str(refused.value)


async def test_a_certificate_of_strangers_is_refused(
    binary: Path, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is checked, in every scheme."""
    monkeypatch.setattr("visit_counter.store.store.START_WAIT_S", 0.1)
    with places(1) as (place,):
        node = Encrypted(binary, place, certificate)
        with running([node]):
            for scheme, path in (("rediss", ""), ("rediss+cluster", ""), ("rediss+sentinel", "/a")):
                with pytest.raises(StartError, match="certificate verify failed"):
                    await count_in(f"{scheme}://{HOST}:{node.port}{path}")

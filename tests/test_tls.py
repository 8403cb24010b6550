"""Stores behind TLS and passwords, with a certificate that was made for the test."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

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
    with tempfile.TemporaryDirectory(prefix="vc-", dir="/tmp") as directory:
        cert, key = Path(directory) / "cert", Path(directory) / "key"
        name = ("-subj", "/CN=a store", "-addext", f"subjectAltName=IP:{HOST}")
        made = ["-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(cert)]
        command = [str(need("openssl")), "req", "-x509", *made, *name]
        subprocess.run(command, check=True, capture_output=True)
        yield cert, key


@pytest.fixture
def binary() -> Path:
    """Debian's Redis: the embedded Valkey is built without TLS."""
    return server_binaries().get("redis") or need("redis-server")


def options(port: int, certificate: Certificate) -> dict[str, str]:
    """Of a server that speaks nothing but TLS."""
    cert, key = map(str, certificate)
    return {
        "port": "0",
        "tls-port": str(port),
        "tls-cert-file": cert,
        "tls-key-file": key,
        "tls-ca-cert-file": cert,
        "tls-auth-clients": "no",
        "tls-replication": "yes",
    }


class Encrypted(Node):
    """A server, or a sentinel that watches one."""

    def __init__(self, binary: Path, place: Place, certificate: Certificate, **more: str) -> None:
        wanted = {**options(place.port, certificate), "appendonly": "yes", **more}
        words = [word for name, value in wanted.items() for word in (f"--{name}", value)]
        super().__init__(binary, place, words)

    @classmethod
    def sentinel(cls, primary: Node, place: Place, certificate: Certificate) -> Encrypted:
        file = place.directory / "sentinel.conf"
        lines = [f"{name} {value}" for name, value in options(place.port, certificate).items()]
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

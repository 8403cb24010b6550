"""The service under load: `visit-counter serve` in a process of its own, on one address for life.

    service = ServiceProcess(Path(scratch))
    service.start()      # and again after `kill` or `terminate`

Its address, data directory and admin token stay the same over restarts. Everything here blocks.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tests.kit.services.process import ROOT, environment, workers_of

TOKEN = "token-of-the-load-test-of-32-characters"
START_S = 40.0  # a machine with other work, and a store that is still loading
STOP_S = 15.0
AGAIN_S = 5.0  # until a change that the store did not take must be taken

ENTRY = {
    "uvloop": "",
    # The service has no such setting: asyncio's own loop takes uvloop's place.
    "asyncio": "uvloop.new_event_loop = asyncio.new_event_loop; ",
}


class ServiceProcess:
    """A service on a free port of loopback; `settings` are named without their prefix, `under` is
    a command that starts it, `prelude` is code that runs in it first."""

    def __init__(
        self,
        scratch: Path,
        *,
        loop: str = "uvloop",
        under: Sequence[str] = (),
        prelude: str = "",
        **settings: str,
    ) -> None:
        scratch.mkdir(exist_ok=True)
        self.data_dir = scratch / "data"
        self.port = free_port()
        code = (
            f"import asyncio, uvloop; {ENTRY[loop]}{prelude}"
            "from visit_counter.cli.main import main; raise SystemExit(main(['serve']))"
        )
        self._command = [*under, sys.executable, "-c", code]
        self._log = scratch / "visit_counter.log"
        self._settings = {
            "LISTEN": f"127.0.0.1:{self.port}",
            "DATA_DIR": str(self.data_dir),
            "ADMIN_TOKEN": TOKEN,
            "TIMEZONE": "UTC",
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._begin = 0
        """Where the log of this start begins."""

    @property
    def pid(self) -> int:
        assert self._process, "the service was not started"
        return self._process.pid

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def memory_mb(self) -> float:
        """What it takes of the machine's memory now (Linux)."""
        assert self._process, "it was started"
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self.launch()
        deadline = time.monotonic() + START_S
        # Workers that a killed parent left behind may still answer: it is the log that tells.
        while b'"event": "counting"' not in self._log.read_bytes()[self._begin :]:
            if not self.alive or time.monotonic() > deadline:
                raise RuntimeError(f"the service did not start:\n{self.log[-3000:]}")
            time.sleep(0.01)

    def launch(self, log_into: int | None = None) -> None:
        """Start it, with its log in another file than ours if one is given."""
        with self._log.open("ab") as own:
            self._begin = own.tell()
            log = own if log_into is None else log_into
            self._process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=environment({f"VISIT_COUNTER_{k}": v for k, v in self._settings.items()}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def workers(self) -> list[int]:
        """The pids of those that count, if the service has several."""
        return workers_of(self._process.pid) if self._process and self.alive else []

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        self._wait()

    def replace_workers(self) -> None:
        """Have new ones take the place of all, one by one."""
        before = self.workers
        self._signal(signal.SIGHUP)
        deadline = time.monotonic() + START_S
        while {*before} & {*self.workers} or len(self.workers) < len(before):
            if time.monotonic() > deadline:
                raise RuntimeError(f"the workers were not replaced:\n{self.log[-3000:]}")
            time.sleep(0.01)

    def terminate(self) -> int:
        """Stop it as a service manager would; its exit code."""
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)
        return self._wait()

    def freeze(self) -> None:
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal_all(signal.SIGCONT)

    def call(self, path: str, body: object) -> dict[str, Any]:
        """POST to /api/v1/sites."""
        url = f"{self.url}/api/v1/sites{path}"
        request = Request(url, data=json.dumps(body).encode(), method="POST")
        request.add_header("Authorization", f"Bearer {TOKEN}")
        deadline = time.monotonic() + AGAIN_S
        while True:
            try:
                with urlopen(request, timeout=10) as answer:
                    return dict(json.load(answer))
            except HTTPError as error:
                # Nothing was done, as just after a failover: an admin would ask once more.
                if error.code != 503 or time.monotonic() > deadline:
                    raise RuntimeError(f"{path or '/'}: {error}, {error.read()!r}") from None
            time.sleep(0.1)

    def _signal(self, signum: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, signum)

    def _signal_all(self, signum: signal.Signals) -> None:
        self._signal(signum)
        for pid in self.workers:
            os.kill(pid, signum)

    def _wait(self) -> int:
        return self._process.wait(timeout=STOP_S) if self._process is not None else 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

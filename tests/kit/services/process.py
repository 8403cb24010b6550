"""The service as users run it: `python -m visit_counter` as a process of its own.

    with serving(DATA_DIR=str(directory)) as service:
        urlopen(service.url + "/healthz")

Settings are given without their prefix; nothing else of this environment that looks like a setting
reaches the process. What it prints is kept in files, so that a full pipe never stops it. It is this
version, unless a `Program` names another.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tests.kit.services.in_process import PERSON, TOKEN

ROOT = Path(__file__).parents[3]
START_S = 20.0
STOP_S = 8.0

T = TypeVar("T")
NOTHING: Mapping[str, str] = {}


class Program(NamedTuple):
    """A version of the service: its command without arguments, the directory that it is started in,
    and what is added to its environment."""

    command: tuple[str, ...]
    cwd: Path
    variables: Mapping[str, str]

    def call(self, *arguments: str, **settings: str) -> str:
        """What a command of it prints; it must succeed."""
        given = {f"VISIT_COUNTER_{name}": text for name, text in settings.items()}
        done = subprocess.run(
            [*self.command, *arguments],
            cwd=self.cwd,
            env=environment({**self.variables, **given}),
            capture_output=True,
            text=True,
            timeout=START_S,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def this_version() -> Program:
    return Program((sys.executable, "-m", "visit_counter"), ROOT, {})


class ServiceProcess:
    """A started service; `url` waits until it answers."""

    def __init__(
        self, scratch: Path, settings: dict[str, str], program: Program, kept: Sequence[int] = ()
    ) -> None:
        self._scratch = scratch
        self.past = timedelta(0)
        """How far its clock is behind."""
        self.token = settings.get("VISIT_COUNTER_ADMIN_TOKEN", "")
        with self._file("out").open("wb") as out, self._file("err").open("wb") as err:
            self.process = subprocess.Popen(
                [*program.command, "serve"],
                cwd=program.cwd,
                env=environment({**program.variables, **settings}),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                pass_fds=kept,
            )

    @property
    def printed(self) -> str:
        return self._file("out").read_text(errors="replace")

    @property
    def errors(self) -> str:
        """What it wrote to stderr so far."""
        return self._file("err").read_text(errors="replace")

    @property
    def workers(self) -> list[int]:
        """The pids of those that a parent has started."""
        return workers_of(self.process.pid)

    def metrics(self) -> str:
        with urlopen(f"{self.ops_url}/metrics", timeout=5) as answer:
            return str(answer.read().decode())

    def metric(self, series: str) -> float:
        """A series of /metrics, with its labels if it has any."""
        lines = self.metrics().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(f"{series} "))

    @property
    def url(self) -> str:
        found: list[str] = []

        def up() -> bool:
            assert self.process.poll() is None, self.errors
            found.extend(re.findall(r'"demo": "(http://[^"]*)/demo"', self.errors))
            return bool(found)

        until(up, START_S)
        return found[0]

    @property
    def ops_url(self) -> str:
        """Where admins and Prometheus go; the same as `url` without an address of their own."""
        assert self.url, "it says both at once"
        return str(re.findall(r'"admin_api": "(http://[^"]*)/api/v1"', self.errors)[-1])

    def exit_code(self, within_s: float) -> int:
        """Its exit code, once it has ended by itself."""
        return self.process.wait(timeout=within_s)

    def terminate(self) -> int:
        """Stop it as a service manager would; its exit code."""
        self.process.terminate()
        return self.exit_code(STOP_S)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def kill_all(self) -> None:
        """Kill it and its workers; an embedded Valkey stays behind."""
        workers = self.workers
        self.process.kill()  # first: it would replace the others
        signal_all(workers, signal.SIGKILL)
        self.process.wait()
        until(lambda: not any(runs(pid) for pid in workers), STOP_S)

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """Call /api/v1 with its admin token; the answer must be a success."""
        status, answer = call(method, f"{self.ops_url}/api/v1{path}", body, self.token)
        assert status < 300, answer
        return answer

    def site(self, site: str = "portal", **settings: Any) -> None:
        self.api("POST", "/sites", {"id": site, "origins": ["*"], "timezone": "UTC", **settings})

    def hit(self, site: str = "portal", **fields: Any) -> Any:
        status, answer = call("POST", f"{self.url}/w/{site}", fields)
        assert status in (200, 202), answer  # late, as any may be on a busy machine
        return answer

    def counts(self, site: str = "portal") -> Any:
        return self.api("POST", f"/sites/{site}/reset?preview=1")["would_reset"]

    def page(self, site: str, path: str) -> int:
        """How often a path was viewed."""
        status, answer = call("GET", f"{self.url}/w/{site}?path={path}")
        assert status == 200, answer
        return int(answer["page"]["pageviews"])

    def ready(self) -> tuple[int, Any]:
        """The status and JSON of /readyz, as an admin sees it."""
        return call("GET", f"{self.url}/readyz", token=self.token)

    def _file(self, name: str) -> Path:
        return self._scratch / name


def serving(**settings: str) -> AbstractContextManager[ServiceProcess]:
    """A service with these settings, over an embedded store if no other is set; stopped at the end
    if it runs."""
    return running(this_version(), settings)


class Views:
    """Views of different paths by different addresses, which no limit meets, sent one after the
    other in a thread of their own."""

    def __init__(self, service: ServiceProcess, site: str) -> None:
        self.acknowledged: list[str] = []
        """The paths of those that were answered 200 or 202."""
        self.refused = 0
        self._url = f"{service.url}/w/{site}"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def go_on_for(self, views: int) -> None:
        """Until so many more were acknowledged."""
        wanted = len(self.acknowledged) + views
        until(lambda: len(self.acknowledged) >= wanted, START_S)

    def stop(self) -> list[str]:
        """All that were acknowledged."""
        self._ended.set()
        self._thread.join()
        return self.acknowledged

    def _run(self) -> None:
        n = 0
        while not self._ended.is_set():
            n += 1
            address = f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}"
            headers = {"X-Forwarded-For": address}
            status, answer = call("POST", self._url, {"p": f"/{n}"}, headers=headers)
            if status in (200, 202):
                assert answer["counted"], answer
                self.acknowledged.append(f"/{n}")
            else:
                assert status == 503, answer
                self.refused += 1


@contextmanager
def running(
    program: Program, settings: Mapping[str, str], kept: Sequence[int] = ()
) -> Iterator[ServiceProcess]:
    """The same, of any version, which inherits the descriptors `kept`."""
    with tempfile.TemporaryDirectory(prefix="vc-", dir="/tmp") as scratch:
        defaults = {
            "LISTEN": "127.0.0.1:0",
            "DATA_DIR": f"{scratch}/data",
            "ADMIN_TOKEN": TOKEN,
            "TIMEZONE": "UTC",
        }
        given = {f"VISIT_COUNTER_{name}": text for name, text in {**defaults, **settings}.items()}
        service = ServiceProcess(
            Path(scratch), {name: text for name, text in given.items() if text}, program, kept
        )
        try:
            yield service
        finally:
            if service.process.poll() is None:
                # Not SIGKILL, which would leave an embedded Valkey behind.
                service.process.terminate()
                service.process.wait(timeout=2 * STOP_S)


def workers_of(pid: int) -> list[int]:
    """Those children of a process that run the same program."""
    program = os.readlink(f"/proc/{pid}/exe")
    children = [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]
    return sorted(child for child in children if _program(child) == program)


def _program(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:  # it has ended
        return ""


# -- processes by their ids


def runs(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        return state(pid) != "Z"
    except OSError:
        return False


def state(pid: int) -> str:
    """The letter of what a process does: proc(5)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def valkey_of(place: Path) -> int:
    """The pid of the embedded Valkey of a data directory."""
    return int((place / "valkey/valkey.lock").read_text())


@contextmanager
def holding(pids: list[int]) -> Iterator[None]:
    """These processes do nothing meanwhile: any other signal waits."""
    signal_all(pids, signal.SIGSTOP)
    try:
        # One that is in the kernel stops when it leaves it, and would take a lower signal first.
        until(lambda: all(state(pid) == "T" for pid in pids), 5)
        yield
    finally:
        signal_all(pids, signal.SIGCONT)


def by_each(service: ServiceProcess, ask: Callable[[], T]) -> list[T]:
    """What each worker answers, or the only process: while it is asked the others are held."""
    answers = []
    workers = service.workers or [service.process.pid]
    for pid in workers:
        with holding([other for other in workers if other != pid]):
            answers.append(ask())
    return answers


def signal_all(pids: list[int], signum: signal.Signals) -> None:
    for pid in pids:
        os.kill(pid, signum)


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    ours = {name: v for name, v in os.environ.items() if not name.startswith("VISIT_COUNTER_")}
    ours.pop("PYTHONDONTWRITEBYTECODE", None)
    return {**ours, "PYTHONPYCACHEPREFIX": compiled(), **settings}


@cache
def compiled() -> str:
    """Where services find their modules compiled, also in the next run: no test times a compiler,
    not even where the environment keeps Python from writing beside the sources."""
    path = ROOT / ".pytest_cache" / "compiled"
    imports = [
        sys.executable,
        "-X",
        f"pycache_prefix={path}",
        "-c",
        "import visit_counter.app, uvloop",
    ]
    plain = {name: v for name, v in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run(imports, cwd=ROOT, env=plain, check=True)
    return str(path)


def call(
    method: str, url: str, body: Any = None, token: str = "", headers: Mapping[str, str] = NOTHING
) -> tuple[int, Any]:
    """Status and JSON of a request, sent as a person's browser would."""
    headers = {"User-Agent": PERSON, **headers}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    data = None if body is None else json.dumps(body).encode()
    try:
        with urlopen(Request(url, data, headers, method=method), timeout=10) as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.01)

"""The embedded Valkey: its life, its faults, and what it says when it cannot start."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio as redis
import structlog
import uvloop

from visit_counter import tasks
from visit_counter.embedded import process as valkey_process
from visit_counter.embedded import server as embedded
from visit_counter.embedded.process import Fsync
from visit_counter.embedded.server import Embedded
from visit_counter.errors import StartError

# The service as far as it matters here: it survives SIGINT, as one that is flushing does.
PARENT = """
import asyncio, os, signal, sys
from pathlib import Path
from visit_counter.embedded.server import Embedded
from visit_counter.errors import StartError
signal.signal(signal.SIGINT, lambda *_: None)
async def main():
    async with Embedded(Path(sys.argv[1]), "always") as server:
        print(server.pid, flush=True)
        await asyncio.Event().wait()
if len(sys.argv) > 2:
    os.seteuid(int(sys.argv[2]))
try:
    asyncio.run(main())
except StartError as refusal:
    print(refusal, flush=True)
"""


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A data directory that does not exist yet, with a short path."""
    with tempfile.TemporaryDirectory(prefix="vc-", dir="/tmp") as parent:
        yield Path(parent) / "data"


@asynccontextmanager
async def client_of(server: Embedded) -> AsyncIterator[Any]:
    async with redis.Redis.from_url(server.url, decode_responses=True) as client:
        yield client


@contextmanager
def parent(data_dir: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Another process that runs the component, and the pid of its Valkey."""
    command = [sys.executable, "-c", PARENT, str(data_dir)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as running:
        assert running.stdout
        try:
            yield running, int(running.stdout.readline())
        finally:
            running.kill()


async def enter(data_dir: Path) -> None:
    async with Embedded(data_dir, "always"):
        await asyncio.Event().wait()


async def start_fails(data_dir: Path) -> str:
    """What a start says that must fail, and quickly."""
    since = time.monotonic()
    with pytest.raises(StartError) as refusal:
        await Embedded(data_dir, "always").__aenter__()
    assert time.monotonic() - since < 2
    return str(refusal.value)


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        await asyncio.sleep(0.01)


def runs(pid: int) -> bool:
    """Whether the process exists and is more than a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def aof(data_dir: Path, kind: str) -> Path:
    (path,) = (data_dir / "valkey" / "appendonlydir").glob(f"*.{kind}")
    return path


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4] = b"\0\xff\xff\xff"
    path.write_bytes(content)


@pytest.mark.parametrize("fsync", ["always", "everysec"])
async def test_it_keeps_its_data_across_restarts(data_dir: Path, fsync: Fsync) -> None:
    """What was written is there after a stop and a new start."""
    async with Embedded(data_dir, fsync) as server, client_of(server) as client:
        await client.set("visits", 1886)
        assert await client.config_get("appendfsync") == {"appendfsync": fsync}
    async with Embedded(data_dir, fsync) as server, client_of(server) as client:
        assert await client.get("visits") == "1886"


async def test_it_is_a_safe_store_behind_one_socket(data_dir: Path) -> None:
    """It evicts nothing, opens no port and lets no client debug it or load modules."""
    expected = {
        "appendonly": "yes",
        "save": "",
        "maxmemory-policy": "noeviction",
        "no-appendfsync-on-rewrite": "no",
        "port": "0",
        "enable-debug-command": "no",
        "enable-module-command": "no",
    }
    async with Embedded(data_dir, "always") as server, client_of(server) as client:
        assert expected == await client.config_get(*expected)


async def test_its_files_are_private(data_dir: Path) -> None:
    """Nobody else can read the data or reach the socket."""
    async with Embedded(data_dir, "always"):
        modes = {
            name: oct((data_dir / name).stat().st_mode & 0o777)
            for name in (".", "lock", "valkey", "valkey/valkey.lock", "valkey/valkey.log")
        }

    assert {"0o700"} == {modes.pop("."), modes.pop("valkey")}
    assert {"0o600"} == set(modes.values())


async def test_a_directory_of_the_admin_keeps_its_mode(data_dir: Path) -> None:
    """Only our own directory inside it is made private."""
    os.mkdir(data_dir, 0o755)
    async with Embedded(data_dir, "always"):
        assert os.stat(data_dir).st_mode & 0o777 == 0o755


async def test_our_secrets_do_not_reach_the_server(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings are not handed down in the environment, everything else is."""
    monkeypatch.setenv("VISIT_COUNTER_ADMIN_TOKEN", "s3cret")
    monkeypatch.setenv("LC_ALL", "xx_YY.none")
    environment = valkey_process._environment()

    assert "s3cret" not in environment.values()
    assert environment["LC_ALL"] == "C"
    assert os.environ["PATH"] == environment["PATH"]


@pytest.mark.parametrize("name", ["with space", "50% ü?#&", "x" * 120])
async def test_any_path_will_do(data_dir: Path, name: str) -> None:
    """Neither odd characters nor the 107 bytes of a socket address limit the data directory."""
    async with Embedded(data_dir / name, "always") as server, client_of(server) as by_url:
        assert await by_url.ping()
        async with redis.Redis(unix_socket_path=server.socket_path) as by_path:
            assert await by_path.ping()


async def test_a_relative_path_will_do(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default data directory is ./data, and the process may change its directory later."""
    monkeypatch.chdir(data_dir.parent)
    async with Embedded(Path("data"), "always") as server, client_of(server) as client:
        os.chdir("/")
        assert await client.ping()


def test_it_runs_on_uvloop(data_dir: Path) -> None:
    """Start, data and stop are the same on the loop of production."""

    async def visit() -> int:
        async with Embedded(data_dir, "always") as server, client_of(server) as client:
            return int(await client.incr("visits"))

    assert [uvloop.run(visit()), uvloop.run(visit())] == [1, 2]


async def test_it_starts_fast(data_dir: Path) -> None:
    """A start leaves most of the 1.5 s from start to ready to the rest of the service."""
    since = time.monotonic()
    async with Embedded(data_dir, "always"):
        assert time.monotonic() - since < 1


async def test_it_waits_while_data_is_loaded(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that says it is loading is waited for, however long that takes."""
    async with Embedded(data_dir, "always") as server, client_of(server) as client:
        await client.mset({f"key{number}": "x" * 50 for number in range(2_000)})
        await client.bgrewriteaof()
        rewritten = data_dir / "valkey/appendonlydir/appendonly.aof.2.base.rdb"
        await until(rewritten.exists)
    slow = ["--key-load-delay", "200", "--loading-process-events-interval-bytes", "1024"]
    arguments = valkey_process._arguments("always")
    monkeypatch.setattr(valkey_process, "_arguments", lambda fsync: arguments + slow)
    monkeypatch.setattr(valkey_process, "READY_S", 0.2)
    monkeypatch.setattr(valkey_process, "TELL_S", 0.1)

    with structlog.testing.capture_logs() as lines:
        async with Embedded(data_dir, "always") as server, client_of(server) as client:
            assert await client.dbsize() == 2_000
    assert "the embedded Valkey is still loading its data" in [line["event"] for line in lines]


async def test_stop_is_idempotent_and_ends_the_server(data_dir: Path) -> None:
    """After stop no process is left and a second stop does nothing; a new start works."""
    server = Embedded(data_dir, "always")
    for _ in range(2):
        async with server:
            pid = server.pid
            assert server.alive
            await server.stop()
            await server.stop()
            assert not server.alive
            assert pid
            assert not runs(pid)


async def test_a_start_that_is_given_up_leaves_nothing(data_dir: Path) -> None:
    """Cancelled at any moment of the start, it frees the data directory."""
    for wait_ms in (0, 1, 5, 20, 35):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(enter(data_dir), wait_ms / 1000)
        async with Embedded(data_dir, "always") as server, client_of(server) as client:
            assert await client.incr("starts")


async def test_it_is_in_a_session_of_its_own(data_dir: Path) -> None:
    """Signals to our process group or terminal do not reach it."""
    async with Embedded(data_dir, "always") as server:
        assert server.pid
        assert (server.pid, server.pid) == (os.getsid(server.pid), os.getpgid(server.pid))


async def test_ctrl_c_does_not_reach_it(data_dir: Path) -> None:
    """SIGINT to the service's group leaves Valkey there for the last flush."""
    with parent(data_dir) as (running, pid):
        os.killpg(running.pid, signal.SIGINT)
        async with redis.Redis(unix_socket_path=str(data_dir / "valkey/valkey.sock")) as client:
            for number in range(20):
                assert await client.set("flush", number)
        assert runs(pid)
        assert running.poll() is None
        running.kill()
        os.kill(pid, signal.SIGTERM)


async def test_an_orphan_is_ended_and_its_data_kept(data_dir: Path) -> None:
    """After kill -9 of the service the next start ends the server left behind and loses nothing."""
    with parent(data_dir) as (running, orphan):
        async with redis.Redis(unix_socket_path=str(data_dir / "valkey/valkey.sock")) as client:
            for _ in range(100):
                await client.incr("visits")
            running.kill()
            running.wait()
            await client.incr("visits")
    assert runs(orphan)

    async with Embedded(data_dir, "always") as server, client_of(server) as client:
        assert await client.get("visits") == "101"
        assert not runs(orphan)
        assert orphan != server.pid


async def test_an_orphan_that_hangs_is_killed(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is stopped answers nothing and hears no SIGTERM: the start is bounded anyway."""
    monkeypatch.setattr(embedded, "ORPHAN_S", 0.1)
    with parent(data_dir) as (running, orphan):
        os.kill(orphan, signal.SIGSTOP)
        running.kill()

    async with Embedded(data_dir, "always") as server:
        assert server.alive
        assert not runs(orphan)


async def test_an_orphan_that_cannot_be_proven_is_named(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the kernel does not tell who holds a lock, the admin is asked to end the server."""
    with parent(data_dir) as (running, orphan):
        running.kill()
    with monkeypatch.context() as patch:
        patch.delattr(os, "pidfd_open")
        sentence = await start_fails(data_dir)

    assert f"kill {orphan}" in sentence
    assert runs(orphan)
    async with Embedded(data_dir, "always"):
        assert not runs(orphan)


@pytest.fixture
def stranger() -> Iterator[int]:
    """The pid of a process that has nothing to do with us."""
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process.pid
        process.kill()


async def test_stale_files_do_not_matter(data_dir: Path, stranger: int) -> None:
    """Locks, pids of other processes and a dead socket from an earlier boot are only files."""
    home = data_dir / "valkey"
    home.mkdir(parents=True)
    for path in (data_dir / "lock", home / "valkey.lock", home / "valkey.sock"):
        path.write_text(f"{stranger}\n")

    async with Embedded(data_dir, "always") as server, client_of(server) as client:
        assert await client.ping()
    assert runs(stranger)


async def test_a_second_instance_is_refused(data_dir: Path) -> None:
    """It is told where, who and what to do, and the first one goes on."""
    with parent(data_dir) as (running, pid):
        sentence = await start_fails(data_dir)

        assert str(data_dir) in sentence
        assert f"pid {running.pid}" in sentence
        assert "VISIT_COUNTER_DATA_DIR" in sentence
        assert "VISIT_COUNTER_REDIS_URL" in sentence
        assert runs(pid)
        os.kill(pid, signal.SIGTERM)


async def test_it_is_restarted_after_a_crash(data_dir: Path) -> None:
    """kill -9 of the server loses nothing, is logged in a sentence, and the socket comes back."""
    async with Embedded(data_dir, "always") as server, client_of(server) as client:
        await client.set("visits", 1)
        first = server.pid
        assert first
        with structlog.testing.capture_logs() as lines:
            os.kill(first, signal.SIGKILL)
            await until(lambda: server.alive and server.pid != first)

        assert await client.get("visits") == "1"
        assert "ended (status -9" in lines[0]["event"]
        assert lines[0]["event"].endswith("Starting it again.")


async def test_it_is_restarted_where_its_log_was_removed(data_dir: Path) -> None:
    """As by somebody who makes room: then nobody knows why it ended."""
    async with Embedded(data_dir, "always") as server:
        first = server.pid
        (data_dir / "valkey/valkey.log").unlink()
        with structlog.testing.capture_logs() as lines:
            os.kill(first or 0, signal.SIGKILL)
            await until(lambda: server.alive and server.pid != first)

        assert "its log cannot be read (No such file" in lines[0]["event"]


async def test_it_is_restarted_where_its_socket_was_removed(data_dir: Path) -> None:
    """As by somebody who cleans up: nobody could reach it any more."""
    async with Embedded(data_dir, "always") as server, client_of(server) as client:
        await client.set("visits", 1)
        first = server.pid
        (data_dir / "valkey/valkey.sock").unlink()
        await until(lambda: server.alive and server.pid != first)

        assert await client.get("visits") == "1"


async def test_data_that_was_removed_is_told(data_dir: Path) -> None:
    """The server goes on, in files that are gone when it ends."""
    async with Embedded(data_dir, "always"):
        files = data_dir / "valkey/appendonlydir"
        files.rename(data_dir / "elsewhere")
        await until(lambda: tasks.problems() != [])
        (problem,) = tasks.problems()
        (data_dir / "elsewhere").rename(files)
        await until(lambda: not tasks.problems())

    assert f"{files}, was removed or unmounted" in problem


async def test_a_rewrite_that_outlives_a_crash_does_not_delay_the_restart(data_dir: Path) -> None:
    """The forked rewrite keeps the lock and hears no SIGTERM: it is killed, its file is scrap."""
    async with Embedded(data_dir, "always") as server, client_of(server) as client:
        await client.mset({f"key{number}": "x" for number in range(100)})
        await client.config_set("rdb-key-save-delay", 1_000_000)
        await client.bgrewriteaof()
        first, since = server.pid, time.monotonic()
        os.kill(first or 0, signal.SIGKILL)
        await until(lambda: server.alive and server.pid != first)

        assert time.monotonic() - since < 3
        assert await client.dbsize() == 100


async def test_a_server_that_cannot_be_restarted_is_said_to_be_dead(data_dir: Path) -> None:
    """It keeps trying, more slowly each time, and says why; stopping still works."""
    async with Embedded(data_dir, "always") as server, client_of(server) as client:
        for number in range(50):
            await client.set(f"key{number}", "x")
        damage(aof(data_dir, "incr.aof"))
        with structlog.testing.capture_logs() as lines:
            os.kill(server.pid or 0, signal.SIGKILL)
            await until(lambda: len(lines) >= 4)
        (problem,) = tasks.problems()

    assert not server.alive
    assert "valkey-check-aof" in problem
    assert not tasks.problems()
    assert [
        word
        for line, word in zip(lines, ("Starting it again", "valkey-check-aof"), strict=False)
        if word in line["event"]
    ] == ["Starting it again", "valkey-check-aof"]
    assert lines[0]["pause_s"] < lines[2]["pause_s"]


async def test_a_damaged_tail_is_cut_off(data_dir: Path) -> None:
    """A record that a power loss tore in two is dropped, what was before it is kept."""
    async with Embedded(data_dir, "always") as server, client_of(server) as client:
        for name in ("kept", "torn"):
            await client.set(name, "x" * 50)
    with aof(data_dir, "incr.aof").open("rb+") as file:
        file.truncate(file.seek(0, os.SEEK_END) - 7)

    async with Embedded(data_dir, "always") as server, client_of(server) as client:
        assert await client.keys() == ["kept"]


def say_yes_to(command: str) -> None:
    subprocess.run(command, shell=True, check=True, input=b"y\n", stdout=subprocess.DEVNULL)


async def test_damaged_data_is_refused_and_the_remedy_works(data_dir: Path) -> None:
    """The server's own words, the file, and a command that mends it."""
    async with Embedded(data_dir, "always") as server, client_of(server) as client:
        for number in range(100):
            await client.set(f"key{number}", "x")
    damage(aof(data_dir, "incr.aof"))
    sentence = await start_fails(data_dir)
    assert "Bad file format reading the append only file" in sentence
    assert str(data_dir / "valkey" / "valkey.log") in sentence

    command = sentence[sentence.index("bash -c '") :]
    say_yes_to(command)
    async with Embedded(data_dir, "always") as server, client_of(server) as client:
        assert 0 < await client.dbsize() < 100


async def test_a_damaged_base_needs_a_backup(data_dir: Path) -> None:
    """What no tool can mend is said plainly."""
    async with Embedded(data_dir, "always"):
        pass
    damage(aof(data_dir, "base.rdb"))

    assert "restore a backup" in await start_fails(data_dir)


def in_the_way(data_dir: Path) -> Path:
    data_dir.write_text("a file")
    return data_dir


def below_a_file(data_dir: Path) -> Path:
    return in_the_way(data_dir) / "data"


def our_place_taken(data_dir: Path) -> Path:
    data_dir.mkdir()
    (data_dir / "valkey").write_text("a file")
    return data_dir


def nowhere(data_dir: Path) -> Path:
    return Path("/proc/visit-counter")


def lock_is_a_directory(data_dir: Path) -> Path:
    (data_dir / "lock").mkdir(parents=True)
    return data_dir


@pytest.mark.parametrize(
    "place", [in_the_way, below_a_file, our_place_taken, nowhere, lock_is_a_directory]
)
async def test_an_unusable_data_directory_is_named(
    data_dir: Path, place: Callable[[Path], Path]
) -> None:
    """The sentence names the directory, what is wrong, and the setting."""
    path = place(data_dir)
    sentence = await start_fails(path)

    assert f"The data directory {path} cannot be used (" in sentence
    assert sentence.endswith("set VISIT_COUNTER_DATA_DIR to another directory.")


def start_in(mount: str, data_dir: Path) -> str:
    """What the component says on a file system of a mount namespace that ends with it."""
    data_dir.mkdir()
    script = f'mount {mount} "$1" || exit 77; exec "$2" -c "$3" "$1"'
    command = ["unshare", "-m", "sh", "-c", script, "sh", str(data_dir), sys.executable, PARENT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    if done.returncode in (1, 77) and not done.stdout:
        pytest.skip(f"no mounts here: {done.stderr.strip()}")
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize(
    ("mount", "words"),
    [
        ("-t tmpfs -o size=32k tmpfs", ["No space left on device", "free some disk space"]),
        ("-t tmpfs -o ro tmpfs", ["Read-only file system", "make it writable for user id"]),
    ],
    ids=["full", "read-only"],
)
def test_a_disk_that_takes_nothing_is_named(data_dir: Path, mount: str, words: list[str]) -> None:
    """A full or read-only disk is found before the server starts."""
    said = start_in(mount, data_dir)

    assert [word for word in words if word not in said] == []


def test_a_directory_of_somebody_else_is_named(data_dir: Path) -> None:
    """Without the permission it says for which user the directory must be writable."""
    data_dir.mkdir(mode=0o500)
    data_dir.parent.chmod(0o755)
    # Root may write anywhere, so the process becomes another user once it has its modules.
    user = os.geteuid() or 65534
    command = [sys.executable, "-c", PARENT, str(data_dir), str(user)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=30)

    assert said.stderr == ""
    assert "Permission denied" in said.stdout
    assert f"make it writable for user id {user}" in said.stdout


def script(path: Path, text: str, mode: int = 0o755) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        ("#!/bin/sh\nexit 3", 0o755, "ended (status 3"),
        ("#!/bin/sh\necho bad library; exit 127", 0o755, "bad library"),
        ("#!/no/such/interpreter", 0o755, "cannot be run here (No such file"),
        ("no program", 0o755, "ended (status 127"),
        ("#!/bin/sh", 0o644, "cannot be run here (Permission denied"),
        ("#!/bin/sh\nexec sleep 60", 0o755, "did not answer within"),
    ],
    ids=["exits", "says why", "no loader", "other machine", "not executable", "hangs"],
)
async def test_a_server_that_does_not_run_is_explained(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, text: str, mode: int, words: str
) -> None:
    """Whatever the binary does, the start ends with a sentence and without a process."""
    binary = script(data_dir.parent / "server", text, mode)
    monkeypatch.setattr(valkey_process, "_binary", lambda: binary)
    monkeypatch.setattr(valkey_process, "READY_S", 0.1)

    assert words in await start_fails(data_dir)


async def test_a_machine_without_a_binary_is_pointed_to_a_store_of_its_own(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package has binaries for few platforms; the way out is a setting."""
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    sentence = await start_fails(data_dir)

    assert "riscv64" in sentence
    assert "VISIT_COUNTER_REDIS_URL" in sentence


async def test_its_log_is_bounded(data_dir: Path) -> None:
    """A long log is put aside at the next start, over the one that was put aside before."""
    home = data_dir / "valkey"
    home.mkdir(parents=True)
    (home / "valkey.log").write_bytes(b"x" * (valkey_process.LOG_BYTES + 1))
    (home / "valkey.log.1").write_text("older")
    async with Embedded(data_dir, "always"):
        pass

    assert (home / "valkey.log.1").read_bytes()[:1] == b"x"
    assert (home / "valkey.log").stat().st_size < 10_000

"""Where the service runs: sandboxes that refuse system calls, users without a home, and nothing to
write on but the data directory. Each refused call has a fallback, or ends the start by a sentence.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.services.process import call, environment, running, this_version
from tests.kit.services.sandbox import refusing

DISPENSABLE = (
    *("memfd_create=ENOSYS", "prlimit64=EPERM", "setrlimit=EPERM", "eventfd2=EPERM"),
    *("sched_getaffinity=EPERM", "pidfd_open=ENOSYS", "pidfd_send_signal=EPERM", "statx=ENOSYS"),
    *("fchmod=EPERM", "signalfd4=ENOSYS", "timerfd_create=EPERM", "prctl=EPERM"),
    *("io_uring_setup=EPERM", "clone3=ENOSYS", "mlock=EPERM"),
    *("copy_file_range=ENOSYS", "link=EPERM", "linkat=EPERM", "fstatfs=ENOSYS"),
)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory to which every user gets."""
    with tempfile.TemporaryDirectory(prefix="vc-", dir="/tmp") as scratch:
        os.chmod(scratch, 0o755)
        yield Path(scratch)


@pytest.mark.parametrize("workers", ["1", "auto"])
def test_calls_that_a_service_can_do_without(workers: str) -> None:
    """All of them together: hits count, and the log says what is missing."""
    program = this_version()
    command = (*refusing(*DISPENSABLE), *program.command)
    with running(program._replace(command=command), {"WORKERS": workers}) as service:
        origin = {"Origin": service.url}
        status, counts = call("POST", f"{service.url}/w/demo", {"p": "/"}, headers=origin)
        said = service.errors

        assert (status, counts["total"]["pageviews"]) == (200, 1)
        assert "the limit of open files cannot be raised" in said
        assert "uvloop does not run here ([Errno 1] Operation not permitted)" in said
        assert service.terminate() == 0
        assert "Traceback" not in service.errors


@pytest.mark.parametrize(
    ("calls", "words"),
    [
        ("flock=EPERM", "it must be on a local file system that has locks (flock), or set"),
        ("flock=ENOSYS", "it must be on a local file system that has locks (flock), or set"),
        ("fdatasync=ENOSYS", "or a sandbox, refuses what Valkey needs to keep hits: allow that"),
        ("socketpair=EPERM", "nothing is counted: let the sandbox allow the system call"),
        ("clone3=EPERM", "no thread can be started here (can't start new thread), so nothing is"),
        ("bind=EACCES", "cannot listen on 127.0.0.1:0 (Permission denied), so nothing is counted"),
    ],
)
def test_a_call_that_a_service_needs(tmp_path: Path, calls: str, words: str) -> None:
    """The start ends with one sentence, its remedy, and exit code 1."""
    settings = {"VISIT_COUNTER_DATA_DIR": str(tmp_path), "VISIT_COUNTER_LISTEN": "127.0.0.1:0"}
    done = subprocess.run(
        [*refusing(calls), *this_version().command, "serve"],
        env=environment({**settings, "VISIT_COUNTER_TIMEZONE": "UTC"}),
        capture_output=True,
        text=True,
        timeout=30,
    )
    sentences = [line for line in done.stderr.splitlines() if not line.startswith("{")]

    assert done.returncode == 1
    assert len(sentences) == 1, done.stderr
    assert sentences[0].startswith("visit-counter: ")
    assert words in sentences[0]


DAMAGED = """
import sys
from pathlib import Path
from visit_counter.disk import directories, files
from visit_counter.disk.format import HEADER, Record, pack
directory = Path(sys.argv[1]) / "spool"
directories.make(directory)
group, places = pack([Record(0, 1, n, b"payload") for n in range(3)], len(HEADER))
path = files.path_of(directory, 1)
files.create(path)
files.append(path, group, len(HEADER))
with path.open("r+b") as file:
    file.seek(places[1] + 20)
    file.write(b"xxxx")
files.create(files.path_of(directory, 2))
(skipped,) = files.skip(directory)
print(skipped.records, skipped.kept_as.name, files.skip(directory))
"""
ROOM = """
import sys
from pathlib import Path
from visit_counter.disk import files
files.prove_room(Path(sys.argv[1]), 1)
print("not refused")
"""
SECRET = """
import sys
from pathlib import Path
from visit_counter.config.secret_files import secret_in
(Path(sys.argv[1]) / "token").write_text("secret")
print(secret_in(Path(sys.argv[1]) / "token", []))
"""
SYNCED = """
import sys
from pathlib import Path
from visit_counter.disk import directories
directories.make(Path(sys.argv[1]) / "a" / "b")
print("made")
"""


@pytest.mark.parametrize(
    ("calls", "program", "said"),
    [
        (("link=EPERM", "linkat=EPERM"), DAMAGED, "2 00000001.seg.bad []\n"),
        (("fsync=EINVAL",), SYNCED, "made\n"),
        (("statfs=ENOSYS", "fstatfs=ENOSYS"), ROOM, "not refused\n"),
        (("statfs=EPERM", "fstatfs=EPERM"), SECRET, "secret\n"),
    ],
    ids=["no second names", "no synced directories", "room is not told", "mounts are not told"],
)
def test_file_systems_that_can_do_less(
    tmp_path: Path, calls: tuple[str, ...], program: str, said: str
) -> None:
    """Damage of the spool is set aside as a copy then; SMB and FUSE sync no directories."""
    done = subprocess.run(
        [*refusing(*calls), sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=30,
    )

    assert (done.stdout, done.stderr) == (said, "")


# All is read-only but the volume in $1, as in a pod of Kubernetes with an fsGroup; then becomes a
# user that has no entry, with the command that follows.
AUSTERE = """
mount --make-rprivate / && mount -t tmpfs -o mode=2775,uid=0,gid=2000 tmpfs "$1" || exit 77
mount -o remount,ro,bind / || exit 77
for each in /tmp /var/tmp /dev/shm; do mount -o remount,ro,bind $each 2>/dev/null; done
shift
exec setpriv --reuid 12345 --regid 12345 --groups 2000 env -u HOME -u LANG LC_ALL=C "$@"
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, who mounts and becomes another user")
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_stranger_on_a_read_only_system(place: Path, workers: str) -> None:
    """A user without a name or a home, nothing to write on but a volume that is not his, ASCII."""
    settings = {"WORKERS": workers, "DATA_DIR": str(place), "ADMIN_TOKEN": "", "TIMEZONE": ""}
    encoding = ("PYTHONUTF8=0", "PYTHONCOERCECLOCALE=0")
    start = ("unshare", "-m", "sh", "-c", AUSTERE, "sh", str(place), *encoding)
    program = this_version()._replace(command=(*start, *this_version().command))
    with running(program, settings) as service:
        if service.process.poll() == 77:
            pytest.skip(f"no mounts here: {service.errors}")
        origin = {"Origin": service.url}
        status, counts = call("POST", f"{service.url}/w/demo", {"p": "/"}, headers=origin)

        assert (status, counts["total"]["pageviews"]) == (200, 1)
        assert f"{place} may be written by group id 2000" in service.errors
        assert f"{place} is memory (tmpfs): the numbers and the admin token" in service.errors
        assert f"the admin token is in {place}/admin-token" in service.errors
        assert service.printed == ""  # no terminal
        assert service.terminate() == 0
        assert "Traceback" not in service.errors


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, who becomes another user")
def test_a_user_without_a_home_is_told_what_a_tilde_means() -> None:
    """Neither HOME nor an entry says where it is."""
    done = subprocess.run(
        [sys.executable, "-m", "visit_counter", "config"],
        env={"VISIT_COUNTER_DATA_DIR": "~/data", "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
        user=12345,
        group=12345,
        extra_groups=[],
        capture_output=True,
        text=True,
        timeout=30,
    )

    assert done.returncode == 2
    assert "VISIT_COUNTER_DATA_DIR: '~/data' begins with a home directory" in done.stderr

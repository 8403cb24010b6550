"""Who else may write in the data directory: refused where others are at home, told on a volume."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from visit_counter.config.data_directory import checked
from visit_counter.config.host import mount_of
from visit_counter.config.settings import Settings
from visit_counter.errors import StartError
from visit_counter.process.startup import prepare_data

OTHER = 12345
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, who gives files away")


def test_one_that_is_made_is_ours_alone(tmp_path: Path) -> None:
    """Whatever the umask; and one that the operator made private is well."""
    for _ in range(2):
        assert checked(tmp_path / "a" / "data") == ""

    assert stat.S_IMODE((tmp_path / "a" / "data").stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o700, 0o750, 0o755])
def test_one_that_nobody_else_writes_in_is_well(tmp_path: Path, mode: int) -> None:
    """Its names are no secret, and what lies in it has modes of its own."""
    tmp_path.chmod(mode)

    assert checked(tmp_path) == ""
    assert stat.S_IMODE(tmp_path.stat().st_mode) == mode
    assert not list(tmp_path.iterdir())


def test_one_that_all_may_write_in_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(StartError) as refused:
        checked(tmp_path)

    assert "may be written by every user" in str(refused.value)
    assert f"nothing is counted: run chmod o-w {tmp_path}, or set" in str(refused.value)


@pytest.mark.parametrize(
    ("mode", "words"), [(0o1777, "every user"), (0o770, "group id"), (0o2775, "group id")]
)
def test_one_that_some_may_write_in_is_a_warning(tmp_path: Path, mode: int, words: str) -> None:
    """In one such as /tmp nobody takes away what is ours, and a group was given the right."""
    tmp_path.chmod(mode)
    warning = checked(tmp_path)

    assert f"{tmp_path} may be written by {words}" in warning
    assert "hits count" in warning


@root_only
def test_one_of_another_user_is_refused(tmp_path: Path) -> None:
    """Who has it can do there what he likes, also where its mode is 0700."""
    os.chown(tmp_path, OTHER, OTHER)
    with pytest.raises(StartError, match=f"belongs to user id {OTHER}, who .*run chown 0 "):
        checked(tmp_path)


def test_one_that_cannot_be_made_is_for_others_to_tell(tmp_path: Path) -> None:
    """A service with a store and a token of its own runs without."""
    (tmp_path / "file").touch()

    assert checked(tmp_path / "file" / "data") == ""


@pytest.mark.parametrize(
    ("settings", "lost"),
    [
        ({}, "the numbers and the admin token are lost"),
        (
            {"REDIS_URL": "redis://store"},
            "hits that wait in the spool and the admin token are lost",
        ),
        ({"ADMIN_TOKEN": "x" * 32, "REDIS_URL": "redis://store"}, "in the spool are lost"),
    ],
)
def test_a_start_says_what_goes_with_the_container(settings: dict[str, str], lost: str) -> None:
    """With a store elsewhere too: its token and its spool are in the data directory."""
    if (mount := mount_of(Path("/dev/shm"))) is None or mount.kind != "tmpfs":
        pytest.skip("needs /dev/shm in memory")
    with tempfile.TemporaryDirectory(prefix="vc-", dir="/dev/shm") as place, capture_logs() as told:
        given = {"DATA_DIR": f"{place}/data", "TIMEZONE": "UTC", **settings}
        prepare_data(Settings.from_env({f"VISIT_COUNTER_{name}": v for name, v in given.items()}))

    (warning,) = [line["event"] for line in told]
    assert warning.startswith(f"{place}/data is memory (tmpfs): ")
    assert f"{lost} when this container or machine ends" in warning


VOLUMES = {
    "emptyDir": "mode=0777,uid=0",
    "fsGroup": "mode=2775,uid=0,gid=2000",
    "of a user of the host": "mode=0777,uid=1000",
    "ours": "mode=0700,uid=12345",
    "root's": "mode=0755,uid=0",
}
PROGRAM = """
import json, os, sys
from pathlib import Path
from visit_counter.config.data_directory import checked
from visit_counter.config.admin_token import admin_token
os.setgroups([2000]), os.setgid(12345), os.setuid(12345)
said = {}
for each in Path(sys.argv[1]).iterdir():
    said[each.name] = checked(each)
    if os.access(each, os.W_OK):
        assert admin_token(None, each).new
print(json.dumps(said))
"""


@root_only
def test_volumes_are_used_whoever_has_them() -> None:
    """Those of Kubernetes and Docker are mounted with what owner and mode there is."""
    with tempfile.TemporaryDirectory(prefix="vc-", dir="/tmp") as place:
        os.chmod(place, 0o755)
        said = said_of_volumes(place)

    assert {name for name, words in said.items() if not words} == {"ours", "root's"}
    assert "may be written by every user" in said["emptyDir"]
    assert "may be written by group id 2000" in said["fsGroup"]
    assert "belongs to user id 1000" in said["of a user of the host"]


def said_of_volumes(place: str) -> dict[str, str]:
    """By the name of each, as another user than root is told."""
    script = "".join(
        f'mkdir "$1/{name}" && mount -t tmpfs -o {options} tmpfs "$1/{name}" || exit 77\n'
        for name, options in VOLUMES.items()
    )
    command = ["unshare", "-m", "sh", "-c", script + 'shift; exec "$@"', "sh", place]
    done = subprocess.run(
        [*command, sys.executable, "-c", PROGRAM, place],
        capture_output=True,
        text=True,
        timeout=30,
    )
    if done.returncode == 77:
        pytest.skip(f"no mounts here: {done.stderr.strip()}")

    assert (done.returncode, done.stderr) == (0, "")
    return {**json.loads(done.stdout)}

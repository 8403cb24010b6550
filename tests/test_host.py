"""Host: the time zone and the mounts of machines of many kinds, told from a few files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from visit_counter.config.host import cores, data_warning, host_timezone, is_timezone

HANOI, ROME = "Asia/Ho_Chi_Minh", "Europe/Rome"
BOUND = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("tz", "file", "link", "expected"),
    [
        ("", f"{HANOI}\n", "", HANOI),
        ("", "", f"/usr/share/zoneinfo/{HANOI}", HANOI),
        ("", "", f"../usr/share/zoneinfo/{HANOI}", HANOI),
        ("", HANOI, "/usr/share/zoneinfo/Etc/UTC", HANOI),
        (ROME, HANOI, "", ROME),
        (f":{ROME}", HANOI, "", ROME),
        (f"/usr/share/zoneinfo/{ROME}", "", "", ROME),
        ("ICT-7", "", f"/usr/share/zoneinfo/{HANOI}", HANOI),
        ("", "not a zone", "", None),
        ("", "", "", None),
    ],
    ids=[
        "Debian's file",
        "link",
        "relative link",
        "a file mounted into a container beats the image's link",
        "TZ first",
        "TZ with a colon",
        "TZ as a path",
        "a POSIX rule names no zone",
        "nonsense",
        "nothing",
    ],
)
def test_the_zone_of_a_host(
    tmp_path: Path, tz: str, file: str, link: str, expected: str | None
) -> None:
    """TZ, then /etc/timezone, then the name behind /etc/localtime."""
    (tmp_path / "etc").mkdir()
    if file:
        (tmp_path / "etc/timezone").write_text(file)
    if link:
        (tmp_path / "etc/localtime").symlink_to(link)
    assert expected == host_timezone({"TZ": tz}, tmp_path)


@pytest.mark.parametrize(
    "name", ["", "localtime", "Asia", "/etc/passwd", "../x", "a\0b", "ÿ/\udcff"]
)
def test_what_is_no_zone(name: str) -> None:
    """Files and folders near the tz database are no zones."""
    assert not is_timezone(name)


ROOT = "1 0 0:50 / / rw - overlay overlay rw\n"
UNNAMED = f"/var/lib/docker/volumes/{'0a' * 32}/_data"


@pytest.mark.parametrize(
    ("mounts", "why"),
    [
        (ROOT, "is no mount"),
        (ROOT + f"2 1 8:1 {UNNAMED} DATA rw - ext4 /dev/sda1 rw", "volume without a name"),
        (ROOT + "2 1 0:60 / DATA rw - tmpfs tmpfs rw", "is memory"),
        (ROOT + "2 1 8:1 /volumes/vc/_data DATA rw - ext4 /dev/sda1 rw", None),
        (ROOT + "2 1 8:1 /srv/vc PARENT rw shared:1 - ext4 /dev/sda1 rw", None),
    ],
    ids=["none", "unnamed volume", "tmpfs", "named volume", "a directory of the host, above"],
)
def test_data_that_goes_with_the_container(tmp_path: Path, mounts: str, why: str | None) -> None:
    """A volume that an image declares is a mount too, but nobody finds it again."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / ".dockerenv").touch()
    data = tmp_path / "my data"
    text = mounts.replace("DATA", str(data).replace(" ", "\\040")).replace("PARENT", str(tmp_path))
    (tmp_path / "proc/self/mountinfo").write_text(text)
    warning = data_warning(data, tmp_path)
    assert (why is None) == (warning is None)
    assert why is None or why in str(warning)


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("", BOUND), ("max 100000", BOUND), ("100000 100000", 1), ("50000 100000", 1)],
    ids=["none", "no limit", "one processor", "half of one"],
)
def test_cores_are_at_most_what_the_container_gets(
    tmp_path: Path, quota: str, expected: int
) -> None:
    """Its quota counts, and the processors to which the process is bound."""
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text(quota)

    assert cores(tmp_path) == expected


def test_outside_of_a_container_every_directory_stays(tmp_path: Path) -> None:
    """No marker of a container, no warning."""
    assert data_warning(tmp_path, tmp_path) is None

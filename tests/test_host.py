"""Host: the time zone and the mounts of machines of many kinds, told from a few files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from visit_counter.config.host import (
    cores,
    data_warning,
    host_timezone,
    is_mount_point,
    is_timezone,
    mount_of,
)

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


DISK = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n"
LAYERS = "1 0 0:50 / / rw - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w\n"
HEX = "0a" * 32
UNNAMED = f"/var/lib/docker/volumes/{HEX}/_data"
EMPTY_DIR = "/pods/1-2-3/volumes/kubernetes.io~empty-dir/data"
CLAIM = "/pods/1-2-3/volumes/kubernetes.io~csi/pvc-1/mount"


@pytest.mark.parametrize(
    ("mounts", "why"),
    [
        (DISK, None),
        (LAYERS, "is not on a volume but on the overlay of a container or a live system"),
        ("1 0 0:5 / / rw - fuse.fuse-overlayfs fuse-overlayfs rw\n", "is not on a volume"),
        (f"1 0 0:5 /@/var/lib/docker/btrfs/subvolumes/{HEX} / rw - btrfs /dev/sda rw\n", "btrfs"),
        (f"1 0 0:5 / / rw - zfs tank/docker/{HEX} rw\n", "is not on a volume but on the zfs"),
        ("1 0 0:5 /@ / rw shared:1 - btrfs /dev/sda1 rw,subvolid=256,subvol=/@\n", None),
        ("1 0 0:5 / / rw - zfs rpool/ROOT/debian-1 rw\n", None),
        ("1 0 0:2 / / rw - rootfs rootfs rw\n", "is memory (rootfs)"),
        (LAYERS + f"2 1 8:1 {UNNAMED} DATA rw - ext4 /dev/sda1 rw\n", "volume without a name"),
        (LAYERS + f"2 1 8:1 {EMPTY_DIR} DATA rw - ext4 /dev/sda1 rw\n", "is an emptyDir"),
        (LAYERS + f"2 1 8:1 {CLAIM} DATA rw - ext4 /dev/sda1 rw\n", None),
        (LAYERS + "2 1 0:60 / DATA rw - tmpfs tmpfs rw\n", "is memory (tmpfs)"),
        (LAYERS + "2 1 0:60 / DATA rw - tmpfs  rw\n", "is memory (tmpfs)"),
        (LAYERS + "2 1 8:1 /volumes/vc/_data DATA rw - ext4 /dev/sda1 rw\n", None),
        (LAYERS + "2 1 8:1 /srv/vc PARENT rw shared:1 - ext4 /dev/sda1 rw\n", None),
        (DISK + "2 1 0:6 / DATA rw - tmpfs t rw\n3 2 8:1 / DATA rw - ext4 /dev/sdb rw\n", None),
        (DISK + "2 1 8:2 / DATA rw - ext4 /dev/sdb rw\n3 2 0:6 / DATA rw - tmpfs t rw\n", "tmpfs"),
        (
            DISK + "2 1 8:2 / DATA rw - ext4 /dev/sdb rw\n3 1 0:6 / PARENT rw - tmpfs t rw\n",
            "tmpfs",
        ),
        (DISK + "3 1 0:6 / PARENT rw - tmpfs t rw\n2 3 8:2 / DATA rw - ext4 /dev/sdb rw\n", None),
        ("1 0 0:2 / / rw - rootfs rootfs rw\n2 1 8:1 / / rw - ext4 /dev/sda1 rw\n", None),
        (DISK + "2 1 0:6 / DATA/valkey rw - tmpfs t rw\n", None),
        (DISK + "2 1 0:6 / DATAX rw - tmpfs t rw\n", None),
        ("nonsense\n", None),
        (None, None),
    ],
    ids=[
        "disk",
        "container",
        "rootless podman",
        "docker on btrfs",
        "docker on zfs",
        "a subvolume of btrfs",
        "a data set of zfs",
        "initramfs",
        "unnamed volume",
        "emptyDir",
        "PersistentVolumeClaim",
        "tmpfs",
        "tmpfs without a device",
        "named volume",
        "a directory of the host, above",
        "a disk over a tmpfs",
        "a tmpfs over a disk",
        "a tmpfs above that covers a disk below",
        "a disk on a tmpfs",
        "a disk over the first root",
        "a mount below",
        "a mount whose name begins alike",
        "no mount table",
        "no /proc",
    ],
)
def test_data_that_goes_with_the_container_or_system(
    tmp_path: Path, mounts: str | None, why: str | None
) -> None:
    """The mount table says it, as the kernel looks a path up; marker files say nothing."""
    data = tmp_path / "our\tdata \\ \n" / "d"
    (tmp_path / ".dockerenv").touch()
    if mounts is not None:
        (tmp_path / "proc/self").mkdir(parents=True)
        text = mounts.replace("DATA", escaped(data)).replace("PARENT", escaped(data.parent))
        (tmp_path / "proc/self/mountinfo").write_text(text)
    warning = data_warning(data, "the numbers", tmp_path)
    assert (why is None) == (warning is None)
    assert why is None or f"{data} {why}" in str(warning) or why in str(warning)
    assert warning is None or "the numbers are lost when " in warning or "with this" in warning


def escaped(path: Path) -> str:
    """As the kernel writes a path into a mount table."""
    return "".join(f"\\{ord(c):03o}" if c in " \t\n\\" else c for c in str(path))


def test_a_real_mount_is_found() -> None:
    """Of this machine, whose table the kernel writes."""
    assert (found := mount_of(Path("/proc/self").parent)), "it has /proc"
    assert (found.point, found.kind) == ("/proc", "proc")
    assert is_mount_point(Path("/proc"))
    assert not is_mount_point(Path("/proc/sys"))


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

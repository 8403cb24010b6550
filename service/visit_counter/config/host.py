"""What the machine says about itself, where a setting's default or a warning depends on it.

Three questions, asked once at start: which time zone is this host in, how many processors are
ours, and does the data directory outlive this container? The last is asked of the mount table:
marker files such as /.dockerenv are in images of virtual machines too, and in no container of
containerd or CRI-O. They read a few small files below `root`; nothing is ever written.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

ZONEINFO = "/zoneinfo/"

# A volume that nobody named gets a random name of 64 hex digits from Docker and Podman, and is not
# found again by the next container.
UNNAMED_VOLUME = re.compile(r"/[0-9a-f]{64}/_data(/|\Z)")
EMPTY_DIR = re.compile(r"/kubernetes\.io~empty-dir/")

# What a container's own files are on: file systems that lay one directory over others, and the
# directories or data sets that container runtimes make where the disk's own file system can.
LAYERS = ("overlay", "overlayfs", "aufs", "fuse.fuse-overlayfs", "unionfs")
LAYER = re.compile(r"/(btrfs/subvolumes|vfs/dir)/[0-9a-f]{64}|/io\.containerd\.snapshotter\.")
LAYER_OF_ZFS = re.compile(r"^[^/].*/[0-9a-f]{64}\Z")
MEMORY = ("tmpfs", "ramfs", "rootfs")


def host_timezone(environ: Mapping[str, str], root: Path = Path("/")) -> str | None:
    """The IANA name of the host's zone, or None where it cannot be told.

    /etc/timezone comes before the link: containers get it mounted, while a mounted /etc/localtime
    goes through the link, whose name then lies.
    """
    candidates = (
        environ.get("TZ", ""),
        _first_line(root / "etc/timezone"),
        _link_target(root / "etc/localtime"),
    )
    for candidate in candidates:
        name = candidate.removeprefix(":").rpartition(ZONEINFO)[2]
        if is_timezone(name):
            return name
    return None


def is_timezone(name: str) -> bool:
    """Whether the tz database has a zone of this name; `localtime` is a file there, but no zone."""
    if name in ("", "localtime", "posixrules"):
        return False
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return False
    return True


def cores(root: Path = Path("/")) -> int:
    """How many processors are ours: those we are bound to, at most what our container gets."""
    try:
        bound = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # not every system has or allows it
        bound = os.cpu_count() or 1
    quota, _, period = _first_line(root / "sys/fs/cgroup/cpu.max").partition(" ")
    return max(1, min(bound, int(quota) // int(period))) if quota.isdecimal() else bound


def in_container(root: Path = Path("/")) -> bool:
    """Whether this is one of Docker's or Podman's."""
    return (root / ".dockerenv").exists() or (root / "run/.containerenv").exists()


def data_warning(data_dir: Path, kept: str, root: Path = Path("/")) -> str | None:
    """A sentence when the data directory goes away with this container or system, else None; `kept`
    says what is in it."""
    path = _real(data_dir)
    mount = mount_of(path, root)
    if mount is None or (found := _volatile(mount)) is None:
        return None
    why, when = found
    return (
        f"{path} {why}: {kept} are lost {when}; keep it on a disk that stays, as with"
        f" -v visit-counter:{path} of docker run or a PersistentVolumeClaim of Kubernetes"
    )


def is_mount_point(path: Path, root: Path = Path("/")) -> bool:
    """Whether something is mounted just there; True also where nothing tells the mounts."""
    mount = mount_of(_real(path), root)
    return mount is None or mount.point == str(_real(path)) or os.path.ismount(path)


class Mount(NamedTuple):
    """A line of /proc/self/mountinfo, see proc(5)."""

    number: str
    parent: str
    source: str
    """The path, within its file system, of what is mounted."""
    point: str
    kind: str
    """Of file system."""
    device: str

    @classmethod
    def of(cls, line: str) -> Mount:
        """Raises ValueError."""
        fields, _, rest = line.partition(" - ")
        number, parent, _, source, point, *_ = (_unescaped(each) for each in fields.split(" "))
        kind, device, *_ = (_unescaped(each) for each in rest.split(" "))
        return cls(number, parent, source, point, kind, device)


def mount_of(path: Path, root: Path = Path("/")) -> Mount | None:
    """The mount that a path without links is on; None where the system does not tell.

    It is found as the kernel finds it, from the root down: a mount may cover others, on the same
    point or below it.
    """
    try:
        text = os.fsdecode((root / "proc/self/mountinfo").read_bytes())
        mounts = [Mount.of(line) for line in text.split("\n") if line]
    except (OSError, ValueError):
        return None
    upon = {(mount.parent, mount.point): mount for mount in mounts}
    numbers = {mount.number for mount in mounts}
    here = next((each for each in mounts if each.point == "/" and each.parent not in numbers), None)
    here = here or next((each for each in mounts if each.point == "/"), None)
    for point in (*reversed(path.parents), path):
        while here and (above := upon.get((here.number, str(point)))) and above != here:
            here = above
    return here


def _volatile(mount: Mount) -> tuple[str, str] | None:
    """Why what is on a mount does not stay, and until when it does."""
    if mount.kind in MEMORY:
        return f"is memory ({mount.kind})", "when this container or machine ends"
    if mount.kind in LAYERS or LAYER.search(mount.source) or LAYER_OF_ZFS.search(mount.device):
        return (
            f"is not on a volume but on the {mount.kind} of a container or a live system",
            "when that container is removed or a live system ends",
        )
    if EMPTY_DIR.search(mount.source):
        return "is an emptyDir", "when this pod is removed"
    if UNNAMED_VOLUME.search(mount.source):
        return "is a volume without a name", "with this container"
    return None


def _unescaped(field: str) -> str:
    """Blank, tab, newline and backslash are written as three octal digits."""
    if "\\" not in field:
        return field
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)


def _real(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # a loop of links, no working directory
        return path


def _first_line(path: Path) -> str:
    try:
        return path.read_text().partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _link_target(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""

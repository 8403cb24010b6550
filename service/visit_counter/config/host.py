"""What the machine says about itself, where a setting's default or a warning depends on it.

Three questions, asked once at start: which time zone is this host in, how many processors are ours,
and does the data directory outlive this container? They read a few small files below `root`;
nothing is ever written.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from zoneinfo import ZoneInfo

ZONEINFO = "/zoneinfo/"

# A volume that nobody named gets a random name of 64 hex digits from Docker and Podman, and is not
# found again by the next container.
UNNAMED_VOLUME = re.compile(r"/[0-9a-f]{64}/_data(/|$)")


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
    affinity = getattr(os, "sched_getaffinity", None)
    bound = len(affinity(0)) if affinity else os.cpu_count() or 1
    quota, _, period = _first_line(root / "sys/fs/cgroup/cpu.max").partition(" ")
    return max(1, min(bound, int(quota) // int(period))) if quota.isdecimal() else bound


def data_warning(data_dir: Path, root: Path = Path("/")) -> str | None:
    """A sentence when the data directory goes away together with this container, else None."""
    if not ((root / ".dockerenv").exists() or (root / "run/.containerenv").exists()):
        return None
    try:
        mountinfo = (root / "proc/self/mountinfo").read_text()
    except OSError:
        return None
    path = data_dir.resolve()
    why = _volatile(PurePosixPath(path), mountinfo)
    if why is None:
        return None
    return (
        f"{path} {why}: the numbers are lost with this container;"
        f" start it with a volume that has a name, such as -v visit-counter:{path}"
    )


def _volatile(path: PurePosixPath, mountinfo: str) -> str | None:
    """Why the file system below `path` does not stay; format: proc(5), /proc/pid/mountinfo."""
    point, source, kind = PurePosixPath("/"), "/", ""
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        here = PurePosixPath(fields.split()[4].replace("\\040", " "))
        if path.is_relative_to(here) and here.is_relative_to(point):
            point, source, kind = here, fields.split()[3], rest.split()[0]
    if point == PurePosixPath("/"):
        return "is no mount"
    if kind == "tmpfs":
        return "is memory (tmpfs)"
    return "is a volume without a name" if UNNAMED_VOLUME.search(source) else None


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

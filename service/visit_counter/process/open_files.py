"""How many connections there may be: they and all else that is open stay below the file limit.

At the limit nothing works as it should: connections are accepted and dropped, the store cannot be
reached again, no batch can be spooled. So every kind of connection has its share, and the shares
add up to what the rest leaves, whatever the limit is (RLIMIT_NOFILE, `ulimit -n`).
"""

from __future__ import annotations

import resource
from typing import NamedTuple

import structlog

from visit_counter.errors import StartError

LEAST_FILES = 96
USUAL = 1024
ENDLESS = 1 << 20  # what is taken for a limit where there is none
MOST_VIEWERS = 20_000
NEWCOMERS = 256
OPS = 256

log = structlog.get_logger()


class Places(NamedTuple):
    """For connections of clients, by what they do."""

    viewers: int
    """Of live counts: each is open for long, and hits need some too."""
    staying: int
    """On the pages' address, from one request to the next."""
    newcomers: int
    """On the pages' address, until their first request: see `web/lane/connections.py`."""
    ops: int
    """On an address for admins and Prometheus."""


def places(files: int) -> Places:
    """How many of each may be open with so many files."""
    free = files - own_files(files)
    viewers = min(MOST_VIEWERS, free // 2)
    rest = free - viewers
    newcomers, ops = min(NEWCOMERS, rest // 4), min(OPS, rest // 8)
    return Places(viewers, rest - newcomers - ops, newcomers, ops)


def own_files(files: int) -> int:
    """How many are for ourselves: 17 without any work, 22 connections to each server of the store,
    and those of the spool and of a migration's copy."""
    return min(512, max(64, files // 4))


def places_here() -> Places:
    return places(most_files())


def most_files() -> int:
    """How many this process may open."""
    most, _ = _limits()
    return ENDLESS if most == resource.RLIM_INFINITY else most


def _limits() -> tuple[int, int]:
    """The soft and the hard one; where a sandbox does not tell, what is usual."""
    try:
        return resource.getrlimit(resource.RLIMIT_NOFILE)
    except OSError:
        return USUAL, USUAL


def allow_many() -> None:
    """Raise the soft limit, usually 1,024, to the hard one; raises StartError if that is too low
    to work with."""
    _, most = _limits()
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except (OSError, ValueError) as error:  # a sandbox that forbids it: then fewer have to do
        most = most_files()
        log.warning(
            f"the limit of open files cannot be raised ({error}), so there are places for fewer "
            "connections: raise it outside of the sandbox (ulimit -n 65536)",
            files=most,
        )
    if most_files() < LEAST_FILES:
        raise StartError(
            f"only {most} files may be open here, and connections are files: allow at least "
            f"{LEAST_FILES}, better 65536 (ulimit -Hn 65536; LimitNOFILE=65536 in a unit of "
            "systemd; --ulimit nofile=65536 of docker run)"
        )

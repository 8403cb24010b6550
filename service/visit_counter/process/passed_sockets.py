"""Sockets that a service manager passes (sd_listen_fds(3)) instead of the service binding its own.

The manager keeps them over a restart, so that connections wait meanwhile and none is refused. They
are told apart by their names, `pages` and `ops` (FileDescriptorName= in a unit of systemd). Others
are the one of `ops` if they have its address, and that of the pages else.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, MutableMapping, Sequence
from ipaddress import ip_address
from typing import NamedTuple

import structlog

from visit_counter.config.settings import Settings
from visit_counter.config.values import Address
from visit_counter.errors import StartError

FIRST = 3  # SD_LISTEN_FDS_START
PAGES, OPS = "pages", "ops"
ANY = ("0.0.0.0", "::")

log = structlog.get_logger()


class Passed(NamedTuple):
    """By what they are for; empty where the service is to bind its own."""

    pages: list[socket.socket]
    ops: list[socket.socket]


def passed_sockets(environ: MutableMapping[str, str], settings: Settings) -> Passed:
    """Those for this process; raises StartError where they cannot be used."""
    passed = Passed([], [])
    for name, each in _named(environ):
        is_ops = name == OPS or (name != PAGES and _has(each, _ops(settings)))
        (passed.ops if is_ops else passed.pages).append(each)
    if passed.ops and settings.ops_listen is None:
        where = _where(passed.ops[0])
        raise StartError(
            f"a socket named {OPS} was passed, with {where}, and no address for it is set: set "
            f"VISIT_COUNTER_OPS_LISTEN={where}"
        )
    _compare(passed.pages, settings.listen, "VISIT_COUNTER_LISTEN")
    _compare(passed.ops, _ops(settings), "VISIT_COUNTER_OPS_LISTEN")
    return passed


def _ops(settings: Settings) -> tuple[Address, ...]:
    return (settings.ops_listen,) if settings.ops_listen else ()


def _compare(sockets: Sequence[socket.socket], wanted: Sequence[Address], setting: str) -> None:
    if sockets and not any(_has(each, wanted[:1]) for each in sockets):
        where = _where(sockets[0])
        log.warning(
            f"a socket with {where} was passed, and {setting} says {wanted[0]}, where commands on "
            f"this host ask: set {setting}={where}"
        )


def _named(environ: MutableMapping[str, str]) -> Iterable[tuple[str, socket.socket]]:
    pid, number, names = (environ.pop(f"LISTEN_{each}", "") for each in ("PID", "FDS", "FDNAMES"))
    if pid != str(os.getpid()):
        return  # those of another process, or none
    if not number.isdecimal():
        raise StartError(f"LISTEN_FDS={number!r} is not the number of the sockets that were passed")
    name_of = dict(enumerate(names.split(":")))
    for n in range(int(number)):
        yield name_of.get(n, ""), _socket(FIRST + n)


def _socket(descriptor: int) -> socket.socket:
    """A listening one, which no child inherits by chance."""
    try:
        os.set_inheritable(descriptor, False)
        found = socket.socket(fileno=descriptor)
        listens = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if found.family in (socket.AF_INET, socket.AF_INET6) and listens:
            return found
        found.detach()
        why = "it is not a TCP socket that listens"
    except OSError as error:
        why = f"{error.strerror}"
    raise StartError(
        f"the socket that was passed as descriptor {descriptor} cannot be used ({why}): in its "
        "unit write ListenStream=ADDRESS:PORT, and neither Accept=yes nor a path"
    )


def _where(passed: socket.socket) -> Address:
    return Address(*passed.getsockname()[:2])


def _has(passed: socket.socket, wanted: Sequence[Address]) -> bool:
    """Whether a socket has one of the addresses that a setting names."""
    where = _where(passed)
    return any(_is(where, each) for each in wanted if each.port in (0, where.port))


def _is(where: Address, wanted: Address) -> bool:
    try:
        return where.host in ANY or ip_address(where.host) == ip_address(wanted.host)
    except ValueError:  # a name
        return True

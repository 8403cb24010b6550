"""The sockets of the service's addresses: bound before all else, listening once it can answer.

So a taken port ends a start at once, before a Valkey is started or a store is waited for. Whoever
serves a listener owns its sockets; workers get those of their parent (`workers/supervisor.py`).
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

from visit_counter.config.settings import Settings
from visit_counter.config.values import Address
from visit_counter.errors import StartError
from visit_counter.process.passed_sockets import Passed

NONE_PASSED = Passed([], [])
ANY_IPV4 = "0.0.0.0"
NOT_HERE = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
"""What the system says where a host lacks an address, or all of its family."""


class Listener(NamedTuple):
    """The sockets of a setting, and the address that it names first."""

    address: Address
    sockets: list[socket.socket]

    @classmethod
    def inherited(cls, address: Address, descriptors: Sequence[int]) -> Self:
        return cls(address, [socket.socket(fileno=each) for each in descriptors])

    @property
    def url(self) -> str:
        return f"http://{self.address._replace(port=self.sockets[0].getsockname()[1])}"

    @property
    def descriptors(self) -> list[int]:
        return [each.fileno() for each in self.sockets]

    def duplicate(self) -> Self:
        """For somebody who is to answer before the service does."""
        return self._replace(sockets=[each.dup() for each in self.sockets])

    def close(self) -> None:
        for each in self.sockets:
            each.close()


class Listeners(NamedTuple):
    """The service's: for pages, and for admins and Prometheus where they have their own."""

    pages: Listener
    ops: Listener | None


@contextmanager
def bound(settings: Settings, passed: Passed = NONE_PASSED) -> Iterator[Listeners]:
    """Take the addresses of the settings, or sockets that a service manager has passed; raises
    StartError."""
    with _bound(settings.listen, passed.pages) as pages:
        if settings.ops_listen is None:
            yield Listeners(pages, None)
            return
        with _bound((settings.ops_listen,), passed.ops) as ops:
            yield Listeners(pages, ops)


@contextmanager
def _bound(addresses: Sequence[Address], passed: Sequence[socket.socket]) -> Iterator[Listener]:
    listener = Listener(addresses[0], [*passed])
    try:
        if passed:
            yield Listener(Address(*passed[0].getsockname()[:2]), listener.sockets)
            return
        ipv4_apart = {each.port for each in addresses if each.host == ANY_IPV4}
        for address in addresses:
            with refused_address(address):
                _bind(address, listener.sockets, ipv6_alone=address.port in ipv4_apart)
        yield listener
    finally:
        listener.close()


def _bind(address: Address, sockets: list[socket.socket], *, ipv6_alone: bool) -> None:
    """Add the sockets of an address, those of a name as far as this host has them: it may have no
    IPv6 and know a localhost of it all the same."""
    found = _places(address)
    port, missing = address.port, []
    for family, (host, _, *scope) in found:
        try:
            each = _socket(family, (host, port, *scope), ipv6_alone=ipv6_alone or len(found) > 1)
        except OSError as error:
            if error.errno not in NOT_HERE or len(found) == 1:
                raise
            missing.append(error)
            continue
        sockets.append(each)
        port = each.getsockname()[1]
    if len(missing) == len(found):
        raise missing[0]


def _socket(family: int, where: tuple[Any, ...], *, ipv6_alone: bool) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, ipv6_alone)
        made.bind(where)
    except BaseException:
        made.close()
        raise
    return made


def _places(address: Address) -> list[tuple[int, tuple[Any, ...]]]:
    found = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    return list(dict.fromkeys((family, where) for family, _, _, _, where in found))


@contextmanager
def refused_address(address: Address) -> Iterator[None]:
    """Turn what the system says of an address into a sentence with a remedy."""
    try:
        yield
    except OSError as error:
        raise StartError(
            f"cannot listen on {address} ({error.strerror}), so nothing is counted: "
            f"{_remedy(address, error)} VISIT_COUNTER_LISTEN or VISIT_COUNTER_OPS_LISTEN"
        ) from None


def _remedy(address: Address, error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "correct the name, or write an IP address in"
    if error.errno == errno.EACCES:
        return "ports below 1024 are for root: let a proxy listen there, and set a higher one in"
    if error.errno == errno.EADDRINUSE:
        return "end the program that does, or set another"
    if error.errno not in NOT_HERE:
        return "let the system or the sandbox allow it, or set another"
    if ":" in address.host:
        return "this host lacks that address or all of IPv6: write 0.0.0.0 instead of [::] in"
    return "no interface of this host has that address: set another"

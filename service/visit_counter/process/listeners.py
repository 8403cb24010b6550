"""The sockets of the service's addresses: bound before all else, listening once it can answer.

So a taken port ends a start at once, before a Valkey is started or a store is waited for. Whoever
serves a listener owns its sockets; workers get those of their parent (`workers/supervisor.py`).
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Self

from visit_counter.config.settings import Settings
from visit_counter.config.values import Address
from visit_counter.errors import StartError
from visit_counter.process.passed_sockets import Passed

NONE_PASSED = Passed([], [])


class Listener(NamedTuple):
    """An address, and the sockets that have it."""

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
        with _bound(settings.ops_listen, passed.ops) as ops:
            yield Listeners(pages, ops)


@contextmanager
def _bound(address: Address, passed: Sequence[socket.socket]) -> Iterator[Listener]:
    listener = Listener(address, [*passed])
    try:
        if passed:
            yield Listener(Address(*passed[0].getsockname()[:2]), listener.sockets)
            return
        with refused_address(address):
            for family, where in _places(address):
                listener.sockets.append(each := socket.socket(family, socket.SOCK_STREAM))
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                each.bind(where)
        yield listener
    finally:
        listener.close()


def _places(address: Address) -> dict[tuple[int, tuple[object, ...]], None]:
    found = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    return {(family, where): None for family, _, _, _, where in found}


@contextmanager
def refused_address(address: Address) -> Iterator[None]:
    """Turn what the system says of an address into a sentence with a remedy."""
    try:
        yield
    except OSError as error:
        raise StartError(
            f"cannot listen on {address} ({error.strerror}): end the program that does, or set "
            "another VISIT_COUNTER_LISTEN or VISIT_COUNTER_OPS_LISTEN"
        ) from None

"""What a parent and its workers say to each other: one line of JSON for each message.

What a worker is given when it is started stands in a variable of its environment; everything later
goes over the line, a pair of sockets of which each has one end. Only values: nothing is sent here.
"""

from __future__ import annotations

from collections.abc import MutableMapping

import msgspec
from msgspec import Struct

from visit_counter.workers.metrics_sum import Family

VARIABLE = "_VISIT_COUNTER_WORKER"
MOST_BYTES = 1 << 24  # of a line
TELL_S = 1.0  # between two times that a worker tells what it has counted


class Inherited(Struct, frozen=True):
    """What a worker gets from its parent; sockets and line by their descriptors."""

    pages: list[int]
    ops: list[int]
    kept: list[int]
    """What is only to stay open: it holds the data directory."""
    store_url: str | None
    """Of the embedded Valkey."""
    workers: int
    """How many there are to be."""
    line: int = -1
    """Each has its own."""
    order: int = -1
    """The table of what all spools hold, see `delivery/order.py`."""

    @property
    def descriptors(self) -> list[int]:
        given = [self.line, self.order, *self.pages, *self.ops, *self.kept]
        return [each for each in given if each >= 0]

    @classmethod
    def from_env(cls, environ: MutableMapping[str, str]) -> Inherited | None:
        """Taken out, for nobody else is to have it; None where this process is no worker."""
        text = environ.pop(VARIABLE, None)
        return msgspec.json.decode(text, type=cls) if text else None


class Up(Struct, frozen=True, tag=True):
    """To the parent: this worker takes connections."""


class Told(Struct, frozen=True, tag=True):
    """To the parent: what this worker has counted."""

    families: list[Family]
    ask: bool = False
    """Answer what all have."""
    problems: list[str] = []
    """What is not as it should be in this worker, in sentences."""


class Ask(Struct, frozen=True, tag=True):
    """From the parent: tell what you have counted, now."""


class Company(Struct, frozen=True, tag=True):
    """From the parent, once a second: the workers that are up, by their pids."""

    workers: list[int]
    problems: list[str] = []
    """What is not as it should be in the parent and in the other workers, in sentences."""


class Question(Struct, frozen=True, tag=True):
    """From a worker to the parent, and from the parent to the others: was this view accepted?"""

    number: int
    """The asker's own, for the reply."""
    site: str
    view: str
    """Its id."""


class Reply(Struct, frozen=True, tag=True):
    """To whoever has asked: whether the view was accepted; None if nobody can say."""

    number: int
    accepted: bool | None


class Everything(Struct, frozen=True, tag=True):
    """From the parent: what all have counted, as Prometheus reads it."""

    text: str


FromWorker = Up | Told | Question | Reply
FromParent = Ask | Company | Everything | Question | Reply

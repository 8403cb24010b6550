"""What an error of the store means: was anything written, and is it worth another try?

redis-py and our functions speak in error texts; above this module there are only the StoreErrors:
`StoreUnavailable` where nothing ran, `OutcomeUnknown` where nobody can say.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from redis import exceptions

from visit_counter.errors import OutcomeUnknown, StoreError, StoreUnavailable, UnknownForm

# What our functions answer before its first write.
NO_SITE = "NOSITE"
EXISTS = "EXISTS"
CHANGED = "CHANGED"
USED = "USED"
NO_OPERATION = "NOOPERATION"
NEWER = "NEWER"
BELOW = "BELOW"
BEYOND = "BEYOND"
EARLY = "EARLY"
GAP = "GAP"
FENCED = "FENCED"
FORM = "FORM"
# ... and what stands in the place of our functions when a newer version has fenced us
# (libraries.py).
OUTDATED = "OUTDATED"
# ... and of a batch that it cannot read: its number is used up, nothing else was written.
REJECTED = "REJECTED"

# What a server answers when it refuses a call before running it. redis-py knows some of these by
# their first word, which it takes away, and leaves the others as they are.
REFUSING = (
    exceptions.BusyLoadingError,
    exceptions.OutOfMemoryError,
    exceptions.ReadOnlyError,
    exceptions.NoPermissionError,
    exceptions.AuthenticationError,
    exceptions.MasterDownError,
    exceptions.ClusterDownError,
    exceptions.ClusterCrossSlotError,
    exceptions.TryAgainError,
    exceptions.AskError,  # and MovedError
)
# Of these, what says that another server takes the write. The rest (LOADING, NOREPLICAS, MISCONF,
# OOM, BUSY, CLUSTERDOWN ...) is a primary's that may take it later; whether the address leads to
# another server meanwhile is asked by `Shard.follow`.
ELSEWHERE = (exceptions.MovedError, exceptions.ReadOnlyError, exceptions.MasterDownError)
REFUSING_WORDS = ("MISCONF", "NOREPLICAS", "BUSY", "UNKILLABLE")
FUNCTION_MISSING = "Function not found"

# What ends a connection. uvloop tells of one that was reset by a RuntimeError.
LOST = (exceptions.RedisError, OSError, RuntimeError)


class Refused(StoreError):
    """A function refused an operation; `word` says why."""

    def __init__(self, message: str) -> None:
        self.word, _, text = message.partition(" ")
        super().__init__(text)


class Failed(OutcomeUnknown):
    """The server has answered that the call failed, as at a key of another type: it may well take
    other calls."""


class NotOurs(StoreUnavailable):
    """A partition has not the data with which we started: nothing may be counted there."""


class Again(StoreUnavailable):
    """Nothing ran, and once more will do."""


class FunctionMissing(Again):
    """The server has lost our functions (FUNCTION FLUSH, a new primary)."""


class Moved(Again):
    """Another server takes these writes now (MOVED, READONLY, MASTERDOWN)."""

    def __init__(self, message: str) -> None:
        super().__init__(f"another server takes this write now: {message}")
        self.said_s = time.monotonic()


class Outdated(Again):
    """The upgrade of the store to a newer form is finished, or about to be."""

    def __init__(self, message: str) -> None:
        super().__init__(
            f"another version has brought the store to form {message.split()[1]}: run that version "
            "here too; hits wait in the spool until then, or are refused where there is none"
        )


class Early(Again):
    """The batch has hits later than the store's `now`: our clock was ahead."""

    def __init__(self, message: str) -> None:
        _, now, until = message.split()
        at = datetime.fromtimestamp(int(until) / 1000, UTC).isoformat(timespec="seconds")
        super().__init__(
            f"this machine's clock was ahead of the store's: it takes these hits from {at} on"
        )
        self.now = int(now)


class Gap(StoreError):
    """The store has only this producer's batches up to `last`: it has lost later ones."""

    def __init__(self, message: str) -> None:
        super().__init__(f"the store lacks batches of ours behind number {message.split()[1]}")
        self.last = int(message.partition(" ")[2])


class Fenced(StoreError):
    """Another process goes on as this producer, in a later epoch."""

    def __init__(self, message: str) -> None:
        super().__init__("another process has taken over this producer's directory")
        self.epoch = int(message.partition(" ")[2])


class Rejected(StoreError):
    """The store cannot count the batch and never will."""

    def __init__(self, message: str) -> None:
        super().__init__(message.partition(" ")[2])


def meaning(error: Exception) -> StoreError:
    """Of an error that the store answered with."""
    message = str(error)
    if isinstance(error, ELSEWHERE):
        return Moved(message)
    if isinstance(error, exceptions.AskError):
        return StoreUnavailable(f"the slot is being migrated: {message}")
    if isinstance(error, REFUSING) or message.startswith(REFUSING_WORDS):
        return StoreUnavailable(message)
    if FUNCTION_MISSING in message:
        return FunctionMissing(message)
    if message.startswith(FORM):
        _, form, where, *_ = message.split()  # where a function raised it, the server says more
        return UnknownForm(form, "a batch" if where == "batch" else f"the store's {where}")
    for word, kind in _BY_WORD.items():
        if message.startswith(word):
            return kind(message)
    if message.startswith((NO_SITE, EXISTS, CHANGED, USED, NO_OPERATION, NEWER, BELOW, BEYOND)):
        return Refused(message)
    return Failed(message)


_BY_WORD: dict[str, type[Early | Gap | Fenced | Rejected | Outdated]] = {
    EARLY: Early,
    GAP: Gap,
    FENCED: Fenced,
    REJECTED: Rejected,
    OUTDATED: Outdated,
}


@asynccontextmanager
async def speaking() -> AsyncIterator[None]:
    """Turns redis-py's errors into ours around calls through a pool."""
    try:
        yield
    except (exceptions.ResponseError, *REFUSING) as error:
        raise meaning(error) from error
    except exceptions.TimeoutError as error:
        raise OutcomeUnknown(f"no answer from the store: {error}") from error
    except LOST as error:
        raise StoreUnavailable(str(error)) from error


def is_final(error: BaseException | None) -> bool:
    """Whether the store has answered, and no waiting will make it take us: a wrong password, user
    or database. While connecting, redis-py hides that behind a ConnectionError."""
    while error is not None:
        if isinstance(error, (exceptions.AuthenticationError, exceptions.NoPermissionError)):
            return True
        if isinstance(error, exceptions.ResponseError) and not isinstance(error, REFUSING):
            return True
        error = error.__cause__
    return False


def pairs(flat: Any) -> list[tuple[str, bytes]]:
    """Field and value of what HGETALL gives inside a function: a flat list, or a map in RESP3."""
    items = flat.items() if isinstance(flat, dict) else zip(flat[::2], flat[1::2], strict=True)
    return [(field.decode(errors="backslashreplace"), value) for field, value in items]

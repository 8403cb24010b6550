"""What a page posts: the body of a hit, read, and its path as it is counted.

Most paths are the same for every site, and are made once for all who post the same body. What only
the site can tell (a query, another page's address) stays as it was sent, behind a mark.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from visit_counter.model.kinds import Kind
from visit_counter.model.paths import clean_path

UNRESOLVED: Final = "\0"
"""Begins a beacon's `p` that is still as it was sent, which no path does."""
MAX_KEPT_BODY: Final = 256  # bytes of a body that is worth keeping
MAX_VIEW: Final = 32
VIEW_FIELD: Final = b',"i":"'


class Malformed(ValueError):
    """A body or hit that cannot be read: what is wrong, and in which field."""

    def __init__(self, message: str, field: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.field = field
        self.status = status


class Beacon(Struct, frozen=True):
    """What a page sends; every field may be left out."""

    k: Kind = Kind.VIEW
    p: Annotated[str, Meta(max_length=8192)] | None = None
    v: Annotated[str, Meta(max_length=128)] = ""
    page: bool = False
    i: Annotated[str, Meta(max_length=MAX_VIEW)] = ""
    """A view's id."""
    again: bool = False
    """The page has sent this view before."""


BEACON = msgspec.json.Decoder(Beacon)
VIEW = Beacon()


def split_view(body: bytes) -> tuple[bytes, bytes]:
    """A view's id, and what stands before it in the body, as the snippet writes them: the id at
    the end. Else no id and the whole body, for JSON to be read.

    Every view has another id, and without it all views of a page have one body. Within a string
    the quotes would be escaped, so that these bytes can only be the last field of the object.
    """
    begins = body.rfind(VIEW_FIELD)
    if begins < 2 or body[-2:] != b'"}':
        return b"", body
    view = body[begins + len(VIEW_FIELD) : -2]
    if len(view) > MAX_VIEW or not view.isalnum():
        return b"", body
    return view, body[:begins]


def read_beginning(beginning: bytes) -> Beacon:
    """What stands before a view's id."""
    return read_beacon(beginning + b"}")


def read_beacon(body: bytes) -> Beacon:
    """With the path as every site counts it, or `UNRESOLVED`; raises Malformed."""
    if not body:
        return VIEW
    try:
        beacon = BEACON.decode(body)
    except msgspec.ValidationError as error:
        field = re.search(r"\$\.(\w+)", str(error))
        raise Malformed(f"the body is not as expected: {error}", field and field[1]) from None
    except RecursionError:
        raise Malformed("the body is nested too deeply") from None
    except ValueError as error:
        raise Malformed(f"the body is no JSON: {error}") from None
    if beacon.p is None:
        return beacon
    return msgspec.structs.replace(beacon, p=named_path(beacon.p))


known_beacon = lru_cache(maxsize=4096)(read_beacon)
"""The same, for bodies up to MAX_KEPT_BODY: all views of a page have one, and JSON and the path's
rules take longer than to look it up."""

known_beginning = lru_cache(maxsize=4096)(read_beginning)
"""The same, of bodies whose id was cut off."""


def view_named(view: str) -> str:
    """A view's id as a URL has it; raises Malformed."""
    if len(view) > MAX_VIEW or not view.isascii():
        raise Malformed(f"i: an id has at most {MAX_VIEW} letters and digits", "i")
    return view


def named_path(path: str) -> str:
    if not path.startswith("/") or path.startswith("//") or "?" in path:
        return UNRESOLVED + path
    try:
        return clean_path(path)
    except ValueError as error:
        raise Malformed(f"p: {error}", "p") from None

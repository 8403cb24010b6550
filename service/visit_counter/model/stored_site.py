"""The stored form of a site, JSON: `{"settings": {…}, "calendar": {…}}`.

Reading ignores fields that this version does not know, at all three levels, and keeps their bytes;
writing puts them back at their place, so that a newer version finds what it wrote. A known field
must have a value that this version can use. The API is stricter: it refuses unknown fields.
Values only.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias, TypeVar

import msgspec
from msgspec import Raw, Struct

from visit_counter.errors import Problem
from visit_counter.model.calendar import Calendar
from visit_counter.model.site_settings import SiteSettings, StoredSite

MAX_REASON = 200  # characters: it quotes what is stored

Fields: TypeAlias = dict[str, Raw]
T = TypeVar("T")


class Unknown(NamedTuple):
    """The fields of a stored site that this version does not know, each as the bytes it has."""

    site: Fields
    settings: Fields
    calendar: Fields


NOTHING = Unknown({}, {}, {})


class Unreadable(NamedTuple):
    """A site of the store that this version cannot read, and why."""

    id: str
    raw: bytes
    reason: str

    @property
    def field(self) -> str:
        """Which one cannot be read."""
        return self.reason.partition(":")[0]

    @property
    def sentence(self) -> str:
        return (
            f'The settings of site "{self.id}" in the store cannot be read: {self.reason}. Its '
            "hits are refused (503) and not counted. Run the version of the service that wrote "
            f"them, or replace them with PUT /api/v1/sites/{self.id}: its numbers stay."
        )

    @property
    def problem(self) -> Problem:
        """For admins."""
        return Problem(503, "Site unreadable", self.sentence)

    @property
    def public_problem(self) -> Problem:
        """For everybody, and so without the stored value."""
        return Problem(
            503,
            "Site unreadable",
            f'The settings of site "{self.id}" in the store cannot be read ({self.field}): its '
            "hits are refused and not counted. /readyz says why.",
        )


def decode_site(data: bytes) -> tuple[StoredSite, Unknown]:
    """A stored site, and what this version does not know of it.

    Raises ValueError as `field: what is wrong`.
    """
    stored = _decoded(data, StoredSite)
    for name, part in (("settings", stored.settings), ("calendar", stored.calendar)):
        try:
            part.check()
        except ValueError as error:
            raise ValueError(f"{name}.{error}") from None
    site = _decoded(data, Fields)
    parts = (_decoded(site[name], Fields) for name in ("settings", "calendar"))
    unknown = _unknown(site, *parts)
    return stored, unknown if any(unknown) else NOTHING


def encode_site(stored: StoredSite, unknown: Unknown = NOTHING) -> bytes:
    """The stored form of a site, together with fields that this version does not know."""
    settings = {**unknown.settings, **msgspec.structs.asdict(stored.settings)}
    calendar = {**unknown.calendar, **msgspec.structs.asdict(stored.calendar)}
    return msgspec.json.encode({**unknown.site, "settings": settings, "calendar": calendar})


def remains(data: bytes) -> tuple[Calendar | None, Unknown]:
    """What can be kept of an unreadable site: its calendar, unless that is what is wrong, and the
    unknown fields of the JSON objects that it still has."""
    site = _fields(data)
    settings, calendar = (_fields(site.get(name, b"")) for name in ("settings", "calendar"))
    unknown = _unknown(site, settings, calendar)
    try:
        kept = _decoded(site.get("calendar", b""), Calendar)
        kept.check()
    except ValueError:
        return None, unknown
    return kept, unknown


def _unknown(site: Fields, settings: Fields, calendar: Fields) -> Unknown:
    return Unknown(
        _without(site, StoredSite), _without(settings, SiteSettings), _without(calendar, Calendar)
    )


def _without(fields: Fields, known: type[Struct]) -> Fields:
    return {name: raw for name, raw in fields.items() if name not in known.__struct_fields__}


def _fields(data: bytes | Raw) -> Fields:
    """Returns the fields of a JSON object, {} for anything else."""
    try:
        return _decoded(data, Fields)
    except ValueError:
        return {}


def _decoded(data: bytes | Raw, form: type[T]) -> T:
    """Raises ValueError as `field: what is wrong`."""
    try:
        return msgspec.json.decode(data, type=form)
    except msgspec.ValidationError as error:
        text, _, field = str(error).rpartition(" - at `$.")
        raise ValueError(f"{field.rstrip('`')}: {text}" if text else field) from None
    except RecursionError:
        raise ValueError("JSON: it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"JSON: {str(error).removeprefix('JSON is malformed: ')}") from None

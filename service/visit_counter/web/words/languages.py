"""What we say in each language, and how numbers are written in it.

`assets/languages.json` is the one place for both: the pictures are drawn from it here, and
`/embed.js?lang=xx` brings the entry of its language along, so that a picture and an element on the
same page say the same. An entry names its usual number `format`; words in braces, such as
`{number}`, are places for values. `formats` are CLDR's as `Intl.NumberFormat` has them, and also
`en-min2`, the portals' way (1886, but 20,657), `plain`, and some languages' own digits. Read once,
at import; nothing here knows requests.
"""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Literal

import msgspec
from msgspec import Struct

from visit_counter.model.kinds import PERIODS

DEFAULT = "en"
ROWS = ("online", *PERIODS)
"""What has a number and, in each language, a label."""


class Words(Struct, frozen=True, forbid_unknown_fields=True):
    """A language: its labels, and its sentences, some with places for values."""

    name: str
    direction: Literal["ltr", "rtl"]
    format: str
    """Of numbers, if nobody wants another one."""
    title: str
    none: str
    """There are no numbers right now."""
    online: str
    today: str
    yesterday: str
    week: str
    last_week: str
    month: str
    last_month: str
    year: str
    total: str
    visits: str
    pageviews: str
    visitors: str
    pause: str
    resume: str
    opted_out: str
    """What a link to `#visit-counter-off` did: this browser is not counted."""
    opted_in: str
    how: str
    zone: str
    week_start: str
    window: str
    """Of `{time}`, which is `seconds` or `minutes`."""
    seconds: str
    minutes: str
    since: str
    seeded: str
    estimate: str
    """Of visitors, with the standard error in per cent."""
    about: str
    """Before a number that is approximate: how its sign is heard."""
    approximate: str
    """Which numbers of visitors are."""
    comma: str
    """Between the parts of a list."""
    colon: str
    """Between a label and its number."""
    as_of: str
    last_days: str
    days: tuple[str, str, str, str, str, str, str]
    """Of the week, from Monday."""


class Format(Struct, frozen=True, forbid_unknown_fields=True):
    """How a number is written."""

    group: str
    decimal: str
    grouped_from: int
    """Digits from which on there are groups, of three."""
    digits: str = "0123456789"


class Languages(Struct, frozen=True, forbid_unknown_fields=True):
    languages: dict[str, Words]
    formats: dict[str, Format]


_read = msgspec.json.decode(
    files("visit_counter.web").joinpath("assets", "languages.json").read_bytes(), type=Languages
)
LANGUAGES = _read.languages
FORMATS = _read.formats


def words(tag: str) -> Words:
    """Of the language that a tag such as `vi-VN` means; of English if we do not speak it."""
    return LANGUAGES[language(tag) or DEFAULT]


MISTAKEN = {"vn": "vi", "kh": "km", "jp": "ja", "kr": "ko", "cn": "zh"}


def language(tag: str) -> str | None:
    """The language of ours that a tag such as `vi-VN` or `zh_Hant` means, or a country's code that
    is often taken for its language's."""
    primary = re.split("[-_]", tag, maxsplit=1)[0].lower()
    primary = MISTAKEN.get(primary, primary)
    return primary if primary in LANGUAGES else None


def number(value: int, name: str) -> str:
    """A number, not below 0, in a format."""
    form, written = FORMATS[name], str(value)
    if len(written) >= form.grouped_from:
        written = f"{value:,}".replace(",", form.group)
    return written.translate(_DIGITS[name])


def fraction(value: str, name: str) -> str:
    """A number such as 0.81, in a format."""
    return value.replace(".", FORMATS[name].decimal).translate(_DIGITS[name])


_DIGITS = {name: str.maketrans("0123456789", form.digits) for name, form in FORMATS.items()}

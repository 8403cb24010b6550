"""What visitors are told of a site's counting: what is sent, made, stored, for how long, and shown.

The sentences stand in `assets/privacy.json`; which of them are true, and for how long things are
kept, follows from the site's settings and from what counting.lua does. Nothing here knows requests.
"""

from __future__ import annotations

from importlib.resources import files
from typing import NamedTuple

import msgspec
from msgspec import Struct

from visit_counter.characters import UNSEEN
from visit_counter.model.site_settings import SiteSettings

MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86_400
WAITS_DAYS = 181
"""90 until a look at all finds that nobody views a candidate, and 91 after the last look."""
UNITS = {"day": DAY_S, "hour": HOUR_S, "minute": MINUTE_S, "second": 1}


class Sentences(Struct, frozen=True, forbid_unknown_fields=True):
    """A language's: headings, and what may stand below them, with places for values."""

    title: str
    units: dict[str, tuple[str, str]]
    """One of it, and several."""
    brief: str
    sent: str
    sent_path: str
    sent_path_keys: str
    sent_headers: str
    sent_random: str
    made: str
    code: str
    code_random: str
    used: str
    dnt_honoured: str
    dnt_ignored: str
    memory: str
    stored: str
    stored_seen: str
    stored_left: str
    stored_sketch: str
    stored_numbers: str
    stored_pages: str
    stored_no_pages: str
    stored_waiting: str
    stored_drops: str
    stored_files: str
    browser: str
    browser_nothing: str
    browser_random: str
    browser_choice: str
    choice: str
    choice_off: str
    shown: str
    shown_public: str
    shown_private: str
    made_of: str


class Section(NamedTuple):
    heading: str
    lines: list[str]


class Notice(NamedTuple):
    title: str
    brief: str
    sections: list[Section]
    made_of: str


LANGUAGES = msgspec.json.decode(
    files("visit_counter.web").joinpath("assets", "privacy.json").read_bytes(),
    type=dict[str, Sentences],
)


def notice(settings: SiteSettings, language: str) -> Notice:
    """What is true of a site; in its texts `…` is code, as in Markdown."""
    say = LANGUAGES[language]
    sections = [
        Section(say.sent, _sent(settings, say)),
        Section(say.made, _made(settings, say)),
        Section(say.stored, _stored(settings, say)),
        Section(say.browser, _browser(settings, say)),
        Section(say.choice, [say.choice_off]),
        Section(say.shown, [say.shown_public if settings.public else say.shown_private]),
    ]
    title = say.title.format(name=UNSEEN.sub("", settings.name) or settings.id)
    return Notice(title, say.brief, sections, say.made_of)


def markdown(told: Notice) -> str:
    parts = [f"# {told.title}", told.brief]
    for section in told.sections:
        parts += [f"## {section.heading}", "\n".join(f"- {line}" for line in section.lines)]
    return "\n\n".join([*parts, told.made_of])


def duration(seconds: int, say: Sentences) -> str:
    """In the units that it has: 1 hour 31 minutes."""
    parts = []
    for unit, length in UNITS.items():
        number, seconds = divmod(seconds, length)
        if number:
            parts.append(f"{number} {say.units[unit][number > 1]}")
    return " ".join(parts)


def _sent(settings: SiteSettings, say: Sentences) -> list[str]:
    keys = ", ".join(f"`{key}`" for key in settings.query_keys)
    sent = say.sent_path_keys if keys else say.sent_path
    path = sent.format(pace=duration(settings.online_window // 3, say), keys=keys)
    random = [say.sent_random] if _has_random(settings) else []
    return [path, say.sent_headers, *random]


def _made(settings: SiteSettings, say: Sentences) -> list[str]:
    used = say.used.format(
        timeout=duration(settings.visit_timeout, say), window=duration(settings.online_window, say)
    )
    return [
        say.code_random if _has_random(settings) else say.code,
        used,
        say.dnt_honoured if settings.honour_dnt else say.dnt_ignored,
        say.memory,
    ]


def _stored(settings: SiteSettings, say: Sentences) -> list[str]:
    """The lives are those of `trim` in counting.lua, which looks once a minute, and of `sift` in
    pages.lua, which looks once a day."""
    timeout, window = settings.visit_timeout, settings.online_window
    pages = [
        say.stored_pages.format(pages=f"{settings.max_pages:,}"),
        say.stored_waiting.format(alone=duration(WAITS_DAYS * DAY_S, say)),
    ]
    return [
        say.stored_seen.format(
            kept=duration(timeout + HOUR_S + MINUTE_S, say), alone=duration(timeout + DAY_S, say)
        ),
        say.stored_left.format(
            kept=duration(window + MINUTE_S, say), alone=duration(window + HOUR_S, say)
        ),
        say.stored_sketch,
        say.stored_numbers,
        *(pages if settings.max_pages else [say.stored_no_pages]),
        say.stored_drops,
        say.stored_files,
    ]


def _browser(settings: SiteSettings, say: Sentences) -> list[str]:
    kept = say.browser_random if _has_random(settings) else say.browser_nothing
    return [kept, say.browser_choice]


def _has_random(settings: SiteSettings) -> bool:
    return settings.identity == "browser"

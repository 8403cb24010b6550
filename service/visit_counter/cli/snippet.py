"""`snippet` and `privacy`: what a website's owner puts into pages."""

from __future__ import annotations

import argparse
import sys
from typing import Any
from urllib.parse import quote

from visit_counter.characters import escaped_lines
from visit_counter.cli.calls import ask, here
from visit_counter.cli.parsers import named
from visit_counter.cli.sites import path_of
from visit_counter.config.settings import Settings
from visit_counter.errors import CallError


def add_commands(commands: Any) -> None:
    snippet = named(commands, "snippet", show_snippet, "the lines to put into a page")
    snippet.add_argument("--url", help="the service's address as pages see it")
    snippet.add_argument("--lang", default="", help="languages of the block, such as vi,en")
    snippet.add_argument("--count-only", action="store_true", help="count, and show nothing")
    snippet.add_argument("--pin", action="store_true", help="this version only, with its hash")
    privacy = named(commands, "privacy", show_privacy, "what to tell a site's visitors")
    privacy.add_argument("--url", help="the service's address (default: VISIT_COUNTER_LISTEN here)")
    privacy.add_argument("--lang", choices=("en", "vi"), default="en", help="the text's language")


def show_snippet(options: argparse.Namespace, settings: Settings) -> int:
    from visit_counter.web.pages import scripts
    from visit_counter.web.words import languages

    asked = [tag for tag in options.lang.split(",") if tag]
    if unknown := [tag for tag in asked if tag not in languages.LANGUAGES]:
        known = " ".join(languages.LANGUAGES)
        raise CallError(f"{unknown[0]!r} is no language of ours: use any of {known}")
    if len(asked) > scripts.MOST_LANGUAGES:
        raise CallError(f"a script brings at most {scripts.MOST_LANGUAGES} languages along")
    address = (options.url or here(settings)).rstrip("/")
    lines = scripts.snippet(
        address,
        options.site,
        tuple(asked),
        alone=options.count_only,
        pinned=options.pin,
    )
    print(escaped_lines(lines))
    more = f"{address}/embed?site={quote(options.site, safe='', errors='surrogateescape')}"
    print(f"To choose how it looks, and to learn why it does not count: {more}", file=sys.stderr)
    return 0


def show_privacy(options: argparse.Namespace, settings: Settings) -> int:
    import msgspec

    from visit_counter.model.site_settings import SiteSettings
    from visit_counter.web.words import privacy

    answer = ask(options, settings, "GET", path_of(options))
    try:
        shown = msgspec.convert(answer, SiteSettings)
    except msgspec.ValidationError as error:
        raise CallError(
            f"{options.site} has settings that this version cannot read ({error}): run the "
            "command of the service's version"
        ) from None
    print(escaped_lines(privacy.markdown(privacy.notice(shown, options.lang))))
    return 0

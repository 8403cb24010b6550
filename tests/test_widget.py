"""The files that a page embeds: how they are served, and what the script may not hold."""

from __future__ import annotations

import gzip
import re
from collections.abc import AsyncIterator
from importlib.resources import files

import aiohttp
import pytest
from aiohttp import web

from service.web import widget
from tests.browser import listening

SOURCE = files("service.web").joinpath("assets", "embed.js").read_text("utf-8")
CODE = re.sub(r"(?m)^\s*(//|/?\*).*$", "", SOURCE)


@pytest.fixture
async def served() -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/", widget.home)
    app.router.add_get("/embed.js", widget.embed_js)
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
        assert await answer.text() == SOURCE
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
        assert await answer.text() == SOURCE


async def test_head_is_get_without_body(served: str, http: aiohttp.ClientSession) -> None:
    """HEAD tells the length of what GET would send."""
    plain = {"Accept-Encoding": "identity"}
    async with http.head(f"{served}/embed.js", headers=plain) as answer:
        assert int(answer.headers["Content-Length"]) == len(SOURCE.encode())
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


def test_script_is_small() -> None:
    """The script with its element weighs at most 5 KB on the wire."""
    assert len(gzip.compress(SOURCE.encode(), mtime=0)) <= 5 * 1024


REFUSED = ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("]
KEPT = ["cookie", "localStorage", "sessionStorage", "indexedDB", "globalThis", "sendBeacon"]


@pytest.mark.parametrize("word", REFUSED + KEPT)
def test_script_never_uses(word: str) -> None:
    """Nothing that a strict policy refuses, and nothing that leaves or sends what is kept."""
    assert word not in CODE

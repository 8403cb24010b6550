"""Pages of one piece as people have them: real routers count each page that somebody goes to, once.

Turbo, htmx and swup are served as they are published. Pages of Next, Nuxt and Astro are built by
`./dev routers` into .routers/, which takes minutes; where they are not, their tests are skipped.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from aiohttp import web
from playwright.async_api import Browser, Page, expect

from tests.kit.pages.browser import listen, listening, no_content, until
from tests.kit.pages.embedding import Scripted, add_routes, equal
from tests.kit.tools import need_script

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = Path(__file__).parents[1]
NAMES = {"/": "one", "/two": "two", "/three": "three"}
CANONICAL = {"/": "/one", "/two": "/second"}
"""Of each page but the last."""
SNIPPET = '<script async src="/thongke/embed.js" data-site="portal"></script>'


class Router(NamedTuple):
    """A router, and how a page uses it."""

    files: tuple[str, ...]
    head: str = ""
    body: str = "<body>"
    link: str = '<a href="{path}">{name}</a> '
    renames: bool = True
    """It brings the next page's canonical link along."""


SWUP = (
    "<script>addEventListener('DOMContentLoaded', () => new Swup({plugins: [PLUGINS]}))</script>"
    "<style>.transition-fade {transition: opacity 10ms} html.is-animating .transition-fade"
    "{opacity: 0}</style>"
)
HEAD_PLUGIN = "@swup/head-plugin/dist/index.umd.js"
GET = '<a href="{path}" hx-get="{path}" hx-target="#swup" hx-select="#swup" hx-push-url="true">'

ROUTERS = {
    "Turbo": Router(("@hotwired/turbo/dist/turbo.es2017-umd.js",)),
    "htmx 4, hx-boost": Router(
        ("htmx.org/dist/htmx.js",), body='<body hx-boost:inherited="true">', renames=False
    ),
    "htmx 2, hx-boost": Router(
        ("htmx2/dist/htmx.js",), body='<body hx-boost="true">', renames=False
    ),
    "htmx 4, hx-push-url": Router(
        ("htmx.org/dist/htmx.js",), link=f"{GET}{{name}}</a> ", renames=False
    ),
    "htmx 2, hx-push-url": Router(
        ("htmx2/dist/htmx.js",), link=f"{GET}{{name}}</a> ", renames=False
    ),
    "swup": Router(("swup/dist/Swup.umd.js",), head=SWUP.replace("PLUGINS", ""), renames=False),
    "swup with its head plugin": Router(
        ("swup/dist/Swup.umd.js", HEAD_PLUGIN),
        head=SWUP.replace("PLUGINS", "new SwupHeadPlugin()"),
    ),
}


@pytest.mark.parametrize("place", ["head", "body"])
@pytest.mark.parametrize("router", ROUTERS.values(), ids=ROUTERS)
async def test_router(browser: Browser, scripted: Scripted, router: Router, place: str) -> None:
    """The snippet stands in the head, or in the body, which routers put in anew with it."""
    page = await browser.new_page()
    lines = listen(page)
    app = web.Application()
    for number, file in enumerate(router.files):
        app.router.add_static(f"/lib{number}", need_script(file).parent)

    async def show(request: web.Request) -> web.Response:
        html = html_of(router, request.path, place)
        return web.Response(text=html, content_type="text/html")

    for path in NAMES:
        app.router.add_get(path, show)
    add_routes(app, scripted)
    app.router.add_get("/favicon.ico", no_content)
    await walk(page, app, scripted, router.renames)
    assert lines == []


def html_of(router: Router, path: str, place: str) -> str:
    files = "".join(
        f'<script src="/lib{number}/{file.rpartition("/")[2]}"></script>'
        for number, file in enumerate(router.files)
    )
    named = CANONICAL.get(path)
    link = f'<link rel="canonical" href="https://www.a.vn{named}">' if named else ""
    links = "".join(router.link.format(path=path, name=name) for path, name in NAMES.items())
    return (
        f'<!doctype html><html lang="vi"><head><meta charset="utf-8"><title>{NAMES[path]}</title>'
        f"{link}{files}{router.head}{SNIPPET if place == 'head' else ''}</head>{router.body}"
        f'<div id="swup" class="transition-fade"><h1>{NAMES[path]}</h1>{links}'
        f"<visit-counter></visit-counter>{SNIPPET if place == 'body' else ''}</div></body></html>"
    )


BUILT = {"next": "out", "nuxt": ".output/public", "astro": "dist", "astro5": "dist"}


@pytest.mark.parametrize("name", BUILT)
async def test_framework(browser: Browser, scripted: Scripted, name: str) -> None:
    """What its own build makes of pages, links and the snippet."""
    built = ROOT / ".routers" / name / BUILT[name]
    if not built.exists():
        pytest.skip(f"needs .routers/{name}: ./dev routers builds it")
    page = await browser.new_page()
    lines = listen(page)
    app = web.Application()

    async def show(request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"]
        for file in (path, f"{path}.html", f"{path}/index.html".lstrip("/")):
            if (built / file).is_file():
                return web.FileResponse(built / file)
        raise web.HTTPNotFound

    add_routes(app, scripted)
    app.router.add_get("/favicon.ico", no_content)
    app.router.add_get("/{path:.*}", show)
    await walk(page, app, scripted, renames=True)
    assert lines == []


async def walk(page: Page, app: web.Application, scripted: Scripted, renames: bool) -> None:
    """To each page by its link, then back and forward."""

    def link(name: str) -> Callable[[], Awaitable[object]]:
        return page.get_by_role("link", name=name, exact=True).click

    steps: list[tuple[str, Callable[[], Awaitable[object]]]] = [
        ("/two", link("two")),
        ("/three", link("three")),
        ("/", link("one")),
        ("/three", page.go_back),
        ("/two", page.go_back),
        ("/three", page.go_forward),
        ("/two", link("two")),
    ]
    async with listening(app) as url:
        await page.goto(url)
        expected = ["/one"]
        await arrived(page, scripted, "/", expected)
        await page.evaluate("window.isOfOnePiece = true")
        for path, go in steps:
            await go()
            expected.append(CANONICAL.get(path, path) if renames or path == "/" else path)
            await arrived(page, scripted, path, expected)
        await page.evaluate("history.pushState({}, '', '/last')")
        await until(partial(seen, scripted, [*expected, "/last"]), "nothing but the last view")
        assert await page.evaluate("isOfOnePiece")
        await page.goto("about:blank")


async def arrived(page: Page, scripted: Scripted, path: str, expected: list[str]) -> None:
    await expect(page.get_by_role("heading", level=1)).to_have_text(NAMES[path])
    await until(partial(seen, scripted, expected), f"views of {expected}")
    await expect(page.locator("visit-counter [part=row]").last).to_contain_text("1,891,451")


async def seen(scripted: Scripted, paths: list[str]) -> bool:
    return await equal(viewed(scripted), paths)


def viewed(scripted: Scripted) -> list[str]:
    return [hit["p"] for hit in scripted.hits if hit["k"] == "view"]

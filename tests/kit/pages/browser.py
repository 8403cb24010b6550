"""What the tests of the embed look through: Chromium, and a page on another origin.

The page is as strict as a page can be: its Content-Security-Policy lets in nothing but the
counter's script and connections, and it holds script to Trusted Types. Whatever the browser
complains about, as console line, error or report of the policy, is kept for the test to see.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from aiohttp import web
from playwright.async_api import Browser, Locator, Page, async_playwright

from tests.kit.tools import need

# A person's: Chromium without a screen would call itself HeadlessChrome, which is a bot.
USER_AGENT = (
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/150.0.0.0 Safari/537.36"
)
CHROMIUM_ARGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP *.test 127.0.0.1",
    f"--user-agent={USER_AGENT}",
]

TWO_LINES = """
<script async src="{counter}/embed.js" data-site="portal"></script>
<visit-counter></visit-counter>
"""

# Adds up how far a page moves what is there already, as `moved`.
SHIFTS = """
window.moved = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) window.moved += entry.value;
}).observe({type: 'layout-shift', buffered: true});
"""


@asynccontextmanager
async def chromium(language: str = "vi-VN", *, whole: bool = False) -> AsyncIterator[Browser]:
    """A person's Chromium with a new empty profile, *whole* with its windows and its cache of pages
    to go back to; the engine without them starts a page in a fifth of the time.

    Language and user agent are the program's own: Playwright's emulation does not reach what a
    page sends while it is left.
    """
    path = need("chromium" if whole else "chromium-headless-shell")
    args = [*CHROMIUM_ARGS, f"--accept-lang={language}"]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=path, args=args, ignore_default_args=["--disable-back-forward-cache"]
        )
        try:
            yield browser
        finally:
            await browser.close()


@dataclass
class HostPage:
    """A website that embeds a counter: every path of it is the same page."""

    counter: str
    body: str = TWO_LINES
    head: str = ""
    css: str = ""
    lang: str = "vi"
    frames: str = "'none'"
    url: str = ""
    complaints: list[str] = field(default_factory=list)

    def policy(self) -> str:
        return (
            f"default-src 'none'; script-src {self.counter}; connect-src {self.counter}; "
            f"img-src {self.counter}; style-src 'self'; frame-src {self.frames}; base-uri 'none'; "
            "form-action 'none'; "
            "require-trusted-types-for 'script'; trusted-types 'none'; report-uri /csp"
        )

    async def page(self, request: web.Request) -> web.Response:
        html = (
            f'<!doctype html><html lang="{self.lang}"><meta charset="utf-8"><title>host</title>'
            f'<link rel="stylesheet" href="/page.css">{self.head}'
            f"<h1>Cổng thông tin</h1>{self.body.replace('{counter}', self.counter)}"
        )
        headers = {"Content-Security-Policy": self.policy()}
        return web.Response(text=html, content_type="text/html", headers=headers)

    async def style(self, request: web.Request) -> web.Response:
        return web.Response(text=self.css, content_type="text/css")

    async def report(self, request: web.Request) -> web.Response:
        self.complaints.append(await request.text())
        return web.Response(status=204)


@asynccontextmanager
async def host_page(counter: str, body: str = TWO_LINES) -> AsyncIterator[HostPage]:
    host = HostPage(counter, body)
    app = web.Application()
    app.router.add_post("/csp", host.report)
    app.router.add_get("/favicon.ico", no_content)
    app.router.add_get("/page.css", host.style)
    app.router.add_get("/{path:.*}", host.page)
    async with listening(app) as host.url:
        yield host


async def no_content(request: web.Request) -> web.Response:
    return web.Response(status=204)


@asynccontextmanager
async def listening(app: web.Application) -> AsyncIterator[str]:
    """The address of the app, served on a free port for as long as the block runs."""
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


def listen(page: Page) -> list[str]:
    """Collects what the page's console says from now on."""
    lines: list[str] = []
    page.on("console", lambda message: lines.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: lines.append(f"uncaught: {error}"))
    return lines


async def rows(within: Page | Locator) -> list[str]:
    """The rows that somebody sees, as they read."""
    return await within.locator("[part=row]:visible").all_inner_texts()


async def until(
    condition: Callable[[], Awaitable[object]], what: str, deadline_s: float = 10
) -> None:
    """Waits until the condition holds; fails with what was waited for."""
    end = time.monotonic() + deadline_s
    while not await condition():
        if time.monotonic() > end:
            pytest.fail(f"not within {deadline_s} s: {what}")
        await asyncio.sleep(0.05)

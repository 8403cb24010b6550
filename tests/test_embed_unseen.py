"""Pages that a real browser loads before anybody sees them: rendered ahead, or in a tab behind.

Whoever drives a page through DevTools keeps it from being rendered ahead and from being hidden, so
here Chromium runs by itself: the website leads from page to page, and tabs are shown by name.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from tests.kit.pages.browser import CHROMIUM_ARGS, TWO_LINES, HostPage, listening, no_content, until
from tests.kit.pages.embedding import equal
from tests.kit.services.in_process import Service
from tests.kit.stores.node import wait_until
from tests.kit.tools import need

START_S = 20.0
AHEAD = "prefetch;prerender"
RULES = {"prerender": [{"urls": ["/next"], "eagerness": "immediate"}]}

Ask = Callable[..., Awaitable[Any]]
"""A command to the browser as a whole, and its answer."""


@contextmanager
def chromium_alone(page: str) -> Iterator[str]:
    """A browser that shows a page and that nobody drives; its address for commands."""
    # Its helpers may outlive it for a moment, and write meanwhile.
    temporary = tempfile.TemporaryDirectory(prefix="vc-", dir="/tmp", ignore_cleanup_errors=True)
    with temporary as profile:
        own = [f"--user-data-dir={profile}", "--remote-debugging-port=0"]
        command = [str(need("chromium")), *CHROMIUM_ARGS, *own, page]
        quiet = subprocess.DEVNULL
        process = subprocess.Popen(command, stdout=quiet, stderr=quiet, start_new_session=True)
        listens = Path(profile, "DevToolsActivePort")
        try:
            wait_until(lambda: listens.exists() and listens.read_text() != "", START_S)
            port, path = listens.read_text().split()
            yield f"ws://127.0.0.1:{port}{path}"
        finally:
            process.terminate()
            process.wait(10)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@asynccontextmanager
async def browsing(page: str) -> AsyncIterator[Ask]:
    """Whom to ask for other tabs of a browser that shows a page."""
    with chromium_alone(page) as address:
        async with aiohttp.ClientSession() as http, http.ws_connect(address) as browser:
            yield partial(ask, browser)


async def ask(browser: aiohttp.ClientWebSocketResponse, method: str, **params: object) -> Any:
    await browser.send_json({"id": 1, "method": method, "params": params})
    return (await browser.receive_json())["result"]


@dataclass
class Website:
    """Its first page leads to the next one when the test says so; only the next one counts, and is
    as strict as a page can be."""

    counter: str
    go: asyncio.Event = field(default_factory=asyncio.Event)
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Paths, and what for if not for somebody to see."""

    def note(self, request: web.Request) -> None:
        self.asked.append((request.path, request.headers.get("Sec-Purpose", "")))

    async def first(self, request: web.Request) -> web.StreamResponse:
        self.note(request)
        answer = web.StreamResponse(headers={"Speculation-Rules": '"/rules"'})
        answer.content_type = "text/html"
        await answer.prepare(request)
        await answer.write(b"<!doctype html><title>first</title><p>first")
        await self.go.wait()
        await answer.write(b'<meta http-equiv="refresh" content="0; url=/next">')
        return answer

    async def rules(self, request: web.Request) -> web.Response:
        kind = "application/speculationrules+json"
        return web.Response(text=json.dumps(RULES), content_type=kind)

    async def next(self, request: web.Request) -> web.Response:
        self.note(request)
        html = "<!doctype html><title>next</title>"
        html += TWO_LINES.replace("{counter}", self.counter).replace("async ", "")
        html += "<iframe src=/after></iframe>"
        policy = HostPage(self.counter, frames="'self'").policy()
        headers = {"Content-Security-Policy": policy}
        return web.Response(text=html, content_type="text/html", headers=headers)

    async def report(self, request: web.Request) -> web.Response:
        """What the policy did not let in."""
        self.asked.append((request.path, await request.text()))
        return web.Response(status=204)

    async def after(self, request: web.Request) -> web.Response:
        """A frame, which no browser loads before the scripts in front of it have run."""
        self.note(request)
        return web.Response(text="after")


@asynccontextmanager
async def website(service: Service) -> AsyncIterator[tuple[str, Website]]:
    """A site of the service, and its website's address."""
    site = Website(service.url)
    app = web.Application()
    app.router.add_get("/first", site.first)
    app.router.add_get("/rules", site.rules)
    app.router.add_get("/next", site.next)
    app.router.add_get("/after", site.after)
    app.router.add_post("/csp", site.report)
    app.router.add_get("/favicon.ico", no_content)
    async with listening(app) as url:
        await service.site("portal", origins=[url])
        yield url, site
        site.go.set()


async def viewed(service: Service) -> int:
    return int((await service.counts())["today"]["pageviews"])


async def test_a_page_rendered_ahead_counts_when_it_is_seen(service: Service) -> None:
    """Not when the browser loads it with all that it needs, and once when somebody goes there."""
    async with website(service) as (url, site), browsing(f"{url}/first"):
        await until(lambda: equal(("/after", AHEAD) in site.asked, True), "a page rendered ahead")
        assert await viewed(service) == 0
        site.go.set()

        async def counted() -> bool:
            return await viewed(service) == 1

        await until(counted, "the view")
        drops = await service.api("GET", "/sites/portal/drops")
    assert site.asked == [("/first", ""), ("/next", AHEAD), ("/after", AHEAD)]
    assert drops == {}


async def test_a_tab_behind_counts_when_it_is_opened(service: Service) -> None:
    """A page in a tab that nobody looks at is no view until its tab is shown."""
    async with website(service) as (url, site), browsing("about:blank") as told:
        tab = await told("Target.createTarget", url=f"{url}/next", background=True)
        await until(lambda: equal(("/after", "") in site.asked, True), "the page")
        assert await viewed(service) == 0
        await told("Target.activateTarget", targetId=tab["targetId"])

        async def counted() -> bool:
            return await viewed(service) == 1

        await until(counted, "the view")

"""A counter embedded in a page: the page, the real service or a scripted one, and what was sent.

The scripted service says what no healthy service says, and keeps what it was asked.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from playwright.async_api import Page, expect

from tests.kit.pages.browser import TWO_LINES, HostPage, host_page, listen, listening
from tests.kit.services.in_process import Service, run_service
from tests.kit.stores.server import Server
from visit_counter.web.pages import files as widget

NUMBERS = {"online": 81, "today": 1886, "week": 20657, "total": 1891451}
PORTAL = ["Đang online: 81", "Hôm nay: 1886", "Trong tuần: 20,657", "Tất cả: 1,891,451"]
HOW = "Days are those of the time zone Asia/Ho_Chi_Minh."
NO_NUMBERS = ["Đang online: –", "Hôm nay: –", "Trong tuần: –", "Tất cả: –"]

# Playwright keeps every page visible, so the document is told what to say.
HIDE = """
for (const [name, value] of Object.entries({hidden: true, visibilityState: 'hidden'})) {
  Object.defineProperty(document, name, {value, configurable: true});
}
document.dispatchEvent(new Event('visibilitychange', {bubbles: true}));
"""
SHOW = """
delete document.hidden;
delete document.visibilityState;
document.dispatchEvent(new Event('visibilitychange', {bubbles: true}));
"""


@asynccontextmanager
async def portal(valkey: Server, body: str = TWO_LINES) -> AsyncIterator[tuple[Service, HostPage]]:
    """A service, and a page on another origin that the site `portal` counts for."""
    async with run_service(valkey.url) as service, host_page(service.url, body) as host:
        await service.site("portal", origins=[host.url])
        yield service, host


async def shows(page: Page, expected: list[str]) -> None:
    await expect(page.locator("visit-counter [part=row]")).to_have_text(expected)


@dataclass
class Scripted:
    """Serves the real script under a base path, and answers what the test says."""

    url: str = ""
    status: int = 200
    live_status: int = 200
    text: str = ""
    hits: list[dict[str, Any]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    open: asyncio.Event = field(default_factory=asyncio.Event)
    events: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue)
    """What streams are told, in turn; b"" ends one."""

    def __post_init__(self) -> None:
        self.open.set()
        self.say(counted=True)

    def say(self, **changes: Any) -> None:
        counts: dict[str, Any] = {"counted": True, "metric": "visits", "online_window": 300}
        counts |= NUMBERS
        counts |= {"as_of": int(time.time()), "timezone": "Asia/Ho_Chi_Minh"}
        for period in ("today", "week", "total"):
            visits = NUMBERS[period]
            numbers = {"pageviews": visits * 2, "visits": visits, "visitors": visits - 1}
            counts[period] = numbers
        self.text = json.dumps({**counts, **changes})

    def kinds(self) -> list[str]:
        return [hit["k"] for hit in self.hits]

    async def counts(self, request: web.Request) -> web.Response:
        self.asked.append(f"{request.method} {request.match_info['site']}")
        if request.method == "POST":
            self.hits.append(json.loads(await request.text()))
        await self.open.wait()
        if self.status == 0 and request.transport is not None:
            request.transport.abort()
        cors = {"Access-Control-Allow-Origin": "*"}
        status = self.status or 500
        return web.Response(text=self.text, status=status, headers=cors)

    async def how(self, request: web.Request) -> web.Response:
        return web.json_response({"how": [HOW]}, headers={"Access-Control-Allow-Origin": "*"})

    async def live(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(f"LIVE {request.match_info['site']}")
        cors = {"Access-Control-Allow-Origin": "*"}
        if self.live_status != 200:
            return web.Response(status=self.live_status, headers=cors)
        answer = web.StreamResponse(headers={**cors, "Content-Type": "text/event-stream"})
        await answer.prepare(request)
        while data := await self.events.get():
            await answer.write(data)
        return answer


def add_routes(app: web.Application, service: Scripted) -> None:
    """Of the service, below /thongke of the app."""
    app.router.add_get("/thongke/embed.js", widget.embed_js)
    app.router.add_get("/thongke/embed.count.js", widget.count_js)
    app.router.add_route("*", "/thongke/w/{site}", service.counts)
    app.router.add_get("/thongke/w/{site}/live", service.live)
    app.router.add_get("/thongke/w/{site}/how.json", service.how)


@asynccontextmanager
async def run_scripted() -> AsyncIterator[Scripted]:
    service = Scripted()
    app = web.Application()
    add_routes(app, service)
    async with listening(app) as url:
        service.url = url
        yield service
        service.open.set()


@asynccontextmanager
async def embedded(scripted: Scripted, body: str = TWO_LINES) -> AsyncIterator[HostPage]:
    body = body.replace("{counter}", "{counter}/thongke")
    async with host_page(scripted.url, body) as host:
        yield host


@contextmanager
def clean(page: Page, host: HostPage, *but: str) -> Iterator[None]:
    """Neither the console nor the policy has anything else to say at the end of the block."""
    lines = listen(page)
    yield
    assert [line for line in lines if line not in but] == []
    assert host.complaints == []


async def equal(actual: object, expected: object) -> bool:
    return actual == expected

"""The picture that counts where no script runs, in pages that say nothing of where they are, behind
service workers, and under the website's own host."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import ClientSession, web
from playwright.async_api import Browser

from tests.kit.pages.browser import listening, no_content, until
from tests.kit.pages.documents import README
from tests.kit.services.in_process import Service, run_service
from tests.kit.stores.server import Server

pytestmark = pytest.mark.asyncio(loop_scope="module")

POLICIES = ["no-referrer", "same-origin", "origin", "unsafe-url", "strict-origin-when-cross-origin"]
PRINTED = re.findall(r"<noscript>.*</noscript>", README.read_text())[0]


async def views(service: Service) -> int:
    return int((await service.counts())["total"]["pageviews"])


@asynccontextmanager
async def website(body: str, worker: str = "", counter: str = "") -> AsyncIterator[str]:
    """Its pages have the referrer policy that their path begins with. Below /thongke it passes
    everything on to the counter, as a proxy does."""

    async def show(request: web.Request) -> web.Response:
        policy = request.path.split("/")[1]
        headers = {"Referrer-Policy": policy} if policy else {}
        return web.Response(
            text=f"<!doctype html>{body}", content_type="text/html", headers=headers
        )

    async def work(request: web.Request) -> web.Response:
        return web.Response(text=worker, content_type="text/javascript")

    async def pass_on(request: web.Request) -> web.Response:
        address = counter + request.path_qs.removeprefix("/thongke")
        async with client.get(address, headers=request.headers) as answer:
            return web.Response(body=await answer.read(), content_type=answer.content_type)

    app = web.Application()
    app.router.add_get("/worker.js", work)
    app.router.add_get("/favicon.ico", no_content)
    app.router.add_get("/thongke/{path:.*}", pass_on)
    app.router.add_get("/{path:.*}", show)
    async with ClientSession() as client, listening(app) as url:
        yield url


async def test_it_counts_under_every_policy(browser: Browser, valkey: Server) -> None:
    """As the README prints it; browsers tell where it stands by its own referrerpolicy only."""
    async with run_service(valkey.url) as service:
        body = PRINTED.replace("https://count.example.vn", service.url)
        async with website(body) as url:
            await service.site("portal", origins=[url])
            page = await (await browser.new_context(java_script_enabled=False)).new_page()
            for policy in POLICIES:
                await page.goto(f"{url}/{policy}/", wait_until="networkidle")
            assert await views(service) == len(POLICIES)


PASSES = {
    "as it is": "fetch(event.request)",
    "a copy of it": "fetch(new Request(event.request, {cache: 'no-store'}))",
    "its address": "fetch(event.request.url)",
    "its address, without CORS": "fetch(event.request.url, {mode: 'no-cors'})",
}
WORKER = """
addEventListener('install', () => skipWaiting());
addEventListener('activate', (event) => event.waitUntil(clients.claim()));
addEventListener('fetch', (event) => {
  if (event.request.url.includes('dot.gif')) event.respondWith(PASS);
});
"""
START = """
navigator.serviceWorker.register('/worker.js').then(() => new Promise((done) => {
  if (navigator.serviceWorker.controller) done();
  navigator.serviceWorker.oncontrollerchange = done;
}))
"""


@pytest.mark.parametrize("passed", PASSES.values(), ids=PASSES)
async def test_it_counts_through_a_service_worker(
    browser: Browser, valkey: Server, passed: str
) -> None:
    """Which fetches a picture for the page, so that it is no image any more (Sec-Fetch-Dest)."""
    worker = WORKER.replace("PASS", passed)
    async with run_service(valkey.url) as service, website("", worker) as url:
        await service.site("portal", origins=[url])
        page = await (await browser.new_context()).new_page()
        await page.goto(f"{url}/")
        await page.evaluate(START)
        await page.evaluate(
            "html => { document.body.innerHTML = html }",
            f"<img src='{service.url}/w/portal/dot.gif?p=/' referrerpolicy='origin'>",
        )

        async def is_counted() -> bool:
            return await views(service) == 1

        await until(is_counted, "the view is counted")


async def test_it_counts_under_the_websites_own_host(browser: Browser, valkey: Server) -> None:
    """Its request has no Origin there, and the whole Referer unless the page's policy hides it."""
    body = "<img src='/thongke/w/portal/dot.gif'>"
    async with (
        run_service(valkey.url, base_path="/thongke") as service,
        website(body, counter=service.url) as url,
    ):
        await service.site("portal", origins=["self"])
        page = await (await browser.new_context(java_script_enabled=False)).new_page()
        for policy in ("same-origin", "strict-origin-when-cross-origin"):
            await page.goto(f"{url}/{policy}/tin?x=1", wait_until="networkidle")
            asked = f"{service.url}/w/portal?path=/{policy}/tin"
            async with service.client.get(asked) as answer:
                assert (await answer.json())["page"]["pageviews"] == 1

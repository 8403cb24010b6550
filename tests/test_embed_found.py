"""The script finds its address and its site however it came into the page, and counts once."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from aiohttp import web
from playwright.async_api import Browser, Page

from tests.kit.pages.browser import host_page, listen, listening, until
from tests.kit.services.in_process import Service, run_service
from tests.kit.stores.server import Server

pytestmark = pytest.mark.asyncio(loop_scope="module")

TAG = '<script async src="{counter}/embed.js" data-site="portal"></script>'

WAYS = {
    "a module": (TAG.replace("async", 'type="module"'), ""),
    "a tag manager": (TAG.replace('.js" data-site="portal"', '.js?site=portal"'), ""),
    "import()": ("", "import('{counter}/embed.js?site=portal')"),
    "evaluated": (
        TAG.replace("async", 'type="text/plain"'),
        "fetch('{counter}/embed.js').then((it) => it.text()).then((text) => (0, eval)(text))",
    ),
    "made by a script": (
        "",
        "const tag = document.createElement('script'); tag.src = '{counter}/embed.js';"
        "tag.dataset.site = 'portal'; document.head.append(tag)",
    ),
    "counting alone, a module": (
        TAG.replace("embed.js", "embed.count.js").replace("async", 'type="module"'),
        "",
    ),
}


@pytest_asyncio.fixture(loop_scope="module")
async def service(valkey: Server) -> AsyncIterator[Service]:
    async with run_service(valkey.url) as running:
        await running.site("portal")
        yield running


async def pageviews(service: Service) -> int:
    counts = await service.api("POST", "/sites/portal/reset?preview=1")
    return int(counts["would_reset"]["total"]["pageviews"])


async def has_counted(service: Service) -> bool:
    return await pageviews(service) > 0


async def opened(browser: Browser) -> tuple[Page, list[str]]:
    """A page without the policy of the strictest, and what its console says."""
    page = await (await browser.new_context(bypass_csp=True)).new_page()
    return page, listen(page)


@pytest.mark.parametrize(("tag", "script"), WAYS.values(), ids=WAYS)
async def test_a_view_counts(browser: Browser, service: Service, tag: str, script: str) -> None:
    page, lines = await opened(browser)
    async with host_page(service.url, tag) as host:
        await page.goto(host.url)
        if script:
            await page.evaluate(script.replace("{counter}", service.url))
        await until(lambda: has_counted(service), "the view is counted")
    assert [line for line in lines if "uncaught" in line or "visit-counter:" in line] == []


FIXED = """
for (const name of ['pushState', 'replaceState']) {
  Object.defineProperty(History.prototype, name, {writable: false});
}
"""


async def test_history_that_nobody_may_change(browser: Browser, service: Service) -> None:
    """By a security script, or in an old browser: assigning would end a module with an error."""
    page, lines = await opened(browser)
    await page.add_init_script(FIXED)
    async with host_page(service.url, TAG.replace("async", 'type="module"')) as host:
        await page.goto(host.url)
        await until(lambda: has_counted(service), "the first view is counted")
        await page.evaluate("history.pushState({}, '', '/2')")
        await until(lambda: have_counted(service, 2), "the second view is counted")
    assert [line for line in lines if "uncaught" in line] == []


async def have_counted(service: Service, number: int) -> bool:
    return await pageviews(service) == number


async def test_a_view_of_an_svg_counts(browser: Browser, service: Service) -> None:
    page, lines = await opened(browser)
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg"><text y="20">x</text>'
        f'<script href="{service.url}/embed.js" data-site="portal"/></svg>'
    )

    async def picture(request: web.Request) -> web.Response:
        return web.Response(text=svg, content_type="image/svg+xml")

    app = web.Application()
    app.router.add_get("/a.svg", picture)
    async with listening(app) as url:
        await page.goto(f"{url}/a.svg")
        await until(lambda: has_counted(service), "the view is counted")
    assert [line for line in lines if "uncaught" in line] == []


async def test_a_script_that_cannot_find_its_counter_says_so(
    browser: Browser, service: Service
) -> None:
    """As where an optimiser has put its text into a file or page of the website's own."""
    page, lines = await opened(browser)
    async with service.client.get(f"{service.url}/embed.js") as answer:
        text = await answer.text()
    async with host_page(service.url, "") as host:
        await page.goto(host.url)
        await page.evaluate("text => { (0, eval)(text); }", text)
        await until(lambda: is_said(lines), "the console says why")
    assert [line for line in lines if "uncaught" in line] == []


async def is_said(lines: list[str]) -> bool:
    return any("visit-counter: " in line for line in lines)


async def test_two_addresses_of_one_service_count_once(browser: Browser, service: Service) -> None:
    page, _ = await opened(browser)
    other = service.url.replace("127.0.0.1", "a.test")
    async with host_page(service.url, TAG + TAG.replace("{counter}", other)) as host:
        hits: list[str] = []
        page.on("response", lambda reply: hits.append(reply.url) if "/w/" in reply.url else None)
        await page.goto(f"{host.url}/1".replace("127.0.0.1", "www.test"))
        await until(lambda: are(hits, 2), "both have sent the first view")
        await page.evaluate("history.pushState({}, '', '/2')")
        await until(lambda: are(hits, 4), "both have sent the second view")
    assert await pageviews(service) == 2


async def are(hits: list[str], number: int) -> bool:
    return len(hits) >= number


async def test_two_sites_count_each(browser: Browser, service: Service) -> None:
    """A page may belong to two sites of a service."""
    await service.site("province")
    page, _ = await opened(browser)
    body = TAG + TAG.replace("portal", "province")
    async with host_page(service.url, body) as host:
        await page.goto(host.url)
        await until(lambda: has_counted(service), "the first site's view is counted")

        async def other() -> bool:
            counts = await service.api("POST", "/sites/province/reset?preview=1")
            return bool(counts["would_reset"]["total"]["pageviews"])

        await until(other, "the second site's view is counted")

"""A view arrives once, whatever stood in its way first: between the page and the service, or in the
page itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page

from tests.kit.pages.browser import TWO_LINES, host_page, listen, until
from tests.kit.pages.faulty import Faulty, faulty
from tests.kit.services.in_process import Service, run_service
from tests.kit.stores.server import Server

pytestmark = pytest.mark.asyncio(loop_scope="module")

HEALING = ["reset", "503", "html", "answer lost"]
REDIRECTS = ["301", "307", "308", "301 cors", "302 cors", "307 cors", "308 cors"]

WRAPPED = {
    "headers that are added": """
        const real = window.fetch;
        window.fetch = (url, init) => real(url, {...init, headers: {
          'X-Requested-With': 'XMLHttpRequest', traceparent: '00-1-1-01', Authorization: 'x y'}});
    """,
    "credentials that are added": """
        const real = window.fetch;
        window.fetch = (url, init) => real(url, {...init, credentials: 'include'});
    """,
    "a fetch that fails": "window.fetch = () => Promise.reject(new TypeError('blocked'));",
    "a fetch that throws": "window.fetch = () => { throw new Error('blocked'); };",
    "no fetch": "delete window.fetch; window.fetch = undefined;",
    "a fetch that hangs": "window.fetch = () => new Promise(() => {});",
    "keepalive that is used up": """
        const body = 'x'.repeat(65_000);
        const init = {method: 'POST', mode: 'no-cors', keepalive: true, body};
        for (const n of [1, 2]) fetch('%s/used-up', init).catch(() => {});
    """,
}


@pytest_asyncio.fixture(loop_scope="module")
async def service(valkey: Server) -> AsyncIterator[Service]:
    async with run_service(valkey.url) as running:
        yield running


async def pageviews(service: Service, site: str) -> int:
    counts = await service.api("POST", f"/sites/{site}/reset?preview=1")
    return int(counts["would_reset"]["total"]["pageviews"])


async def delivered(
    browser: Browser, service: Service, fault: str, site: str, *, heals: bool
) -> None:
    """A view is sent through a proxy with this fault, and counts once."""
    async with faulty(service.url) as proxy, faulty(service.url) as moved:
        proxy.fault, proxy.moved_to = fault, moved.url
        lines_of_site = TWO_LINES.replace("portal", site).replace("{counter}", proxy.url)
        async with host_page(f"{proxy.url} {moved.url}", lines_of_site) as host:
            await service.site(site, origins=[host.url])
            page = await (await browser.new_context()).new_page()
            lines = listen(page)
            await page.clock.install()
            await page.goto(host.url + "/tin")
            if heals:
                await until(lambda: said(lines), f"{fault}: the console says why")
                proxy.fault = ""

            async def is_done() -> bool:
                await page.clock.fast_forward(2_000)
                again = len(proxy.arrived) + len(moved.arrived) > 1
                return again and await pageviews(service, site) > 0

            await until(is_done, f"{fault}: the view is counted", 60)
            assert await pageviews(service, site) == 1
            assert not [line for line in lines if line.startswith("uncaught")]


async def said(lines: list[str]) -> bool:
    return any(line.startswith("info: visit-counter: ") for line in lines)


async def arrived(service: Service, site: str, page: Page) -> bool:
    """Time goes fast in the page meanwhile."""
    await page.clock.fast_forward(2_000)
    return await pageviews(service, site) > 0


async def test_a_view_arrives_once_the_fault_has_ended(browser: Browser, service: Service) -> None:
    tasks = [
        delivered(browser, service, fault, f"healing-{n}", heals=True)
        for n, fault in enumerate(HEALING)
    ]
    await asyncio.gather(*tasks)


async def test_a_view_follows_a_counter_that_has_moved(browser: Browser, service: Service) -> None:
    """Also where the redirect has no CORS header, takes away the method or the origin."""
    tasks = [
        delivered(browser, service, fault, f"moved-{n}", heals=False)
        for n, fault in enumerate(REDIRECTS)
    ]
    await asyncio.gather(*tasks)


async def test_a_view_arrives_though_a_proxy_hangs(browser: Browser, service: Service) -> None:
    """What was hanging arrives late, and is not counted again."""
    async with faulty(service.url) as proxy, host_page(proxy.url) as host:
        await service.site("portal", origins=[host.url])
        proxy.fault = "hang"
        page = await (await browser.new_context()).new_page()
        await page.clock.install()
        await page.goto(host.url)
        await until(lambda: has_arrived(proxy, 1), "it was sent")
        proxy.fault = ""
        await page.clock.fast_forward(21_000)
        await until(lambda: arrived(service, "portal", page), "the view is counted")
        proxy.ended.set()
        await until(lambda: has_arrived(proxy, 2), "it was sent again")
        assert await pageviews(service, "portal") == 1


async def has_arrived(proxy: Faulty, hits: int) -> bool:
    return len(proxy.arrived) >= hits


async def test_nothing_in_the_page_keeps_a_view(browser: Browser, service: Service) -> None:
    tasks = [
        in_page(browser, service, script, f"page-{n}") for n, script in enumerate(WRAPPED.values())
    ]
    found = await asyncio.gather(*tasks)
    assert dict(zip(WRAPPED, found, strict=True)) == dict.fromkeys(WRAPPED, 1)


async def in_page(browser: Browser, service: Service, script: str, site: str) -> int:
    """How often a view counts in a page with such a script."""
    body = TWO_LINES.replace("portal", site)
    async with faulty(service.url) as proxy, host_page(proxy.url, body) as host:
        await service.site(site, origins=[host.url])
        page = await (await browser.new_context()).new_page()
        await page.clock.install()
        await page.add_init_script(script.replace("%s", proxy.url))
        await page.goto(host.url)
        await until(lambda: arrived(service, site, page), script, 60)
        return await pageviews(service, site)


async def test_a_view_of_a_page_of_one_piece_is_not_lost_to_the_next(
    browser: Browser, service: Service
) -> None:
    """Each goes on by itself, and counts for its own path."""
    async with faulty(service.url) as proxy, host_page(proxy.url) as host:
        await service.site("pieces", origins=[host.url])
        host.body = TWO_LINES.replace("portal", "pieces")
        proxy.fault = "reset"
        page = await (await browser.new_context()).new_page()
        await page.clock.install()
        await page.goto(host.url + "/a")
        await until(lambda: has_arrived(proxy, 1), "the first was sent")
        await page.evaluate("history.pushState({}, '', '/b')")
        await until(lambda: has_arrived(proxy, 2), "the second was sent")
        proxy.fault = ""
        await until(lambda: has_both(service, page), "both are counted", 60)
        assert await pageviews(service, "pieces") == 2


async def has_both(service: Service, page: Page) -> bool:
    await page.clock.fast_forward(2_000)
    found = []
    for path in ("/a", "/b"):
        url = f"{service.url}/w/pieces?path={path}"
        async with service.client.get(url) as answer:
            found.append((await answer.json())["page"]["pageviews"])
    return found == [1, 1]

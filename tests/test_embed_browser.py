"""What a visitor sees of the real service: a page on another origin, under a strict policy, with
the two lines in it."""

from __future__ import annotations

import time

import pytest
from playwright.async_api import Browser, Page, expect

from tests.kit.pages.browser import TWO_LINES, chromium, host_page, listen, rows, until
from tests.kit.pages.embedding import clean, portal, shows
from tests.kit.services.in_process import run_service
from tests.kit.stores.server import Server

pytestmark = pytest.mark.asyncio(loop_scope="module")


TWO_BLOCKS = f'{TWO_LINES}<visit-counter metric="pageviews"></visit-counter>'


def block(online: int, number: int) -> list[str]:
    return [
        f"Đang online: {online}",
        f"Hôm nay: {number}",
        f"Trong tuần: {number}",
        f"Tất cả: {number}",
    ]


async def test_numbers_go_up_with_what_people_do(browser: Browser, valkey: Server) -> None:
    """A view, a reload, a second visitor: each raises what it should, and the console is clean."""
    async with portal(valkey, TWO_BLOCKS) as (service, host), chromium("km-KH") as second:
        page, other = await browser.new_page(), await second.new_page()
        with clean(page, host), clean(other, host):
            await page.goto(f"{host.url}/")
            await shows(page, block(1, 1) * 2)
            await page.reload()
            await shows(page, block(1, 1) + block(1, 2))
            await other.goto(f"{host.url}/tin-tuc")
            await shows(other, block(2, 2) + block(2, 3))
        counts = await service.counts()
        assert counts["online"] == 2
        assert counts["today"] == {"pageviews": 3, "visits": 2, "visitors": 2}


async def test_leaving_lowers_online(browser: Browser, valkey: Server) -> None:
    """Who leaves the site is online no more; a bye counts from 2 s after the view."""
    async with portal(valkey) as (service, host), chromium("en-US") as second:
        page, other = await browser.new_page(), await second.new_page()
        await page.goto(host.url)
        await shows(page, block(1, 1))
        await other.goto(host.url)
        await shows(other, block(2, 2))
        await other.wait_for_timeout(2100)
        await other.goto("about:blank")

        async def alone() -> bool:
            return bool((await service.counts())["online"] == 1)

        await until(alone, "one visitor online")
        assert (await service.counts())["today"]["visits"] == 2


async def test_who_is_cut_off_stays_until_the_window_ends(browser: Browser, valkey: Server) -> None:
    """No bye comes of them, so they are online a while; who is still there does not fall with them,
    and sees it."""
    lines = TWO_LINES.replace("<visit-counter", '<visit-counter live="sse"')
    async with portal(valkey, lines) as (service, host), chromium("en-US") as second:
        await service.api("PATCH", "/sites/portal", {"online_window": 10})
        page, other = await browser.new_page(), await second.new_page()
        await page.goto(host.url)
        await other.goto(host.url)
        online = page.locator("visit-counter [part=row]").first
        await expect(online).to_have_text("Đang online: 2")
        await other.context.set_offline(True)
        await other.close()
        cut_off_s = time.monotonic()
        await expect(online).to_have_text("Đang online: 1", timeout=20_000)
        assert 3 < time.monotonic() - cut_off_s < 15
        assert (await service.counts())["online"] == 1


async def test_reset_and_undo_reach_the_block(browser: Browser, valkey: Server) -> None:
    """A reset brings every number to 0, its undo brings them back, and the block shows both."""
    only_shown = TWO_LINES.replace("data-site", 'data-count="off" data-site')
    async with portal(valkey) as (service, host):
        page = await browser.new_page()
        await page.goto(host.url)
        await shows(page, block(1, 1))
        host.body = only_shown
        reset = await service.api("POST", "/sites/portal/reset", {"confirm": "portal"})
        await _shown_after_reload(page, block(0, 0))
        await service.api("POST", f"/sites/portal/undo/{reset['undo']}")
        await _shown_after_reload(page, block(1, 1))


async def _shown_after_reload(page: Page, expected: list[str]) -> None:
    """The counts may be a second old, so the page is loaded again until they are as expected."""

    async def reloaded() -> bool:
        await page.reload()
        await expect(page.locator("visit-counter [part=value]").last).not_to_be_empty()
        return await rows(page) == expected

    await until(reloaded, f"a page that shows {expected}")


async def test_seeded_total_reads_as_on_the_portal(browser: Browser, valkey: Server) -> None:
    """An older counter's numbers stand in the block, digit by digit as the portal writes them."""
    body = f'{TWO_LINES}<visit-counter show="total week today"></visit-counter>'
    async with portal(valkey, body) as (service, host):
        add = {"total": 1891450, "week": 20656, "today": 1885}
        await service.api("POST", "/sites/portal/seed", {"metric": "visits", "add": add})
        page = await browser.new_page()
        await page.goto(host.url)
        today, week, total = "Hôm nay: 1886", "Trong tuần: 20,657", "Tất cả: 1,891,451"
        await shows(page, ["Đang online: 1", today, week, total, total, week, today])


async def test_base_path_and_unknown_site(browser: Browser, valkey: Server) -> None:
    """Under a base path all works alike; a site that does not exist is said in the console."""
    lost = TWO_LINES.replace("{counter}", "{counter}/thongke").replace("portal", "nowhere")
    async with run_service(valkey.url, base_path="/thongke") as service:
        origin = service.url.removesuffix("/thongke")
        async with host_page(origin, lost) as host:
            page = await browser.new_page()
            lines = listen(page)
            await page.goto(host.url)
            await expect(page.locator("visit-counter [part=note]")).to_be_visible()
            assert 'There is no site "nowhere"' in lines[-1]
            await service.site("portal", origins=[host.url])
            host.body = lost.replace("nowhere", "portal")
            await page.reload()
            await shows(page, block(1, 1))


async def test_foreign_page_is_not_counted(browser: Browser, valkey: Server) -> None:
    """A page that the site does not list sees the numbers, adds none, and learns why."""
    async with portal(valkey) as (service, host):
        await service.api("PATCH", "/sites/portal", {"origins": ["https://www.example.vn"]})
        page = await browser.new_page()
        lines = listen(page)
        await page.goto(host.url)
        await shows(page, block(0, 0))
        assert lines == ["info: visit-counter: not counted: origin"]


async def test_site_that_shows_nothing_still_counts(browser: Browser, valkey: Server) -> None:
    """A site that is not public counts the view, and the block has no numbers to show."""
    async with portal(valkey) as (service, host):
        await service.api("PATCH", "/sites/portal", {"public": False})
        page = await browser.new_page()
        with clean(page, host):
            await page.goto(host.url)
            await expect(page.locator("visit-counter [part=note]")).to_be_visible()
        assert (await service.counts())["total"]["pageviews"] == 1


async def test_demo_page(browser: Browser, valkey: Server) -> None:
    """The demo page counts its own view, and shows the address to copy."""
    async with run_service(valkey.url, base_path="/thongke") as service:
        page = await browser.new_page()
        lines = listen(page)
        await page.goto(f"{service.url}/")
        assert page.url == f"{service.url}/demo"
        await expect(page.locator(".portal-foot [part=row]").first).to_have_text("Đang online: 1")
        await expect(page.locator("pre")).to_contain_text(f'src="{service.url}/embed.js"')
        chart = page.get_by_role("img", name="30 ngày qua")
        assert await chart.evaluate("chart => chart.decode().then(() => chart.naturalWidth)") > 100
        await page.locator("summary").click()
        await expect(page.locator("details p").first).to_contain_text("múi giờ UTC")
        for link in await page.locator("a").all():
            answer = await page.request.get(f"{service.url}/{await link.get_attribute('href')}")
            assert answer.ok, answer.url
        assert lines == []


async def test_page_back_from_the_real_cache(valkey: Server) -> None:
    """The back button brings a page back that the browser kept, and that is another view."""
    async with portal(valkey) as (service, host), chromium(whole=True) as browser:
        page = await browser.new_page()
        await page.goto(f"{host.url}/a")
        await shows(page, block(1, 1))
        await page.evaluate("document.body.dataset.kept = 'yes'")
        await page.goto(f"{host.url}/b")
        await shows(page, block(1, 1))
        await page.evaluate("setTimeout(() => history.back())")

        async def viewed() -> bool:
            return bool((await service.counts())["today"]["pageviews"] == 3)

        await until(viewed, "three views")
        assert await page.evaluate("document.body.dataset.kept") == "yes"


async def test_noscript_counts_without_scripts_only(browser: Browser, valkey: Server) -> None:
    """The picture counts where no script runs, and not a second time where one does."""
    dot = "<noscript><img src='{counter}/w/portal/dot.gif?p=/x' alt=''></noscript>"
    async with portal(valkey, TWO_LINES + dot) as (service, host):
        for scripts, views in ((True, 1), (False, 2)):
            context = await browser.new_context(java_script_enabled=scripts)
            page = await context.new_page()
            await page.goto(host.url, wait_until="networkidle")
            assert (await service.counts())["today"]["pageviews"] == views


async def test_own_page_is_shown_with_this_view(browser: Browser, valkey: Server) -> None:
    """A row shows the views of the page that it is on, this one included, also after a walk."""
    row = "<visit-counter show='page'></visit-counter>"
    async with portal(valkey, TWO_LINES.split("<visit")[0] + row) as (_, host):
        page = await browser.new_page()
        await page.goto(f"{host.url}/a")
        await expect(page.locator("[part=row]")).to_have_text("Lượt xem trang: 1")
        await page.evaluate("history.pushState(0, '', '/b')")
        await page.wait_for_timeout(1100)  # a page's views may be a second old
        await page.evaluate("history.pushState(0, '', '/a')")
        await expect(page.locator("[part=row]")).to_have_text("Lượt xem trang: 2")

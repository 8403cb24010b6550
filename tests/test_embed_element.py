"""What the element shows: by its attributes, in each layout and language, and in other hands."""

from __future__ import annotations

import pytest
from playwright.async_api import Browser, expect

from tests.browser import TWO_LINES, rows
from tests.embedding import Scripted, embedded

pytestmark = pytest.mark.asyncio(loop_scope="module")

BLOCKS: dict[str, tuple[str, list[str]]] = {
    "default": (
        "",
        ["Đang online: 81", "Hôm nay: 1886", "Trong tuần: 20,657", "Tất cả: 1,891,451"],
    ),
    "vi": (
        'number-format="vi"',
        ["Đang online: 81", "Hôm nay: 1.886", "Trong tuần: 20.657", "Tất cả: 1.891.451"],
    ),
    "en": (
        'number-format="en" lang="en"',
        ["Online now: 81", "Today: 1,886", "This week: 20,657", "All time: 1,891,451"],
    ),
    "plain": ('number-format="plain" show="total"', ["Tất cả: 1891451"]),
    "region": ('lang="en-GB" show="today"', ["Today: 1886"]),
    "other language": ('lang="fr" show="today"', ["Today: 1886"]),
    "metric": ('metric="pageviews" show="total online"', ["Tất cả: 3,782,902", "Đang online: 81"]),
    "no number": ('show="last_month"', ["Tháng trước: –"]),
    "nonsense": (
        'number-format="constructor" metric="__proto__" lang="toString" show="valueOf &lt;b>"'
        ' site="../x"',
        ["Online now: 81", "Today: 1886", "This week: 20,657", "All time: 1,891,451"],
    ),
}


async def test_attributes_choose_what_is_shown(browser: Browser, scripted: Scripted) -> None:
    """Language, format, metric and rows are chosen by attributes; bad values are the default."""
    blocks = "".join(
        f"<visit-counter {attributes}></visit-counter>" for attributes, _ in BLOCKS.values()
    )
    page = await browser.new_page()
    async with embedded(scripted, TWO_LINES + blocks) as host:
        await page.goto(host.url)
        await expect(page.locator("visit-counter").last).to_contain_text("1,891,451")
        shown = [await rows(block) for block in await page.locator("visit-counter").all()]
    assert shown[1:] == [expected for _, expected in BLOCKS.values()]
    assert scripted.asked[0] == "POST portal"
    assert "GET portal" not in scripted.asked


@pytest.mark.parametrize("status", [200, 503], ids=["numbers", "no numbers"])
async def test_fallback_stands_until_there_are_numbers(
    browser: Browser, scripted: Scripted, status: int
) -> None:
    """What the page put into the element is shown while there is nothing better to show."""
    scripted.status = status
    scripted.open.clear()
    fallback = "<visit-counter><a href='/thong-ke'>Xem thống kê</a></visit-counter>"
    page = await browser.new_page()
    async with embedded(scripted, TWO_LINES.split("<visit")[0] + fallback) as host:
        await page.goto(host.url)
        own, row = page.locator("visit-counter a"), page.locator("[part=row]").first
        await expect(own).to_be_visible()
        await expect(row).to_be_hidden()
        scripted.open.set()
        await expect(row).to_be_visible(visible=status == 200)
        await expect(own).to_be_visible(visible=status != 200)

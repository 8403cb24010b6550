"""A service that is away, slow or talks nonsense: the page stays whole, and shows nothing wrong."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.async_api import Browser, expect

from tests.browser import listen, rows
from tests.embedding import NO_NUMBERS, Scripted, clean, embedded

pytestmark = pytest.mark.asyncio(loop_scope="module")

TROUBLES: dict[str, dict[str, Any]] = {
    "connection cut": {"status": 0},
    "error": {"status": 503, "text": '{"detail":"the store is away"}'},
    "unknown site": {"status": 404, "text": '{"detail":"There is no site portal here"}'},
    "garbage": {"text": "<html>proxy login</html>"},
    "null": {"text": "null"},
    "wrong types": {
        "text": '{"counted":false,"reason":"bot","online":"81","today":[],"total":{"visits":-1}}'
    },
    "absurd numbers": {
        "text": '{"counted":false,"reason":"bot","online":1e300,"today":{"visits":0.5},"week":{}}'
    },
}


@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES)
async def test_trouble_shows_dashes_never_zero(
    browser: Browser, scripted: Scripted, trouble: dict[str, Any]
) -> None:
    """Whatever the service answers, the rows say "–" and the host page has no error."""
    for name, value in trouble.items():
        setattr(scripted, name, value)
    page = await browser.new_page()
    lines = listen(page)
    async with embedded(scripted) as host:
        await page.goto(host.url)
        await expect(page.locator("visit-counter [part=value]").last).to_have_text("–")
        assert await rows(page) == NO_NUMBERS
        await expect(page.locator("h1")).to_be_visible()
    assert not [line for line in lines if line.startswith("uncaught: ")]
    assert len([line for line in lines if line.startswith("info: visit-counter: ")]) == 1


async def test_silent_service_is_not_waited_for(browser: Browser, scripted: Scripted) -> None:
    """After 2 s without an answer a sentence says so, in the same room; a late answer counts."""
    scripted.open.clear()
    page = await browser.new_page()
    async with embedded(scripted) as host:
        with clean(page, host):
            await page.goto(host.url)
            block = page.locator("visit-counter")
            await expect(block.locator("[part=list]")).to_be_hidden()
            heights = [await block.bounding_box()]
            await expect(block.locator("[part=list]")).to_be_visible()
            await expect(block.locator("[part=note]")).to_have_text("Chưa lấy được số liệu.")
            assert await rows(page) == NO_NUMBERS
            heights.append(await block.bounding_box())
            scripted.open.set()
            await expect(block).to_contain_text("Tất cả: 1,891,451")
            heights.append(await block.bounding_box())
    assert heights[0] is not None
    assert heights == [heights[0]] * 3

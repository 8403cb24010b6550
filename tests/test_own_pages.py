"""The counter's own pages for everybody: the demo, the generator, and the frame for others."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from tests.kit.pages.browser import SHIFTS, chromium
from tests.kit.services.in_process import Service, run_service
from tests.kit.stores.server import Server
from tests.kit.tools import need_script

pytestmark = pytest.mark.asyncio(loop_scope="module")

FRAME = "/w/demo/frame?theme=auto&how=yes&refresh=60"
# Where they are, and what is there when all is.
PAGES = {
    "demo": ("/demo", "visit-counter [part=value] >> nth=-1"),
    "generator": ("/embed?site=demo&page=http://a.vn", "#code >> text=visit-counter"),
    "frame": (FRAME, "li >> nth=-1"),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browsers() -> AsyncIterator[dict[str, Browser]]:
    """By the language of who uses them."""
    async with chromium("vi") as vietnamese, chromium("en") as english:
        yield {"vi": vietnamese, "en": english}


@pytest_asyncio.fixture(loop_scope="module")
async def service(valkey: Server) -> AsyncIterator[Service]:
    async with run_service(valkey.url) as running:
        yield running


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("lang", ["vi", "en"])
@pytest.mark.parametrize("name", ["demo", "frame"])
async def test_axe_finds_nothing(
    browsers: dict[str, Browser], service: Service, name: str, lang: str, scheme: str
) -> None:
    """In either colours, for a visitor of either language, with how we count opened."""
    axe = need_script("axe-core/axe.min.js").read_text()
    path, ready = PAGES[name]
    context = await browsers[lang].new_context(color_scheme=scheme, bypass_csp=True)  # type: ignore[arg-type]
    page = await context.new_page()
    await page.goto(f"{service.url}{path}&lang={lang}" if "?" in path else f"{service.url}{path}")
    await expect(page.locator(ready)).not_to_be_empty()
    await page.locator("summary").click()
    await expect(page.locator("details p").last).to_be_visible()
    found = await page.evaluate(f"(() => {{ {axe} }})() || axe.run()")
    assert [(each["id"], each["nodes"][0]["html"]) for each in found["violations"]] == []
    await context.close()


@pytest.mark.parametrize("name", PAGES)
async def test_nothing_jumps(browsers: dict[str, Browser], service: Service, name: str) -> None:
    """What is there first stays where it is while numbers, code and preview come."""
    path, ready = PAGES[name]
    page = await browsers["vi"].new_page()
    await page.add_init_script(SHIFTS)
    await page.goto(f"{service.url}{path}")
    await expect(page.locator(ready)).not_to_be_empty()
    await page.wait_for_load_state("networkidle")
    await page.wait_for_timeout(100)  # an observer is told after the frame is painted
    assert await page.evaluate("window.moved") == 0
    await page.close()

"""Pictures in Chromium: text stays inside, frames stand where they may, the page stays as it is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio
from aiohttp import web
from playwright.async_api import Browser, expect

from tests.kit.pages.browser import chromium, listen, listening, no_content, until
from tests.kit.pages.panels import DRAWN, framed, panel, reading
from tests.kit.services.in_process import run_service
from tests.kit.stores.server import Server
from visit_counter.web.pictures.frame import Frame
from visit_counter.web.pictures.query import Query
from visit_counter.web.words.languages import LANGUAGES

pytestmark = pytest.mark.asyncio(loop_scope="module")

BLOCK = ["Đang online: 0", "Hôm nay: 0", "Trong tuần: 0", "Tất cả: 0"]

FONTS = ["DejaVu Sans", "Noto Sans", "Liberation Sans"]

# The room that a page takes, and how many lines each row has.
ROOM = """() => {
  const { scrollWidth, scrollHeight } = document.documentElement;
  const rows = [...document.querySelectorAll('li')];
  return [scrollWidth, scrollHeight, rows.map((row) => Math.round(row.clientHeight / 22.4))];
}"""

# Of every text of every picture: how far it stands out of its picture.
STANDING_OUT = """() => [...document.querySelectorAll('svg')].flatMap((svg) => {
  const room = svg.getBoundingClientRect();
  return [...svg.querySelectorAll('text')].filter((text) => {
    const box = text.getBoundingClientRect();
    return text.textContent && (box.left < room.left || box.right > room.right || !box.width);
  }).map((text) => text.textContent);
})"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as chrome:
        yield chrome


@pytest.mark.parametrize("font", FONTS)
async def test_no_text_stands_out(browser: Browser, font: str) -> None:
    """In every language, with numbers of today and of dreams, each text has room in its picture."""
    page = await browser.new_page()
    asked = [
        {"lang": lang, "rows": "online,today,last_week,last_month,total", "title": title}
        for lang in LANGUAGES
        for title in ("", "WWWW mmmm @@@@ %%%% ĐẶƯỜNG")
    ]
    drawn = [
        DRAWN[name](panel(given, read), Query(given))
        for name in ("block", "badge", "button")
        for given in asked
        for read in (reading(), reading(2**50, 2**50, 2**50, 2**53), None)
    ]
    await page.set_content(f"<style>svg{{font-family:'{font}'}}</style>{''.join(drawn)}")
    assert await page.evaluate(STANDING_OUT) == []


@pytest.mark.parametrize("font", FONTS)
async def test_a_frame_needs_no_more_room_than_it_says(browser: Browser, font: str) -> None:
    """In the size that oEmbed tells nothing wraps and nothing scrolls, in no language."""
    page = await browser.new_page()
    for lang in LANGUAGES:
        for more in ({}, {"refresh": "60", "how": "yes", "rows": "today", "title": ""}):
            asked = {"lang": lang, **more}
            frame = Frame(panel(asked, reading()), Query(asked))
            await page.set_viewport_size({"width": frame.width, "height": frame.height})
            await page.set_content(framed(asked, reading()))
            await page.add_style_tag(content=f"body{{font-family:'{font}'}}")
            wide, high, lines = await page.evaluate(ROOM)
            assert (wide <= frame.width, high <= frame.height) == (True, True), lang
            assert lines == [1] * len(lines), lang
    await page.close()


@asynccontextmanager
async def page_with(counter: str, body: str) -> AsyncIterator[str]:
    """The address of a website that lets in the counter's images and frames, and nothing else."""

    async def show(request: web.Request) -> web.Response:
        policy = f"default-src 'none'; img-src {counter}; frame-src {counter}"
        headers = {"Content-Security-Policy": policy}
        html = f"<!doctype html><title>host</title>{body}"
        return web.Response(text=html, content_type="text/html", headers=headers)

    app = web.Application()
    app.router.add_get("/", show)
    app.router.add_get("/favicon.ico", no_content)
    async with listening(app) as url:
        yield url


async def test_a_page_without_scripts_shows_all(browser: Browser, valkey: Server) -> None:
    """Images and a frame; nobody is counted, and the browser complains of nothing."""
    context = await browser.new_context(java_script_enabled=False)
    page = await context.new_page()
    said = listen(page)
    async with run_service(valkey.url) as service:
        shown = f"{service.url}/w/portal"
        body = "".join(f'<img src="{shown}/{name}.svg">' for name in DRAWN)
        body += f'<iframe src="{shown}/frame?lang=vi&how=yes"></iframe>'
        async with page_with(service.url, body) as host:
            await service.site("portal", origins=[host])
            await page.goto(host)
            frame = page.frame_locator("iframe")
            await expect(frame.locator("li")).to_have_text(BLOCK)
            await expect(frame.locator("h1")).to_have_css("font-size", "15px")
            for image in await page.locator("img").all():
                box = await image.bounding_box()
                assert box is not None
                assert box["height"] >= 20  # a broken one has 16
        counts = await service.counts()
    await context.close()
    assert counts["total"]["pageviews"] == 0
    assert said == []


async def test_a_frame_on_another_website_stays_empty(browser: Browser, valkey: Server) -> None:
    """Only the site's own pages may frame its numbers."""
    page = await browser.new_page()
    said = listen(page)
    async with run_service(valkey.url) as service:
        await service.site("portal", origins=["https://www.travinh.gov.vn"])
        body = f'<iframe src="{service.url}/w/portal/frame"></iframe>'
        async with page_with(service.url, body) as host:
            await page.goto(host)
            await until(lambda: _any(said), "the browser's complaint")
            await expect(page.frame_locator("iframe").locator("li")).to_have_count(0)
    await page.close()
    assert "frame-ancestors" in said[0]


async def test_a_frame_shows_what_is_new(
    browser: Browser, valkey: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is loaded again and again, also while nothing changes, until it is paused."""
    monkeypatch.setattr("visit_counter.web.pictures.frame.OFTEN_S", 1)
    page = await browser.new_page()
    loads: list[str] = []
    page.on("load", lambda loaded: loads.append(loaded.url))
    async with run_service(valkey.url) as service:
        await service.site("portal")
        await page.goto(f"{service.url}/w/portal/frame?refresh=1&rows=today")
        await until(lambda: _any(loads[2:]), "two more loads")
        await service.hit(p="/")
        await expect(page.locator("li")).to_have_text("Today: 1", timeout=10_000)
        await page.get_by_role("link").click()
        await expect(page.get_by_role("link")).to_have_text("Resume updates")
        paused = await page.reload()
    await page.close()
    assert paused is not None
    assert "refresh" not in paused.headers


async def test_a_frame_is_paused_and_goes_on(browser: Browser, valkey: Server) -> None:
    """By its own link, from the keyboard, without a script."""
    context = await browser.new_context(java_script_enabled=False)
    page = await context.new_page()
    async with run_service(valkey.url) as service:
        await service.site("portal")
        await page.goto(f"{service.url}/w/portal/frame?refresh=60&theme=dark")
        for link, query in (("Pause updates", "paused=yes"), ("Resume updates", "paused=no")):
            await expect(page.get_by_role("link")).to_have_text(link)
            await page.keyboard.press("Tab")
            await page.keyboard.press("Enter")
            await page.wait_for_url(f"**/frame?refresh=60&theme=dark&{query}")
    await context.close()


async def _any(said: list[str]) -> bool:
    return bool(said)

"""A service that is away, slow or talks nonsense: the page stays whole, and shows nothing wrong."""

from __future__ import annotations

import time
from typing import Any

import pytest
from playwright.async_api import Browser, expect

from tests.kit.pages.browser import TWO_LINES, listen, rows, until
from tests.kit.pages.embedding import NO_NUMBERS, Scripted, clean, embedded

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


UNCOUNTED = TWO_LINES.replace("data-site", 'data-count="off" data-site')
STREAMED = UNCOUNTED.replace("<visit-counter>", '<visit-counter live="sse">')
ASKING = {"POST": TWO_LINES, "GET": UNCOUNTED}


@pytest.mark.parametrize("body", ASKING.values(), ids=ASKING)
@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES)
async def test_trouble_shows_dashes_never_zero(
    browser: Browser, scripted: Scripted, trouble: dict[str, Any], body: str
) -> None:
    """Whatever the service answers, the rows say "–" and the host page has no error."""
    for name, value in trouble.items():
        setattr(scripted, name, value)
    page = await browser.new_page()
    lines = listen(page)
    async with embedded(scripted, body) as host:
        await page.goto(host.url)
        await expect(page.locator("visit-counter [part=row]").last).to_be_visible()
        assert await rows(page) == NO_NUMBERS
        await expect(page.locator("h1")).to_be_visible()
    assert not [line for line in lines if line.startswith("uncaught: ")]
    said = [line for line in lines if line.startswith("info: visit-counter: ")]
    # A view that was dropped says why; whoever only looks is told nothing of it.
    tells = body == TWO_LINES or '"reason"' not in scripted.text
    assert len([line for line in said if "data-count" not in line]) == tells


STREAMS: dict[str, list[bytes]] = {
    "says nothing": [],
    "garbage": [b"data: <html>proxy login</html>\n\n"],
    "null": [b"data: null\n\n"],
    "wrong types": [b'data: {"online":"81","today":[],"as_of":null}\n\n'],
    "cut": [b"data: {", b""],
    "no stream": [b""],
}


@pytest.mark.parametrize("events", STREAMS.values(), ids=STREAMS)
async def test_trouble_of_a_stream(
    browser: Browser, scripted: Scripted, events: list[bytes]
) -> None:
    """A stream that hangs, breaks off or talks nonsense shows "–", until it says numbers."""
    scripted.status = 503
    page = await browser.new_page()
    lines = listen(page)
    async with embedded(scripted, STREAMED) as host:
        for each in events:
            scripted.events.put_nowait(each)
        await page.goto(host.url)
        await expect(page.locator("visit-counter [part=note]")).to_be_visible()
        assert await rows(page) == NO_NUMBERS
        scripted.events.put_nowait(f"data: {scripted.text}\n\n".encode())
        await expect(page.locator("visit-counter")).to_contain_text("1,891,451", timeout=15_000)
        scripted.events.put_nowait(b"")
    assert not [line for line in lines if line.startswith("uncaught: ")]
    said = [line for line in lines if line.startswith("info: visit-counter: ")]
    assert len(said) <= 3  # not counted, not answered, not understood: each once


@pytest.mark.parametrize("status", [404, 500, 503])
async def test_stream_that_is_refused(browser: Browser, scripted: Scripted, status: int) -> None:
    """Numbers come by polls instead; and there are none while those fail too."""
    scripted.live_status = scripted.status = status
    page = await browser.new_page()
    lines = listen(page)
    async with embedded(scripted, STREAMED) as host:
        await page.goto(host.url)
        await expect(page.locator("visit-counter [part=note]")).to_be_visible()
        assert await rows(page) == NO_NUMBERS
        scripted.status = 200
        await expect(page.locator("visit-counter")).to_contain_text("1,891,451", timeout=15_000)
    assert not [line for line in lines if line.startswith("uncaught: ")]
    assert scripted.asked.count("LIVE portal") == 1


@pytest.mark.parametrize("body", ASKING.values(), ids=ASKING)
async def test_silent_service_is_not_waited_for(
    browser: Browser, scripted: Scripted, body: str
) -> None:
    """After 2 s without an answer a sentence says so, in the same room; a late answer counts."""
    scripted.open.clear()
    page = await browser.new_page()
    async with embedded(scripted, body) as host:
        with clean(page, host, "info: visit-counter: not counted: data-count"):
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


async def test_service_that_hangs_behind_its_numbers(browser: Browser, scripted: Scripted) -> None:
    """A poll that is not answered makes no error: after 10 s the old numbers are dated all the
    same, and when it is answered they are new."""
    page = await browser.new_page()
    await page.clock.install()
    body = TWO_LINES.replace("<visit-counter>", "<visit-counter live=poll>")
    async with embedded(scripted, body) as host:
        await page.goto(host.url)
        block = page.locator("visit-counter")
        await expect(block).to_contain_text("1,891,451")
        scripted.open.clear()
        await page.clock.run_for(37_000)  # a poll is on its way by then

        async def polled() -> bool:
            return "GET portal" in scripted.asked

        await until(polled, "a poll")
        note = block.locator("[part=note]")
        await page.clock.run_for(12_000)
        await expect(note).to_contain_text("Số liệu lúc ")
        await expect(block).to_contain_text("1,891,451")
        scripted.say(online=82, as_of=int(time.time()) + 60)
        scripted.open.set()
        await expect(block).to_contain_text("Đang online: 82")
        await expect(note).to_have_count(0)


async def test_error_that_lasts(browser: Browser, scripted: Scripted) -> None:
    """A view that is answered 500 shows dashes; a poll that is keeps the numbers, with their
    instant."""
    page = await browser.new_page()
    await page.clock.install()
    body = TWO_LINES.replace("<visit-counter>", "<visit-counter live=poll>")
    scripted.status = 500
    async with embedded(scripted, body) as host:
        await page.goto(host.url)
        block = page.locator("visit-counter")
        await expect(block.locator("[part=note]")).to_have_text("Chưa lấy được số liệu.")
        scripted.status = 200
        await page.clock.run_for(7_000)
        await expect(block).to_contain_text("1,891,451")
        scripted.status = 500
        await page.clock.run_for(37_000)
        await expect(block.locator("[part=note]")).to_contain_text("Số liệu lúc ")
        await expect(block).to_contain_text("1,891,451")


@pytest.mark.parametrize(
    "attributes", ["layout=inline", "layout=badge", "layout=digits", "label-title"]
)
async def test_a_sentence_stands_where_no_title_does(
    browser: Browser, scripted: Scripted, attributes: str
) -> None:
    """Also a block of one line says that there are no numbers, for all to see and not by a tip."""
    scripted.status = 503
    page = await browser.new_page()
    body = TWO_LINES.replace("<visit-counter", f"<visit-counter {attributes}")
    async with embedded(scripted, body) as host:
        await page.goto(host.url)
        note = page.locator("visit-counter [part=note]")
        await expect(note).to_have_text("Chưa lấy được số liệu.")
        assert await note.evaluate("node => getComputedStyle(node).clipPath") == "none"
        room = await note.bounding_box()
    assert room
    assert room["width"] > 100
    assert room["height"] > 10

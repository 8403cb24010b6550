"""The element for everybody: keyboard, screen readers, no jumps, and a button for what moves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from tests.kit.pages.browser import SHIFTS, TWO_LINES, rows, until
from tests.kit.pages.embedding import HOW, NO_NUMBERS, PORTAL, Scripted, embedded, equal
from tests.kit.services.in_process import run_service
from tests.kit.stores.server import Server
from tests.kit.tools import need_script

pytestmark = pytest.mark.asyncio(loop_scope="module")

LAYOUTS = ("list", "inline", "table", "digits", "badge", "spark")
ROOM = "visit-counter:not(:defined) { display: block; min-block-size: %sem }"
READY = "visit-counter [part=value]"


def element(layout: str, more: str = "") -> str:
    return f'<visit-counter layout="{layout}" {more}></visit-counter>'


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("lang", ["vi", "en", "ar", "km"])
async def test_axe_finds_nothing(
    browser: Browser, scripted: Scripted, lang: str, scheme: str, tmp_path: Path
) -> None:
    """Every layout, with a pause button and how we count, with and without a theme; for eyes there
    is a picture of them in the directory of the test."""
    axe = need_script("axe-core/axe.min.js")
    page = await browser.new_page(color_scheme=scheme)  # type: ignore[arg-type]
    more = ('live="poll" how', 'theme="auto"', 'site="nowhere" theme="dark"')
    blocks = "".join(element(layout, each) for layout in LAYOUTS for each in more)
    body = TWO_LINES.replace("embed.js", f"embed.js?lang={lang}") + f"<main>{blocks}</main>"
    async with embedded(scripted, body) as host:
        host.lang = lang
        host.css = "html { color-scheme: light dark }"
        await page.goto(host.url)
        await expect(page.locator(READY).first).not_to_be_empty()
        await page.screenshot(path=tmp_path / f"{lang}-{scheme}.png", full_page=True)
        await page.evaluate(axe.read_text())
        found = await page.evaluate("axe.run('main')")
    assert [(each["id"], each["nodes"][0]["html"]) for each in found["violations"]] == []


# All that can be used, and what Tab has reached, also within the element.
USABLE = """() => {
  const all = (root) => [...root.querySelectorAll('*')].flatMap((each) =>
    [each, ...(each.shadowRoot ? all(each.shadowRoot) : [])]);
  const seen = all(document).filter((each) => each.checkVisibility());
  return seen.filter((each) => each.matches('a, button, summary')).map((each) => each.textContent);
}"""
FOCUSED = """() => {
  let at = document.activeElement;
  while (at.shadowRoot) at = at.shadowRoot.activeElement;
  return at.textContent;
}"""


async def test_keyboard_reaches_all_of_the_demo_page(browser: Browser, valkey: Server) -> None:
    """Tab goes to each link, button and summary, in the order in which they stand."""
    async with run_service(valkey.url) as service:
        page = await browser.new_page()
        await page.goto(f"{service.url}/demo")
        await expect(page.locator(READY).last).not_to_be_empty()
        usable = await page.evaluate(USABLE)
        reached = []
        for _ in usable:
            await page.keyboard.press("Tab")
            reached.append(await page.evaluate(FOCUSED))
    assert len(usable) >= 6
    assert reached == usable


INK = """() => {
  const node = document.body.appendChild(document.createElement('p'));
  node.style.color = 'CanvasText';
  return getComputedStyle(node).color;
}"""
PAINTED = """node => {
  const { color, backgroundColor, backgroundImage } = getComputedStyle(node);
  return [color, color === backgroundColor, backgroundImage];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_forced_colours(browser: Browser, scripted: Scripted, scheme: str) -> None:
    """Where the system chooses the colours, ours give way, and all stands out from its ground."""
    page = await browser.new_page(forced_colors="active", color_scheme=scheme)  # type: ignore[arg-type]
    blocks = "".join(element(layout, 'live="poll" theme="dark"') for layout in LAYOUTS)
    async with embedded(scripted, TWO_LINES.split("<visit")[0] + blocks) as host:
        await page.goto(host.url)
        await expect(page.locator(READY).last).not_to_be_empty()
        ink = await page.evaluate(INK)
        for part in ("title", "label", "value", "digit"):
            for node in await page.locator(f"[part={part}]").all():
                assert await node.evaluate(PAINTED) == [ink, False, "none"]


async def test_nothing_moves_by_itself(browser: Browser, scripted: Scripted) -> None:
    """Whoever wants less motion need not ask: there is no animation and no transition."""
    page = await browser.new_page(reduced_motion="no-preference")
    blocks = "".join(element(layout, 'live="poll" how') for layout in LAYOUTS)
    async with embedded(scripted, TWO_LINES.split("<visit")[0] + blocks) as host:
        await page.goto(host.url)
        await expect(page.locator(READY).last).not_to_be_empty()
        await page.locator("[part=toggle]").first.click()
        await page.locator("summary").first.click()
        assert await page.evaluate("document.getAnimations().length") == 0


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_nothing_jumps(browser: Browser, scripted: Scripted, layout: str) -> None:
    """With the room that the docs reserve, all stays where it is, and the script is done soon."""
    page = await browser.new_page()
    await page.add_init_script(SHIFTS)
    heads = TWO_LINES.split("<visit")[0]
    busy = []
    async with embedded(scripted, f"{heads}{element(layout, 'live=poll')}<p>behind</p>") as host:
        await page.goto(host.url)
        size = await page.locator("visit-counter").bounding_box()
        assert size is not None
        host.css = ROOM % (size["height"] / 16)
        for _ in range(3):  # the least of them: the machine is busy with other things too
            busy.append(await watched(page, scripted, host.url))
            assert await page.evaluate("window.moved") == 0
    assert min(busy) < 50


async def watched(page: Page, scripted: Scripted, url: str) -> float:
    """The milliseconds that the script is at work while the page loads and gets its numbers."""
    profiler = await page.context.new_cdp_session(page)
    await profiler.send("Profiler.enable")
    await profiler.send("Profiler.start")
    scripted.open.clear()
    await page.goto(url)
    await expect(page.locator("visit-counter [part=toggle]")).to_be_attached()
    scripted.open.set()
    await expect(page.locator(READY).last).not_to_be_empty()
    await page.wait_for_timeout(100)  # an observer is told after the frame is painted
    return busy_ms((await profiler.send("Profiler.stop"))["profile"])


def busy_ms(profile: dict[str, Any]) -> float:
    """How long our script was at work."""
    ours = {each["id"] for each in profile["nodes"] if "/embed" in each["callFrame"]["url"]}
    took = zip(profile["samples"], profile["timeDeltas"], strict=True)
    return float(sum(us for node, us in took if node in ours)) / 1000


async def test_keyboard_reaches_all(browser: Browser, scripted: Scripted) -> None:
    """Tab goes to the button and to how we count, Enter works them, and focus stays."""
    page = await browser.new_page()
    body = TWO_LINES.replace("<visit-counter>", "<visit-counter live=poll how lang=en>")
    async with embedded(scripted, body) as host:
        await page.goto(host.url)
        await expect(page.locator(READY).last).not_to_be_empty()
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        button = page.get_by_role("button", name="Resume updates")
        await expect(button).to_be_focused()
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        await expect(page.locator("details p")).to_have_text([HOW])


async def test_looks_that_the_page_gives_build_nothing_anew(
    browser: Browser, scripted: Scripted
) -> None:
    """How we count stays open where the page sets a class or a style, as many do while one scrolls;
    what an attribute of ours says is shown at once."""
    page = await browser.new_page()
    body = TWO_LINES.replace("<visit-counter>", "<visit-counter how lang=en>")
    async with embedded(scripted, body) as host:
        await page.goto(host.url)
        await expect(page.locator(READY).last).not_to_be_empty()
        await page.locator("summary").click()
        await expect(page.locator("details p")).to_have_text([HOW])
        block = page.locator("visit-counter")
        await block.evaluate("async node => { node.className = 'seen'; node.style.margin = '1px' }")
        await expect(page.locator("details p")).to_have_text([HOW])
        await block.evaluate("async node => { node.lang = 'vi'; node.className = 'again' }")
        await expect(page.locator("details p")).to_have_count(0)
        await expect(page.locator("visit-counter [part=row]").first).to_contain_text("Đang online")


async def test_polling_until_paused(browser: Browser, scripted: Scripted) -> None:
    """Every 30 s numbers are asked for, while the tab is seen and nobody has paused them."""
    page = await browser.new_page()
    await page.clock.install()
    body = TWO_LINES.replace("<visit-counter>", "<visit-counter live=auto>")
    async with embedded(scripted, body) as host:
        await page.goto(host.url)
        await expect(page.locator(READY).last).to_have_text("1,891,451")
        scripted.say(online=82)
        await page.clock.run_for(37_000)
        await expect(page.locator(READY).first).to_have_text("82")
        await page.get_by_role("button").click()
        scripted.say(online=83)
        asked = len([each for each in scripted.asked if each.startswith("GET")])
        await page.clock.run_for(80_000)
        assert (await rows(page))[0] == "Đang online: 82"
        assert len([each for each in scripted.asked if each.startswith("GET")]) == asked
        await page.get_by_role("button").click()
        await page.clock.run_for(10)
        await expect(page.locator(READY).first).to_have_text("83")


def event(**counts: object) -> bytes:
    name = counts.pop("event", "message")
    return f"event: {name}\ndata: {json.dumps(counts)}\n\n".encode()


async def test_one_stream_for_all(browser: Browser, scripted: Scripted) -> None:
    """Two elements share a stream; what is stale is dated, and what is new is not."""
    page = await browser.new_page()
    live = "<visit-counter live=sse></visit-counter>"
    async with embedded(scripted, TWO_LINES.split("<visit")[0] + live * 2) as host:
        await page.goto(host.url)
        await expect(page.locator(READY).last).to_have_text("1,891,451")
        scripted.events.put_nowait(event(**json.loads(scripted.text) | {"online": 7}))
        first = page.locator("visit-counter").first
        await expect(page.locator("[part=row]").first).to_have_text("Đang online: 7")
        scripted.events.put_nowait(event(event="stale", as_of=1))
        await expect(first.locator("[part=note]")).to_contain_text("Số liệu lúc ")
        scripted.events.put_nowait(event(**json.loads(scripted.text)))
        await expect(first.locator("[part=title]")).to_have_text("Thống kê truy cập")
        assert scripted.asked.count("LIVE portal") == 1
        scripted.events.put_nowait(b"")


async def test_refused_stream_becomes_polls(browser: Browser, scripted: Scripted) -> None:
    """Whoever is one viewer too many is shown the numbers all the same."""
    page = await browser.new_page()
    body = TWO_LINES.replace("<visit-counter>", "<visit-counter live=sse>")
    scripted.live_status = 503
    async with embedded(scripted, body) as host:
        await page.goto(host.url)
        await until(lambda: equal("LIVE portal" in scripted.asked, True), "a stream")
        await expect(page.locator(READY).last).to_have_text("1,891,451")
        assert await rows(page) == PORTAL


async def test_dead_service_comes_back(browser: Browser, scripted: Scripted) -> None:
    """A service that died is asked again, and the numbers come without a reload. The view that it
    did not take is sent again."""
    page = await browser.new_page()
    scripted.status = 0
    async with embedded(scripted) as host:
        await page.goto(host.url)
        await expect(page.locator(READY).last).to_have_text("–")
        assert await rows(page) == NO_NUMBERS
        scripted.status = 200
        await expect(page.locator(READY).last).to_have_text("1,891,451", timeout=10_000)
        await until(lambda: equal(scripted.hits[-1].get("again"), True), "the view came again")
    assert {hit["i"] for hit in scripted.hits} == {scripted.hits[0]["i"]}

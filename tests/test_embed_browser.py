"""What a visitor sees: a page on another origin, under a strict policy, with the two lines in it.

The first part runs the real service; the second part puts a scripted one behind the script, to say
what no healthy service says, and to see what was sent.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from playwright.async_api import Browser, Page, expect

from service.web import widget
from tests.browser import (
    TWO_LINES,
    HostPage,
    chromium,
    host_page,
    listen,
    listening,
    rows,
    until,
)
from tests.servers import Server
from tests.services import Service, run_service

NUMBERS = {"online": 81, "today": 1886, "week": 20657, "total": 1891451}


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chrome() -> AsyncIterator[Browser]:
    async with chromium() as chrome:
        yield chrome


@pytest_asyncio.fixture(loop_scope="module")
async def browser(chrome: Browser) -> AsyncIterator[Browser]:
    """The browser, without the profiles of the test before."""
    yield chrome
    for context in chrome.contexts:
        await context.close()


# ---- the real service ----


@asynccontextmanager
async def portal(valkey: Server, body: str = TWO_LINES) -> AsyncIterator[tuple[Service, HostPage]]:
    """A service, and a page on another origin that the site `portal` counts for."""
    async with run_service(valkey.url) as service, host_page(service.url, body) as host:
        await service.site("portal", origins=[host.url])
        yield service, host


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
        for link in await page.locator("a").all():
            answer = await page.request.get(f"{service.url}/{await link.get_attribute('href')}")
            assert answer.ok, answer.url
        assert lines == []


async def shows(page: Page, expected: list[str]) -> None:
    await expect(page.locator("visit-counter [part=row]")).to_have_text(expected)


# ---- a scripted service ----


@dataclass
class Scripted:
    """Serves the real script under a base path, and answers what the test says."""

    url: str = ""
    status: int = 200
    text: str = ""
    hits: list[dict[str, Any]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    open: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.open.set()
        self.say(counted=True)

    def say(self, **changes: Any) -> None:
        counts: dict[str, Any] = {"metric": "visits", "online_window": 300, **NUMBERS}
        for period in ("today", "week", "total"):
            visits = NUMBERS[period]
            numbers = {"pageviews": visits * 2, "visits": visits, "visitors": visits - 1}
            counts[period] = numbers
        self.text = json.dumps({**counts, **changes})

    def kinds(self) -> list[str]:
        return [hit["k"] for hit in self.hits]

    async def counts(self, request: web.Request) -> web.Response:
        self.asked.append(f"{request.method} {request.match_info['site']}")
        if request.method == "POST":
            self.hits.append(json.loads(await request.text()))
        await self.open.wait()
        if self.status == 0 and request.transport is not None:
            request.transport.abort()
        cors = {"Access-Control-Allow-Origin": "*"}
        status = self.status or 500
        return web.Response(text=self.text, status=status, headers=cors)


@pytest_asyncio.fixture(loop_scope="module")
async def scripted() -> AsyncIterator[Scripted]:
    service = Scripted()
    app = web.Application()
    app.router.add_get("/thongke/embed.js", widget.embed_js)
    app.router.add_route("*", "/thongke/w/{site}", service.counts)
    async with listening(app) as url:
        service.url = url
        yield service
        service.open.set()


@asynccontextmanager
async def embedded(scripted: Scripted, body: str = TWO_LINES) -> AsyncIterator[HostPage]:
    body = body.replace("{counter}", "{counter}/thongke")
    async with host_page(scripted.url, body) as host:
        yield host


@contextmanager
def clean(page: Page, host: HostPage) -> Iterator[None]:
    """Neither the console nor the policy has anything to say at the end of the block."""
    lines = listen(page)
    yield
    assert lines == []
    assert host.complaints == []


async def test_two_lines_show_four_numbers(browser: Browser, scripted: Scripted) -> None:
    """One request counts the view and fills the block, also for a service under a base path."""
    page = await browser.new_page()
    async with embedded(scripted) as host:
        with clean(page, host):
            await page.goto(f"{host.url}/gioi-thieu?id=7#top")
            await expect(page.locator("visit-counter [part=row]").last).to_contain_text("1,891,451")
            await expect(page.locator("visit-counter [part=title]")).to_have_text(
                "Thống kê truy cập"
            )
            assert await rows(page) == [
                "Đang online: 81",
                "Hôm nay: 1886",
                "Trong tuần: 20,657",
                "Tất cả: 1,891,451",
            ]
    assert scripted.hits[0] == {"k": "view", "p": "/gioi-thieu"}


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


TROUBLES: dict[str, dict[str, Any]] = {
    "connection cut": {"status": 0},
    "error": {"status": 503, "text": '{"detail":"the store is away"}'},
    "unknown site": {"status": 404, "text": '{"detail":"There is no site portal here"}'},
    "garbage": {"text": "<html>proxy login</html>"},
    "null": {"text": "null"},
    "wrong types": {"text": '{"online":"81","today":[],"total":{"visits":-1},"week":null}'},
    "absurd numbers": {
        "text": '{"counted":false,"reason":"bot","online":1e300,"today":{"visits":0.5},"week":{}}'
    },
}
NO_NUMBERS = ["Đang online: –", "Hôm nay: –", "Trong tuần: –", "Tất cả: –"]


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
            await expect(block.locator("[part=title]")).to_be_visible()
            heights = [await block.bounding_box()]
            await expect(block.locator("[part=note]")).to_have_text("Chưa lấy được số liệu.")
            assert await rows(page) == NO_NUMBERS
            heights.append(await block.bounding_box())
            scripted.open.set()
            await expect(block).to_contain_text("Tất cả: 1,891,451")
            heights.append(await block.bounding_box())
    assert heights[0] is not None
    assert heights == [heights[0]] * 3


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


# Playwright keeps every page visible, so the document is told what to say.
HIDE = """
for (const [name, value] of Object.entries({visibilityState: 'hidden', prerendering: %s})) {
  Object.defineProperty(document, name, {value, configurable: true});
}
document.dispatchEvent(new Event('visibilitychange'));
"""
SHOW = """
delete document.visibilityState;
delete document.prerendering;
document.dispatchEvent(new Event('%s'));
"""


@pytest.mark.parametrize(
    ("prerendering", "event"),
    [("false", "visibilitychange"), ("true", "prerenderingchange")],
    ids=["background tab", "prerendered"],
)
async def test_page_that_nobody_sees_is_not_viewed(
    browser: Browser, scripted: Scripted, prerendering: str, event: str
) -> None:
    """A view is counted once, when somebody looks at the page."""
    page = await browser.new_page()
    await page.add_init_script(HIDE % prerendering)
    async with embedded(scripted) as host:
        await page.goto(host.url, wait_until="networkidle")
        assert scripted.asked == []
        await page.evaluate(SHOW % event)
        await expect(page.locator("visit-counter")).to_contain_text("1,891,451")
        await page.evaluate(SHOW % event)
        assert scripted.kinds() == ["view"]


async def test_page_back_from_the_cache_is_viewed_again(
    browser: Browser, scripted: Scripted
) -> None:
    """Going back to a page that the browser kept is a view, after the bye of leaving it."""
    page = await browser.new_page()
    async with embedded(scripted) as host:
        await page.goto(host.url)
        await expect(page.locator("visit-counter")).to_contain_text("1886")
        scripted.say(counted=True, online=82)
        for event in ("pagehide", "pageshow"):
            await page.evaluate(
                "name => window.dispatchEvent(new PageTransitionEvent(name, {persisted: true}))",
                event,
            )
        await expect(page.locator("visit-counter")).to_contain_text("Đang online: 82")
        assert scripted.kinds() == ["view", "bye", "view"]


async def test_here_comes_while_the_page_is_looked_at(browser: Browser, scripted: Scripted) -> None:
    """Every third of the window comes a here; a hidden page is silent, and numbers stand still."""
    page = await browser.new_page()
    await page.clock.install()
    async with embedded(scripted) as host:
        await page.goto(host.url)
        await expect(page.locator("visit-counter")).to_contain_text("1886")
        scripted.say(counted=True, online=99)
        await page.clock.run_for(121_000)
        await until(lambda: _is(scripted.kinds(), ["view", "here"]), "a first here")
        await page.evaluate(HIDE % "false")
        await page.clock.run_for(600_000)
        assert scripted.kinds() == ["view", "here"]
        await page.evaluate(SHOW % "visibilitychange")
        await page.clock.run_for(10)
        await until(lambda: _is(scripted.kinds(), ["view", "here", "here"]), "a here on return")
        assert (await rows(page))[0] == "Đang online: 81"


async def _is(actual: object, expected: object) -> bool:
    return actual == expected


@pytest.mark.parametrize("reason", ["bot", "origin"])
async def test_uncounted_page_sends_nothing_more(
    browser: Browser, scripted: Scripted, reason: str
) -> None:
    """A view that was dropped shows the numbers, says why in the console, and says no bye."""
    scripted.say(counted=False, reason=reason)
    page = await browser.new_page()
    lines = listen(page)
    async with embedded(scripted) as host:
        await page.goto(host.url)
        await expect(page.locator("visit-counter")).to_contain_text("1886")
        await page.goto("about:blank")
    assert lines == [f"info: visit-counter: not counted: {reason}"]
    assert scripted.kinds() == ["view"]


async def test_leaving_says_bye(browser: Browser, scripted: Scripted) -> None:
    """Another page in the same tab ends the look at this one."""
    page = await browser.new_page()
    async with embedded(scripted) as host:
        await page.goto(f"{host.url}/a")
        await expect(page.locator("visit-counter")).to_contain_text("1886")
        await page.goto("about:blank")
        await until(lambda: _is(scripted.kinds(), ["view", "bye"]), "the bye")


async def test_repeated_snippet_is_one_view(browser: Browser, scripted: Scripted) -> None:
    """A page with the two lines twice, and a block that comes later, asks once."""
    page = await browser.new_page()
    async with embedded(scripted, TWO_LINES * 2) as host:
        with clean(page, host):
            await page.goto(host.url)
            await expect(page.locator("visit-counter").last).to_contain_text("1,891,451")
            await page.evaluate("document.body.append(document.createElement('visit-counter'))")
            await expect(page.locator("visit-counter").nth(2)).to_contain_text("1,891,451")
            await page.wait_for_load_state("networkidle")
            assert scripted.asked == ["POST portal"]


async def test_each_site_is_asked_once(browser: Browser, scripted: Scripted) -> None:
    """Blocks of another site share one request that counts nothing."""
    blocks = "<visit-counter site='xa-hoi'></visit-counter>" * 2
    page = await browser.new_page()
    async with embedded(scripted, TWO_LINES + blocks) as host:
        with clean(page, host):
            await page.goto(host.url)
            await expect(page.locator("visit-counter").last).to_contain_text("1,891,451")
            assert sorted(scripted.asked) == ["GET xa-hoi", "POST portal"]


SILENT = {
    "switched off": ('data-site="portal" data-count="off"', ["GET portal"], 'data-count="off"'),
    "no site": ("", [], 'the script tag needs data-site="…" with the id of a site'),
}


@pytest.mark.parametrize(("attributes", "asked", "why"), SILENT.values(), ids=SILENT)
async def test_page_that_is_not_to_be_counted(
    browser: Browser, scripted: Scripted, attributes: str, asked: list[str], why: str
) -> None:
    """The console says once why; the numbers are shown if the site is known."""
    page = await browser.new_page()
    lines = listen(page)
    body = TWO_LINES.replace('data-site="portal"', attributes)
    async with embedded(scripted, body) as host:
        await page.goto(host.url)
        last = page.locator("visit-counter [part=value]").last
        await expect(last).to_have_text("1,891,451" if asked else "–")
    assert scripted.asked == asked
    assert lines == [f"info: visit-counter: not counted: {why}"]


async def test_page_keeps_its_names(browser: Browser, scripted: Scripted) -> None:
    """The script adds no global name, and a name that the page took first does no harm."""
    page = await browser.new_page()
    await page.add_init_script(
        "customElements.define('visit-counter', class extends HTMLElement {});"
        "const names = new Set(Object.getOwnPropertyNames(window));"
        "Object.defineProperty(document, 'added', {value: () =>"
        " Object.getOwnPropertyNames(window).filter((name) => !names.has(name))})"
    )
    async with embedded(scripted) as host:
        with clean(page, host):
            await page.goto(host.url)
            await until(lambda: _is(scripted.kinds(), ["view"]), "the view")
            assert await page.evaluate("document.added()") == []

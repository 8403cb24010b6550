"""What is counted, and how often: each look at a page once, and nothing that is no look."""

from __future__ import annotations

import time
from functools import partial
from urllib.parse import unquote

import pytest
from playwright.async_api import Browser, expect

from tests.kit.pages.browser import TWO_LINES, listen, rows, until
from tests.kit.pages.embedding import HIDE, PORTAL, SHOW, Scripted, clean, embedded, equal

pytestmark = pytest.mark.asyncio(loop_scope="module")


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
            assert await rows(page) == PORTAL
    assert {**scripted.hits[0], "i": 0} == {"k": "view", "p": "/gioi-thieu", "again": False, "i": 0}
    assert [*scripted.hits[0]][-1] == "i"  # where the service looks for it


async def test_page_that_nobody_sees_is_not_viewed(browser: Browser, scripted: Scripted) -> None:
    """A view is counted once, when somebody looks at the page."""
    page = await browser.new_page()
    await page.add_init_script(HIDE)
    async with embedded(scripted) as host:
        await page.goto(host.url, wait_until="networkidle")
        assert scripted.asked == []
        await page.evaluate(SHOW)
        await expect(page.locator("visit-counter")).to_contain_text("1,891,451")
        await page.evaluate(SHOW)
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
        await until(lambda: equal(scripted.kinds(), ["view", "here"]), "a first here")
        await page.evaluate(HIDE)
        await page.clock.run_for(600_000)
        assert scripted.kinds() == ["view", "here"]
        await page.evaluate(SHOW)
        await page.clock.run_for(10)
        await until(lambda: equal(scripted.kinds(), ["view", "here", "here"]), "a here on return")
        assert (await rows(page))[0] == "Đang online: 81"


@pytest.mark.parametrize(("ms", "kinds"), [(1000, ["view"]), (3000, ["view", "here"])])
async def test_a_page_that_is_shown_says_here_at_once(
    browser: Browser, scripted: Scripted, ms: int, kinds: list[str]
) -> None:
    """Another page of the same visitor may have said bye; less than 2 s after a sign of life that
    takes nobody offline, and nothing is sent."""
    page = await browser.new_page()
    await page.clock.install()
    async with embedded(scripted) as host:
        await page.goto(host.url)
        await expect(page.locator("visit-counter")).to_contain_text("1886")
        await page.evaluate(HIDE)
        await page.clock.run_for(ms)
        await page.evaluate(SHOW)
        await page.clock.run_for(10)
        await until(lambda: equal(scripted.kinds(), kinds), f"{kinds} after {ms} ms")


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
        await until(lambda: equal(scripted.kinds(), ["view", "bye"]), "the bye")


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
    "switched off": ('data-site="portal" data-count="off"', ["GET portal"], "data-count"),
    "no site": ("", [], "data-site"),
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
            await until(lambda: equal(scripted.kinds(), ["view"]), "the view")
            assert await page.evaluate("document.added()") == []


LINK = "<link rel='canonical' href='https://a.vn/one'>"
THIRD = "document.querySelector('link[rel=canonical]').href = 'https://a.vn/third'"
RELINK = "document.querySelector('link[rel=canonical]').href = 'https://a.vn/second'"

WALKS = {
    "pushState": ("history.pushState(0, '', '/b?x#y')", ["/a", "/b"]),
    "only the query": ("history.pushState(0, '', '/a?x')", ["/a"]),
    "only the fragment": ("location.hash = 'top'", ["/a"]),
    "route in the hash": ("location.hash = '#/tin-tuc'", ["/a", "/a/tin-tuc"]),
    "rewritten": ("history.replaceState(0, '', '/b')", ["/a"]),
    "to a URL": ("history.pushState(0, '', new URL('/b', location))", ["/a", "/b"]),
    "to nothing": ("history.pushState(0, '')", ["/a"]),
    "by the Navigation API": (
        "navigation.onnavigate = (event) => event.intercept(); navigation.navigate('/b')",
        ["/a", "/b"],
    ),
    "to no address": ("try { history.pushState(0, '', 'http://[') } catch (_) {}", ["/a"]),
}


@pytest.mark.parametrize(("walk", "paths"), WALKS.values(), ids=WALKS)
async def test_page_of_one_piece(
    browser: Browser, scripted: Scripted, walk: str, paths: list[str]
) -> None:
    """Another path is another view, once."""
    page = await browser.new_page()
    async with embedded(scripted) as host:
        with clean(page, host):
            await page.goto(f"{host.url}/a")
            await expect(page.locator("visit-counter")).to_contain_text("1886")
            await page.evaluate(walk)
            await until(lambda: equal(viewed(scripted), paths), f"views of {paths}")
            await page.evaluate("history.pushState(0, '', '/last')")
            await until(lambda: equal(viewed(scripted), [*paths, "/last"]), "the last view")
            await page.go_back()
            views = len(paths) + 2
            await until(lambda: equal(len(viewed(scripted)), views), "the view of going back")
            await page.wait_for_load_state("networkidle")
    assert len(scripted.hits) == views


KEPT = """
const push = history.pushState;
window.go = (path) => push.call(history, {}, '', path);
"""


async def test_router_that_has_kept_push_state(browser: Browser, scripted: Scripted) -> None:
    """Before our script came; Astro up to 5.1 does so."""
    page = await browser.new_page()
    await page.add_init_script(KEPT)
    async with embedded(scripted) as host:
        await page.goto(f"{host.url}/1")
        await until(lambda: equal(viewed(scripted), ["/1"]), "the first view")
        for n in (2, 3, 4):
            await page.evaluate(f"go('/{n}')")
            await until(partial(are_viewed, scripted, n), f"view {n}")
    assert viewed(scripted) == ["/1", "/2", "/3", "/4"]


REWRITES = """
addEventListener('popstate', () => history.replaceState({}, '', location.href));
"""


async def test_router_that_rewrites_where_it_goes_back_to(
    browser: Browser, scripted: Scripted
) -> None:
    """And is told of it before our script, as that of Next."""
    page = await browser.new_page()
    await page.add_init_script(REWRITES)
    async with embedded(scripted) as host:
        await page.goto(f"{host.url}/1")
        await until(lambda: equal(viewed(scripted), ["/1"]), "the first view")
        await page.evaluate("history.pushState({}, '', '/2')")
        await until(lambda: equal(viewed(scripted)[1:], ["/2"]), "the second view")
        await page.go_back()
        await until(lambda: equal(viewed(scripted)[2:], ["/1"]), "the view of going back")


NAMED = {
    "by its canonical link": ("", LINK, "/one"),
    "by the snippet": ('data-path="/named"', LINK, "/named"),
}


@pytest.mark.parametrize(("attribute", "head", "path"), NAMED.values(), ids=NAMED)
async def test_a_page_has_the_same_path_when_somebody_comes_back(
    browser: Browser, scripted: Scripted, attribute: str, head: str, path: str
) -> None:
    """From the next page of one piece, and out of the cache of pages."""
    page = await browser.new_page()
    async with embedded(scripted, TWO_LINES.replace("async", f"async {attribute}")) as host:
        host.head = head
        await page.goto(f"{host.url}/1")
        await until(lambda: equal(viewed(scripted), [path]), "the first view")
        await page.evaluate("history.pushState({}, '', '/2')")
        await until(lambda: equal(viewed(scripted)[1:], ["/2"]), "the second view")
        await page.go_back()
        await until(lambda: equal(viewed(scripted)[2:], [path]), "the view of going back")
        await page.evaluate(
            "dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))",
        )
        await until(lambda: equal(viewed(scripted)[3:], [path]), "the view out of the cache")


async def are_viewed(scripted: Scripted, number: int) -> bool:
    return len(viewed(scripted)) == number


async def test_hash_route_that_takes_the_place_of_another(
    browser: Browser, scripted: Scripted
) -> None:
    """location.replace goes to another page of one piece."""
    page = await browser.new_page()
    async with embedded(scripted) as host:
        await page.goto(f"{host.url}/a#/one")
        await until(lambda: equal(viewed(scripted), ["/a/one"]), "the first view")
        await page.evaluate("location.replace('#/two')")
        await until(lambda: equal(viewed(scripted), ["/a/one", "/a/two"]), "the second view")


async def test_canonical_link_that_changes(browser: Browser, scripted: Scripted) -> None:
    """A page of one piece names its next page before or after it goes there, or not at all."""
    page = await browser.new_page()
    async with embedded(scripted) as host:
        host.head = LINK
        await page.goto(f"{host.url}/1")
        await until(lambda: equal(viewed(scripted), ["/one"]), "the first view")
        await page.evaluate(f"history.pushState({{}}, '', '/2'); {RELINK}")
        await until(lambda: equal(viewed(scripted)[1:], ["/second"]), "the second view")
        await page.evaluate(f"{THIRD}; history.pushState({{}}, '', '/3')")
        await until(lambda: equal(viewed(scripted)[2:], ["/third"]), "the third view")
        await page.evaluate("history.pushState({}, '', '/4')")
        await until(lambda: equal(viewed(scripted)[3:], ["/4"]), "the fourth view")


async def test_canonical_link_that_comes_too_late(browser: Browser, scripted: Scripted) -> None:
    """A slow router names a page after its view was counted: not the next page's."""
    page = await browser.new_page()
    async with embedded(scripted) as host:
        host.head = LINK
        await page.goto(f"{host.url}/1")
        await until(lambda: equal(viewed(scripted), ["/one"]), "the first view")
        await page.evaluate("history.pushState({}, '', '/2')")
        await until(lambda: equal(viewed(scripted)[1:], ["/2"]), "the second view")
        await page.evaluate(f"{RELINK}; history.pushState({{}}, '', '/3')")
        await until(lambda: equal(viewed(scripted)[2:], ["/3"]), "the third view")
        await page.evaluate(f"history.pushState({{}}, '', '/4'); {THIRD}")
        await until(lambda: equal(viewed(scripted)[3:], ["/third"]), "the fourth view")


async def test_page_that_is_left_at_once_is_viewed(browser: Browser, scripted: Scripted) -> None:
    """A view that waits for its canonical link does not get lost, nor does one before it."""
    page = await browser.new_page()
    async with embedded(scripted) as host:
        await page.goto(f"{host.url}/1")
        await until(lambda: equal(viewed(scripted), ["/1"]), "the first view")
        await page.evaluate(
            "for (const n of [2, 3]) history.pushState({}, '', `/${n}`); location.href = '/gone'"
        )
        await until(lambda: equal(viewed(scripted), ["/1", "/2", "/3", "/gone"]), "all views")


def viewed(scripted: Scripted) -> list[str]:
    return [hit["p"] for hit in scripted.hits if hit["k"] == "view"]


PATHS = {
    "named": ('data-path="/trang-chu"', "", "/trang-chu"),
    "relative": ('data-path="../c/"', "", "/c/"),
    "with the host": ('data-path="https://www.a.vn/c?x=1#y"', "", "/c"),
    "no address": ('data-path="https://["', "", "/a"),
    "canonical that is none": ("", '<link rel="canonical" href="https://[">', "/a"),
    "parameters": ('data-query-keys="p|id"', "", "/a?id=2&p=1"),
    "parameters of the canonical": (
        'data-query-keys="p"',
        '<link rel="canonical" href="https://www.a.vn/?s=3&p=12&utm=2#z">',
        "/?p=12",
    ),
    "no parameters": ('data-query-keys="page"', "", "/a"),
    "canonical": ("", '<link rel="canonical" href="https://www.a.vn/b?x=//y#z">', "/b"),
    "canonical of nothing": ("", '<link rel="canonical" href="">', "/a"),
    "its own": ("", "", "/a"),
}


@pytest.mark.parametrize(("attribute", "head", "path"), PATHS.values(), ids=PATHS)
async def test_path_that_is_counted(
    browser: Browser, scripted: Scripted, attribute: str, head: str, path: str
) -> None:
    """The snippet's data-path, else the canonical link, else the address; of a query only the
    parameters that the snippet names."""
    page = await browser.new_page()
    async with embedded(scripted, TWO_LINES.replace("async", f"async {attribute}")) as host:
        host.head = head
        await page.goto(f"{host.url}/a?utm=1&id=2&pp=3&p=1&fbclid=secret#p=4")
        await expect(page.locator("visit-counter")).to_contain_text("1886")
    assert viewed(scripted) == [path]


async def test_another_parameter_is_another_page(browser: Browser, scripted: Scripted) -> None:
    """Where the snippet names it; what else changes in the query is no view."""
    page = await browser.new_page()
    async with embedded(scripted, TWO_LINES.replace("async", 'async data-query-keys="p"')) as host:
        await page.goto(f"{host.url}/?p=1")
        await expect(page.locator("visit-counter")).to_contain_text("1886")
        for address in ("/?p=1&q=2", "/?p=2", "/?q=3&p=2"):
            await page.evaluate("address => history.pushState(0, '', address)", address)
        await until(lambda: equal(viewed(scripted), ["/?p=1", "/?p=2"]), "two views")


async def test_pages_that_are_shown_are_resolved(browser: Browser, scripted: Scripted) -> None:
    """An element's `path` is what a link of the page would lead to, whatever wrote it."""
    page = await browser.new_page()
    asked: list[str] = []
    page.on("request", lambda sent: asked.append(unquote(sent.url.partition("?path=")[2])))
    async with embedded(scripted) as host:
        written = ["/p1/", "p1/", "./p1/", f"{host.url}/tin/p1/#top", f"//{host.url[7:]}/p1/"]
        host.body += "".join(f'<visit-counter path="{each}"></visit-counter>' for each in written)
        host.body += '<visit-counter path="https://other.vn/p1/"></visit-counter>'
        await page.goto(f"{host.url}/tin/bai")
        await expect(page.locator("visit-counter").last).to_contain_text("–")
        found = {each for each in asked if each}
    assert found == {"/p1/", "/tin/p1/", "/tin/p1/#top", "https://other.vn/p1/"}


async def test_visitor_opts_out_and_in(browser: Browser, scripted: Scripted) -> None:
    """A link keeps the choice in the browser: nothing is sent to count any more, until another. The
    block says and announces what it did, and the console says that nothing is counted."""
    page = await browser.new_page()
    lines = listen(page)
    links = "<a href='#visit-counter-off'>off</a><a href='#visit-counter-on'>on</a>"
    async with embedded(scripted, TWO_LINES + links) as host:
        await page.goto(host.url)
        await expect(page.locator("visit-counter")).to_contain_text("1886")
        status = page.locator("visit-counter").get_by_role("status")
        await expect(status).to_have_text("")
        await page.get_by_text("off").click()
        await expect(status).to_have_text("Trình duyệt này không được đếm.")
        assert lines == ["info: visit-counter: not counted: opted out"]
        await page.reload()
        await expect(page.locator("visit-counter")).to_contain_text("1886")
        await expect(status).to_have_text("Trình duyệt này không được đếm.")
        assert scripted.asked == ["POST portal", "GET portal"]
        assert lines == ["info: visit-counter: not counted: opted out"] * 2
        await page.get_by_text("on", exact=True).click()
        await expect(status).to_have_text("Trình duyệt này được đếm.")
        await page.reload()
        await until(lambda: equal(scripted.kinds(), ["view", "view"]), "a view again")


LOCKED = """
Object.defineProperty(window, 'localStorage', {
  get() { throw new DOMException('denied', 'SecurityError'); },
});
"""


async def test_choice_that_the_browser_cannot_keep(browser: Browser, scripted: Scripted) -> None:
    """Brave and others may deny all storage: it counts on, and says so."""
    page = await browser.new_page()
    await page.add_init_script(LOCKED)
    async with embedded(scripted) as host:
        with clean(page, host):
            await page.goto(f"{host.url}/#visit-counter-off")
            await until(lambda: equal(scripted.kinds(), ["view"]), "the view")
            status = page.locator("visit-counter").get_by_role("status")
            await expect(status).to_have_text("Trình duyệt này được đếm.")


async def test_browser_tells_itself_apart_where_the_page_says_so(
    browser: Browser, scripted: Scripted
) -> None:
    """With data-identity="browser" a random id goes, the same each time; else none is kept."""
    page = await browser.new_page()
    async with embedded(scripted) as host:
        await page.goto(host.url)
        await expect(page.locator("visit-counter")).to_contain_text("1886")
        named, host.body = host.body, host.body.replace("async", 'async data-identity="address"')
        await page.reload()
        await expect(page.locator("visit-counter")).to_contain_text("1886")
        assert await page.evaluate("localStorage.length") == 0
        host.body = named.replace("async", 'async data-identity="browser"')
        for _ in range(2):
            await page.reload()
            await expect(page.locator("visit-counter")).to_contain_text("1886")
    ids = [hit.get("v") for hit in scripted.hits if hit["k"] == "view"]
    assert ids[:2] == [None, None]
    assert len(str(ids[2])) > 12
    assert ids[2] == ids[3]


AGES = {"0.4712": False, "-1": True, "-12.9": True, "-14.1": False, "junk": False}
"""Months of 30 days from now, or what is no id of this version; whether it is kept."""


@pytest.mark.parametrize(("age", "is_kept"), AGES.items())
async def test_browsers_id_is_replaced_after_thirteen_months(
    browser: Browser, scripted: Scripted, age: str, is_kept: bool
) -> None:
    page = await (await browser.new_context()).new_page()
    kept = f"`${{Date.now() / 2.6e9 {age}}}`" if age.startswith("-") else f"'{age}'"
    await page.add_init_script(f"localStorage['visit-counter-id'] ||= {kept}")
    named = TWO_LINES.replace("async", 'async data-identity="browser"')
    async with embedded(scripted, named) as host:
        await page.goto(host.url)
        await until(lambda: equal(scripted.kinds(), ["view"]), "a view")
        before = await page.evaluate("localStorage['visit-counter-id']")
        await page.reload()
        await until(lambda: equal(scripted.kinds().count("view"), 2), "another view")
    ids = [hit["v"] for hit in scripted.hits if hit["k"] == "view"]
    assert ids == [before, before]
    assert (float(before) > time.time() / 2.6e6 - 0.1) is not is_kept


async def test_frames_are_not_counted_with_their_page(browser: Browser, scripted: Scripted) -> None:
    """A page that frames another one of the site is one view, and the frame says why."""
    page = await browser.new_page()
    lines = listen(page)
    frame = "<iframe src='/inner' title='inner'></iframe>"
    async with embedded(scripted, TWO_LINES) as inner, embedded(scripted, TWO_LINES) as host:
        host.body += frame.replace("/inner", f"{inner.url}/inner")
        host.frames = inner.url
        await page.goto(f"{host.url}/outer")
        await expect(page.frame_locator("iframe").locator("visit-counter")).to_contain_text("1886")
    assert viewed(scripted) == ["/outer"]
    assert lines == ["info: visit-counter: not counted: frame"]


async def test_localhost_is_not_counted(browser: Browser, scripted: Scripted) -> None:
    """A page at work on its author's machine is no view, if the counter is elsewhere."""
    page = await browser.new_page()
    lines = listen(page)
    async with embedded(scripted) as host:
        host.counter = host.counter.replace("127.0.0.1", "counter.test")
        await page.goto(host.url)
        await expect(page.locator("visit-counter")).to_contain_text("1886")
    assert scripted.asked == ["GET portal"]
    assert lines == ["info: visit-counter: not counted: localhost"]


async def test_counting_alone(browser: Browser, scripted: Scripted) -> None:
    """embed.count.js counts, beside embed.js not twice, and in browsers that keep nothing."""
    body = TWO_LINES.replace("embed.js", "embed.count.js")
    page = await browser.new_page()
    await page.add_init_script(
        "Object.defineProperty(window, 'localStorage', {get() { throw new Error('denied'); }})"
    )
    async with embedded(scripted, body + TWO_LINES) as host:
        with clean(page, host):
            await page.goto(f"{host.url}/a")
            await until(lambda: equal(viewed(scripted), ["/a"]), "the view")
            await page.wait_for_load_state("networkidle")
    assert scripted.kinds() == ["view"]

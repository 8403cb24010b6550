"""The generator page in Chromium: what somebody chooses is what is shown and what is written."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import pytest
import pytest_asyncio
from aiohttp import web
from playwright.async_api import Browser, FrameLocator, Page, expect

from tests.kit.pages.browser import host_page, listen, listening
from tests.kit.pages.embedding import clean
from tests.kit.services.in_process import Service, run_service
from tests.kit.stores.server import Server
from tests.kit.tools import need_script
from visit_counter.web.pages.generator import KINDS
from visit_counter.web.words.texts import TEXTS

pytestmark = pytest.mark.asyncio(loop_scope="module")

SEEDED = {"metric": "visits", "add": {"total": 1891450, "week": 20656, "today": 1885}}
PORTAL = ["Đang online: 0", "Hôm nay: 1885", "Trong tuần: 20,656", "Tất cả: 1,891,450"]
# What the console may say: that a preview is a frame, and what was answered 400 or 404.
SAID = re.compile(
    r"info: visit-counter: (not counted: frame|.*There is no site )|error: Failed to load"
)
HOSTILE = "\"'><img src=x onerror=alert(1)><script>alert(2)</script>{{site}}${site}"


@pytest_asyncio.fixture(loop_scope="module")
async def portal(valkey: Server) -> AsyncIterator[Service]:
    """A service under a base path, with a site that has numbers."""
    async with run_service(valkey.url, base_path="/thongke") as service:
        await service.site("portal")
        await service.api("POST", "/sites/portal/seed", SEEDED)
        yield service


@asynccontextmanager
async def generator(
    browser: Browser, service: Service, view: Any = None, **query: str
) -> AsyncIterator[Page]:
    """The page, whose console must have nothing unexpected to say at the end."""
    page = await browser.new_page(**(view or {}))
    lines = listen(page)
    asked = urlencode({"site": "portal", "lang": "vi", **query})
    await page.goto(f"{service.url}/embed?{asked}")
    yield page
    assert [line for line in lines if not SAID.match(line)] == []
    await page.close()


def element(page: Page) -> FrameLocator:
    return page.frame_locator("#element")


async def code(page: Page) -> str:
    return await page.locator("#code").inner_text()


async def written(page: Page, *parts: str) -> None:
    """The code has come to hold these."""
    for part in parts:
        await expect(page.locator("#code")).to_contain_text(part)


async def choose(page: Page, name: str, value: str) -> None:
    field = page.locator(f"[name={name}]")
    kind = await field.first.get_attribute("type")
    if kind in ("radio", "checkbox"):
        await page.locator(f"[name={name}][value='{value}']").check()
    else:
        await field.select_option(value)


# -- what is chosen is what is written and shown


async def test_the_two_lines(browser: Browser, portal: Service) -> None:
    """At first: the lines of the README with this service's address, and the block itself."""
    async with generator(browser, portal) as page:
        assert await code(page) == (
            f'<script async src="{portal.url}/embed.js" data-site="portal"></script>\n'
            "<visit-counter></visit-counter>"
        )
        await expect(element(page).locator("[part=row]")).to_have_text(PORTAL)
        origin = portal.url.removesuffix("/thongke")
        await expect(page.locator("#csp")).to_have_text(
            f"script-src {origin}; connect-src {origin};"
        )
    assert (await portal.counts())["today"]["pageviews"] == 0


OF_THE_ELEMENT = [
    ("layout", "table", 'layout="table"', ".table [part=row]:first-child"),
    ("layout", "spark", 'layout="spark"', "img[part=chart]"),
    ("rows", "last_month", 'show="online today week last_month total"', "text=Tháng trước"),
    ("language", "km", "embed.js?lang=km", "text=ស្ថិតិអ្នកចូលមើល"),
    ("format", "plain", 'number-format="plain"', "text=1891450"),
    ("metric", "pageviews", 'metric="pageviews"', "[part=row]:has-text('Tất cả: 0')"),
    ("theme", "dark", 'theme="dark"', ".dark"),
    ("live", "poll", 'live="poll"', "[part=toggle]"),
    ("how", "yes", "<visit-counter how>", "details[part=how]"),
]


async def test_each_control_of_the_element(browser: Browser, portal: Service) -> None:
    """It changes the code and the preview, and survives a reload."""
    async with generator(browser, portal) as page:
        first = page.url
        for name, value, line, shown in OF_THE_ELEMENT:
            await page.goto(first)
            await choose(page, name, value)
            await written(page, line)
            await expect(element(page).locator(shown).first).to_be_visible()
            await page.reload()
            await written(page, line)


OF_PICTURES = [
    ("layout", "list", "block.svg?lang=vi"),
    ("layout", "table", "block.svg?lang=vi"),
    ("layout", "inline", "badge.svg?lang=vi"),
    ("layout", "badge", "badge.svg?lang=vi"),
    ("layout", "spark", "spark.svg?lang=vi"),
    ("rows", "year", "digits.svg?lang=vi&period=year"),
    ("set", "flip", "digits.svg?lang=vi&set=flip"),
    ("pad", "9", "digits.svg?lang=vi&zero-pad=9"),
    ("metric", "visitors", "digits.svg?lang=vi&metric=visitors"),
    ("language", "ar", "digits.svg?lang=ar"),
    ("language", "en", "digits.svg"),
]


async def test_each_control_of_pictures(browser: Browser, portal: Service) -> None:
    """It changes the address in the code, and that picture is shown."""
    async with generator(browser, portal, kind="markdown", layout="digits") as page:
        first = page.url
        for name, value, line in OF_PICTURES:
            await page.goto(first)
            await choose(page, name, value)
            await written(page, f"/{line})")
            for address in re.findall(r"\((\S+)\)", await code(page)):
                picture = page.locator(f'#stage img[src="{address}"]')
                width = "img => img.decode().then(() => img.naturalWidth)"
                assert await picture.evaluate(width) > 20, address


async def test_themes_of_pictures(browser: Browser, portal: Service) -> None:
    """Pictures have themes that the element lacks; what does not fit comes back where it does."""
    async with generator(browser, portal, kind="image") as page:
        for theme in ("blue", "clear-dark", "contrast"):
            await choose(page, "theme", theme)
            await choose(page, "format", "en")
            await written(page, f"&amp;theme={theme}&amp;number-format=en", "/dot.gif")
            await choose(page, "kind", "html")
            await written(page, '<visit-counter number-format="en">')
            await choose(page, "kind", "image")
            await written(page, f"theme={theme}")


async def test_a_frame_in_its_size(browser: Browser, portal: Service) -> None:
    """The iframe has the width and height that it needs, and is shown in them."""
    async with generator(browser, portal, kind="frame") as page:
        await choose(page, "how", "yes")
        await choose(page, "live", "poll")
        await written(page, "/frame?lang=vi&amp;refresh=30&amp;how=yes")
        sizes = re.findall(r'(?:width|height)="(\d+)"', await code(page))[:2]
        inner = page.frame_locator("#stage iframe:not([hidden])")
        await expect(inner.locator("li").last).to_have_text("Tất cả: 1,891,450")
        room = "({scrollWidth, scrollHeight}) => [`${scrollWidth}`, `${scrollHeight}`]"
        assert await inner.locator("html").evaluate(room) == sizes


async def test_rows_follow_the_layout_until_some_are_chosen(
    browser: Browser, portal: Service
) -> None:
    """Digits show the total by themselves; own rows stay, and none at all is not possible."""
    async with generator(browser, portal) as page:
        await choose(page, "layout", "digits")
        await expect(page.locator("[name=rows]:checked")).to_have_count(1)
        await page.locator("[name=rows][value=online]").check()
        await choose(page, "layout", "list")
        await written(page, 'show="online total"')
        for row in ("online", "total"):
            await page.locator(f"[name=rows][value={row}]").uncheck()
        await expect(page.locator("#rows-state")).to_have_text(TEXTS["vi"].said["no-rows"])
        assert "show" not in await code(page)


async def test_identity_of_the_site(browser: Browser, portal: Service) -> None:
    """Where the site tells visitors apart by browser the code says so, and why."""
    await portal.api("PATCH", "/sites/portal", {"identity": "browser"})
    async with generator(browser, portal) as page:
        for kind in ("html", "pinned", "div", "react", "vue"):
            await choose(page, "kind", kind)
            await written(page, "identity")
            await expect(page.locator("#note")).to_contain_text("data-identity")


async def test_query_of_the_sites_paths(browser: Browser, portal: Service) -> None:
    """Where parameters belong to the site's paths the code names them, and why."""
    await portal.api("PATCH", "/sites/portal", {"query_keys": ["p", "id[]"]})
    async with generator(browser, portal) as page:
        for kind in ("html", "pinned", "div", "react", "vue"):
            await choose(page, "kind", kind)
            await written(page, "queryKeys" if kind in ("react", "vue") else "data-query-keys")
            await expect(page.locator("#note")).to_contain_text("data-query-keys")
        await choose(page, "kind", "html")
        await written(page, r'data-query-keys="p|id\[\]"')


async def test_the_other_language_keeps_what_was_chosen(browser: Browser, portal: Service) -> None:
    """The link leads to the same choice, said in English."""
    async with generator(browser, portal, layout="table", kind="div") as page:
        await page.get_by_role("link", name="English").click()
        await expect(page.locator("h1")).to_have_text(TEXTS["en"].page["title"])
        await written(page, '<div data-visit-counter data-layout="table"></div>')


@asynccontextmanager
async def own_host(service: Service) -> AsyncIterator[str]:
    """A website that has the service under a path of its own, which the service does not know."""

    async def pass_on(request: web.Request) -> web.Response:
        url = f"{service.url}/{request.match_info['path']}"
        headers = {name: request.headers[name] for name in ("Host", "User-Agent")}
        query = request.query
        async with service.client.get(url, params=query, headers=headers) as answer:
            passed = {
                name: value
                for name, value in answer.headers.items()
                if name in ("Content-Type", "Content-Security-Policy")
            }
            return web.Response(body=await answer.read(), status=answer.status, headers=passed)

    app = web.Application()
    app.router.add_get("/thong/ke/{path:.*}", pass_on)
    async with listening(app) as url:
        yield f"{url}/thong/ke"


async def test_behind_the_own_host_of_a_site(browser: Browser, portal: Service) -> None:
    """Addresses are those under which the page is seen, also where a proxy takes a path away."""
    async with own_host(portal) as url:
        page = await browser.new_page()
        lines = listen(page)
        await page.goto(f"{url}/embed?site=portal&lang=vi")
        await written(page, f'src="{url}/embed.js"')
        await expect(element(page).locator("[part=row]")).to_have_text(PORTAL)
        await choose(page, "kind", "frame")
        await written(page, f'src="{url}/w/portal/frame?lang=vi"', ' width="')
        await expect(page.locator("#stage iframe:not([hidden])")).to_be_visible()
        assert [line for line in lines if not SAID.match(line)] == []


# -- sites


async def test_a_site_that_is_not_there(browser: Browser, portal: Service) -> None:
    """An unknown site is said, one that can be none is said and writes no code."""
    async with generator(browser, portal, site="nowhere") as page:
        state = page.locator("#site-state")
        await expect(state).to_have_text(TEXTS["vi"].said["unknown"])
        await page.get_by_label("Mã site").fill("Not A Site")
        await expect(state).to_have_text(TEXTS["vi"].said["bad-site"])
        await expect(page.get_by_label("Mã site")).to_have_attribute("aria-invalid", "true")
        assert "Not A Site" not in await code(page)
        await page.get_by_label("Mã site").fill("demo")
        await written(page, 'data-site="demo"')
        await expect(state).to_be_empty()


@pytest.mark.parametrize("name", ["site", "page", "lang", "layout", "kind", "rows", "pad", "theme"])
async def test_hostile_values_are_never_markup(
    browser: Browser, portal: Service, name: str
) -> None:
    """Whatever stands in the address or a field is text, and what is no value is left alone."""
    async with generator(browser, portal, None, **{name: HOSTILE}) as page:
        await page.get_by_label("Địa chỉ trang").or_(page.get_by_label("Address of")).fill(HOSTILE)
        await page.locator("#checking button").click()
        await expect(page.locator("#findings li")).to_have_count(1)
        if name == "site":
            await expect(page.locator("#site-state")).not_to_be_empty()
        else:
            await written(page, "<visit-counter")
        assert await page.locator("img[onerror]").count() == 0
        assert await page.locator("script").count() == 1
        assert "onerror" not in await code(page)


# -- what was copied works


async def copied(page: Page) -> str:
    """What the button has put into the clipboard, by keyboard."""
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await page.locator("[data-copies=code]").focus()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("status").filter(has_text="Đã chép.")).to_be_visible()
    return str(await page.evaluate("navigator.clipboard.readText()"))


@pytest.mark.parametrize("kind", ["html", "pinned", "div"])
async def test_copied_lines_count_and_show(browser: Browser, portal: Service, kind: str) -> None:
    """Pasted into a page of another origin with the policy that the page tells, it just works."""
    async with generator(browser, portal, kind=kind) as page:
        lines, policy = await copied(page), await page.locator("#csp").inner_text()
        await choose(page, "theme", "dark")
        await expect(page.get_by_text("Đã chép.")).to_have_count(0)
    origin = portal.url.removesuffix("/thongke")
    async with host_page(origin, lines) as host:
        assert all(f"{each.strip()};" in host.policy() for each in policy.split(";") if each)
        shown = await browser.new_page()
        with clean(shown, host):
            await shown.goto(host.url)
            counter = shown.locator("visit-counter, [data-visit-counter]")
            await expect(counter.locator("[part=row]").last).to_have_text("Tất cả: 1,891,451")
    assert (await portal.counts())["total"]["pageviews"] == 1


@pytest.mark.parametrize("kind", ["image", "frame"])
async def test_copied_pictures_and_frames_count_by_the_dot(
    browser: Browser, portal: Service, kind: str
) -> None:
    """What takes no script shows the numbers, and its second line counts, whatever the page's
    policy says of referrers."""
    async with generator(browser, portal, kind=kind) as page:
        lines = await copied(page)
    assert ' loading="eager" ' in lines  # which lazy loaders leave alone, as that of WordPress does
    origin = portal.url.removesuffix("/thongke")
    async with host_page(origin, lines) as host:
        host.frames = origin
        host.head = '<meta name="referrer" content="no-referrer">'
        shown = await browser.new_page()
        with clean(shown, host):
            await shown.goto(host.url, wait_until="networkidle")
            if kind == "frame":
                inner = shown.frame_locator("iframe")
                await expect(inner.locator("li").last).to_contain_text("1,891,45")
    assert (await portal.counts())["total"]["pageviews"] == 1


EFFECT = re.compile(r"(const src = .*?\n}\n)", re.S)


@pytest.mark.parametrize("kind", ["react", "vue"])
async def test_what_frameworks_run(browser: Browser, portal: Service, kind: str) -> None:
    """The effect loads the script once, however often the component comes, and it counts."""
    async with generator(browser, portal, kind=kind, layout="table", how="yes") as page:
        component = await copied(page)
    effect = EFFECT.search(component)
    assert effect
    assert re.search(r'<(component is=")?visit-counter"? layout="table" how />', component)
    async with host_page(
        portal.url.removesuffix("/thongke"), "<visit-counter></visit-counter>"
    ) as host:
        host.policy = lambda: "default-src *"  # type: ignore[method-assign]
        shown = await browser.new_page()
        await shown.goto(host.url)
        await shown.evaluate(f"(() => {{ {effect[1]} load(); load(); }})()")
        await expect(shown.locator("[part=row]").last).to_have_text("Tất cả: 1,891,451")
        assert await shown.locator("script").count() == 1


async def test_nothing_can_be_copied_over_plain_http(browser: Browser, portal: Service) -> None:
    """Where the browser gives no clipboard the code is selected, and the page says what next."""
    async with generator(browser, portal) as page:
        await page.evaluate("delete Navigator.prototype.clipboard")
        await page.get_by_role("button", name="Chép", exact=True).click()
        status = page.get_by_role("status").filter(has_text=TEXTS["vi"].said["uncopied"])
        await expect(status).to_be_visible()
        assert await page.evaluate("`${getSelection()}`") == await code(page)


# -- the checker


async def checked(page: Page) -> list[str]:
    await page.locator("#checking button").click()
    await expect(page.locator("#findings li").first).to_be_visible()
    return await page.locator("#findings li").all_inner_texts()


async def test_why_nothing_is_counted(browser: Browser, portal: Service) -> None:
    """The origin that is refused is named; once it is allowed and has come, all is well."""
    await portal.api("PATCH", "/sites/portal", {"origins": ["http://a.example.vn"]})
    says = TEXTS["vi"].check
    async with generator(browser, portal, page="http://b.example.vn/tin") as page:
        bad = says["refused"].format(origin="http://b.example.vn")
        assert await checked(page) == [f"Cần sửa: {says['never']}", f"Cần sửa: {bad}"]
        await portal.api("PATCH", "/sites/portal", {"origins": ["http://b.example.vn"]})
        await portal.hit(headers={"Origin": "http://b.example.vn"})
        good = says["allowed"].format(origin="http://b.example.vn")
        today = says["today"].format(number=1)
        await page.locator("#findings ul").evaluate("list => list.remove()")
        assert await checked(page) == [f"Ổn: {today}", f"Ổn: {good}"]


async def test_three_states(browser: Browser, portal: Service) -> None:
    """What is good, what is to fix and what is only told have a word each, before any colour."""
    await portal.hit(headers={"User-Agent": "curl/8.5"})
    async with generator(browser, portal) as page:
        await page.locator("#token").fill(portal.token)
        bot = TEXTS["vi"].check["bot"].format(number=1)
        assert f"Thông tin: {bot}" in await checked(page)
        states = await page.locator("#findings li").evaluate_all(
            "all => all.map((e) => e.className)"
        )
        assert states == ["fault", "info"]


@pytest.mark.parametrize(
    ("query", "token", "name"),
    [
        ({"site": "nowhere"}, "", "unknown"),
        ({"page": "b.example.vn"}, "", "page"),
        ({"page": "https://b.example.vn"}, "", "mixed"),
        ({"page": "http://localhost/"}, "", "localhost"),
        ({}, "TOKEN", "undropped"),
    ],
    ids=["unknown site", "no address", "mixed content", "localhost", "drops"],
)
async def test_each_thing_that_can_be_wrong(
    browser: Browser, portal: Service, query: dict[str, str], token: str, name: str
) -> None:
    """Each is said in the reader's language."""
    async with generator(browser, portal, None, **query) as page:
        await page.locator("#token").fill(portal.token if token else "")
        said = TEXTS["vi"].check[name].format(site="nowhere", host="localhost")
        assert [line for line in await checked(page) if line.endswith(f": {said}")]
        assert portal.token not in page.url


@pytest.mark.parametrize(("site", "name"), [("portal", "token"), ("Not A Site", "bad-site")])
async def test_what_the_page_itself_knows(
    browser: Browser, portal: Service, site: str, name: str
) -> None:
    """A wrong token and an id that is none are said by the page."""
    async with generator(browser, portal, site=site) as page:
        await page.locator("#token").fill("wrong")
        assert (await checked(page))[-1] == f"Cần sửa: {TEXTS['vi'].said[name]}"


# -- for everybody


@pytest.mark.parametrize(("lang", "scheme"), [("vi", "dark"), ("en", "light")])
async def test_axe_finds_nothing(browser: Browser, portal: Service, lang: str, scheme: str) -> None:
    """The page in each kind of code, with its preview and with findings, and at 320 pixels."""
    axe = need_script("axe-core/axe.min.js").read_text()
    view = {"color_scheme": scheme, "viewport": {"width": 320, "height": 800}, "bypass_csp": True}
    async with generator(browser, portal, view, lang=lang, page="http://b.vn", site="Bad") as page:
        await checked(page)
        await page.locator("#site").fill("portal")
        await written(page, "portal")
        for kind in KINDS:
            await choose(page, "kind", kind)
            await written(page, "portal")
            for frame in page.frames:
                await frame.evaluate(axe)
            found = await page.evaluate("axe.run({ resultTypes: ['violations'] })")
            bad = [(each["id"], each["nodes"][0]["html"]) for each in found["violations"]]
            assert (kind, bad) == (kind, [])
            assert await page.evaluate("document.documentElement.scrollWidth") == 320


async def test_targets_are_large_enough(browser: Browser, portal: Service) -> None:
    """All that can be pressed is 24 pixels high and wide, or its label is."""
    async with generator(browser, portal, layout="digits", kind="image") as page:
        for each in await page.locator("a, button, select, input, .pills label, .tick").all():
            box = await each.bounding_box()
            around = await each.evaluate("e => e.matches('label > input')")
            assert box is None or around or min(box["width"], box["height"]) >= 24


async def test_the_keyboard_alone(browser: Browser, portal: Service) -> None:
    """Tab and arrows reach layout and kind, and focus stays where it is while things change."""
    async with generator(browser, portal) as page:
        await page.locator("#site").focus()
        await page.keyboard.press("Tab")
        for _ in range(2):
            await page.keyboard.press("ArrowRight")
        await written(page, "<div data-visit-counter")
        await page.keyboard.press("Tab")
        await page.keyboard.press("ArrowRight")
        await written(page, 'data-layout="inline"')
        await expect(page.locator("[name=layout][value=inline]")).to_be_focused()
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        assert await page.evaluate(outline) == "solid"


async def test_the_back_button_leads_out(browser: Browser, portal: Service) -> None:
    """However much was tried: previews leave nothing in the history."""
    page = await browser.new_page()
    await page.goto(f"{portal.url}/demo")
    await page.get_by_role("link", name="Other layouts").click()
    for language in ("km", "ar"):
        await choose(page, "language", language)
        await expect(
            element(page).locator(f"html[lang={language}] [part=row]").first
        ).to_be_visible()
    await page.evaluate("setTimeout(() => history.back())")
    await expect(page).to_have_url(f"{portal.url}/demo")


async def test_without_script_the_page_says_so(browser: Browser, portal: Service) -> None:
    """A sentence in place of what would not work."""
    context = await browser.new_context(java_script_enabled=False)
    page = await context.new_page()
    await page.goto(f"{portal.url}/embed?lang=vi")
    await expect(page.locator("noscript p")).to_be_visible()

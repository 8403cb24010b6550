"""What the element shows: by its attributes, in each layout and language, and in other hands."""

from __future__ import annotations

import pytest
from playwright.async_api import Browser, expect

from tests.kit.pages.browser import TWO_LINES, listen, rows, until
from tests.kit.pages.embedding import Scripted, embedded
from visit_counter.web.words.languages import FORMATS, LANGUAGES, number

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
    "taken for a language": ('lang="VN" show="today"', ["Hôm nay: 1886"]),
    "an old tag": ('lang="en_GB" show="today"', ["Today: 1886"]),
    "other language": ('lang="fr" show="today"', ["Today: 1886"]),
    "metric": ('metric="pageviews" show="total online"', ["Tất cả: 3,782,902", "Đang online: 81"]),
    "words of one's own": (
        'show="today total" label-today="<b>Nay</b>" label-total=""',
        ["<b>Nay</b>: 1886", "1,891,451"],
    ),
    "filled": ('show="total" zero-pad="9"', ["Tất cả: 001891451"]),
    "table": ('layout="table" show="today"', ["Hôm nay:\n1886"]),
    "badge": ('layout="badge"', ["Tất cả:\n1,891,451"]),
    "no number": ('show="last_month"', ["Tháng trước: –"]),
    "nonsense": (
        'number-format="constructor" metric="__proto__" lang="toString" show="valueOf &lt;b>"',
        ["Online now: 81", "Today: 1886", "This week: 20,657", "All time: 1,891,451"],
    ),
}


async def test_value_that_is_unknown_is_named(browser: Browser, scripted: Scripted) -> None:
    """The console says what to write; the block is the usual one."""
    page = await browser.new_page()
    lines = listen(page)
    block = '<visit-counter layout="grid" theme="blue" show="online todya"></visit-counter>'
    async with embedded(scripted, TWO_LINES.split("<visit")[0] + block) as host:
        await page.goto(host.url)
        await expect(page.locator("[part=row]")).to_have_text(["Đang online: 81"])
    said = [line.removeprefix("info: visit-counter: ") for line in lines]
    assert [line.partition(" is none of ")[0] for line in said[:3]] == [
        'theme="blue"', 'layout="grid"', 'show="todya"',
    ]  # fmt: skip
    assert said[1].endswith(" is none of list inline table digits badge spark")


async def test_page_without_a_language_has_the_readers(
    browser: Browser, scripted: Scripted
) -> None:
    page = await browser.new_page()
    async with embedded(scripted) as host:
        host.lang = ""
        await page.goto(host.url)
        await expect(page.locator("visit-counter")).to_contain_text("Hôm nay: 1886")


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


async def test_approximate_numbers_have_a_sign(browser: Browser, scripted: Scripted) -> None:
    """Visitors of a period that are approximate: a sign is seen, and a word is heard."""
    scripted.say(counted=True, metric="visitors", approximate=["week"])
    rough, exact = '<visit-counter show="week today"', '<visit-counter metric="visits" show="week"'
    drawn = '<visit-counter layout="digits" number-format="plain" show="week today"'
    page = await browser.new_page()
    blocks = "".join(f"{block}></visit-counter>" for block in (rough, exact, drawn))
    async with embedded(scripted, TWO_LINES + blocks) as host:
        await page.goto(host.url)
        await expect(page.locator("visit-counter").nth(1)).to_contain_text("≈")
        shown = [await rows(block) for block in await page.locator("visit-counter").all()]
        heard = [
            await page.locator("visit-counter").nth(n).get_by_role("img").all() for n in (1, 2, 3)
        ]
        names = [[await each.get_attribute("aria-label") for each in some] for some in heard]
    assert shown[1:3] == [["Trong tuần: ≈ 20,656", "Hôm nay: 1885"], ["Trong tuần: 20,657"]]
    assert names == [["khoảng"], [], ["khoảng 20656", "khoảng", "1885"]]


async def test_site_stays_below_the_counter(browser: Browser, scripted: Scripted) -> None:
    """Whatever stands in `site` is a site's name, and never a path."""
    page = await browser.new_page()
    body = TWO_LINES.replace("<visit-counter>", "<visit-counter site='../../x?y#z'>")
    async with embedded(scripted, body) as host:
        await page.goto(host.url)
        await expect(page.locator("visit-counter")).to_contain_text("1886")
    assert scripted.asked == ["POST portal", "GET ../../x?y#z"]


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


async def test_plain_element_is_upgraded(browser: Browser, scripted: Scripted) -> None:
    """A div does the same by data- attributes, also when they change, and when it comes late."""
    page = await browser.new_page()
    div = "<div data-visit-counter data-lang=en data-show='today total' data-zero-pad=6></div>"
    async with embedded(scripted, TWO_LINES.split("<visit")[0] + div) as host:
        await page.goto(host.url)
        shown = page.locator("[part=row]")
        await expect(shown).to_have_text(["Today: 001886", "All time: 1891451"])
        await page.evaluate("document.querySelector('div').dataset.show = 'online'")
        await expect(shown).to_have_text(["Online now: 000081"])
        await page.evaluate(
            "document.body.append(document.querySelector('div').cloneNode());"
            "history.pushState(0, '', '/next')"
        )
        await expect(shown).to_have_text(["Online now: 000081"] * 2)


async def test_zeros_are_hidden_on_demand(browser: Browser, scripted: Scripted) -> None:
    """hide-zero leaves out rows that are 0, and brings them back."""
    page = await browser.new_page()
    body = TWO_LINES.replace("<visit-counter>", "<visit-counter hide-zero show='online today'>")
    scripted.say(counted=True, online=0)
    async with embedded(scripted, body) as host:
        await page.goto(host.url)
        await expect(page.locator("visit-counter")).to_contain_text("1886")
        assert await rows(page) == ["Hôm nay: 1886"]
        await page.evaluate("document.querySelector('visit-counter').removeAttribute('hide-zero')")
        await expect(page.locator("[part=row]").first).to_have_text("Đang online: 0")


@pytest.mark.parametrize("name", FORMATS)
async def test_numbers_are_written_as_by_the_service(
    browser: Browser, scripted: Scripted, name: str
) -> None:
    """In each format, with and without groups."""
    page = await browser.new_page()
    values = {"today": 1234, "week": 56789, "total": 9876543210}
    scripted.say(online=7, **{period: {"visits": value} for period, value in values.items()})
    block = f"<visit-counter number-format='{name}'></visit-counter>"
    heads = TWO_LINES.split("<visit")[0].replace("embed.js", f"embed.js?lang={name[:2]}")
    async with embedded(scripted, heads + block) as host:
        await page.goto(host.url)
        expected = [number(value, name) for value in (7, *values.values())]
        await expect(page.locator("[part=value]")).to_have_text(expected)


@pytest.mark.parametrize("lang", LANGUAGES)
async def test_labels_in_each_language(browser: Browser, scripted: Scripted, lang: str) -> None:
    """With ?lang= the element says what the service's pictures say."""
    page = await browser.new_page()
    spoken = LANGUAGES[lang]
    async with embedded(scripted, TWO_LINES.replace("embed.js", f"embed.js?lang={lang}")) as host:
        await page.goto(host.url)
        await expect(page.locator("[part=title]")).to_have_text(spoken.title)
        labels = [spoken.online, spoken.today, spoken.week, spoken.total]
        await expect(page.locator("[part=label]")).to_have_text(
            [f"{label}{spoken.colon.rstrip()}" for label in labels]
        )
        direction = "getComputedStyle(document.querySelector('visit-counter').shadowRoot"
        direction += ".querySelector('ul')).direction"
        assert await page.evaluate(direction) == spoken.direction


FORGOTTEN = """
() => {
  const held = [];
  for (let n = 0; n < 20; n++) {
    const block = document.body.appendChild(document.createElement("visit-counter"));
    held.push(new WeakRef(block));
    block.remove();
  }
  document.body.appendChild(document.createElement("visit-counter"));
  globalThis.alive = () => held.filter((block) => block.deref()).length;
}
"""


async def test_blocks_that_are_taken_out_are_forgotten(
    browser: Browser, scripted: Scripted
) -> None:
    """A page of one piece may make blocks and take them out without end."""
    page = await browser.new_page()
    async with embedded(scripted) as host:
        await page.goto(host.url)
        await expect(page.locator("visit-counter")).to_contain_text("1886")
        await page.evaluate(FORGOTTEN)
        session = await page.context.new_cdp_session(page)

        async def forgotten() -> bool:
            await session.send("HeapProfiler.collectGarbage")
            return bool(await page.evaluate("alive() === 0"))

        await until(forgotten, "blocks are collected")


async def test_a_block_that_is_back_shows_what_came_meanwhile(
    browser: Browser, scripted: Scripted
) -> None:
    """Taken out while a view brings numbers, and put back."""
    page = await browser.new_page()
    async with embedded(scripted) as host:
        await page.goto(host.url)
        await expect(page.locator("visit-counter")).to_contain_text("1886")
        await page.evaluate("block = document.querySelector('visit-counter'); block.remove()")
        scripted.say(counted=True, today={"visits": 1887})
        async with page.expect_response(lambda answer: answer.request.method == "POST"):
            await page.evaluate("history.pushState(null, '', '/next')")
        await page.evaluate("document.body.append(block)")
        await expect(page.locator("visit-counter")).to_contain_text("1887")

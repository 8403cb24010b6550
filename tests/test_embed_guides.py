"""The guides for what stands between a page and its script: their code does what they say."""

from __future__ import annotations

from functools import partial

import pytest
from aiohttp import web
from playwright.async_api import Browser, expect

from tests.kit.pages.browser import listen, listening, no_content, until
from tests.kit.pages.documents import GUIDES, code
from tests.kit.pages.embedding import Scripted, add_routes
from visit_counter.web.pages import scripts

pytestmark = pytest.mark.asyncio(loop_scope="module")

COUNTER = "https://count.example.vn"
BLOCK = "<visit-counter></visit-counter>"

# As a tag manager makes what it adds run.
PUT_IN = """html => {
  document.body.append(document.createRange().createContextualFragment(html));
}"""


def site_with(scripted: Scripted, html: str, script: str = "") -> web.Application:
    """A website with the counter under its own host, and a script of its own."""

    async def show(request: web.Request) -> web.Response:
        return web.Response(text=f"<!doctype html><html lang=vi>{html}", content_type="text/html")

    async def work(request: web.Request) -> web.Response:
        return web.Response(text=script, content_type="text/javascript")

    app = web.Application()
    add_routes(app, scripted)
    app.router.add_get("/favicon.ico", no_content)
    app.router.add_get("/worker.js", work)
    app.router.add_get("/all.js", work)
    app.router.add_get("/{path:.*}", show)
    return app


def of_guide(name: str, language: str) -> list[str]:
    return [text.replace(COUNTER, "/thongke") for text in code(GUIDES / f"{name}.md", language)]


async def test_lines_of_a_tag_manager(browser: Browser, scripted: Scripted) -> None:
    """Once as a tag without data-attributes, once as a script that makes the element."""
    line, block = of_guide("tag-managers", "html")
    (script,) = of_guide("tag-managers", "js")
    async with listening(site_with(scripted, block)) as url:
        for number, added in enumerate((line, f"<script>{script}</script>"), 1):
            page = await browser.new_page()
            await page.goto(url)
            await page.evaluate(PUT_IN, added)
            await expect(page.locator("visit-counter")).to_contain_text("1,891,451")
            assert scripted.kinds() == ["view"] * number


async def test_consent_that_comes_and_goes(browser: Browser, scripted: Scripted) -> None:
    """The id is made, sent and kept between the two."""
    (script,) = of_guide("consent", "js")
    line = '<script async src="/thongke/embed.js" data-site="portal"></script>'
    page = await browser.new_page()
    async with listening(site_with(scripted, f"{line}<script>{script}</script>")) as url:
        await page.goto(f"{url}/1")
        await until(partial(are_sent, scripted, 1), "the first view")
        for number, is_given in ((2, "true"), (3, "true"), (4, "false")):
            await page.evaluate(f"onConsent({is_given}); history.pushState(0, '', '/{number}')")
            await until(partial(are_sent, scripted, number), f"view {number}")
        ids = [hit.get("v") for hit in scripted.hits]
        assert (ids[0], ids[1] == ids[2], ids[3]) == (None, True, None)
        assert len(str(ids[1])) > 12
        assert await page.evaluate("localStorage.length") == 0


async def are_sent(scripted: Scripted, number: int) -> bool:
    return len(scripted.hits) == number


TAKEN = {
    "put inline": ("<script>{text}</script>", "not counted: data-site"),
    "combined": ('<script src="/all.js" data-site="portal"></script>', "{url}/w/portal: "),
}


@pytest.mark.parametrize(("html", "said"), TAKEN.values(), ids=TAKEN)
async def test_what_the_console_says_of_optimisers(
    browser: Browser, scripted: Scripted, html: str, said: str
) -> None:
    """As the guide's table has it."""
    page = await browser.new_page()
    lines = listen(page)
    text = scripts.counting().text
    async with listening(site_with(scripted, html.replace("{text}", text), text)) as url:
        await page.goto(url)

        async def is_said() -> bool:
            start = f"info: visit-counter: {said.replace('{url}', url)}"
            return any(line.startswith(start) for line in lines)

        await until(is_said, "the console says it")
    table = (GUIDES / "optimisers.md").read_text()
    assert said.partition("{url}")[2] or f"`visit-counter: {said}`" in table


async def test_worker_that_leaves_the_counter_alone(browser: Browser, scripted: Scripted) -> None:
    """Although it answers everything else of the website itself."""
    (worker,) = of_guide("optimisers", "js")
    line = '<script async src="/thongke/embed.js" data-site="portal"></script>'
    answer = (
        "event.respondWith(new Response('<!doctype html><html lang=vi><p>offline</p>"
        f"{line}{BLOCK}', {{headers: {{'Content-Type': 'text/html'}}}}));\n}});"
    )
    worker = worker.rstrip().removesuffix("});") + answer
    worker += "addEventListener('activate', (event) => event.waitUntil(clients.claim()));"
    page = await browser.new_page()
    async with listening(site_with(scripted, "", worker)) as url:
        await page.goto(url)
        await page.evaluate(
            "navigator.serviceWorker.register('/worker.js').then(() => new Promise((done) => {"
            "  navigator.serviceWorker.oncontrollerchange = done;"
            "  if (navigator.serviceWorker.controller) done(); }))"
        )
        await page.goto(f"{url}/2")
        await expect(page.get_by_text("offline")).to_be_visible()
        await expect(page.locator("visit-counter")).to_contain_text("1,891,451")
        assert scripted.kinds() == ["view"]

"""The README's picture: the portal's block four times, as one running service tells it.

    .venv/bin/python -m tests.kit.pages.picture    # draws deploy/blocks.png anew

What is drawn is what a test reads: both go through `four_blocks`. The numbers are counted and
seeded, and nothing but the page around the blocks is made up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, Page, expect

from tests.kit.pages.browser import HostPage, chromium, host_page, rows
from tests.kit.pages.embedding import NUMBERS
from tests.kit.services.in_process import PERSON, Service, StoppedClock, run_service
from tests.kit.stores.server import run_server, server_binaries
from visit_counter.web.words.languages import LANGUAGES, number

PICTURE = Path(__file__).parents[3] / "deploy/blocks.png"
WIDTH, SCALE = 760, 2

SAID = {
    "online": LANGUAGES["vi"].online,
    "today": LANGUAGES["vi"].today,
    "week": LANGUAGES["vi"].week,
    "total": LANGUAGES["vi"].total,
}

BODY = """
<script async src="{counter}/embed.js" data-site="portal" data-count="off"></script>
<figure class="foot"><figcaption>&lt;visit-counter></figcaption>
<visit-counter></visit-counter></figure>
<figure><figcaption>GET /w/portal</figcaption><pre>{api}</pre></figure>
<figure><figcaption>block.svg</figcaption>
<img src="{counter}/w/portal/block.svg?lang=vi&amp;theme=light" alt=""></figure>
<figure><figcaption>&lt;iframe></figcaption>
<iframe src="{counter}/w/portal/frame?lang=vi&amp;theme=light" width="240" height="143"></iframe>
</figure>
"""

STYLE = """
html { color-scheme: light }
body { margin: 0; padding: 20px; display: grid; grid-template-columns: repeat(2, minmax(0, 1fr));
  gap: 16px; background: #f2f4f7; color: #1f2733; font: 15px/1.6 system-ui, sans-serif }
h1 { display: none }
figure { margin: 0; padding: 14px 20px 20px; border: 1px solid #dcdfe3;
  border-radius: 10px; background: #fff }
figcaption { margin-bottom: 12px; color: #5a6472; font: 13px/1.5 ui-monospace, 'DejaVu Sans Mono' }
pre { margin: 0; font: 13.5px/27px ui-monospace, 'DejaVu Sans Mono', monospace }
pre span { color: #7a8492 }
iframe { display: block; border: 0 }
img { display: block }
.foot { background: #12395f; color: #f1f6fb }
.foot figcaption { color: #a9c1da }
"""

TEXTS = "() => [...document.querySelectorAll('text')].map((text) => text.textContent)"


@asynccontextmanager
async def portal_block(store_url: str) -> AsyncIterator[tuple[Service, HostPage]]:
    """A service whose site `portal` has the portal's numbers, and the page that shows them."""
    clock = StoppedClock(time.time_ns() // 10**6)  # so that no day ends meanwhile
    async with run_service(store_url, clock=clock) as service, host_page(service.url) as host:
        host.frames, host.css = service.url, STYLE
        await service.site("portal", origins=[host.url], timezone="Asia/Ho_Chi_Minh")
        await _count(service, host.url)
        host.body = BODY.replace("{api}", _told(await counts(service)))
        yield service, host


async def counts(service: Service) -> Any:
    async with service.client.get(f"{service.url}/w/portal") as answer:
        return await answer.json()


async def four_blocks(browser: Browser, service: Service, page: Page) -> dict[str, list[str]]:
    """The rows of each block on the page, as somebody reads them; of the API, as portals would
    write its numbers."""
    await expect(page.locator("visit-counter [part=value]").last).not_to_be_empty()
    frame = page.frame_locator("iframe")
    source = await page.locator("img").get_attribute("src")
    drawing = await browser.new_page()
    await drawing.goto(str(source))
    return {
        "api": _lines(await counts(service)),
        "element": [await page.locator("[part=title]").inner_text(), *await rows(page)],
        "svg": await drawing.evaluate(TEXTS),
        "frame": [
            await frame.locator("h1").inner_text(),
            *await frame.locator("li").all_inner_texts(),
        ],
    }


async def _count(service: Service, origin: str) -> None:
    """As many visitors as are online, and before them those that an older counter had."""
    online = NUMBERS["online"]
    add = {period: NUMBERS[period] - online for period in ("today", "week", "total")}
    await service.api("POST", "/sites/portal/seed", {"metric": "visits", "add": add})
    for each in range(online):
        headers = {"Origin": origin, "User-Agent": f"{PERSON} {each}"}
        await service.hit(headers=headers)


def _lines(shown: Any) -> list[str]:
    values = {row: shown[row] if row == "online" else shown[row]["visits"] for row in SAID}
    said = [f"{label}: {number(values[row], 'en-min2')}" for row, label in SAID.items()]
    return [LANGUAGES["vi"].title, *said]


def _told(shown: Any) -> str:
    """The lines, each with the field that it comes from."""
    title, *lines = _lines(shown)
    told = [title]
    for row, line in zip(SAID, lines, strict=True):
        field = row if row == "online" else f"{row}.visits"
        told.append(f" • {line:<22}<span>{field}</span>")
    return "\n".join(told)


async def draw() -> None:
    with run_server(server_binaries()["valkey"]) as valkey:
        async with portal_block(valkey.url) as (service, host), chromium() as browser:
            page = await browser.new_page(
                viewport={"width": WIDTH, "height": 400}, device_scale_factor=SCALE
            )
            await page.goto(host.url)
            await four_blocks(browser, service, page)
            await page.screenshot(path=PICTURE, full_page=True)


if __name__ == "__main__":
    asyncio.run(draw())

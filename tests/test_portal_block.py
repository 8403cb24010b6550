"""The portal's block is reproduced: by the API, the element, the picture and the frame."""

from __future__ import annotations

import struct

from tests.kit.pages.browser import chromium
from tests.kit.pages.embedding import PORTAL
from tests.kit.pages.picture import PICTURE, SCALE, WIDTH, four_blocks, portal_block
from tests.kit.stores.server import Server


async def test_four_times_the_same_block(valkey: Server) -> None:
    """Labels, order and digits are the portal's, under a strict policy."""
    async with portal_block(valkey.url) as (service, host), chromium() as browser:
        page = await browser.new_page()
        await page.goto(host.url)
        blocks = await four_blocks(browser, service, page)
    expected = ["Thống kê truy cập", *PORTAL]
    assert blocks == dict.fromkeys(("api", "element", "svg", "frame"), expected)
    assert host.complaints == []


def test_the_picture_is_sharp_and_light() -> None:
    """Two dots for each pixel of a page, and soon loaded."""
    data = PICTURE.read_bytes()
    (width,) = struct.unpack(">I", data[16:20])
    assert (data[:8], width) == (b"\x89PNG\r\n\x1a\n", WIDTH * SCALE)
    assert len(data) <= 150 * 1024

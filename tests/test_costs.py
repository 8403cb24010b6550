"""What a stranger's request costs: work that grows with what was sent, and not faster; and memory
that is given back.

Work is counted in calls, which are the same on every machine.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from tests.kit.services.in_process import Service, until
from visit_counter.model.paths import clean_path
from visit_counter.rules.origins import Origins, origin_of

SITE = Origins.parse(["https://a.example", "https://*.b.example", "self"])


def calls_of(work: Callable[[], object]) -> int:
    """How many functions it calls, of C too."""
    calls = 0

    def note(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.parametrize("path", ["/" + "%" * 8000, "/" + "%4" * 4000, "/%zz" * 2000])
def test_signs_that_begin_no_escape_cost_nothing(path: str) -> None:
    """A path of 8,000 of them took 2 ms, as much as a hundred hits."""
    assert calls_of(lambda: clean_path(path)) < 30


def test_a_header_in_other_letters_names_no_page() -> None:
    """Browsers write host names in ASCII; to make that of 280 other letters took 0.5 ms."""
    written = "https://" + "đ." * 140 + "b.example"

    assert origin_of(written) is None
    assert calls_of(lambda: origin_of(written, typed=True)) < 30
    assert origin_of("https://tỉnh.vn/", typed=True) == "https://xn--tnh-dlz.vn"
    assert origin_of("https://a.example/tức") == "https://a.example"
    assert calls_of(lambda: SITE.allow(written, "đ." * 140)) < 30


async def test_a_body_that_broke_off_is_forgotten_at_once(service: Service) -> None:
    """Without the collector, which comes seldom: 16 KB each would add up to hundreds of MB."""
    address = urlsplit(service.url)
    begun = b"POST /w/demo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"
    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            _, writer = await asyncio.open_connection(address.hostname, address.port)
            writer.write(begun)
            await until(are_requests)
            writer.transport.abort()
            await until(are_no_requests)
    finally:
        gc.enable()


def are_requests() -> bool:
    return any(isinstance(each, web.Request) for each in gc.get_objects())


def are_no_requests() -> bool:
    return not are_requests()

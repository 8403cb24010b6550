"""The generator page and its preview as they are served."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping

import pytest
from aiohttp import ClientResponse

from tests.kit.services.in_process import Service, run_service
from tests.kit.stores.server import Server
from visit_counter.web.pages import scripts
from visit_counter.web.pages.generator import KINDS, LAYOUTS
from visit_counter.web.pictures.drawn.colors import THEMES
from visit_counter.web.words.languages import FORMATS, LANGUAGES
from visit_counter.web.words.texts import TEXTS

ANCESTORS = {"embed": "'none'", "preview": "'self'"}


@pytest.fixture
async def based(valkey: Server) -> AsyncIterator[Service]:
    """A service under a base path."""
    async with run_service(valkey.url, base_path="/thongke") as service:
        yield service


async def get(
    service: Service, path: str, headers: Mapping[str, str] = {}
) -> tuple[ClientResponse, str]:
    async with service.client.get(f"{service.url}/{path}", headers=headers) as answer:
        return answer, await answer.text()


@pytest.mark.parametrize("path", ["embed", "preview"])
async def test_pages_trust_their_own_origin_only(service: Service, path: str) -> None:
    """No inline script or style, Trusted Types, and frames of our own pages alone."""
    answer, _ = await get(service, path)
    policy = answer.headers["Content-Security-Policy"]
    assert (answer.status, answer.content_type) == (200, "text/html")
    assert policy.startswith("default-src 'none'; script-src 'self'; ")
    assert "require-trusted-types-for 'script'; trusted-types 'none'" in policy
    assert "unsafe" not in policy
    assert ("frame-src 'self'" in policy) == (path == "embed")
    assert f"frame-ancestors {ANCESTORS[path]}" in policy


@pytest.mark.parametrize("path", ["embed", "preview"])
async def test_pages_work_under_a_base_path(based: Service, path: str) -> None:
    """Every address in them is relative, and leads to something."""
    _, html = await get(based, path)
    addresses = re.findall(r'<[^>]* (?:src|href)="([^"]*)"', html)
    assert len(addresses) >= 4
    for address in addresses:
        assert re.match(r"\?|[a-z]|\./", address), address
        answer, _ = await get(based, path + address if address[0] == "?" else address)
        assert answer.status == 200, address


@pytest.mark.parametrize(
    ("query", "accepted", "lang"),
    [
        ("", "vi-VN,en;q=0.5", "vi"),
        ("", "km", "en"),
        ("?lang=vi", "en", "vi"),
        ("?lang=<", "", "en"),
    ],
)
async def test_the_page_speaks_as_its_reader_does(
    service: Service, query: str, accepted: str, lang: str
) -> None:
    """It follows the browser or the URL, leads to the other language, and caches know that."""
    answer, html = await get(service, f"embed{query}", {"Accept-Language": accepted})
    other = "en" if lang == "vi" else "vi"
    assert html.startswith(f'<!doctype html>\n<html lang="{lang}">')
    assert TEXTS[lang].page["title"] in html
    assert f'href="?lang={other}"' in html
    assert answer.headers["Vary"] == "Accept-Encoding, Accept-Language"
    again, _ = await get(
        service,
        f"embed{query}",
        {"Accept-Language": accepted, "If-None-Match": answer.headers["ETag"]},
    )
    assert again.status == 304


@pytest.mark.parametrize("lang", [*TEXTS])
async def test_the_page_has_all_there_is_to_choose(service: Service, lang: str) -> None:
    """Layouts, kinds of code, languages, formats and themes; no place is left unfilled."""
    _, html = await get(service, f"embed?lang={lang}")
    values = set(re.findall(r'value="([^"]*)"', html))
    assert {*KINDS, *LAYOUTS, *LANGUAGES, *FORMATS, *THEMES} <= values
    assert "{{" not in html
    assert "1886 · 20,657 (en-min2)" in html


@pytest.mark.parametrize(
    ("query", "site", "script", "lang"),
    [
        ("?site=portal", "portal", (), "en"),
        ("?site=portal&script=km&lang=vi", "portal", ("km",), "km"),
        ("?site=portal&lang=vi", "portal", (), "vi"),
        ("?site=%22%3E%3Cscript%3E&script=%3C&lang=%3C", "demo", (), "en"),
    ],
    ids=["plain", "a language", "the page's language", "hostile"],
)
async def test_the_preview_has_the_two_lines(
    service: Service, query: str, site: str, script: tuple[str, ...], lang: str
) -> None:
    """As the CLI prints them, pinned, and nothing of the address that is none of our values."""
    _, html = await get(service, f"preview{query}")
    lines = scripts.snippet(".", site, script, alone=False, pinned=True)
    assert lines in html
    assert f'<html lang="{lang}" dir="ltr">' in html
    assert html.count("<script") == 1


async def test_the_preview_reads_as_its_language_does(service: Service) -> None:
    """Arabic from right to left."""
    _, html = await get(service, "preview?script=ar")
    assert '<html lang="ar" dir="rtl">' in html


@pytest.mark.parametrize("query", ["?site=%22%3E%3Cb%3E", "?page=%3Cb%3E&kind=%3Cb%3E"])
async def test_the_page_is_the_same_whatever_is_asked(service: Service, query: str) -> None:
    """The server puts nothing of the address into the page: the script reads it as text."""
    assert (await get(service, f"embed{query}"))[1] == (await get(service, "embed"))[1]

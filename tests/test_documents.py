"""README and guides: links that lead somewhere, and code that does what it says."""

from __future__ import annotations

import re
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml  # type: ignore[import-untyped]
from aiohttp import web
from playwright.async_api import expect

from tests.kit.pages.browser import chromium, listening, no_content
from tests.kit.pages.documents import (
    DOCS,
    DOCUMENTS,
    GUIDES,
    README,
    README_VI,
    ROOT,
    Tag,
    anchors,
    code,
    links,
    tags,
    tags_of,
)
from tests.kit.pages.embedding import PORTAL
from tests.kit.services.in_process import Service
from visit_counter.config.settings import Settings
from visit_counter.web.pages import scripts
from visit_counter.web.words.languages import LANGUAGES

COUNTER = "https://count.example.vn"
ELEMENT = scripts.source("embed.element.js")
BUILT = "data-visit-counter"
PICTURE = r"!\[[^\]]+\]\(deploy/blocks\.png\)\n\n```html\n(.*?)\n```\n"

documents = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=[str(path.relative_to(ROOT)) for path in DOCUMENTS]
)


@pytest.mark.parametrize("document", [README, README_VI], ids=["en", "vi"])
def test_it_opens_with_the_picture_and_the_two_lines(document: Path) -> None:
    """Before the first heading, as `visit-counter snippet` prints them, and a link to the other."""
    opening = document.read_text().partition("\n## ")[0]
    found = re.search(PICTURE, opening, re.S)
    assert found
    assert found[1] == printed()
    other = README_VI if document == README else README
    assert f"({other.name})" in opening.partition("![")[0]


def test_both_tell_of_the_same_attributes() -> None:
    """Whoever reads Vietnamese finds every attribute and every row."""
    assert told_attributes(README_VI) == told_attributes(README)


def told_attributes(document: Path) -> list[str]:
    """The first column of the table of attributes, and what can be shown."""
    table = document.read_text().partition("`<visit-counter>` |")[2].partition("\n\n")[0]
    return re.findall(r"^\| (`.*?) \|", table, re.M) + re.findall("`online .*? page`", table)


@documents
def test_links_lead_somewhere(document: Path) -> None:
    """To a file of the repository, and to a heading that it has."""
    for link in links(document):
        path, _, heading = link.partition("#")
        if urlsplit(link).scheme:
            continue
        there = document.parent / path if path else document
        assert there.exists(), link
        assert not heading or heading in anchors(there), link


def test_the_manifest_has_settings_of_ours() -> None:
    """Of Kubernetes: its variables can be read, and what it mounts is what they name."""
    (text,) = code(DOCS / "how-to/containers.md", "yaml")
    pod = yaml.safe_load(text)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    given = {each["name"]: each["value"] for each in container["env"]}
    token = given.pop("VISIT_COUNTER_ADMIN_TOKEN_FILE")
    settings = Settings.from_env(given)
    mounts = {each["mountPath"] for each in container["volumeMounts"]}

    assert mounts == {str(settings.data_dir), str(Path(token).parent)}
    assert [str(each.port) for each in settings.listen] == ["8080"]


def test_every_guide_is_in_the_index() -> None:
    """And whatever is told in Vietnamese is told in English too."""
    there = {path.name for path in GUIDES.glob("*.md")} - {"README.md"}
    assert there <= set(links(GUIDES / "README.md"))
    vietnamese = {name for name in there if name.endswith(".vi.md")}
    assert {"html.vi.md", "nukeviet.vi.md", "wordpress.vi.md"} <= vietnamese
    assert {name.replace(".vi.md", ".md") for name in vietnamese} <= there


@documents
def test_scripts_are_those_that_are_printed(document: Path) -> None:
    """Attribute by attribute, but for the site's id and the service's address; a tag manager drops
    `data-site`, so that its address names the site."""
    for script in (tag for tag in tags(document) if tag.name == "script"):
        base, _, query = (script.attributes["src"] or "").partition("/embed.js")
        assert base in (COUNTER, "/thongke")
        if query == "?site=portal":
            assert script.attributes == {"async": None, "src": f"{base}/embed.js{query}"}
        else:
            assert not query
            assert script == tags_of(printed(base, script.attributes["data-site"] or ""))[0]


@documents
def test_elements_have_attributes_that_are_known(document: Path) -> None:
    """Each is named in the script, and so are layouts and rows."""
    for name, value in (pair for tag in tags(document) for pair in attributes(tag)):
        assert f'"{name}"' in ELEMENT or name.startswith("label-"), name
        if name in ("layout", "show"):
            assert {*(value or "").split()} <= {*re.findall(r"\w+", ELEMENT)}
        if name == "lang":
            assert value in LANGUAGES


def attributes(tag: Tag) -> list[tuple[str, str | None]]:
    """As the element reads them; none of other elements."""
    if tag.name != "visit-counter" and BUILT not in tag.attributes:
        return []
    own = [(name, value) for name, value in tag.attributes.items() if name != BUILT]
    return [(name.removeprefix("data-"), value) for name, value in own]


@documents
async def test_pictures_are_to_be_had(service: Service, document: Path) -> None:
    """Whatever is to be loaded from the counter is there, with these parameters."""
    for site in ("portal", "blog"):
        await service.site(site)
    for tag in tags(document):
        address = re.sub("{{.*?}}", "/", tag.attributes.get("src") or "")
        if not address.startswith(COUNTER):
            continue
        url = service.url + address.removeprefix(COUNTER)
        async with service.client.get(url) as answer:
            assert answer.status == 200, address


@pytest.mark.parametrize("kind", ["header", "meta"])
async def test_the_policy_lets_everything_through(service: Service, kind: str) -> None:
    """The guide's lines are enough for the script, the element, its chart, and a frame."""
    guide = GUIDES / "content-security-policy.md"
    lines = code(guide, "csp" if kind == "header" else "html")[0].replace(COUNTER, service.url)
    body = (
        f"{printed(service.url)}<visit-counter layout=spark></visit-counter>"
        f'<iframe src="{service.url}/w/portal/frame?lang=vi"></iframe>'
    )
    said: list[str] = []
    async with page_with(kind, lines, body) as url, chromium() as browser:
        await service.site(origins=[url], timezone="Asia/Ho_Chi_Minh")
        page = await browser.new_page()
        page.on("console", lambda message: said.append(message.text))
        await page.goto(url)
        await expect(page.locator("visit-counter [part=row]").first).to_have_text("Đang online: 1")
        await expect(page.frame_locator("iframe").locator("li")).to_have_count(len(PORTAL))
        width = "image => image.decode().then(() => image.naturalWidth)"
        assert await page.locator("[part=chart]").evaluate(width) > 0
    assert said == []


def page_with(kind: str, lines: str, body: str) -> AbstractAsyncContextManager[str]:
    """A website that sends these lines as a header, or has them in its head."""

    async def show(request: web.Request) -> web.Response:
        head = lines if kind == "meta" else ""
        html = f'<!doctype html><html lang="vi"><title>host</title>{head}{body}'
        policy = {"Content-Security-Policy": f"default-src 'none'; {lines.strip()}"}
        headers = policy if kind == "header" else {}
        return web.Response(text=html, content_type="text/html", headers=headers)

    app = web.Application()
    app.router.add_get("/", show)
    app.router.add_get("/favicon.ico", no_content)
    return listening(app)


def printed(base: str = COUNTER, site: str = "portal") -> str:
    return scripts.snippet(base, site, alone=False, pinned=False)

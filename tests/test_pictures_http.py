"""Pictures as they are fetched: the same numbers as the counts, fresh, and nothing counted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode
from xml.etree import ElementTree

import pytest
from aiohttp import ClientResponse

from tests.kit.counting import at
from tests.kit.pages.panels import lines
from tests.kit.services.in_process import TOKEN, Service, StoppedClock, run_service, until
from tests.kit.stores.server import Server, run_server, server_binaries
from visit_counter.errors import Problem
from visit_counter.web.pictures.oembed import framed_at

PICTURES = ["block.svg", "badge.svg", "digits.svg", "spark.svg", "button.svg"]
ALL = [*PICTURES, "frame", "shields.json"]
CAMO = {"User-Agent": "github-camo (876de43e)", "Via": "1.1 github-camo (876de43e)"}
ADMIN = {"Authorization": f"Bearer {TOKEN}"}
NOON = at("2026-11-22 12:00")


@pytest.fixture
def own() -> Iterator[Server]:
    """A server that a test may stop."""
    with run_server(server_binaries()["valkey"]) as server:
        yield server


async def get(
    service: Service, path: str, headers: Mapping[str, str] = {}, method: str = "GET", **query: str
) -> tuple[ClientResponse, str]:
    url = f"{service.url}/{path}"
    async with service.client.request(method, url, params=query, headers=headers) as answer:
        return answer, await answer.text()


@pytest.mark.parametrize("name", ALL)
async def test_headers_of_pictures(service: Service, name: str) -> None:
    """Any page may show them, proxies ask again soon, and no script could run in them."""
    await service.site()
    answer, body = await get(service, f"w/portal/{name}")
    assert answer.status == 200
    assert answer.headers["Cache-Control"] == "public, max-age=1"
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; ")
    assert "Set-Cookie" not in answer.headers
    head, nothing = await get(service, f"w/portal/{name}", method="HEAD")
    assert (head.headers["Content-Length"], nothing) == (str(len(body.encode())), "")


@pytest.mark.parametrize("name", ALL)
async def test_a_known_picture_is_not_sent_again(service: Service, name: str) -> None:
    """It has a tag of what it shows: the same until a number or a parameter changes."""
    await service.site()
    first, _ = await get(service, f"w/portal/{name}")
    tag = {"If-None-Match": first.headers["ETag"]}
    again, body = await get(service, f"w/portal/{name}", tag)
    other, _ = await get(service, f"w/portal/{name}", tag, lang="vi", label="Lượt", theme="dark")
    assert (again.status, body, again.headers["ETag"]) == (304, "", first.headers["ETag"])
    assert other.status == 200 or name == "digits.svg"


async def test_pictures_show_what_is_counted(service: Service) -> None:
    """A hit is seen in every picture as it is in the counts."""
    await service.site()
    await service.hit(p="/")
    counts = await service.counts()
    _, block = await get(service, "w/portal/block.svg", lang="vi", title="")
    _, button = await get(service, "w/portal/button.svg", lang="vi", period="today")
    _, spark = await get(service, "w/portal/spark.svg", lang="vi")
    _, shields = await get(service, "w/portal/shields.json", period="week", lang="vi")
    assert (counts["online"], counts["today"]["visits"]) == (1, 1)
    assert lines(ElementTree.fromstring(block)) == [
        "Đang online: 1", "Hôm nay: 1", "Trong tuần: 1", "Tất cả: 1",
    ]  # fmt: skip
    assert lines(ElementTree.fromstring(button)) == ["Đang online: 1", "1"]
    assert 'height="40" rx="1"' in spark
    assert '"label":"Trong tuần","message":"1"' in shields


@pytest.mark.parametrize("name", ALL)
async def test_to_look_counts_nothing(service: Service, name: str) -> None:
    """Neither a person nor an image proxy is counted, and the proxy is no bot."""
    await service.site()
    for headers in (CAMO, {}):
        answer, _ = await get(service, f"w/portal/{name}", headers)
        assert answer.status == 200
    assert (await service.counts())["total"]["pageviews"] == 0
    assert await service.api("GET", "/sites/portal/drops") == {}


async def test_shields_gets_what_it_asks_an_endpoint_for(service: Service) -> None:
    """The schema of shields.io/badges/endpoint-badge, in the site's metric."""
    await service.site(metric="pageviews")
    answer, _ = await get(service, "w/portal/shields.json", color="f80", lang="vi")
    assert answer.content_type == "application/json"
    assert await shields(service, color="f80", lang="vi") == {
        "schemaVersion": 1,
        "label": "Lượt xem trang",
        "message": "0",
        "color": "#ff8800",
        "labelColor": "#555555",
        "cacheSeconds": 300,
    }


async def shields(service: Service, **query: str) -> Any:
    url = f"{service.url}/w/portal/shields.json"
    async with service.client.get(url, params=query) as answer:
        return await answer.json()


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("block.svg", "theme", "neon"),
        ("block.svg", "rows", "today,tomorrow"),
        ("block.svg", "rows", ""),
        ("block.svg", "title", "x" * 61),
        ("block.svg", "title", "a\nb"),
        ("block.svg", "title", "\u202eabc"),
        ("block.svg", "number-format", "roman"),
        ("badge.svg", "color", "url(#x)"),
        ("badge.svg", "label-color", "#ffff"),
        ("badge.svg", "period", "decade"),
        ("badge.svg", "shape", "round"),
        ("badge.svg", "metric", "likes"),
        ("digits.svg", "set", "nixie"),
        ("digits.svg", "zero-pad", "13"),
        ("spark.svg", "lang", "tlh"),
        ("button.svg", "theme", "'><script>"),
        ("frame", "refresh", "1"),
        ("frame", "how", "maybe"),
        ("shields.json", "color", "javascript:"),
    ],
)
async def test_a_bad_parameter_is_named(
    service: Service, name: str, field: str, value: str
) -> None:
    """400 says which one it is and what it may be."""
    await service.site()
    url = f"{service.url}/w/portal/{name}"
    async with service.client.get(url, params={field: value}) as answer:
        problem = await answer.json(content_type="application/problem+json")
    assert (answer.status, problem["field"]) == (400, field)
    assert problem["detail"].startswith(f"{field}: use ")


async def test_other_parameters_are_left_alone(service: Service) -> None:
    """Who appends something to get a new picture gets it."""
    await service.site()
    answer, _ = await get(service, "w/portal/badge.svg", v="2", utm_source="x")
    assert answer.status == 200


@pytest.mark.parametrize("name", ALL)
async def test_pictures_of_no_site_and_of_a_private_one(service: Service, name: str) -> None:
    """404, as for the counts; an admin sees the private one, and no proxy keeps it."""
    await service.site("secret", public=False)
    for site in ("nobody", "secret"):
        answer, _ = await get(service, f"w/{site}/{name}")
        assert (answer.status, answer.content_type) == (404, "application/problem+json")
    answer, _ = await get(service, f"w/secret/{name}", ADMIN)
    assert (answer.status, answer.headers["Cache-Control"]) == (200, "private, no-store")


async def test_a_store_that_is_away(own: Server) -> None:
    """The last numbers are shown and dated; where there are none, dashes, and nobody keeps them."""
    clock = StoppedClock(NOON)
    async with run_service(own.url, clock=clock) as service:
        await service.site()
        await service.site("quiet")
        await service.hit(p="/")
        await get(service, "w/portal/block.svg")
        own.kill()
        await until(lambda: service.parts.watch.fault)
        clock.at += 3_600_000
        kept, block = await get(service, "w/portal/block.svg", lang="vi")
        none, quiet = await get(service, "w/quiet/block.svg", lang="vi")
        page, _ = await get(service, "w/quiet/frame")
        shield, told = await get(service, "w/quiet/shields.json")
        _, dated = await get(service, "w/portal/shields.json", lang="vi")

    assert kept.status == 200
    assert lines(ElementTree.fromstring(block))[-2:] == [
        "Tất cả: 1",
        "Số liệu lúc 2026-11-22 12:00.",
    ]
    assert (none.status, none.headers["Cache-Control"]) == (503, "no-store")
    assert lines(ElementTree.fromstring(quiet))[-2:] == ["Tất cả: –", "Chưa lấy được số liệu."]
    assert (page.status, shield.status) == (503, 503)
    assert '"message":"–"' in told
    assert '"isError":true' in told
    assert '"message":"1 (Số liệu lúc 2026-11-22 12:00.)"' in dated


@pytest.mark.parametrize(
    ("origins", "framing"),
    [(["*"], "*"), (["https://*.travinh.gov.vn"], "'self' https://*.travinh.gov.vn")],
)
async def test_a_frame_says_who_may_frame_it(
    service: Service, origins: list[str], framing: str
) -> None:
    """The site's own pages; its style is the only thing that its policy lets in."""
    await service.site(origins=origins)
    answer, _ = await get(service, "w/portal/frame")
    policy = answer.headers["Content-Security-Policy"].split("; ")
    assert policy[-1] == f"frame-ancestors {framing}"
    assert [each.split("-")[0] for each in policy[3].split("'")[1:2]] == ["sha256"]
    assert "X-Frame-Options" not in answer.headers


# ---- oEmbed ----


async def told(service: Service, status: int = 200, **query: str) -> Any:
    async with service.client.get(f"{service.url}/oembed", params=query) as answer:
        assert answer.status == status, await answer.text()
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        return await answer.json(content_type=None)


async def test_a_frames_page_leads_to_its_html(service: Service) -> None:
    """Whoever finds the link in the page is told of an iframe that shows this page."""
    await service.site()
    _, page = await get(service, "w/portal/frame", lang="vi", title='"><b>')
    link = ElementTree.fromstring(page.removeprefix("<!doctype html>")).find("head/link")
    assert link is not None
    async with service.client.get(link.attrib["href"]) as answer:
        body = await answer.json()
    frame = ElementTree.fromstring(body["html"])
    shown = f"{service.url}/w/portal/frame?{urlencode({'lang': 'vi', 'title': chr(34) + '><b>'})}"
    assert (frame.tag, frame.attrib["src"], frame.attrib["title"]) == ("iframe", shown, '"><b>')
    assert (body["version"], body["type"], body["title"]) == ("1.0", "rich", '"><b>')
    assert [int(frame.attrib[side]) for side in ("width", "height")] == [
        body["width"],
        body["height"],
    ]


async def test_oembed_keeps_to_the_size(service: Service) -> None:
    """A consumer says how much room there is."""
    await service.site()
    url = f"{service.url}/w/portal/frame"
    body = await told(service, url=url, maxwidth="150", maxheight="100")
    assert (body["width"], body["height"]) == (150, 100)


@pytest.mark.parametrize(
    ("query", "status", "field"),
    [
        ({}, 400, "url"),
        ({"url": "https://evil.example/w/portal/frame"}, 400, "url"),
        ({"url": "javascript://HOST/w/portal/frame"}, 400, "url"),
        ({"url": "http://HOST/w/portal/block.svg"}, 400, "url"),
        ({"url": "http://HOST/w/portal/frame?theme=x"}, 400, "theme"),
        ({"url": "http://HOST/other/w/portal/frame"}, 400, "url"),
        ({"url": "http://HOST/w/nobody/frame"}, 404, None),
        ({"url": "http://HOST/w/secret/frame"}, 404, None),
        ({"url": "http://HOST/w/portal/frame", "format": "xml"}, 400, "format"),
        ({"url": "http://HOST/w/portal/frame", "maxwidth": "wide"}, 400, "maxwidth"),
    ],
)
async def test_oembed_of_what_is_no_frame_of_ours(
    service: Service, query: dict[str, str], status: int, field: str | None
) -> None:
    """Others' addresses, other pictures, unknown and private sites, other formats."""
    await service.site()
    await service.site("secret", public=False)
    host = service.url.removeprefix("http://")
    asked = {name: value.replace("HOST", host) for name, value in query.items()}
    assert (await told(service, status, **asked)).get("field") == field


@pytest.mark.parametrize("prefix", ["", "/thongke", "/a/b"])
def test_a_frame_below_the_base_path(prefix: str) -> None:
    """Whatever it is; what else is on the host is not ours."""
    framed = framed_at(f"https://a.vn{prefix}/w/portal/frame?lang=vi&title=", "A.vn", prefix)
    with pytest.raises(Problem):
        framed_at(f"https://a.vn/other{prefix}/w/portal/frame", "a.vn", prefix)
    assert framed.url == f"https://A.vn{prefix}/w/portal/frame?lang=vi&title="
    assert (framed.site, framed.given) == ("portal", {"lang": "vi", "title": ""})


@pytest.mark.parametrize("url", ["https://[", "https://a.vn@b.vn/w/x/frame", "//a.vn/w/x/frame"])
def test_addresses_that_are_none(url: str) -> None:
    """Whatever they are, they are refused."""
    with pytest.raises(Problem):
        framed_at(url, "a.vn", "")


@pytest.mark.parametrize(("trusted", "scheme"), [("127.0.0.0/8", "https"), ("10.0.0.1/32", "http")])
async def test_the_link_has_the_visitors_scheme(valkey: Server, trusted: str, scheme: str) -> None:
    """As the proxy tells, if it is one that we trust."""
    async with run_service(valkey.url, trusted_proxies=trusted, base_path="/dem") as service:
        await service.site()
        _, page = await get(service, "w/portal/frame", {"X-Forwarded-Proto": "https"})
    host = service.url.removeprefix("http://")
    own = urlencode({"url": f"{scheme}://{host}/w/portal/frame"})
    assert f'href="{scheme}://{host}/oembed?{own}"' in page

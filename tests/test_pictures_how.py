"""`how.json`: how a site's numbers come about, as sentences that a block shows on demand."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from aiohttp import ClientResponse

from tests.kit.services.in_process import TOKEN, Service, run_service
from tests.kit.stores.server import run_server, server_binaries
from visit_counter.web.words.languages import LANGUAGES

KEY = {"Authorization": f"Bearer {TOKEN}"}

SAID = {
    "vi": [
        "Ngày tính theo múi giờ Asia/Ho_Chi_Minh.",
        "Tuần bắt đầu từ Chủ Nhật.",
        "Đang online: có mặt trong 5 phút gần đây.",
        "Đếm từ ngày {since}.",
        "Đã cộng 1,891,450 từ bộ đếm cũ.",
    ],
    "en": [
        "Days are those of the time zone Asia/Ho_Chi_Minh.",
        "Weeks begin on Sunday.",
        "Online: here within the last 5 min.",
        "Counting since {since}.",
        "Includes 1,891,450 from an earlier counter.",
    ],
}


async def get(
    service: Service, site: str = "portal", headers: Mapping[str, str] = {}, /, **query: str
) -> tuple[ClientResponse, dict[str, object]]:
    url = f"{service.url}/w/{site}/how.json"
    async with service.client.get(url, params=query, headers=headers) as answer:
        return answer, await answer.json(content_type=None) if answer.status != 304 else {}


@pytest.mark.parametrize("lang", SAID)
async def test_sentences_of_a_site(service: Service, lang: str) -> None:
    """Zone, week, window, when it began, and what an older counter brought along."""
    await service.site(timezone="Asia/Ho_Chi_Minh", week_start="sunday")
    seed = {"metric": "visits", "add": {"total": 1891450}}
    await service.api("POST", "/sites/portal/seed", seed)
    began = (await service.counts())["since"]
    since = f"{datetime.fromtimestamp(began, ZoneInfo('Asia/Ho_Chi_Minh')):%Y-%m-%d}"
    said = [line.replace("{since}", since) for line in SAID[lang]]
    _, body = await get(service, lang=lang)
    _, other = await get(service, lang=lang, metric="pageviews")
    assert body == {"how": said}
    assert other == {"how": said[:-1]}


@pytest.mark.parametrize("lang", LANGUAGES)
async def test_sentences_in_each_language(service: Service, lang: str) -> None:
    """Each with its own words, and every place for a value taken."""
    await service.site(online_window=90)
    answer, body = await get(service, lang=lang)
    said = body["how"]
    assert isinstance(said, list)
    words = LANGUAGES[lang]
    assert answer.status == 200
    assert said[:2] == [words.zone.format(zone="UTC"), words.week_start.format(day=words.days[0])]
    assert said[2] == words.window.format(time=words.seconds.format(number="90"))
    assert not [line for line in said if "{" in line]


@pytest.mark.parametrize(
    ("site", "query", "status", "field"),
    [
        ("nobody", {}, 404, None),
        ("secret", {}, 404, None),
        ("portal", {"lang": "tlh"}, 400, "lang"),
        ("portal", {"metric": "money"}, 400, "metric"),
    ],
    ids=["unknown", "private", "language", "metric"],
)
async def test_sentences_that_nobody_gets(
    service: Service, site: str, query: dict[str, str], status: int, field: str | None
) -> None:
    """Of no site, of a private one, in no language of ours: a problem, for any page to read."""
    await service.site()
    await service.site("secret", public=False)
    answer, problem = await get(service, site, **query)
    assert (answer.status, answer.content_type) == (status, "application/problem+json")
    assert problem.get("field") == field
    assert answer.headers["Access-Control-Allow-Origin"] == "*"


async def test_how_it_may_be_kept(service: Service) -> None:
    """By anybody for a second, and then asked for by its tag; a private site's by nobody."""
    await service.site()
    await service.site("secret", public=False)
    answer, _ = await get(service)
    again, _ = await get(service, "portal", {"If-None-Match": answer.headers["ETag"]})
    secret, _ = await get(service, "secret", KEY)
    assert answer.headers["Cache-Control"] == "public, max-age=1"
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert (again.status, again.headers["ETag"]) == (304, answer.headers["ETag"])
    assert (secret.status, secret.headers["Cache-Control"]) == (200, "private, no-store")


async def test_sentences_while_the_store_is_away() -> None:
    """What the settings say is said all the same, and kept by nobody."""
    with run_server(server_binaries()["valkey"]) as store:
        async with run_service(store.url) as service:
            await service.site()
            store.kill()
            answer, body = await get(service)
    assert (answer.status, answer.headers["Cache-Control"]) == (503, "no-store")
    assert body["how"] == [
        "Days are those of the time zone UTC.",
        "Weeks begin on Monday.",
        "Online: here within the last 5 min.",
    ]

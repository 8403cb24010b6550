"""GET /w/{site}/check: why nothing was counted, in sentences, and to whom they are told."""

from __future__ import annotations

import re
from time import process_time
from typing import Any

import pytest

from tests.kit.services.in_process import Service, run_service
from tests.kit.stores.server import Server, run_server, server_binaries
from visit_counter.model.reasons import Reason
from visit_counter.web.words.texts import TEXTS

PAGE = "https://www.example.vn/tin-tuc?a=1"
SECURE = {"X-Forwarded-Proto": "https"}


async def checked(
    service: Service, site: str = "portal", *, status: int = 200, **sent: Any
) -> dict[str, Any]:
    """The answer; `token` makes the asker an admin, `headers` go along, the rest is the query."""
    headers = sent.pop("headers", SECURE)
    if sent.pop("token", False):
        headers = {**headers, "Authorization": f"Bearer {service.token}"}
    url = f"{service.url}/w/{site}/check"
    async with service.client.get(url, params=sent, headers=headers) as answer:
        body: dict[str, Any] = await answer.json(content_type=None)
        assert answer.status == status, body
        assert answer.headers["Cache-Control"] == "no-store"
        return body


def names(answer: dict[str, Any]) -> dict[str, bool]:
    return {each["name"]: each["ok"] for each in answer["findings"]}


def said(answer: dict[str, Any], name: str) -> str:
    return next(str(each["said"]) for each in answer["findings"] if each["name"] == name)


async def test_a_site_that_counts(service: Service) -> None:
    """What was counted today, and that pages of this origin may count."""
    await service.site(origins=["https://*.example.vn"])
    await service.hit(headers={"Origin": "https://www.example.vn"})
    answer = await checked(service, page=PAGE)
    assert names(answer) == {"today": True, "allowed": True}
    assert said(answer, "today") == "Page views counted today: 1."
    assert said(answer, "allowed") == "Pages of https://www.example.vn count for this site."


async def test_an_origin_that_is_refused(service: Service) -> None:
    """The sentence names the origin to add, as browsers write it."""
    await service.site(origins=["https://example.vn"])
    answer = await checked(service, page="HTTPS://Tỉnh.vn:443/x", lang="vi")
    assert names(answer) == {"never": False, "refused": False}
    assert "hãy thêm https://xn--tnh-dlz.vn vào origins" in said(answer, "refused")


async def test_nothing_today(service: Service) -> None:
    """A site that had hits and has none today says so; what was seeded is not from today."""
    await service.site()
    add = {"metric": "pageviews", "add": {"total": 12345}}
    await service.api("POST", "/sites/portal/seed", add)
    answer = await checked(service)
    assert names(answer) == {"quiet": False}
    assert said(answer, "quiet") == "Nothing has been counted today. Yesterday: 0."


@pytest.mark.parametrize(
    ("page", "headers", "found"),
    [
        ("http://localhost:8000/", {"Host": "count.example.vn"}, ["localhost", "allowed"]),
        ("http://127.0.0.1/", {"Host": "127.0.0.1:8080"}, ["allowed"]),
        ("http://127.0.0.2/", {"Host": "127.0.0.1:8080"}, ["localhost", "allowed"]),
        ("http://localhost.vn/", {"Host": "["}, ["allowed"]),
        ("http://127media.vn/", {"Referer": "https://count.example.vn/embed"}, ["allowed"]),
        (PAGE, {}, ["mixed", "allowed"]),
        (PAGE, {"X-Forwarded-Proto": "https"}, ["allowed"]),
        (PAGE, {"Referer": "https://count.example.vn/embed"}, ["allowed"]),
    ],
    ids=[
        "localhost",
        "both on it",
        "another loopback",
        "no host",
        "a name",
        "mixed",
        "TLS",
        "TLS untold",
    ],
)
async def test_a_page_that_its_browser_stops(
    service: Service, page: str, headers: dict[str, str], found: list[str]
) -> None:
    """Where the script itself or the browser keeps quiet, the checker says it."""
    await service.site()
    answer = await checked(service, page=page, headers=headers)
    assert [*names(answer)][1:] == found


@pytest.mark.parametrize(
    ("page", "origins", "found"),
    [
        ("capacitor://app.example.vn/x", ["capacitor://app.example.vn"], ["allowed"]),
        ("capacitor://app.example.vn/x", ["https://app.example.vn"], ["refused"]),
        ("ionic://localhost/index.html", ["ionic://localhost"], ["app_localhost", "allowed"]),
        ("app://localhost", ["https://a.vn"], ["app_localhost", "refused"]),
        ("file:///C:/x.html", ["https://a.vn"], ["opaque"]),
        ("file:///x.html", ["*"], ["opaque_open"]),
        ("content://media/1", ["https://a.vn"], ["opaque"]),
        ("app:///index.html", ["https://a.vn"], ["opaque"]),
        ("https://www-a-vn.translate.goog/?_x_tr_sl=vi", ["https://www.a.vn"], ["copy", "refused"]),
        (
            "https://www-a-vn.translate.goog/",
            ["https://www-a-vn.translate.goog"],
            ["copy", "allowed"],
        ),
        ("https://www-a-vn.cdn.ampproject.org/c/s/x", ["https://www.a.vn"], ["amp", "refused"]),
        ("https://web.archive.org/web/2026/https://a.vn/", ["https://a.vn"], ["copy", "refused"]),
        ("https://translate.google.com/", ["https://a.vn"], ["refused"]),
    ],
)
async def test_a_page_that_another_host_or_an_app_shows(
    service: Service, page: str, origins: list[str], found: list[str]
) -> None:
    """What is said lets it in: each origin that is named can be listed, and then counts."""
    await service.site(origins=origins)
    answer = await checked(service, page=page)
    assert [*names(answer)][1:] == found
    if found[-1] == "refused":
        add = re.search(r"add (\S+) to the site’s origins", said(answer, "refused"))
        assert add
        await service.api("PATCH", "/sites/portal", {"origins": [add[1]]})
        assert [*names(await checked(service, page=page))][-1] == "allowed"
        assert (await service.hit(headers={"Origin": add[1]}))["counted"]


@pytest.mark.parametrize(
    "page",
    ["example.vn", "javascript:alert(1)", "mailto:a@b.vn", "https://", "https://a b/", "x" * 9],
)
async def test_what_is_no_page(service: Service, page: str) -> None:
    """An address that is none is answered 400, with how to write one."""
    await service.site()
    problem = await checked(service, page=page, status=400)
    assert (problem["field"], problem["detail"]) == ("page", TEXTS["en"].check["page"])


async def test_a_site_that_strangers_do_not_know(service: Service) -> None:
    """Unknown and not public are the same to strangers; the admin is told which it is."""
    await service.site(public=False)
    hidden = await checked(service, status=404)
    unknown = await checked(service, "nowhere", status=404)
    assert hidden["detail"].replace("portal", "nowhere") == unknown["detail"]
    assert names(await checked(service, token=True))["hidden"] is False


async def test_drops_and_the_last_hit_are_for_the_admin(service: Service) -> None:
    """With the token: when the last hit came, and what was dropped today and why."""
    await service.site(origins=["https://a.vn"], timezone="Asia/Ho_Chi_Minh")
    await service.hit(headers={"Origin": "https://a.vn"})
    await service.hit(headers={"Origin": "https://b.vn"})
    assert names(await checked(service)) == {"today": True}
    answer = await checked(service, token=True)
    assert names(answer) == {"today": True, "last": True, "origin": False}
    assert re.search(r"came at \d{4}-\d\d-\d\d [\d:]{8} \(Asia/Ho_Chi_Minh\)", said(answer, "last"))
    assert "are not in the site’s origins: 1." in said(answer, "origin")


async def test_what_is_dropped_rightly_is_no_fault(service: Service) -> None:
    """Bots, pages loaded ahead and ignored networks are told for information; what its owner may
    have to correct is a fault. `ok` is as it was before there were three states."""
    await service.site(origins=["https://a.vn"], ignored_networks=["192.0.2.0/24"])
    own = {"Origin": "https://a.vn"}
    for header in ({"User-Agent": "curl/8"}, {"Purpose": "preview"}):
        await service.hit(headers={**own, **header})
    await service.hit(headers={**own, "X-Forwarded-For": "192.0.2.7"})
    await service.hit(headers={"Origin": "https://b.vn"})
    await service.hit(headers=own, p="mailto:a", status=400)
    found = (await checked(service, token=True))["findings"]
    assert {each["name"]: each["state"] for each in found} == {
        "never": "fault",
        "bot": "info",
        "prefetch": "info",
        "ignored": "info",
        "origin": "fault",
        "malformed": "fault",
    }
    assert {each["ok"] for each in found} == {False}


async def test_paths_that_look_personal(service: Service) -> None:
    """The admin is warned, with an example; numbers and words that sites have in paths are none."""
    await service.site(trusted_networks=["127.0.0.0/8"])
    plain = ["/tin-tuc/12345678", "/2026/11/29/bai-viet.html", "/deadbeefdeadbeef-cafe", "/a-b-c"]
    telling = [
        "/u/an.nguyen@example.vn",
        "/order/6f9619ff-8b86-d011-b42d-00cf4fc964ff",
        "/t/9e107d9d372bb6826bd81d3542a419d6",
        "/cccd/079300001234",
    ]
    for path in plain:
        await service.hit(p=path)
    assert "personal" not in names(await checked(service, token=True))
    for path in telling:
        await service.hit(p=path)
    answer = await checked(service, token=True)
    assert re.search("paths of 4 pages look like personal data", said(answer, "personal"))
    assert any(path in said(answer, "personal") for path in telling)
    assert "personal" not in names(await checked(service))


async def test_nothing_was_dropped(service: Service) -> None:
    """Where nothing ever came, the admin sees that nothing was dropped either."""
    await service.site()
    assert names(await checked(service, token=True)) == {"never": False, "undropped": True}


async def test_a_wrong_token_tells_no_more(service: Service) -> None:
    """It is no error, since a proxy may ask for a password of its own; the answer says it."""
    await service.site()
    answer = await checked(service, headers={"Authorization": "Bearer wrong"})
    assert (answer["admin"], names(answer)) == (False, {"never": False})


async def test_a_proxy_that_is_not_trusted(valkey: Server) -> None:
    """The setting to name it in is told to everybody, as in /readyz."""
    async with run_service(valkey.url, trusted_proxies="10.0.0.0/8") as service:
        await service.site()
        await service.hit(headers={"X-Forwarded-For": "203.0.113.7"})
        answer = await checked(service)
    assert "VISIT_COUNTER_TRUSTED_PROXIES" in said(answer, "proxy")


async def test_a_store_that_is_away() -> None:
    """What can be said without the store is said, and that it is away."""
    with run_server(server_binaries()["valkey"]) as own:
        async with run_service(own.url) as service:
            await service.site()
            own.kill()
            answer = await checked(service, page=PAGE, token=True)
    assert names(answer) == {"away": False, "allowed": True}


@pytest.mark.parametrize(
    ("query", "accepted", "language"),
    [
        ("", "", "en"),
        ("", "vi-VN,vi;q=0.9,en;q=0.8", "vi"),
        ("", "fr, en;q=0.2, vi;q=0.7", "vi"),
        ("", "vi;q=0, de, *", "en"),
        ("", "en;q=x, ;;, vi;q=2", "en"),
        ("en", "vi", "en"),
        ("vi-VN", "en", "vi"),
        ("km", "vi", "en"),
    ],
)
async def test_it_speaks_as_its_reader_does(
    service: Service, query: str, accepted: str, language: str
) -> None:
    """The language is that of the URL, else the one of ours that the browser likes best."""
    await service.site()
    lang: dict[str, Any] = {"lang": query} if query else {}
    answer = await checked(service, headers={"Accept-Language": accepted}, **lang)
    assert said(answer, "never") == TEXTS[language].check["never"]


async def test_a_language_of_nobody_takes_no_time(service: Service) -> None:
    """What only looks like a language holds nobody up, from the header and from the URL."""
    await service.site()
    hostile = "a" * 60 + " " * 7900 + "!"
    begun_s = process_time()
    await checked(service, headers={"Accept-Language": hostile})
    await checked(service, lang=hostile[:1800])
    assert process_time() - begun_s < 0.2


def test_both_languages_say_the_same() -> None:
    """The texts have the same names in both, and the same places for values."""
    places = {
        language: [
            (part, name, sorted(re.findall(r"\{\w+\}", text)))
            for part in ("page", "said", "check")
            for name, text in getattr(texts, part).items()
        ]
        for language, texts in TEXTS.items()
    }
    assert [*places] == ["vi", "en"]
    assert sorted({(part, name) for part, name, _ in places["vi"]}) == sorted(
        {(part, name) for part, name, _ in places["en"]}
    )
    assert {*map(str, places["vi"])} - {*map(str, places["en"])} == set()
    assert {*Reason} <= {*TEXTS["en"].check}

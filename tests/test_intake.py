"""What counts and what does not, over real HTTP."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from orjson import dumps

from tests.kit.services.in_process import PERSON, Service, run_service
from tests.kit.stores.server import Server
from visit_counter.rules.addresses import Address
from visit_counter.rules.limits import Rate

PAGE = "https://www.travinh.gov.vn"


async def pixel(service: Service, query: str = "", headers: Mapping[str, str] | None = None) -> int:
    url = f"{service.url}/w/portal/dot.gif{query}"
    async with service.client.get(url, headers={"User-Agent": PERSON, **(headers or {})}) as answer:
        assert answer.content_type == "image/gif"
        assert answer.headers["Cache-Control"] == "no-store"
        return len(await answer.read())


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        pytest.param({"Origin": PAGE}, None, id="a page of the site"),
        pytest.param({"Origin": "https://a.b.travinh.gov.vn"}, None, id="a sub-domain"),
        pytest.param({"Origin": "https://travinh.gov.vn.evil.vn"}, "origin", id="a lookalike"),
        pytest.param({"Origin": "null"}, "origin", id="a sandboxed frame"),
        pytest.param({"Referer": f"{PAGE}/tin"}, None, id="no Origin, the Referer decides"),
        pytest.param({"Referer": "https://evil.vn/"}, "origin", id="a foreign Referer"),
        pytest.param({}, "origin", id="neither"),
        pytest.param({"Origin": PAGE, "Sec-Fetch-Mode": "navigate"}, "origin", id="a navigation"),
        pytest.param({"Origin": PAGE, "Sec-Fetch-Dest": "image"}, "origin", id="as an image"),
        pytest.param({"Origin": PAGE, "Sec-Fetch-Dest": "empty"}, None, id="as a beacon"),
        pytest.param({"Origin": PAGE, "Sec-Purpose": "prefetch"}, "prefetch", id="a prefetch"),
        pytest.param({"Origin": PAGE, "Purpose": "preview"}, "prefetch", id="a preview"),
        pytest.param({"Origin": PAGE, "X-Purpose": "Preview"}, "prefetch", id="Safari's top sites"),
        pytest.param({"Origin": PAGE, "User-Agent": "curl/8.5"}, "bot", id="a bot"),
        pytest.param({"Origin": PAGE, "User-Agent": ""}, "bot", id="no User-Agent"),
    ],
)
async def test_a_hit_counts_or_says_why_not(
    service: Service, headers: Mapping[str, str], reason: str | None
) -> None:
    """Dropped hits get the counts like others, and are counted by reason only."""
    await service.site(origins=["https://*.travinh.gov.vn"])
    answer = await service.hit(headers=headers)
    drops = await service.api("GET", "/sites/portal/drops")

    assert (answer["counted"], answer.get("reason")) == (reason is None, reason)
    assert answer["total"]["pageviews"] == (reason is None)
    assert [*drops.values()] == ([{reason: 1}] if reason else [])


async def test_the_path_comes_from_the_referer_if_that_is_the_sites(service: Service) -> None:
    """Without `p` the Referer's path counts, a foreign one's does not."""
    await service.site(origins=[PAGE])
    own = await service.hit(headers={"Origin": PAGE, "Referer": f"{PAGE}/tin?x=1"}, page=True)
    foreign = await service.hit(headers={"Origin": PAGE, "Referer": "https://evil.vn/x"}, page=True)

    assert own["page"] == {"path": "/tin", "pageviews": 1}
    assert foreign["page"] == {"path": "/", "pageviews": 1}


async def test_the_pixel_counts_where_no_script_runs(service: Service) -> None:
    """Path from ?p= or the Referer; without a Referer only a site open to all counts."""
    await service.site(origins=[PAGE])
    sizes = [
        await pixel(service, "?p=/a", {"Referer": f"{PAGE}/"}),
        await pixel(service, "", {"Referer": f"{PAGE}/b"}),
        await pixel(service, "?p=/c"),
        await pixel(service, "?p=https://b.vn/", {"Referer": f"{PAGE}/"}),
    ]
    counts = await service.counts()
    drops = await service.api("GET", "/sites/portal/drops")

    assert len(set(sizes)) == 1
    assert counts["total"]["pageviews"] == 2
    assert [*drops.values()] == [{"origin": 1, "malformed": 1}]


async def test_views_beyond_the_limit_are_dropped(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What follows at once behind the burst of one address is rate_limit."""
    await service.site()
    limits = service.parts.intake.limits
    monkeypatch.setattr(limits, "_views", Rate(per_s=0.001, burst=2))
    answers = [await service.hit() for _ in range(3)]

    assert answers[0]["counted"] is True
    assert answers[-1]["reason"] == "rate_limit"


async def test_trusted_networks_have_no_limit(service: Service) -> None:
    """An address of the site's trusted networks is exempt."""
    await service.site(trusted_networks=["127.0.0.0/8"])
    limits = service.parts.intake.limits
    ours = limits.of(Address("127.0.0.1", 4, 0))
    assert all(limits.allow(ours, view=True) for _ in range(500))

    assert (await service.hit())["counted"] is True


async def test_ignored_networks_do_not_count(service: Service) -> None:
    """An office does not count itself, whatever it sends; it is told the counts, and they are the
    same for it as for all. A network that is trusted as well is ignored."""
    office = ["203.0.113.0/24", "2001:db8:1::/48"]
    await service.site(ignored_networks=office, trusted_networks=office)
    await service.hit(headers={"X-Forwarded-For": "198.51.100.1"})
    there = {"X-Forwarded-For": "203.0.113.7"}
    answers = [
        *[await service.hit(headers=there, k=kind) for kind in ("view", "here", "bye")],
        await service.hit(headers={"X-Forwarded-For": "2001:db8:1:2::3"}),
    ]
    await pixel(service, "?p=/a", there)
    drops = await service.api("GET", "/sites/portal/drops")
    looked = await service.client.get(f"{service.url}/w/portal", headers=there)

    assert [each["reason"] for each in answers] == ["ignored"] * 4
    assert [each["total"]["pageviews"] for each in answers] == [1] * 4
    assert [*drops.values()] == [{"ignored": 5}]
    assert (await looked.json())["online"] == 1


async def test_a_flood_of_new_visitors_is_held(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the burst, strangers' views count as pageviews only; the known count on."""
    monkeypatch.setattr(service.parts.intake.limits, "_visitors", Rate(per_s=0.001, burst=2))
    await service.site()
    languages = ("vi", "en", "fr", "de", "vi")
    answers = [await service.hit(headers={"Accept-Language": each}) for each in languages]

    assert [answer.get("held", False) for answer in answers] == [False, False, True, True, False]
    assert answers[-1]["total"] == {"pageviews": 5, "visits": 2, "visitors": 2}
    assert answers[-1]["online"] == 2


async def test_networks_of_one_48_do_not_add_up(
    valkey: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 66 networks that may bring a visitor each, 64 can if one customer has them."""
    async with run_service(valkey.url, trusted_proxies="127.0.0.0/8") as service:
        monkeypatch.setattr(service.parts.intake.limits, "_visitors", Rate(0.001, burst=1))
        await service.site()
        addresses = [*(f"2001:db8:0:{n:x}::1" for n in range(66)), "2001:db8:1::1"]
        answers = [await service.hit(headers={"X-Forwarded-For": each}) for each in addresses]

    assert [answer.get("held", False) for answer in answers] == 64 * [False] + [True, True, False]


async def test_the_first_party_id_counts_only_where_the_site_says_so(service: Service) -> None:
    """identity `browser` tells two machines of one office apart; `address` ignores `v`."""
    await service.site("by-browser", identity="browser")
    await service.site("by-address")
    for first_party in ("a", "b", "a"):
        browser = await service.hit("by-browser", v=first_party)
        address = await service.hit("by-address", v=first_party)

    assert browser["total"] == {"pageviews": 3, "visits": 2, "visitors": 2}
    assert address["total"] == {"pageviews": 3, "visits": 1, "visitors": 1}


async def test_a_private_site_counts_without_showing(service: Service) -> None:
    """public:false: POST counts, GET is 404 without the token and the counts with it; a page learns
    how often to say that it is looked at."""
    await service.site(public=False, online_window=60)
    answer = await service.hit()
    url = f"{service.url}/w/portal"
    stranger = await service.client.get(url)
    owner = await service.client.get(url, headers={"Authorization": f"Bearer {service.token}"})

    assert answer == {"counted": True, "online_window": 60}
    assert (stranger.status, owner.status) == (404, 200)
    assert (await owner.json())["total"]["pageviews"] == 1


async def test_equal_counts_have_equal_tags(service: Service) -> None:
    """A second GET with the tag is 304 with no body, also when the instant moved on."""
    await service.site()
    await service.hit()
    url = f"{service.url}/w/portal"
    first = await service.client.get(url)
    second = await service.client.get(url, headers={"If-None-Match": first.headers["ETag"]})

    assert first.headers["ETag"].startswith('W/"')
    assert (second.status, await second.read()) == (304, b"")


async def test_everything_works_under_a_base_path(valkey: Server) -> None:
    """With a base path set, the same URLs stand below it."""
    async with run_service(valkey.url, base_path="/thongke") as service:
        await service.site()
        answer = await service.hit()
        script = await service.client.get(f"{service.url}/embed.js")
        outside = await service.client.get(service.url.removesuffix("/thongke") + "/embed.js")

    assert service.url.endswith("/thongke")
    assert (answer["counted"], script.status, outside.status) == (True, 200, 404)


@pytest.mark.parametrize(
    ("way", "query"),
    [
        pytest.param({"p": "/tin-t%E1%BB%A9c"}, "", id="escaped, as location.pathname"),
        pytest.param({"p": "/tin-tức?x=1#y"}, "", id="written out, with a query"),
        pytest.param({}, "?p=/tin-t%E1%BB%A9c", id="the pixel's query"),
        pytest.param({}, "", id="the Referer"),
    ],
)
async def test_a_page_is_one_page_however_its_address_is_written(
    service: Service, way: dict[str, str], query: str
) -> None:
    """All ways in count the same path, and it reads back in both spellings."""
    await service.site()
    headers = {"Referer": f"{PAGE}/tin-t%E1%BB%A9c"}
    if query:
        await pixel(service, query, headers)
    else:
        await service.hit(body=dumps(way), headers=headers)
    url = f"{service.url}/w/portal?path="
    found = [
        await (await service.client.get(url + p)).json()
        for p in ("/tin-tức", "/tin-t%25E1%25BB%25A9c")
    ]

    assert [each["page"]["pageviews"] for each in found] == [1, 1]

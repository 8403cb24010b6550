"""Sites that cannot be read: 503 and never 404, told to operators, and fixed by a PUT."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest
from aiohttp import ClientResponse
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from tests.kit.services.in_process import PERSON, Service, StoppedClock, run_service, until
from tests.kit.services.newer_sites import Newer, newer_version
from tests.kit.stores.server import Server
from tests.test_stored_site import BROKEN, site_json
from tests.test_stored_site import packed as packed_json
from visit_counter import tasks

REASON = "settings.metric: Invalid enum value 'bounces'"
PUBLIC = [
    *("", "/live", "/dot.gif", "/block.svg", "/badge.svg", "/digits.svg", "/spark.svg"),
    *("/button.svg", "/frame", "/shields.json", "/how.json", "/privacy", "/check"),
]
ADMIN = [
    ("GET", "", None),
    ("PATCH", "", {"name": "new"}),
    ("POST", "/reset?preview=1", None),
    ("POST", "/reset", {"confirm": "a"}),
    ("POST", "/undo/my-reset-1", None),
    ("POST", "/seed", {"metric": "visits", "add": {"total": 1}}),
    ("GET", "/drops", None),
]


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def break_site(newer: Newer, site: str = "a") -> None:
    """As a version does that knows one more metric."""
    await newer.edit(site, settings={"metric": "bounces"})


async def told(answer: ClientResponse) -> Any:
    """What a 503 says, with the headers that every one has."""
    assert answer.status == 503
    assert answer.content_type == "application/problem+json"
    assert answer.headers["Retry-After"] == "5"
    assert answer.headers["Cache-Control"] == "no-store"
    return await answer.json()


@pytest.mark.parametrize("path", PUBLIC)
async def test_its_pages_are_told_503_and_why(service: Service, path: str) -> None:
    """Counts, streams, pictures and embeds, by the fast lane and by aiohttp, with CORS."""
    await service.site("a")
    async with newer_version(service) as newer:
        await break_site(newer)
        async with service.client.get(f"{service.url}/w/a{path}") as answer:
            problem = await told(answer)
            cors = answer.headers["Access-Control-Allow-Origin"]

    assert (problem["title"], problem["status"], cors) == ("Site unreadable", 503, "*")
    assert "settings.metric" in problem["detail"]
    assert "bounces" not in problem["detail"]
    assert "refused" in problem["detail"]


async def test_its_frame_is_embedded_by_nobody(service: Service) -> None:
    """oEmbed says 503 as well."""
    await service.site("a")
    async with newer_version(service) as newer:
        await break_site(newer)
        params = {"url": f"{service.url}/w/a/frame"}
        async with service.client.get(f"{service.url}/oembed", params=params) as answer:
            assert "(settings.metric)" in (await told(answer))["detail"]


async def test_the_checker_says_it_in_the_page_s_language(service: Service) -> None:
    """The generator page shows the sentence."""
    await service.site("a")
    async with newer_version(service) as newer:
        await break_site(newer)
        async with service.client.get(f"{service.url}/w/a/check?lang=vi") as answer:
            problem = await told(answer)

    assert problem["detail"].startswith("Không đọc được thiết lập của site a")
    assert "settings.metric" in problem["detail"]
    assert "bounces" not in problem["detail"]


@pytest.mark.parametrize("body", [b"{}", b"{", b'{"k":"here"}'])
async def test_its_hits_are_refused_and_counted_as_refused(service: Service, body: bytes) -> None:
    """Not as hits of an unknown site: they are an owner's loss."""
    await service.site("a")
    refused = metric("visitcounter_hits_total", outcome="refused")
    unknown = metric("visitcounter_hits_dropped_total", reason="unknown_site")
    async with newer_version(service) as newer:
        await break_site(newer)
        problem = await service.hit("a", body, status=503)
        for method in ("GET", "HEAD"):  # to ask for the picture's head counts nothing anywhere
            async with service.client.request(
                method, f"{service.url}/w/a/dot.gif", headers={"User-Agent": PERSON}
            ) as answer:
                assert answer.status == 503

    assert "(settings.metric)" in problem["detail"]
    assert metric("visitcounter_hits_total", outcome="refused") == refused + 2
    assert metric("visitcounter_hits_dropped_total", reason="unknown_site") == unknown


async def test_a_preflight_is_answered_as_ever(service: Service) -> None:
    """So that the browser lets the page read the 503."""
    await service.site("a")
    async with newer_version(service) as newer:
        await break_site(newer)
        async with service.client.options(f"{service.url}/w/a") as answer:
            assert answer.status == 204


@pytest.mark.parametrize(("method", "path", "body"), ADMIN)
async def test_the_api_says_503_and_why(
    service: Service, method: str, path: str, body: Any
) -> None:
    """Whatever is asked of it but PUT."""
    await service.site("a")
    async with newer_version(service) as newer:
        await break_site(newer)
        before = await newer.stored("a")
        problem = await service.api(method, f"/sites/a{path}", body, status=503)
        after = await newer.stored("a")

    assert problem["title"] == "Site unreadable"
    assert REASON in problem["detail"]
    assert before == after


async def test_the_list_names_it_beside_the_others(service: Service) -> None:
    """Only where there is one: answers of well stores stay as they were."""
    await service.site("a")
    well = await service.api("GET", "/sites")
    async with newer_version(service) as newer:
        await break_site(newer)
        listed = await service.api("GET", "/sites")

    assert {*well} == {"sites"}
    assert [site["id"] for site in listed["sites"]] == ["demo"]
    assert listed["unreadable"] == [{"id": "a", "reason": REASON}]


async def test_it_is_not_made_a_second_time(service: Service) -> None:
    """409 says that it exists, why it cannot be read, and what replaces it; seen or not yet."""
    await service.site("a")
    async with newer_version(service) as newer:
        unreadable = packed_json(site_json(settings={"id": "a", "metric": "bounces"}))
        await newer.write("a", unreadable, seen=False)
        first = await service.api("POST", "/sites", {"id": "a", "origins": ["*"]}, status=409)
        again = await service.api("POST", "/sites", {"id": "a", "origins": ["*"]}, status=409)
        stored = await newer.stored("a")

    assert first == again
    assert first["title"] == "Site exists"
    assert REASON in first["detail"]
    assert "PUT /api/v1/sites/a" in first["detail"]
    assert stored == unreadable


async def test_put_replaces_what_this_version_knows_and_nothing_else(service: Service) -> None:
    """The numbers, the calendar's history and the unknown fields are there as before."""
    await service.site("a", timezone="Asia/Ho_Chi_Minh", week_start="sunday")
    await service.api("POST", "/sites/a/seed", {"metric": "visits", "add": {"total": 1000}})
    await service.hit("a", p="/x")
    before = await service.counts("a")
    async with newer_version(service) as newer:
        await newer.edit("a", {"metric": "bounces", "goal": {"of": [1]}}, {"new": None}, group="g")
        old = json.loads(await newer.stored("a"))
        put = {"origins": ["*"], "timezone": "Asia/Ho_Chi_Minh", "week_start": "sunday"}
        with capture_logs() as logs:
            shown = await service.api("PUT", "/sites/a", put, status=200)
        new = json.loads(await newer.stored("a"))
    after = await service.counts("a")
    hit = await service.hit("a", p="/x")

    assert shown == await service.api("GET", "/sites/a")
    assert (new["calendar"], new["group"]) == (old["calendar"], "g")
    assert new["settings"] == {**shown, "goal": {"of": [1]}}
    assert after == before
    assert hit["total"]["pageviews"] == 2
    assert [line["event"] for line in logs] == [
        "a site can be read again: its hits are counted",
        "unreadable site replaced",
    ]


@pytest.mark.parametrize("name", BROKEN)
async def test_put_makes_any_site_readable(service: Service, name: str) -> None:
    """Whatever stands in the store: it counts again, with its numbers."""
    await service.site("a")
    await service.hit("a")
    async with newer_version(service) as newer:
        await newer.write("a", BROKEN[name][0])
        refused = await service.api("POST", "/sites", {"id": "a", "origins": ["*"]}, status=409)
        await service.hit("a", status=503)
        await service.api("PUT", "/sites/a", {"origins": ["*"]}, status=200)
        hit = await service.hit("a")

    assert BROKEN[name][1] in refused["detail"]
    assert hit["total"]["pageviews"] == 2
    assert service.parts.sites.unreadable == {}


async def test_a_site_under_the_name_of_another_is_unreadable(service: Service) -> None:
    """Else its hits would be counted for the other one."""
    await service.site("a")
    async with newer_version(service) as newer:
        await newer.write("a", packed_json(site_json(settings={"id": "b"})))
        problem = await service.hit("a", status=503)
        await service.hit("b", status=404)
        shown = await service.api("PUT", "/sites/a", {"origins": ["*"]})

    assert "(settings.id)" in problem["detail"]
    assert shown["id"] == "a"


async def test_what_is_no_name_of_a_site_disturbs_no_other(service: Service) -> None:
    """The others are read, and this one is told of."""
    await service.site("a")
    async with newer_version(service) as newer:
        for name in ("Portal", "a b"):
            await newer.write(name, packed_json(site_json(settings={"id": name})))
        await newer.write("", b"{}")
        await newer.write_name(b"\xff", "a")
        listed = await service.api("GET", "/sites")
        _, ready = await service.ready()
        hit = await service.hit("a")

    assert hit["counted"] is True
    assert {site["id"] for site in listed["unreadable"]} == {"Portal", "a b", "", "\\xff"}
    assert len(ready["hints"]) == 4
    assert tasks.problems() == []


async def test_put_changes_the_calendar_as_any_change_does(valkey: Server) -> None:
    """Another zone takes over at its next midnight; the old one is history."""
    clock = StoppedClock(1_773_144_000_000)  # 2026-03-10 12:00 UTC, a Tuesday
    async with run_service(valkey.url, clock=clock) as service:
        await service.site("a", timezone="UTC")
        async with newer_version(service) as newer:
            await newer.edit("a", {"metric": "bounces", "timezone": "Mars/Olympus"})
            put = {"origins": ["*"], "timezone": "Asia/Ho_Chi_Minh", "week_start": "sunday"}
            await service.api("PUT", "/sites/a", put)
            calendar = json.loads(await newer.stored("a"))["calendar"]

    assert calendar == {
        "zones": [[0, "UTC"], [1_773_162_000_000, "Asia/Ho_Chi_Minh"]],
        "week_starts": [["1970-01-01", 0], ["2026-03-22", 6]],
    }


async def test_a_calendar_that_cannot_be_read_begins_anew(service: Service) -> None:
    """With the zone and week that the PUT names; what else stood there stays."""
    await service.site("a", timezone="UTC")
    async with newer_version(service) as newer:
        await newer.edit("a", calendar={"zones": [[0, "Mars/X"]], "new": 1}, group="g")
        put = {"origins": ["*"], "timezone": "Asia/Ho_Chi_Minh"}
        await service.api("PUT", "/sites/a", put)
        stored = json.loads(await newer.stored("a"))

    assert stored["calendar"] == {
        "new": 1,
        "zones": [[0, "Asia/Ho_Chi_Minh"]],
        "week_starts": [["1970-01-01", 0]],
    }
    assert stored["group"] == "g"


async def test_a_put_replaces_only_the_bytes_that_were_judged(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written meanwhile is 409, and stays."""
    await service.site("a")
    async with newer_version(service) as newer:
        await break_site(newer)
        other = packed_json(site_json(settings={"id": "a", "metric": "other"}))
        put_site = service.parts.store.put_site

        async def late(*arguments: Any) -> Any:
            await newer.write("a", other, seen=False)
            return await put_site(*arguments)

        with monkeypatch.context() as slow:
            slow.setattr(service.parts.store, "put_site", late)
            problem = await service.api("PUT", "/sites/a", {"origins": ["*"]}, status=409)
        stored = await newer.stored("a")
        await service.api("PUT", "/sites/a", {"origins": ["*"]}, status=200)

    assert problem["title"] == "Site changed"
    assert stored == other


async def test_a_put_sent_again_is_done_once(service: Service) -> None:
    """Known by its operation's id, as for any site; 503 where it is unreadable again."""
    await service.site("a")
    put = {"origins": ["*"], "name": "mine", "operation": "my-putting"}
    async with newer_version(service) as newer:
        await break_site(newer)
        await service.api("PUT", "/sites/a", put, status=200)
        await service.api("PATCH", "/sites/a", {"name": "theirs"})
        again = await service.api("PUT", "/sites/a", put, status=200)
        await break_site(newer)
        problem = await service.api("PUT", "/sites/a", put, status=503)

    assert again["name"] == "theirs"
    assert problem["title"] == "Site unreadable"


@pytest.mark.parametrize("left", [None, b"x", b"0", b"1.5", b"-1", b"9" * 30])
async def test_a_site_without_a_generation_gets_its_own_back(
    service: Service, left: bytes | None
) -> None:
    """The newest that has counted, so that a reset is not undone by it, and no number is lost."""
    await service.site("a")
    await service.hit("a")
    await service.api("POST", "/sites/a/reset", {"confirm": "a"})
    for _ in range(3):
        await service.hit("a")
    before = await service.counts("a")
    async with newer_version(service) as newer:
        await newer.lose_generation("a", left)
        problem = await service.hit("a", status=503)
        shown = await service.api("PUT", "/sites/a", {"origins": ["*"]}, status=200)
    after = await service.counts("a")
    hit = await service.hit("a")

    assert "(generation)" in problem["detail"]
    assert shown["id"] == "a"
    assert after == before
    assert hit["total"]["pageviews"] == 4


async def test_a_site_that_never_had_a_generation_gets_one(service: Service) -> None:
    """Somebody wrote only its settings; a PUT of them makes it count."""
    async with newer_version(service) as newer:
        await newer.write("a", packed_json(site_json(settings={"id": "a"})))
        await service.hit("a", status=503)
        await service.api("PUT", "/sites/a", {"origins": ["*"]}, status=200)
        hit = await service.hit("a")

    assert hit["total"]["pageviews"] == 1


async def test_it_counts_again_by_itself_when_it_can_be_read(service: Service) -> None:
    """At the next look at the versions, with no request to help; each change is logged once."""
    await service.site("a")
    await service.hit("a")
    sites = service.parts.sites
    with capture_logs() as logs:
        async with newer_version(service) as newer:
            well = await newer.stored("a")
            bad = packed_json(site_json(settings={"id": "a", "metric": "bounces"}))
            await newer.write("a", bad, seen=False)
            await until(lambda: "a" in sites.unreadable)
            assert sites.get("a") is None
            for _ in range(3):
                await newer.write("a", bad)
            await newer.write("a", bad + b" ")
            await newer.write("a", well, seen=False)
            await until(lambda: sites.get("a"))
            await newer.write("a", well)
        hit = await service.hit("a")

    assert hit["total"]["pageviews"] == 2
    events = [line for line in logs if line.get("site") == "a"]
    assert [(line["log_level"], line["event"]) for line in events] == [
        ("error", "a site cannot be read"),
        ("error", "a site cannot be read"),
        ("info", "a site can be read again: its hits are counted"),
    ]
    assert REASON in events[0]["detail"]


async def test_a_site_that_is_removed_is_unknown(service: Service) -> None:
    """What is no longer in the store is no longer told of."""
    await service.site("a")
    async with newer_version(service) as newer:
        await break_site(newer)
        await newer.remove("a")
        await service.hit("a", status=404)

    assert service.parts.sites.problems == []


async def test_readiness_names_the_site_the_reason_and_the_remedy(service: Service) -> None:
    """Degraded and still ready, with a gauge; well again afterwards."""
    await service.site("a")
    async with newer_version(service) as newer:
        await break_site(newer)
        status, ready = await service.ready()
        gauge = await scraped(service, "visitcounter_unreadable_sites")
        known = await scraped(service, "visitcounter_sites")
        await service.api("PUT", "/sites/a", {"origins": ["*"]})
        _, healed = await service.ready()

    assert (status, ready["status"], len(ready["hints"])) == (200, "degraded", 1)
    assert f'site "a" in the store cannot be read: {REASON}.' in ready["hints"][0]
    assert "PUT /api/v1/sites/a" in ready["hints"][0]
    assert (gauge, known) == (1, 1)
    assert (healed["status"], healed["hints"]) == ("ok", [])
    assert await scraped(service, "visitcounter_unreadable_sites") == 0


async def test_readiness_names_five_sites_and_how_many_more(service: Service) -> None:
    """However many there are; a reason that quotes much is cut."""
    async with newer_version(service) as newer:
        for n in range(8):
            bad = site_json(settings={"id": f"s{n}", "metric": "x" * 10_000})
            await newer.write(f"s{n}", packed_json(bad))
        _, ready = await service.ready()

    assert [re.findall(r'site "(s\d)"', hint) for hint in ready["hints"]] == [
        *([f"s{n}"] for n in range(5)),
        [],
    ]
    assert ready["hints"][5].startswith("And 3 more sites cannot be read")
    assert max(map(len, ready["hints"])) < 600


async def scraped(service: Service, name: str) -> float:
    async with service.client.get(f"{service.ops_url}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


async def test_no_demo_is_made_where_no_site_can_be_read(valkey: Server) -> None:
    """The store is not new: its sites only wait for another version."""
    async with (
        run_service(valkey.url, namespace="unread") as service,
        newer_version(service) as newer,
    ):
        await break_site(newer, "demo")
    async with run_service(valkey.url, namespace="unread") as service:
        assert (service.parts.sites.all(), [*service.parts.sites.unreadable]) == ([], ["demo"])
        async with newer_version(service) as newer:
            assert b"bounces" in await newer.stored("demo")


async def test_its_streams_end_and_are_not_begun_again(service: Service) -> None:
    """Those of others go on."""
    await service.site("a")
    await service.site("b")
    live = f"{service.url}/w/%s/live"
    async with (
        newer_version(service) as newer,
        service.client.get(live % "a") as its,
        service.client.get(live % "b") as other,
    ):
        await its.content.readuntil(b"\n\n")
        await other.content.readuntil(b"\n\n")
        await break_site(newer)
        async with asyncio.timeout(5):
            assert await its.content.read() == b""
        async with service.client.get(live % "a") as again:
            await told(again)
        await service.hit("b")
        assert b'"pageviews":1' in await other.content.readuntil(b"\n\n")


async def test_a_site_that_did_not_change_is_not_read_anew(service: Service) -> None:
    """What is kept for a site stays valid while others of its partition change."""
    await service.site("a")
    before = service.parts.sites.get("a")
    async with newer_version(service) as newer:
        await newer.write("a", await newer.stored("a"))
        same = service.parts.sites.get("a")
        await newer.edit("a", settings={"name": "b"})

    assert same is before
    assert service.parts.sites.get("a") is not before

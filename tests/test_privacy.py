"""The privacy text: true of each site's settings, plain for everybody, and served to everybody."""

from __future__ import annotations

import time
from typing import Any

import pytest
from playwright.async_api import expect
from redis.asyncio import Redis

from tests.kit.pages.browser import chromium
from tests.kit.services.in_process import Service, StoppedClock, run_service
from tests.kit.stores.server import Server
from tests.kit.tools import need_script
from visit_counter.model.site_settings import SiteSettings
from visit_counter.web.words.privacy import DAY_S, HOUR_S, LANGUAGES, markdown, notice

# A setting, and what it puts in the place of what stands there without it.
TOLD: dict[str, tuple[dict[str, Any], list[str]]] = {
    "name": ({"name": "Trà Vinh"}, ["visits to Trà Vinh are"]),
    "id": ({"id": "other"}, ["visits to other are"]),
    "visit_timeout": (
        {"visit_timeout": 3600},
        ["after 1 hour without any", "within 2 hours 1 minute while", "case 1 day 1 hour after"],
    ),
    "online_window": (
        {"online_window": 90},
        [
            "about every 30 seconds;",
            "in the last 1 minute 30 seconds,",
            "within 2 minutes 30 seconds while",
            "case 1 hour 1 minute 30 seconds after",
        ],
    ),
    "identity": (
        {"identity": "browser"},
        ["A random number of this", "its random number if", "`visit-counter-id` in its local"],
    ),
    "honour_dnt": ({"honour_dnt": True}, ["no code is made: only the view is counted"]),
    "max_pages": ({"max_pages": 0}, ["none by its path"]),
    "query_keys": (
        {"query_keys": ("p", "id")},
        ["its path, and of the query only `p`, `id`, where"],
    ),
    "public": ({"public": False}, ["Only the operator"]),
}
SILENT: dict[str, dict[str, Any]] = {
    "origins": {"origins": ("https://a.vn",)},
    "timezone": {"timezone": "Asia/Ho_Chi_Minh"},
    "week_start": {"week_start": "sunday"},
    "metric": {"metric": "pageviews"},
    "trusted_networks": {"trusted_networks": ("10.0.0.0/8",)},
    "path_style": {"path_style": "directory"},
    "ignored_networks": {"ignored_networks": ("10.0.0.0/8",)},
}


def told(language: str = "en", **changes: Any) -> list[str]:
    settings = {"id": "portal", "origins": ("*",), **changes}
    return markdown(notice(SiteSettings(**settings), language)).splitlines()


def test_every_setting_was_thought_of() -> None:
    """A new setting is told of, or is said here to concern no visitor's privacy."""
    assert {*TOLD, *SILENT} == {*SiteSettings.__struct_fields__}


@pytest.mark.parametrize(("changes", "expected"), TOLD.values(), ids=TOLD)
def test_a_setting_changes_its_sentences(changes: dict[str, Any], expected: list[str]) -> None:
    """And no other; in every language the same ones."""
    before, after = told(), told(**changes)
    new = [line for line in after if line not in before]
    assert [part for part in expected if part not in "\n".join(new)] == []
    assert [line for line in new if not any(part in line for part in expected)] == []
    for language in LANGUAGES:
        lines = told(language)
        assert len([line for line in told(language, **changes) if line not in lines]) == len(new)


@pytest.mark.parametrize("changes", SILENT.values(), ids=SILENT)
def test_other_settings_change_nothing(changes: dict[str, Any]) -> None:
    """They are about whose hits count, and how numbers are shown."""
    assert told(**changes) == told()


async def test_codes_live_as_long_as_is_told(valkey: Server) -> None:
    """The store forgets them by itself, where nobody comes any more."""
    clock = StoppedClock(time.time_ns() // 10**6 - 5000)
    async with (
        run_service(valkey.url, clock=clock, namespace="told") as service,
        Redis(unix_socket_path=valkey.socket_path) as client,
    ):
        await service.site(visit_timeout=1800, online_window=300)
        await service.hit()
        clock.at += 3000  # later than any view that the bye could have overtaken
        await service.hit(k="bye")
        lives = [await _life_s(client, name) for name in ("seen", "left", "candidates")]
    assert "case 1 day 30 minutes after" in "".join(told())
    assert "case 1 hour 5 minutes after" in "".join(told())
    assert "at most 181 days after" in "".join(told())
    assert lives == [
        pytest.approx(1800 + DAY_S, abs=60),
        pytest.approx(300 + HOUR_S, abs=60),
        pytest.approx(91 * DAY_S, abs=60),
    ]


async def _life_s(client: Redis, name: str) -> float:
    (key,) = [key async for key in client.scan_iter(f"told:*:portal:*:{name}", count=1000)]
    return float(await client.ttl(key))


async def get(service: Service, path: str) -> tuple[int, dict[str, str], str]:
    async with service.client.get(f"{service.url}/w/{path}") as answer:
        return answer.status, dict(answer.headers), await answer.text()


async def test_visitors_are_told(service: Service) -> None:
    """Also of a site whose numbers are not public, without its origins; no script runs, and names
    are only text."""
    await service.site(name="<b>A & B</b>", public=False, origins=["https://a.vn"])
    status, headers, page = await get(service, "portal/privacy?lang=vi")
    assert status == 200
    assert "Quyền riêng tư: cách đếm lượt truy cập &lt;b&gt;A &amp; B&lt;/b&gt;" in page
    assert headers["Cache-Control"] == "public, max-age=60"
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert "a.vn" not in f"{headers} {page}"


@pytest.mark.parametrize(
    ("path", "expected"), [("nowhere/privacy", 404), ("portal/privacy?lang=fr", 400)]
)
async def test_what_is_not_told(service: Service, path: str, expected: int) -> None:
    """Of no site, and in no language but ours."""
    await service.site()
    status, _, _ = await get(service, path)
    assert status == expected


async def test_everybody_can_read_it(service: Service) -> None:
    """axe-core finds nothing, light and dark, in both languages; the link leads to the other."""
    axe = need_script("axe-core/axe.min.js").read_text()
    await service.site(name="Cổng thông tin")
    async with chromium() as browser:
        for scheme in ("light", "dark"):
            page = await browser.new_page(color_scheme=scheme)
            await page.goto(f"{service.url}/w/portal/privacy")
            for link in ("Tiếng Việt", "English"):
                found = await page.evaluate(f"(() => {{ {axe} }})() || axe.run()")
                assert [each["id"] for each in found["violations"]] == []
                await page.get_by_role("link", name=link).click()
                await expect(page.get_by_role("link", name=link)).to_have_count(0)

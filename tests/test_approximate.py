"""What is approximate says so, wherever it is shown: visitors that an undo could only add up."""

from __future__ import annotations

import json
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.kit.counting import at, counting
from tests.kit.pages.panels import DRAWN, SVG, drawn, framed, lines, panel, reading, spoken
from tests.kit.services.in_process import Service
from tests.kit.stores.server import Server
from visit_counter.model.counts import Numbers
from visit_counter.web.pictures import frame
from visit_counter.web.pictures.drawn import badge
from visit_counter.web.pictures.query import Query
from visit_counter.web.words.languages import LANGUAGES

DAY = 86_400_000
NOON = at("2026-03-10 12:00")  # a Tuesday
RUNNING = ["today", "week", "month", "year", "total"]
ABOUT = {"metric": "visitors"}


async def lose_sketches(client: Any, pattern: str) -> None:
    await client.delete(*await client.keys(pattern))


# -- in the store


async def test_running_and_ended_periods_that_were_added_up(store_server: Server) -> None:
    """They stay approximate when they end; those whose sketches merged are not, nor are others."""
    async with counting(store_server.url) as counted:
        await counted.view(1, NOON - 8 * DAY)
        await counted.view(2, NOON)
        await lose_sketches(counted.client, f"{counted.tag}:portal:1:visitors:*")
        await counted.store.reset(counted.site, "r1")
        counted.next_generation()
        await counted.view(3, NOON)
        exact = await counted.counts(NOON)
        sums = await counted.store.undo(counted.site, "r1")
        running = await counted.counts(NOON)
        await counted.view(4, NOON + DAY)
        ended = await counted.counts(NOON + DAY)
        later = await counted.counts(NOON + 7 * DAY)
        days = await counted.store.days(counted.site, ["2026-03-02", "2026-03-10", "2026-03-11"])

    assert (exact.approximate, running.approximate) == ([], RUNNING)
    assert (running.today, running.last_week) == (Numbers(2, 2, 2), Numbers(1, 1, 1))
    assert ended.approximate == ["yesterday", "week", "month", "year", "total"]
    assert later.approximate == ["last_week", "month", "year", "total"]
    assert [day.is_approximate for day in days.values()] == [False, True, False]
    assert sums == 5


async def test_what_merged_is_not_approximate(store_server: Server) -> None:
    """A visitor on both sides is one."""
    async with counting(store_server.url) as counted:
        await counted.view(1, NOON)
        await counted.store.reset(counted.site, "r1")
        counted.next_generation()
        await counted.view(1, NOON)
        sums = await counted.store.undo(counted.site, "r1")
        counts = await counted.counts(NOON)

    assert (sums, counts.approximate, counts.total) == (0, [], Numbers(2, 2, 1))


# -- in JSON


async def test_the_json_names_the_periods(service: Service) -> None:
    """In the answer to a hit, to who looks, who watches and to the admin, and in how we count."""
    await service.site(metric="visitors")
    await service.hit()
    exact = await service.counts()
    site = service.parts.sites.get("portal")
    assert site is not None
    store = service.parts.store
    client = store._shards.of(store._tags[site.partition]).client
    await lose_sketches(client, f"{store._tags[site.partition]}:portal:1:visitors:*")
    await service.api("POST", "/sites/portal/reset", {"confirm": "portal", "operation": "my-reset"})
    await service.hit()
    undone = await service.api("POST", "/sites/portal/undo/my-reset")
    hit = await service.hit()
    preview = await service.api("POST", "/sites/portal/reset?preview=1")
    async with service.client.get(f"{service.url}/w/portal/live") as live:
        async for line in live.content:
            if line.startswith(b"data: "):
                watched = json.loads(line.removeprefix(b"data: "))
                break
    async with service.client.get(f"{service.url}/w/portal/how.json") as answer:
        how = (await answer.json())["how"]

    assert exact["approximate"] == []
    assert undone == {"undone": "my-reset", "approximate": 5}
    told = [hit, await service.counts(), watched, preview["would_reset"]]
    assert [each["approximate"] for each in told] == [RUNNING] * 4
    assert how[-2:] == [
        "Visitors are an estimate with a standard error of 0.81%.",
        "Visitors are approximate, marked ≈: Today, This week, This month, This year, All time.",
    ]


# -- in pictures


def test_a_block_marks_its_rows() -> None:
    """With a sign for who looks and a word for who listens; only visitors can be approximate."""
    read = reading(approximate=["week"])
    asked = {"rows": "online,today,week", "lang": "vi"}
    picture = drawn("block", {**asked, **ABOUT}, read)
    visits = drawn("block", asked, read)

    seen = ["Đang online: 81", "Hôm nay: 943", "Trong tuần: ≈\N{NO-BREAK SPACE}10,328"]
    heard = "Đang online: 81. Hôm nay: 943. Trong tuần: khoảng 10,328."
    assert lines(picture)[1:] == seen
    assert spoken(picture)[1] == heard
    assert "≈" not in "".join(lines(visits))
    assert "khoảng" not in spoken(visits)[1]


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("name", [*DRAWN, "frame"])
def test_every_picture_says_it_in_each_language(name: str, lang: str) -> None:
    """What is seen has the sign, except for bars, and what is heard the language's word."""
    words, given = LANGUAGES[lang], {"lang": lang, "period": "total", **ABOUT}
    exact, rough = reading(), reading(approximate=["yesterday", "total"], approximate_days=1)
    if name == "frame":
        page = framed(given, rough)
        sign = f'<span role="img" aria-label="{words.about}">≈</span>\N{NO-BREAK SPACE}'
        assert (page.count(sign), framed(given, exact).count("≈")) == (1, 0)
        return
    picture, before = drawn(name, given, rough), drawn(name, given, exact)
    assert f"{words.about} " in "".join(spoken(picture))
    assert f"{words.about} " not in "".join(spoken(before))
    if name not in ("spark", "digits"):
        assert "≈" in "".join(lines(picture))


def test_bars_name_the_days_that_are_approximate() -> None:
    """Whose labels are dates."""
    picture = drawn("spark", ABOUT, reading(approximate=["yesterday"], approximate_days=2))

    assert spoken(picture)[1] == (
        "Yesterday: about 617. Today: 943. Visitors are approximate, marked ≈: 2026-11-20, "
        "2026-11-21."
    )


@pytest.mark.parametrize("made", ["odometer", "seven-segment", "flip", "plain"])
def test_digits_begin_with_the_sign(made: str) -> None:
    """Drawn as a digit is, and like none."""
    asked = {"set": made, "zero-pad": "9", **ABOUT}
    cells = drawn("digits", asked, reading(approximate=["total"])).findall(f"{SVG}g")
    shapes = [b"".join(map(ElementTree.tostring, cell)) for cell in cells]

    assert len(cells) == 10
    assert shapes[0] not in shapes[1:]


def test_a_badge_of_shields() -> None:
    """As our own."""
    shown = panel(ABOUT, reading(approximate=["total"]))

    assert badge.shields(shown, Query(ABOUT))["message"] == "≈\N{NO-BREAK SPACE}945,725"


@pytest.mark.parametrize("lang", LANGUAGES)
def test_how_says_it_in_words(lang: str) -> None:
    """The standard error of every number of visitors, and which of them are less exact."""
    words = LANGUAGES[lang]
    shown = panel({"lang": lang, **ABOUT}, reading(approximate=["last_month", "year"]))
    told = frame.how(shown)
    exact = frame.how(panel({"lang": lang, **ABOUT}, reading()))

    periods = words.comma.join((words.last_month, words.year))
    assert told[-1] == words.approximate.format(periods=periods)
    assert told[:-1] == exact
    assert "81" in exact[-1]
    assert [line for line in frame.how(panel({"lang": lang}, reading())) if "81" in line] == []

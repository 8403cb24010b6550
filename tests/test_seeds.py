"""What an admin adds: never beyond what is exact, nor so little that a number is below 0."""

from __future__ import annotations

from typing import Any

import pytest

from tests.kit.counting import at, counting
from tests.kit.services.in_process import Service
from tests.kit.stores.server import Server
from visit_counter.model.counts import Numbers
from visit_counter.store.replies import BELOW, BEYOND, Refused

NOON = at("2026-03-10 12:00")
TOTAL, TODAY, YEAR = ("total", ""), ("day", "2026-03-10"), ("year", "2026")
LATER = ("month", "2031-01")  # nobody has come


async def refusal(seeding: Any) -> tuple[str, str]:
    with pytest.raises(Refused) as refused:
        await seeding
    return refused.value.word, str(refused.value)


@pytest.mark.parametrize("metric", ["pageviews", "visits", "visitors"])
async def test_no_more_is_taken_than_is_shown(store_server: Server, metric: Any) -> None:
    """Of a running period, of one that nobody has come in, and of the total; then all of it."""
    async with counting(store_server.url) as counted:
        seed = counted.store.seed
        await counted.record(*(counted.hit(n, NOON) for n in (1, 2, 3)))
        await seed(counted.site, "s1", metric, {TODAY: 10, LATER: 5, TOTAL: 1})
        refused = [
            await refusal(seed(counted.site, f"r-{most}", metric, {period: -most - 1}))
            for period, most in ((TODAY, 13), (LATER, 5), (TOTAL, 4), (YEAR, 3))
        ]
        await seed(counted.site, "s2", metric, {TODAY: -13, LATER: -5, TOTAL: -4, YEAR: -3})
        counts = await counted.counts(NOON)

    assert refused == [(BELOW, text) for text in ("day 13", "month 5", "total 4", "year 3")]
    shown = {getattr(each, metric) for each in (counts.today, counts.year, counts.total)}
    assert shown == {0}


async def test_one_period_too_low_and_nothing_is_added(store_server: Server) -> None:
    """And the operation's id is not used up."""
    async with counting(store_server.url) as counted:
        await counted.view(1, NOON)
        order = {TOTAL: 100, YEAR: 100, TODAY: -2}
        refused = await refusal(counted.store.seed(counted.site, "s1", "visits", order))
        nothing = await counted.counts(NOON)
        for _ in range(2):
            await counted.store.seed(counted.site, "s1", "visits", {**order, TODAY: -1})
        counts = await counted.counts(NOON)

    assert refused == (BELOW, "day 1")
    assert (nothing.total.visits, nothing.seeds) == (1, [])
    assert (counts.total.visits, counts.year.visits, counts.today.visits) == (101, 101, 0)


async def test_a_seed_from_before_that_is_too_low_stays_at_0(store_server: Server) -> None:
    """What earlier versions took: nothing more is, and what is added fills the gap first."""
    async with counting(store_server.url) as counted:
        await counted.view(1, NOON)
        await counted.store.seed(counted.site, "s0", "visits", {YEAR: 1})
        await counted.client.hset(f"{counted.tag}:portal:1:seeds", "total::v", -10)
        refused = await refusal(counted.store.seed(counted.site, "s1", "visits", {TOTAL: -1}))
        low = await counted.counts(NOON)
        await counted.store.seed(counted.site, "s2", "visits", {TOTAL: 10})
        counts = await counted.counts(NOON)

    assert refused == (BELOW, "total 0")
    assert (low.total.visits, counts.total.visits) == (0, 1)


async def test_no_number_is_beyond_what_is_exact(store_server: Server) -> None:
    """2^53, counted and added, is reached and not passed."""
    async with counting(store_server.url) as counted:
        seed = counted.store.seed
        await counted.view(1, NOON)
        for n in range(90):
            await seed(counted.site, f"s{n}", "visits", {TOTAL: 10**14})
        most = 2**53 - 90 * 10**14 - 1
        refused = [
            await refusal(seed(counted.site, f"r{amount}", "visits", {TOTAL: amount, YEAR: 1}))
            for amount in (10**14, most + 1)
        ]
        await seed(counted.site, "s", "visits", {TOTAL: most})
        full = await counted.counts(NOON)
        again = await refusal(seed(counted.site, "r", "visits", {TOTAL: 1}))
        await seed(counted.site, "back", "visits", {TOTAL: -1})
        counts = await counted.counts(NOON)

    assert refused == [(BEYOND, f"total {most}")] * 2
    assert (full.total, full.year.visits) == (Numbers(1, 2**53, 1), 1)
    assert again == (BEYOND, "total 0")
    assert counts.total.visits == 2**53 - 1


@pytest.mark.parametrize(
    ("add", "field", "detail"),
    [
        (
            {"today": -1888},
            "add.today",
            "today shows 1,887 visits: at most 1,887 can be taken. Nothing was added.",
        ),
        (
            {"total": 10**14, "week": -1},
            "add.week",
            "week shows 0 visits: at most 0 can be taken. Nothing was added.",
        ),
        (
            {"year": 8_199_254_740_992},
            "add.year",
            "year would have more than 9,007,199,254,740,992 (2^53) visits, beyond which numbers "
            "are not exact: at most 8,199,254,740,991 can be added. Nothing was added.",
        ),
    ],
    ids=["below", "below-by-one-of-two", "beyond"],
)
async def test_the_api_names_the_largest_possible(
    service: Service, add: dict[str, int], field: str, detail: str
) -> None:
    """With the period's field; the same order with that number is taken."""
    await service.site()
    await service.hit()
    for n in range(89):
        order = {"metric": "visits", "add": {"year": 10**14}, "operation": f"fill-{n:05}"}
        await service.api("POST", "/sites/portal/seed", order)
    rest = {"metric": "visits", "add": {"year": 99_000_000_000_000, "today": 1886, "week": -1}}
    await service.api("POST", "/sites/portal/seed", rest)
    before = await service.counts()
    refused = await service.api(
        "POST", "/sites/portal/seed", {"metric": "visits", "add": add}, status=409
    )
    after = await service.counts()

    assert (refused["field"], refused["detail"]) == (field, detail)
    assert (before["today"], before["year"]) == (after["today"], after["year"])

"""Spooled hits are charged to the limit of new visitors, and what was known is given back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kit.counting import at, visitor
from tests.kit.services.in_process import Service, run_service, until
from tests.kit.stores.server import run_server, server_binaries
from visit_counter.delivery.debts import Debts
from visit_counter.model.calendar import Calendar
from visit_counter.model.hit import Drop, Hit
from visit_counter.model.kinds import Kind
from visit_counter.model.reasons import Reason
from visit_counter.model.site import Site
from visit_counter.model.site_settings import SiteSettings, StoredSite
from visit_counter.rules.addresses import Address
from visit_counter.rules.limits import Allowance, Limits, Rate
from visit_counter.store.batch import Batch


@pytest.fixture(autouse=True)
def _spill_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("visit_counter.delivery.flow.SPILL_S", 0.25)


def has_nothing_spooled(service: Service) -> Callable[[], bool]:
    replay = service.parts.recorder._replay
    assert replay is not None
    return lambda: not replay._spool.records and not replay.away


async def by(service: Service, language: str, status: int = 200) -> bool:
    """A view by a visitor of that language, from our one address; whether it was held."""
    answer = await service.hit(headers={"Accept-Language": language}, status=status)
    return bool(answer.get("held", False))


async def test_a_flood_in_an_outage_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its visits are the burst at most, and the debt stays; views count all."""
    with run_server(server_binaries()["valkey"]) as own:
        async with run_service(own.url, data_dir=tmp_path) as service:
            monkeypatch.setattr(service.parts.intake.limits, "_visitors", Rate(0.001, burst=5))
            await service.site()
            own.kill()
            for n in range(12):
                await by(service, f"x-{n}", status=202)
            for n in range(3):  # they came before, and are charged once
                await by(service, f"x-{n}", status=202)
            own.start()
            await until(has_nothing_spooled(service), within_s=10)
            total = (await service.counts())["total"]
            after = [await by(service, "x-100"), await by(service, "x-1")]

    assert total == {"pageviews": 15, "visits": 5, "visitors": 5}
    assert after == [True, False]


async def test_what_was_known_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Visitors of before the outage are not held in it, whatever is left to their network, and
    cost it nothing in the end."""
    with run_server(server_binaries()["valkey"]) as own:
        async with run_service(own.url, data_dir=tmp_path) as service:
            monkeypatch.setattr(service.parts.intake.limits, "_visitors", Rate(0.001, burst=8))
            await service.site()
            before = [await by(service, f"x-{n}") for n in range(3)]
            own.kill()
            for n in range(4):  # one is new
                await by(service, f"x-{n}", status=202)
            own.start()
            await until(has_nothing_spooled(service), within_s=10)
            total = (await service.counts())["total"]
            after = [await by(service, f"x-{n}") for n in range(4, 9)]

    assert before == [False] * 3
    assert total == {"pageviews": 7, "visits": 4, "visitors": 4}
    assert after == [*[False] * 4, True]


async def test_a_batch_that_is_spooled_late_is_charged_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was made for the store, which hangs: nobody in it can be held any more, and the debt stays
    until the store says whom it knew."""
    with run_server(server_binaries()["valkey"]) as own:
        async with run_service(own.url, data_dir=tmp_path) as service:
            limits = service.parts.intake.limits
            monkeypatch.setattr(limits, "_visitors", Rate(0.001, burst=3))
            await service.site()
            known = await by(service, "x-0")
            own.pause()
            await by(service, "x-0", status=202)
            new = limits.may_bring_visitors(limits.of(LOCAL))
            await by(service, "x-1", status=202)
            none_left = limits.may_bring_visitors(limits.of(LOCAL))
            own.resume()
            await until(has_nothing_spooled(service), within_s=10)
            await until(lambda: limits.may_bring_visitors(limits.of(LOCAL)))
            after = [await by(service, f"x-{n}") for n in (2, 3)]

    assert (known, new, none_left) == (False, True, False)
    assert after == [False, True]


# -- what is charged, and what is given back


LOCAL = Address("127.0.0.1", 4, 0)
SITE = Site(
    StoredSite(SiteSettings(id="portal", origins=("*",), visit_timeout=600), Calendar.of("UTC")), 1
)
NOON = at("2026-03-10 12:00")


def owing(burst: int) -> tuple[Debts, Limits, Allowance]:
    """Debts, and the network that is charged."""
    limits = Limits(lambda: 0.0)
    limits._visitors = Rate(per_s=1, burst=burst)
    return Debts(limits), limits, limits.of(LOCAL)


def hit(who: int, network: Allowance | None, second: int = 0, kind: Kind = Kind.VIEW) -> Hit:
    return Hit(SITE, kind, NOON + second * 1000, visitor(who) if who else b"", charged=network)


def left(limits: Limits, network: Allowance) -> int:
    """How many new visitors the network may bring."""
    before, number = network.visitors_s, 0
    while limits.may_bring_visitors(network):
        limits.charge_visitor(network)
        number += 1
    network.visitors_s = before
    return number


def test_only_who_may_be_new_is_charged() -> None:
    """Once in a visit; not who leaves, has no identity or comes from a trusted network."""
    debts, limits, network = owing(burst=5)
    drop = Drop(SITE, Reason.BOT, NOON)
    debts.charge([hit(1, network), hit(1, network, 5), drop, hit(0, network)], hold=True)
    once = left(limits, network)
    debts.charge([hit(2, network, kind=Kind.BYE), hit(3, None), hit(1, network, 500)], hold=True)
    same = left(limits, network)
    debts.charge([hit(1, network, 1100)], hold=True)

    assert (once, same, left(limits, network)) == (4, 4, 3)


def test_who_has_no_room_is_held_and_not_remembered() -> None:
    """Their next hit is held as well."""
    debts, _, network = owing(burst=2)
    hits = [hit(who, network, n) for n, who in enumerate((1, 2, 3, 3, 1))]
    charged = debts.charge(hits, hold=True)

    assert [each.known_only for each in hits] == [False, False, True, True, False]
    assert set(charged) == {visitor(1), visitor(2)}


@pytest.mark.parametrize(
    ("marks", "back"), [(b"1111", 0), (b"0101", 2), (b"2111", 1), (b"", 0), (b"10", 1)]
)
def test_only_who_was_not_new_is_given_back(marks: bytes, back: int) -> None:
    """As the function says it of the hits of both sites, one site after the other."""
    debts, limits, network = owing(burst=9)
    other = Site(StoredSite(SiteSettings(id="b.vn", origins=("*",)), Calendar.of("UTC")), 1)
    hits: list[Hit | Drop] = [hit(1, network), Hit(other, Kind.HERE, NOON, visitor(7))]
    hits += [Drop(SITE, Reason.BOT, NOON), hit(2, network), hit(3, network)]
    charged = debts.charge(hits, hold=True)
    batch = Batch(7, 1, hits, NOON)
    debts.note(batch, charged)
    debts.settle(7, 1, marks)
    debts.settle(7, 1, b"0000")  # it has been settled

    assert batch.marked() == [0, 3, 4, 1]
    assert left(limits, network) == 6 + back


def test_a_batch_that_goes_to_the_store_after_all_is_not_charged() -> None:
    debts, limits, network = owing(burst=5)
    hits = [hit(who, network) for who in (1, 2, 3)]
    batch = Batch(7, 1, hits, NOON)
    debts.note(batch, debts.charge(hits, hold=True))
    debts.undo(batch)

    assert left(limits, network) == 5


def test_what_is_remembered_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is forgotten is charged again, what is forgotten is not given back."""
    monkeypatch.setattr("visit_counter.delivery.debts.MOST_IDS", 20)
    monkeypatch.setattr("visit_counter.delivery.debts.MOST_CHARGES", 20)
    debts, limits, network = owing(burst=1000)
    for seq in range(50):
        hits = [hit(seq * 10 + n + 1, network) for n in range(10)]
        debts.note(Batch(7, seq, hits, NOON), debts.charge(hits, hold=True))
    kept = (len(debts._young) + len(debts._old), debts._number)
    debts.forget()
    debts.charge([hit(1, network)], hold=True)

    assert kept[0] <= 20
    assert kept[1] == 20
    assert left(limits, network) == 499

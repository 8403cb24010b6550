"""The forms of what is kept: their bytes are frozen, and older ones mean what they meant.

A store, a spool or a file of rejected batches may hold the bytes of any form that this version
reads. Where a test here fails since bytes have changed, the form needs a new number.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from tests.kit.counting import Counted, at, counting, make_site, open_store, visitor
from tests.kit.services.in_process import run_service, until
from tests.kit.stores.packed import (
    FIELDS,
    OLD_FIELDS,
    frozen,
    head,
    packed_entry,
    packed_state,
    state_in,
)
from tests.kit.stores.server import Server
from visit_counter.disk import format as segment
from visit_counter.disk.format import HEADER, Record
from visit_counter.errors import UnknownForm
from visit_counter.model import forms
from visit_counter.model.calendar import Calendar
from visit_counter.model.counts import Counts, Numbers
from visit_counter.model.hit import Drop, Hit
from visit_counter.model.kinds import Kind
from visit_counter.model.reasons import Reason
from visit_counter.model.site import Site
from visit_counter.model.site_settings import SiteSettings, StoredSite, partition_of
from visit_counter.rules.limits import Allowance
from visit_counter.store.batch import Batch, first_instant

NOON = at("2026-03-10 12:00")
DAY = 86_400_000
READ = range(forms.UNVERSIONED, forms.NEWEST + 1)
PAGE = Path(__file__).parents[1] / "docs" / "reference" / "forms.md"

CHANGED = (
    f"The bytes of form {forms.NEWEST} have changed, and stores and spools hold those of before. "
    f"Give the new ones the next number: raise NEWEST in model/forms.py, read and write form "
    f"{forms.NEWEST} as well (store/lua/keys.lua, store/batch.py), freeze the new bytes in "
    "frozen_forms.json, and say in docs/reference/forms.md what is new."
)

LABELS = {
    "day": "2026-03-10",
    "yesterday": "2026-03-09",
    "week": "2026-03-09",
    "last_week": "2026-03-02",
    "month": "2026-03",
    "last_month": "2026-02",
    "year": "2026",
    "began": "2026-03-09",
}
FLAGS = {"seeded": 1, "left": 0, "current": 1}
NEW = {"approximate": 0, "changed": 255, "read": 0}  # in a state of a form that lacks them
STATE = {name: 1000 + n for n, name in enumerate(OLD_FIELDS)} | LABELS | FLAGS | NEW


def example() -> list[Hit | Drop]:
    """Of everything that a batch can hold: two sites, two days, all kinds, a drop; a path viewed
    from a network, and others from trusted ones."""
    network = Allowance()
    network.code = 0xABCD
    calendar = Calendar.of("Asia/Ho_Chi_Minh")
    portal = Site(StoredSite(SiteSettings(id="portal", origins=("*",)), calendar), 3)
    settings = SiteSettings(id="b.vn", origins=("*",), max_pages=7, visit_timeout=600)
    other = Site(StoredSite(settings, Calendar.of("UTC", 6)), 1)
    return [
        Hit(portal, Kind.VIEW, NOON, b"visitor1", "/tin-tức", charged=network),
        Hit(portal, Kind.VIEW, NOON, b"visitor2", "/", known_only=True, wants_page=True),
        Hit(portal, Kind.HERE, NOON + 5, b"visitor1"),
        Hit(portal, Kind.BYE, NOON + 9, b"visitor1"),
        Hit(portal, Kind.VIEW, NOON + 9, b"", "/"),
        Drop(portal, Reason.BOT, NOON + 10),
        Hit(other, Kind.VIEW, NOON + DAY, b"visitor3", "/x"),
    ]


def test_every_form_that_is_read_has_frozen_bytes() -> None:
    """And stands on the page that says what each of them changed."""
    page = PAGE.read_text()

    assert set(frozen()) == {*READ}, CHANGED
    assert all(f"## Form {form}" in page for form in READ), CHANGED


# -- batches and records of the spool


@pytest.mark.parametrize("form", range(forms.OLDEST_WRITTEN, forms.NEWEST + 1))
def test_a_batch_has_the_bytes_of_its_form(form: int) -> None:
    record = Batch(7, 1, example(), NOON + DAY, form).record

    assert record.payload == _payload(form, frozen()[form]["batch"], frozen()[form]["ids"]), CHANGED


@pytest.mark.parametrize("form", range(forms.OLDEST_WRITTEN, forms.NEWEST + 1))
def test_a_segment_of_the_spool_has_the_bytes_of_its_form(form: int) -> None:
    batch = Batch(7, 2, example(), NOON + DAY, form, epoch=5)
    group, _ = segment.pack([batch.record], len(HEADER))

    assert HEADER + group == frozen()[form]["segment"], CHANGED


@pytest.mark.parametrize("form", READ)
def test_a_segment_of_every_form_is_read(form: int) -> None:
    """Its payload is what the function is sent."""
    data = frozen()[form]["segment"]
    found = segment.scan(data, sealed=True)
    record = segment.record_at(data, found.records[0].at)

    assert (len(found.records), found.damage) == (1, [])
    payload = _payload(form, frozen()[form]["batch"], frozen()[form]["ids"])
    assert record == Record(7, 5, 2, payload)


@pytest.mark.parametrize("form", READ)
def test_the_first_hit_of_a_batch_of_every_form_is_found(form: int) -> None:
    """Spools are brought to the store in the order of their hits."""
    payload = _payload(form, frozen()[form]["batch"], frozen()[form]["ids"])

    assert first_instant(payload) == NOON


@pytest.mark.parametrize("form", [1, 2, 3, forms.NEWEST + 1, 47])
async def test_a_record_of_another_form_is_left_to_the_version_that_wrote_it(
    valkey: Server, form: int
) -> None:
    """It uses up no number, and lies in the spool as it was."""
    async with counting(valkey.url) as counted:
        newer = Record(counted.site.partition, 5, 1, bytes((form,)) + b"\x92\xc4\x00\xc4\x00")
        with pytest.raises(UnknownForm, match=f"form {form}"):
            await counted.ledger.replay([newer])
        (last,) = await counted.store.last_seqs(counted.ledger._producer, [newer.partition])

    assert last == 0


@pytest.mark.parametrize("form", READ)
async def test_a_batch_of_every_form_is_counted(store_server: Server, form: int) -> None:
    """With the same outcome as one of the newest."""
    async with open_store(store_server.url) as ledger:
        portal, other = await make_site(ledger, "portal"), await make_site(ledger, "b.vn")
        portal.site.generation = 3
        await portal.client.hset(f"{portal.tag}:generations", "portal", 3)
        for counted in (portal, other):
            payload = _payload(form, *_batch_of(form, counted.site.id))
            record = Record(counted.site.partition, 1, 1, payload)
            await ledger._store.replay(ledger._producer, [record])
        counts = await portal.counts(NOON, "/", "/tin-tức")
        others = await other.counts(NOON + DAY, "/x")

    assert (counts.today, counts.total) == (Numbers(3, 1, 1), Numbers(3, 1, 1))
    assert counts.pages == [2, 1]
    assert (others.total, others.pages) == (Numbers(1, 1, 1), [1])


def _batch_of(form: int, site: str) -> tuple[bytes, bytes]:
    """The frozen batch has two sites; in a store each goes to its partition."""
    return frozen()[form][f"batch {site}"], frozen()[form][f"ids {site}"]


def _payload(form: int, parts: bytes, ids: bytes) -> bytes:
    """What lies in the spool, and what the function is sent."""
    pair: bytes = msgspec.msgpack.encode((parts, ids))
    return head(form) + pair


async def test_a_batch_of_an_unknown_form_uses_up_no_number(store_server: Server) -> None:
    """It was acknowledged by a newer version, which will count it."""
    async with counting(store_server.url) as counted:
        batch = counted.seal(counted.hit(1, NOON))
        payload = batch.record.payload
        newer = batch.record._replace(payload=bytes((forms.NEWEST + 1,)) + payload[1:])
        with pytest.raises(UnknownForm, match=f"batch is in form {forms.NEWEST + 1}"):
            await counted.store.replay(counted.ledger._producer, [newer])
        await counted.store.replay(counted.ledger._producer, [batch.record])
        counts = await counted.counts(NOON)

    assert counts.total == Numbers(1, 1, 1)


# -- the state of a site


@pytest.mark.parametrize("form", READ)
def test_the_frozen_state_is_what_the_tests_read_in_it(form: int) -> None:
    assert packed_state(form, **STATE) == frozen()[form]["state"]


@pytest.mark.parametrize("form", READ)
async def test_a_state_of_every_form_is_read(store_server: Server, form: int) -> None:
    """What is shown of it, and what is written back, is what a state of that form held."""
    async with counting(store_server.url) as counted:
        running = f"{counted.tag}:portal:1:running"
        await counted.client.set(running, frozen()[form]["state"])
        counts = await counted.counts(NOON)
        await counted.store.seed(counted.site, "operation", "visits", {("year", "1999"): 1})
        written = await counted.client.get(running)

    shown = (counts.since, counts.last_hit, counts.peak, counts.peak_at)
    assert shown == tuple(STATE[name] for name in ("since", "last", "peak", "peak_at"))
    assert {period: _numbers(counts, period) for period in _SHOWN} == {
        period: tuple(STATE[f"{kept}.{metric}"] for metric in "pvu")
        for period, kept in _SHOWN.items()
    }
    assert written == frozen()[forms.NEWEST]["state"], CHANGED


_SHOWN = {
    "today": "day",
    **{name: name for name in ("yesterday", "week", "last_week", "month", "last_month")},
    **{name: name for name in ("year", "total")},
}


def _numbers(counts: Counts, period: str) -> tuple[int, int, int]:
    numbers: Numbers = getattr(counts, period)
    return numbers.pageviews, numbers.visits, numbers.visitors


async def test_the_fields_of_a_state_hold_what_their_names_say(store_server: Server) -> None:
    async with counting(store_server.url) as counted:
        await counted.record(counted.hit(1, NOON), counted.hit(2, NOON + 1), now=NOON + 1)
        await counted.record(counted.hit(1, NOON + 60_000, kind="bye"), now=NOON + 60_000)
        packed: Any = await counted.client.get(f"{counted.tag}:portal:1:running")
        peak = await counted.counts(NOON)

    state = state_in(packed, forms.NEWEST)
    expected = {name: 0 for name in FIELDS if "." in name} | LABELS
    for period in ("day", "week", "month", "year", "total"):
        expected |= {f"{period}.{metric}": 2 for metric in "pvu"}
    expected |= {
        "since": peak.since,
        "last": NOON + 1,
        "peak": 0,  # nobody is online at that instant by the store's clock
        "peak_at": 0,
        "trimmed": NOON + 1,
        "seeded": 0,
        "left": 1,
        "current": 1,
        "sketched": NOON + 1,
        "approximate": 0,
        "changed": 0,
        "read": max(state["read"], peak.since + 500),
    }
    assert state == expected


async def test_a_state_of_an_unknown_form_loses_no_batch(store_server: Server) -> None:
    """A store that a newer version wrote refuses the call before it has written anything."""
    async with counting(store_server.url) as counted:
        running = f"{counted.tag}:portal:1:running"
        newer = bytes((forms.NEWEST + 1,)) + frozen()[forms.NEWEST]["state"][1:]
        own: Any = await counted.client.get(running)
        await counted.client.set(running, newer)
        refused = await counted.commit(counted.hit(1, NOON))
        kept = await counted.client.get(running)
        await counted.client.set(running, own)
        batch = counted.seal(counted.hit(1, NOON))
        batch.record = batch.record._replace(seq=1)
        await counted.store.replay(counted.ledger._producer, [batch.record])
        counts = await counted.counts(NOON)

    assert isinstance(refused, UnknownForm)
    assert "portal:1:running is in form" in str(refused)
    assert kept == newer
    assert counts.total == Numbers(1, 1, 1)


# -- a producer's entry in the ledger


ENTRY = (3, 9, 20_000, 5, 7)


@pytest.mark.parametrize("form", READ)
async def test_an_entry_of_every_form_is_read(store_server: Server, form: int) -> None:
    """Epoch, number and rejected batches are those of before, also as they are written back."""
    assert packed_entry(form, *ENTRY) == frozen()[form]["entry"]
    async with counting(store_server.url) as counted:
        producer = counted.ledger._producer
        producer.epoch = 3
        key = f"{counted.tag}:ledger:{producer.id}"
        await counted.client.set(key, frozen()[form]["entry"])
        (last,) = await counted.store.last_seqs(producer, [counted.site.partition])
        written = await counted.client.get(key)
        batch = counted.seal(counted.hit(1, NOON)).record._replace(seq=7)
        with pytest.raises(Exception, match="so it was before"):
            await counted.store.replay(producer, [batch])

    today = int(await _today(counted))
    assert last == 9
    assert written == packed_entry(forms.NEWEST, 3, 9, today, 5, 7), CHANGED


async def _today(counted: Counted) -> float:
    return counted.clock.now() / DAY


def test_a_visitor_of_the_examples_has_eight_bytes() -> None:
    """As those of the frozen batches."""
    assert {len(visitor(1)), *(len(e.visitor) for e in example() if isinstance(e, Hit))} <= {0, 8}


async def test_a_state_of_an_unknown_form_stops_its_partition_only(
    valkey: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its hits wait in the spool, readiness says why, the others are counted; and so are they when
    the state can be read."""
    monkeypatch.setattr("visit_counter.delivery.flow.SPILL_S", 0.05)
    monkeypatch.setattr("visit_counter.delivery.replay.STUCK_S", 0.0)
    async with run_service(valkey.url, data_dir=tmp_path) as service:
        await service.site("a")
        await service.site("b")
        assert partition_of("a") != partition_of("b")
        name = service.parts.settings.namespace
        running = f"{name}:{{p{partition_of('a'):02}}}:a:1:running"
        async with Redis.from_url(valkey.url) as client:
            own: Any = await client.get(running)
            await client.set(running, bytes((forms.NEWEST + 1,)) + own[1:])
            spooled = [await service.hit("a", status=202) for _ in range(2)]
            monkeypatch.setattr("visit_counter.delivery.flow.SPILL_S", 5.0)
            counted = [await service.hit("b") for _ in range(2)]
            hints = ""
            while "is in form" not in hints:
                status, ready = await service.ready()
                hints = " ".join(ready["hints"])
            await client.set(running, own)
        await until(lambda: not service.parts.recorder.problems)
        last = await service.hit("a")

    assert [each["counted"] for each in spooled] == [True] * 2
    assert counted[-1]["total"]["pageviews"] == 2
    assert (ready["status"], status) == ("degraded", 200)
    assert last["total"]["pageviews"] == 3

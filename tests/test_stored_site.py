"""The stored form of a site: what a newer version wrote is kept, and what is wrong is named."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.kit.counting import at
from tests.kit.services.in_process import Service, run_service
from tests.kit.services.newer_sites import newer_version
from tests.kit.stores.server import Server
from visit_counter.model.calendar import WEEKDAYS, Calendar
from visit_counter.model.site_settings import SiteSettings, StoredSite
from visit_counter.model.stored_site import NOTHING, decode_site, encode_site, remains

HOUR_MS = 3_600_000
STORED = StoredSite(SiteSettings(id="a", origins=("*",)), Calendar.of("UTC"))
KNOWN = {"settings", "calendar", *SiteSettings.__struct_fields__, *Calendar.__struct_fields__}
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
UNKNOWN = st.dictionaries(st.text().filter(lambda name: name not in KNOWN), VALUES, max_size=4)

Object = dict[str, Any]


def site_json(**changes: Any) -> Object:
    """A stored site as Python values; `settings` and `calendar` are added to."""
    stored: Object = json.loads(encode_site(STORED))
    for name, change in changes.items():
        stored[name] = stored[name] | change if name in ("settings", "calendar") else change
    return stored


def packed(stored: Any) -> bytes:
    return json.dumps(stored).encode()


def only_unknown(stored: bytes) -> tuple[Object, Object, Object]:
    """The unknown fields at the three levels."""
    levels = json.loads(stored)
    found = levels, levels["settings"], levels["calendar"]
    site, of_settings, of_calendar = (
        {name: value for name, value in level.items() if name not in KNOWN} for level in found
    )
    return site, of_settings, of_calendar


def test_a_site_of_this_version_is_stored_as_ever() -> None:
    """The bytes of a form do not change without notice."""
    assert encode_site(STORED) == (
        b'{"settings":{"id":"a","origins":["*"],"name":"","timezone":"UTC","week_start":"monday",'
        b'"online_window":300,"visit_timeout":1800,"identity":"address","metric":"visits",'
        b'"honour_dnt":false,"max_pages":10000,"trusted_networks":[],'
        b'"ignored_networks":[],"public":true,'
        b'"path_style":"exact","query_keys":[]},'
        b'"calendar":{"zones":[[0,"UTC"]],"week_starts":[["1970-01-01",0]]}}'
    )
    assert decode_site(encode_site(STORED)) == (STORED, NOTHING)


@given(UNKNOWN, UNKNOWN, UNKNOWN)
def test_unknown_fields_are_written_back(
    site: Object, of_settings: Object, of_calendar: Object
) -> None:
    """At all three levels, beside what this version changes."""
    raw = packed(site_json(settings=of_settings, calendar=of_calendar, **site))
    stored, unknown = decode_site(raw)

    assert stored == STORED
    assert only_unknown(encode_site(stored, unknown)) == (site, of_settings, of_calendar)
    assert json.loads(encode_site(stored, unknown)) == json.loads(raw)


@pytest.mark.parametrize(
    "value",
    [b"1e999", b"-0.10", b"1" + b"0" * 400, rb'"\u00e9\ud83d\ude00"', b"[" * 500 + b"]" * 500],
    ids=["exponent", "zeros", "big", "escapes", "deep"],
)
def test_a_value_that_python_would_write_otherwise_keeps_its_bytes(value: bytes) -> None:
    """Nothing of it is read."""
    raw = encode_site(STORED).replace(b'{"id"', b'{"new": ' + value + b', "id"')
    assert b'"new":' + value + b"," in encode_site(*decode_site(raw))


UTC = [0, "UTC"]
BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "JSON: Input data was truncated"),
    "text": (b"portal", "JSON: invalid character"),
    "bytes": (b"\xff\x00", "JSON: invalid character"),
    "half": (encode_site(STORED)[:50], "JSON: Input data was truncated"),
    "array": (b"[]", "Expected `object`, got `array`"),
    "too deep": (packed(site_json()).replace(b"{", b'{"x":' + b"[" * 9999, 1), "JSON: it is nest"),
    "no settings": (b"{}", "Object missing required field `settings`"),
    "no calendar": (b'{"settings":{"id":"a","origins":["*"]}}', "Object missing required field"),
    **{
        name: (packed(site_json(settings=change)), reason)
        for name, change, reason in [
            ("metric", {"metric": "bounces"}, "settings.metric: Invalid enum value 'bounces'"),
            ("identity", {"identity": "cookie"}, "settings.identity: Invalid enum value 'cookie'"),
            ("zone", {"timezone": "Mars/Olympus"}, "settings.timezone: unknown timezone"),
            ("origin", {"origins": ["a.vn"]}, "settings.origins: 'a.vn' has no scheme"),
            ("origins", {"origins": []}, "settings.origins: name at least one"),
            ("network", {"trusted_networks": ["x"]}, "settings.trusted_networks: 'x' is not a net"),
            ("ignored", {"ignored_networks": ["x"]}, "settings.ignored_networks: 'x' is not a n"),
            ("null", {"name": None}, "settings.name: Expected `str`, got `null`"),
            ("windows", {"online_window": 3600}, "settings.online_window: must not be longer"),
        ]
    },
    **{
        f"calendar {name}": (packed(site_json(calendar=change)), reason)
        for name, change, reason in [
            ("without zones", {"zones": []}, "calendar.zones: there must be at least one"),
            ("zone", {"zones": [[0, "Mars/X"]]}, "calendar.zones: unknown timezone 'Mars/X'"),
            ("order", {"zones": [UTC, UTC]}, "calendar.zones: each must begin later"),
            ("form", {"zones": [[0, "UTC", 1]]}, "calendar.zones[0]: Expected `array` of length"),
            ("date", {"week_starts": [["19700101", 0]]}, "calendar.week_starts: '19700101' is not"),
            ("text", {"week_starts": [["soon", 0]]}, "calendar.week_starts: Invalid isoformat"),
            ("weekday", {"week_starts": [["1970-01-01", 7]]}, "calendar.week_starts: week_start"),
        ]
    },
}


@pytest.mark.parametrize(("raw", "reason"), BROKEN.values(), ids=BROKEN)
def test_what_is_wrong_is_named_by_its_field(raw: bytes, reason: str) -> None:
    """Whatever the store has, reading ends with a ValueError that its reader can act on."""
    with pytest.raises(ValueError, match=r".") as caught:
        decode_site(raw)
    assert str(caught.value).startswith(reason)


@given(st.binary(max_size=200) | UNKNOWN.map(packed) | VALUES.map(packed))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    """No other exception, neither for reading nor for what can be kept."""
    with pytest.raises(ValueError, match=r"."):
        decode_site(raw)
    calendar, _ = remains(raw)
    assert calendar is None


def test_the_calendar_and_unknown_fields_of_an_unreadable_site_remain() -> None:
    """Only what is wrong itself is lost."""
    of_calendar = {"holidays": ["2026-02-17"]}
    raw = packed(site_json(settings={"metric": "x", "new": 1}, calendar=of_calendar, group="g"))
    calendar, unknown = remains(raw)
    without, kept = remains(packed(site_json(calendar={"zones": [], "new": 2})))

    assert calendar == STORED.calendar
    assert only_unknown(encode_site(STORED, unknown)) == ({"group": "g"}, {"new": 1}, of_calendar)
    assert without is None
    assert [*kept.calendar] == ["new"]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 40),
            st.sampled_from(["UTC", "Asia/Ho_Chi_Minh", "Pacific/Apia", "America/Caracas"]),
            st.sampled_from(range(len(WEEKDAYS))),
        ),
        max_size=12,
    )
)
def test_every_calendar_that_we_make_can_be_read(changes: list[tuple[int, str, int]]) -> None:
    """Whatever is changed, and when."""
    calendar, now = Calendar.of("UTC"), at("2011-12-01 12:00")
    for days, name, weekday in changes:
        now += days * 6 * HOUR_MS
        calendar = calendar.with_timezone(name, now).with_week_start(weekday, now)
    stored = StoredSite(STORED.settings, calendar)
    assert decode_site(encode_site(stored)) == (stored, NOTHING)


# -- through the API


@given(UNKNOWN, UNKNOWN, UNKNOWN)
@settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # all examples share the service
)
async def test_no_change_through_the_api_loses_what_a_newer_version_wrote(
    service: Service, site: Object, of_settings: Object, of_calendar: Object
) -> None:
    """Neither PATCH nor PUT, nor one whose calendar gets another zone; and the site counts."""
    name = f"s{len(service.parts.sites.by_id)}"
    await service.site(name)
    async with newer_version(service) as newer:
        stored = site_json(settings={"id": name, **of_settings}, calendar=of_calendar, **site)
        await newer.write(name, packed(stored))
        patched = await service.api(
            "PATCH", f"/sites/{name}", {"name": "b", "week_start": "sunday"}
        )
        after_patch = await newer.stored(name)
        put = {"origins": ["*"], "timezone": "Asia/Ho_Chi_Minh"}
        replaced = await service.api("PUT", f"/sites/{name}", put, status=200)
        after_put = await newer.stored(name)
        hit = await service.hit(name)

    assert only_unknown(after_patch) == (site, of_settings, of_calendar)
    assert only_unknown(after_put) == (site, of_settings, of_calendar)
    assert {*patched} == {*replaced} == {*SiteSettings.__struct_fields__}
    assert (patched["name"], replaced["name"]) == ("b", "")
    assert [zone for _, zone in json.loads(after_put)["calendar"]["zones"]][-1] == put["timezone"]
    assert hit["counted"] is True


async def test_the_api_refuses_fields_that_the_store_may_have(service: Service) -> None:
    """Unknown fields of a stored site are no fields of this version's API."""
    await service.site("a")
    async with newer_version(service) as newer:
        await newer.edit("a", settings={"archived": False})
        shown = await service.api("GET", "/sites/a")
        refused = [
            await service.api("PATCH", "/sites/a", {"archived": True}, status=400),
            await service.api("PUT", "/sites/a", {**shown, "archived": True}, status=400),
        ]
        same = await service.api("PUT", "/sites/a", shown)

    assert [problem["field"] for problem in refused] == ["archived", "archived"]
    assert "archived" not in same


async def test_a_reset_and_its_undo_leave_unknown_fields_alone(service: Service) -> None:
    """They change no settings."""
    await service.site("a")
    async with newer_version(service) as newer:
        await newer.edit("a", group="g")
        before = await newer.stored("a")
        await service.api("POST", "/sites/a/reset", {"confirm": "a", "operation": "my-reset"})
        await service.api("POST", "/sites/a/undo/my-reset")
        assert await newer.stored("a") == before


async def test_a_restart_reads_what_a_newer_version_wrote(valkey: Server) -> None:
    """The site counts, and no demo is made beside it."""
    async with run_service(valkey.url, namespace="restarted") as service:
        await service.site("a", name="before")
        async with newer_version(service) as newer:
            await newer.edit("a", settings={"public_history": True}, group="g")
    async with run_service(valkey.url, namespace="restarted") as service:
        hit = await service.hit("a")
        async with newer_version(service) as newer:
            await service.api("PATCH", "/sites/a", {"name": "after"})
            stored = json.loads(await newer.stored("a"))

    assert hit["counted"] is True
    assert (stored["group"], stored["settings"]["public_history"]) == ("g", True)
    assert stored["settings"]["name"] == "after"

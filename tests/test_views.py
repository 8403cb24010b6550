"""A view that is sent again, since no answer came, is counted once."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from tests.kit.services.in_process import PERSON, Service
from tests.kit.services.process import ServiceProcess, call, holding, serving, until
from tests.kit.stores.server import Server
from visit_counter.errors import Problem
from visit_counter.web.hits import views
from visit_counter.web.hits.beacon import BEACON, Malformed, read_beacon, split_view
from visit_counter.web.hits.views import Views, key_of

ID = "3f9a2c77d01b4e68"

ids = st.text(st.sampled_from("abcXYZ0189-_"), max_size=34)
texts = st.text(st.sampled_from('ab",:{}\\/i\u0111'), max_size=12)


@given(st.dictionaries(st.sampled_from(["k", "p", "v", "x"]), texts, max_size=3), ids)
def test_an_id_is_read_alike_from_bytes_and_from_json(fields: dict[str, str], view: str) -> None:
    body = json.dumps({**fields, "i": view}, separators=(",", ":"), ensure_ascii=False).encode()
    found, rest = split_view(body)
    assert found in (b"", view.encode())
    read = json.loads(rest + b"}" if found else rest)
    assert read == (fields if found else {**fields, "i": view})


@given(st.binary(max_size=40), st.binary(max_size=20))
def test_what_is_cut_off_is_the_last_field(head: bytes, tail: bytes) -> None:
    """Bytes that are JSON without the cut are the same JSON with it, and those that are none stay
    none."""
    body = b'{"p":"' + head + b'","i":"' + tail + b'"}'
    found, rest = split_view(body)
    assert as_beacon(body) == as_beacon(rest + b"}" if found else rest, found.decode())


def as_beacon(body: bytes, view: str = "") -> object:
    try:
        beacon = BEACON.decode(body)
    except ValueError:
        return None
    return (beacon.p, view or beacon.i)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"i":"%s"}' % (b"a" * 33), "i"),
        (b'{"i":5}', "i"),
        (b'{"again":1,"i":"a"}', "again"),
    ],
)
def test_an_id_that_is_none_is_named(body: bytes, field: str) -> None:
    with pytest.raises(Malformed) as malformed:
        read_beacon(body)
    assert malformed.value.field == field


async def test_a_repeat_is_counted_once_and_answered_as_counted(service: Service) -> None:
    await service.site()
    first = await service.hit(p="/a", i=ID)
    again = await service.hit(p="/a", i=ID, again=True, page=True)
    same = await service.hit(p="/a", i=ID)
    other = await service.hit(p="/a", i=ID + "x", again=True)

    assert "repeated" not in first
    assert (again["counted"], again["repeated"], same["repeated"]) == (True, True, True)
    assert again["page"] == {"path": "/a", "pageviews": 1}
    assert other["counted"]
    assert "repeated" not in other
    assert other["today"]["pageviews"] == 2


@pytest.mark.parametrize("view", ["%FF", "%ED%A0%80", "\u0111", "a" * 33])
async def test_a_picture_with_an_odd_id_is_malformed(service: Service, view: str) -> None:
    await service.site()
    url = f"{service.url}/w/portal/dot.gif?i={view}"
    async with service.client.get(url, headers={"User-Agent": PERSON}) as answer:
        assert (answer.status, answer.content_type) == (200, "image/gif")
    assert [*(await service.api("GET", "/sites/portal/drops")).values()] == [{"malformed": 1}]


async def test_an_id_is_one_of_its_site(service: Service) -> None:
    await service.site()
    await service.api("POST", "/sites", {"id": "other", "origins": ["*"]})
    assert "repeated" not in await service.hit(i=ID)
    assert "repeated" not in await service.hit(site="other", i=ID)


async def test_a_drop_is_judged_again(service: Service) -> None:
    await service.site(origins=["https://a.vn"])
    wrong = await service.hit(i=ID, headers={"Origin": "https://b.vn"})
    right = await service.hit(i=ID, again=True, headers={"Origin": "https://a.vn"})
    assert (wrong["reason"], right["counted"]) == ("origin", True)
    assert right["today"]["pageviews"] == 1


async def test_a_sign_of_life_is_never_sent_again(service: Service) -> None:
    await service.site()
    answer = await service.hit(k="here", i=ID, again=True, status=400)
    assert answer["field"] == "again"


async def test_a_repeat_waits_for_the_view_that_is_on_its_way() -> None:
    known = Views()
    key = key_of("portal", ID.encode())
    known.begin(key)
    repeats = [asyncio.create_task(known.accepted("portal", ID)) for _ in "12"]
    await asyncio.sleep(0)
    assert not any(each.done() for each in repeats)
    known.settle(key, accepted=True)
    assert await asyncio.gather(*repeats) == [True, True]
    assert await known.accepted("portal", ID)


async def test_a_view_that_was_refused_counts_when_it_comes_again() -> None:
    known = Views()
    key = key_of("portal", ID.encode())
    known.begin(key)
    repeat = asyncio.create_task(known.accepted("portal", ID))
    await asyncio.sleep(0)
    known.settle(key, accepted=False)
    assert not await repeat
    assert not known.knows(key)


async def test_a_repeat_that_nobody_can_judge_is_refused_and_counted() -> None:
    """Each time by an error of its own, which keeps nothing of the others."""

    async def silent(site: str, view: str) -> None:
        return None

    known, before = Views(silent), refused()
    problems = []
    for _ in range(2):
        with pytest.raises(Problem) as problem:
            await known.accepted("portal", ID)
        problems.append(problem.value)
    assert problems[0] is not problems[1]
    assert [each.status for each in problems] == [503, 503]
    assert refused() - before == 2


def refused() -> float:
    return REGISTRY.get_sample_value("visitcounter_hits_total", {"outcome": "refused"}) or 0


def test_ids_are_forgotten_by_age_and_number(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1000.0
    monkeypatch.setattr("visit_counter.web.hits.views.time.monotonic", lambda: now_s)
    monkeypatch.setattr(views, "MOST", 10)
    monkeypatch.setattr(views, "LOOK_EVERY", 1)
    known = Views()
    known.begin(1)
    known.settle(1, accepted=True)
    now_s += views.REMEMBERED_S
    known.begin(2)
    assert known.knows(1)
    now_s += views.REMEMBERED_S
    known.begin(3)
    assert not known.knows(1)
    for key in range(100, 130):
        known.begin(key)
    assert sum(map(known.knows, range(200))) <= 20


# -- several workers


class Kept:
    """A kept connection, which stays with the worker that has accepted it."""

    def __init__(self, service: ServiceProcess) -> None:
        address = urlsplit(service.url)
        self._socket = socket.create_connection((str(address.hostname), address.port or 0), 10)
        self._file = self._socket.makefile("rb")

    def hit(self, **fields: Any) -> tuple[int, Any]:
        body = json.dumps(fields).encode()
        self._socket.sendall(
            b"POST /w/portal HTTP/1.1\r\nHost: a\r\nUser-Agent: %b\r\nContent-Length: %d\r\n\r\n%b"
            % (PERSON.encode(), len(body), body)
        )
        status = int(self._file.readline().split()[1])
        length = 0
        while line := self._file.readline().strip():
            if line.lower().startswith(b"content-length:"):
                length = int(line.split()[1])
        return status, json.loads(self._file.read(length))

    def close(self) -> None:
        self._file.close()
        self._socket.close()


@contextmanager
def connected(service: ServiceProcess, worker: int) -> Iterator[Kept]:
    """A connection to one of the workers, who knows the site."""
    with holding([other for other in service.workers if other != worker]):
        until(lambda: call("GET", f"{service.url}/w/portal")[0] == 200, 5)
        kept = Kept(service)
        assert kept.hit(k="here")[0] == 200
    try:
        yield kept
    finally:
        kept.close()


def test_a_repeat_at_another_worker_is_counted_once(valkey: Server) -> None:
    with serving(WORKERS="2", REDIS_URL=valkey.url, NAMESPACE="views2") as service:
        service.site()
        one, other = service.workers
        with connected(service, one) as connection:
            assert connection.hit(i=ID)[1]["counted"]
        with connected(service, other) as connection:
            status, answer = connection.hit(i=ID, again=True)
            assert (status, answer["counted"], answer.get("repeated")) == (200, True, True)
        with connected(service, other) as connection:
            status, answer = connection.hit(i="unknown1", again=True)
            assert (status, answer["counted"], answer.get("repeated")) == (200, True, None)
        with connected(service, one) as connection:
            assert connection.hit(i="unknown1", again=True)[1]["repeated"]
        assert service.counts()["today"]["pageviews"] == 2


def test_a_repeat_is_refused_while_a_worker_is_silent(valkey: Server) -> None:
    with serving(WORKERS="2", REDIS_URL=valkey.url, NAMESPACE="views1") as service:
        service.site()
        one, other = service.workers
        with connected(service, one) as connection:
            assert connection.hit(i=ID)[0] == 200
        with connected(service, other) as connection, holding([one]):
            status, answer = connection.hit(i=ID, again=True)
            assert (status, answer["title"]) == (503, "Outcome unknown")
            assert "send it again" in answer["detail"]
        with connected(service, other) as connection:
            status, answer = connection.hit(i=ID, again=True)
            assert (status, answer["repeated"]) == (200, True)
        assert service.counts()["today"]["pageviews"] == 1

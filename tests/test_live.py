"""Live viewers over real HTTP: each sees the counts at once and whenever they change, and whoever
reads too slowly, goes away or is one too many holds up nobody."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from loadtests.viewers import wait_for_all, watching
from tests.kit.pages.browser import chromium, host_page
from tests.kit.pages.browser import until as until_true
from tests.kit.services.in_process import Service, run_service, until
from tests.kit.services.process import serving
from tests.kit.stores.server import Server, run_server, server_binaries
from visit_counter import metrics, tasks
from visit_counter.reading.hub import Channel, Mailbox, Watched
from visit_counter.reading.reader import Reading
from visit_counter.web.live import Stream

NEWS_S = 5.0
SMALL = 4096  # bytes for a socket to hold
LIVE = "/w/portal/live"


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many ticks a second."""
    monkeypatch.setattr("visit_counter.reading.hub.TICK_S", 0.05)
    monkeypatch.setattr("visit_counter.reading.hub.FRESH_MS", 20)


class Event(NamedTuple):
    name: str
    data: Any


@dataclass
class Watcher:
    """A stream as a page reads it."""

    status: int
    headers: dict[str, str]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def block(self) -> str:
        """What comes next, as it comes; empty at the end."""
        try:
            async with asyncio.timeout(NEWS_S):
                return (await self.reader.readuntil(b"\n\n")).decode().rstrip("\n")
        except asyncio.IncompleteReadError as end:
            return end.partial.decode()

    async def event(self) -> Event:
        """The next one, comments left out."""
        while (block := await self.block()).startswith(":"):
            pass
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        return Event(fields.get("event", "message"), json.loads(fields["data"]))

    async def counts(self) -> Any:
        event = await self.event()
        assert event.name == "message"
        return event.data

    async def until_counts(self, **wanted: object) -> Any:
        while not wanted.items() <= (counts := await self.counts()).items():
            pass
        return counts


@asynccontextmanager
async def watch(
    service: Service,
    target: str = "/w/portal/live",
    *,
    method: str = "GET",
    version: str = "HTTP/1.1",
    token: str = "",
    address: str = "",
    received: int | None = None,
) -> AsyncIterator[Watcher]:
    """A viewer, from an address; of those bytes its socket takes no more than `received`."""
    url = urlsplit(service.url)
    own = socket.socket()
    if received:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, received)
    own.setblocking(False)
    await asyncio.get_running_loop().sock_connect(own, (url.hostname, url.port))
    reader, writer = await asyncio.open_connection(sock=own, limit=received or 2**16)
    try:
        request = f"{method} {url.path}{target} {version}\r\nHost: count.example\r\n"
        sent = f"Authorization: Bearer {token}\r\n" if token else ""
        sent += f"X-Forwarded-For: {address}\r\n" if address else ""
        writer.write(f"{request}{sent}\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode().rstrip()
        first, *lines = head.split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        yield Watcher(int(first.split()[1]), headers, reader, writer)
    finally:
        writer.transport.abort()


def streams(service: Service) -> list[Stream]:
    channels = service.parts.hub._channels.values()
    return [cast(Stream, viewer) for channel in channels for viewer in channel.viewers]


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"visitcounter_live_{name}", labels) or 0


def pageviews(number: int) -> dict[str, int]:
    return {"pageviews": number, "visits": 1, "visitors": 1}


# -- what a viewer sees


async def test_a_viewer_sees_the_counts_at_once(service: Service) -> None:
    """They are those of GET, and the head lets any page read them as they come."""
    await service.site()
    await service.hit()
    async with service.client.get(f"{service.url}/w/portal") as answer:
        shown = await answer.json()
    async with watch(service) as viewer:
        first = await viewer.block()

    assert viewer.status == 200
    assert viewer.headers["content-type"] == "text/event-stream"
    assert viewer.headers["cache-control"] == "no-store"
    assert viewer.headers["x-accel-buffering"] == "no"
    assert viewer.headers["access-control-allow-origin"] == "*"
    retry, data = first.split("\n")
    assert 2000 <= int(retry.removeprefix("retry: ")) <= 10_000
    assert json.loads(data.removeprefix("data: ")) == {
        **shown,
        "as_of": pytest.approx(shown["as_of"], abs=NEWS_S),
    }


async def test_a_change_is_told_within_a_tick(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To everyone who watches the site, and to nobody else."""
    monkeypatch.undo()  # ticks are a second
    monkeypatch.setattr("visit_counter.reading.hub.IN_A_ROW", 1)
    await service.site()
    await service.site("other")
    async with (
        watch(service) as one,
        watch(service) as two,
        watch(service, "/w/other/live") as third,
    ):
        for viewer in (one, two, third):
            await viewer.counts()
        await service.hit()
        told = [await viewer.counts() for viewer in (one, two)]
        await service.hit("other")
        other = await third.counts()

    assert [(each["site"], each["total"]) for each in told] == [("portal", pageviews(1))] * 2
    assert (other["site"], other["total"]) == ("other", pageviews(1))


async def test_nothing_is_told_while_nothing_changes(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for a sign of life, which is a comment."""
    monkeypatch.setattr("visit_counter.reading.hub.BEAT_S", 0.3)
    await service.site()
    async with watch(service) as viewer:
        await viewer.counts()
        assert [await viewer.block() for _ in range(3)] == [":"] * 3


async def test_a_page_of_the_site_can_be_watched(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As GET takes `?path=`; however many are watched."""
    monkeypatch.setattr("visit_counter.reading.hub.AT_ONCE", 2)
    await service.site()
    async with (
        watch(service, "/w/portal/live?path=/a") as a,
        watch(service, "/w/portal/live?path=/b") as b,
        watch(service, "/w/portal/live?path=/c") as c,
    ):
        for viewer in (a, b, c):
            await viewer.counts()
        await service.hit(p="/b")
        told = [await viewer.counts() for viewer in (a, b, c)]

    assert [each["page"] for each in told] == [
        {"path": "/a", "pageviews": 0},
        {"path": "/b", "pageviews": 1},
        {"path": "/c", "pageviews": 0},
    ]


async def test_hits_on_another_worker_are_told_too(valkey: Server) -> None:
    """What is told is what the store has."""
    async with (
        run_service(valkey.url, namespace="live") as one,
        run_service(valkey.url, namespace="live") as two,
    ):
        await one.site()
        async with watch(one) as viewer:
            await viewer.counts()
            await two.parts.sites.refresh()
            await two.hit()
            assert (await viewer.counts())["total"] == pageviews(1)


async def test_a_browser_on_another_origin_is_told(valkey: Server) -> None:
    """EventSource in a page whose policy lets it connect to the counter."""
    async with (
        run_service(valkey.url) as service,
        host_page(service.url, body="") as host,
        chromium() as browser,
    ):
        await service.site(origins=[host.url])
        page = await browser.new_page()
        await page.goto(host.url)
        await page.evaluate(
            """url => {
                window.told = []
                new EventSource(url).onmessage = event =>
                    window.told.push(JSON.parse(event.data).total.pageviews)
            }""",
            f"{service.url}/w/portal/live",
        )

        async def told(number: int) -> bool:
            return len(await page.evaluate("window.told")) == number

        await until_true(lambda: told(1), "the counts at once")
        await service.hit(headers={"Origin": host.url})
        await until_true(lambda: told(2), "a change")

        assert await page.evaluate("window.told") == [0, 1]
        assert host.complaints == []


# -- other requests


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("HEAD", "/w/portal/live", 200),
        ("OPTIONS", "/w/portal/live", 204),
        ("POST", "/w/portal/live", 405),
        ("GET", "/w/nobody/live", 404),
        ("GET", "/w/private/live", 404),
        ("GET", "/w/portal/live?path=mailto:a", 400),
        ("GET", "/w/portal/live/", 404),
    ],
)
async def test_what_is_no_stream_is_answered_and_ends(
    service: Service, method: str, target: str, status: int
) -> None:
    """With CORS, as everything that pages may ask."""
    await service.site()
    await service.site("private", public=False)
    async with watch(service, target, method=method) as viewer:
        await asyncio.wait_for(viewer.reader.read(), NEWS_S)

    assert viewer.status == status
    assert viewer.headers["access-control-allow-origin"] == "*"
    assert streams(service) == []


async def test_an_admin_watches_what_is_not_public(service: Service) -> None:
    """As with the counts: 404 without the token, the stream with it, which goes on."""
    await service.site(public=False)
    async with (
        watch(service, token="x" * 32) as stranger,
        watch(service, token=service.token) as admin,
    ):
        first = await admin.counts()
        await service.hit()
        await admin.until_counts(total=pageviews(1))

    assert (stranger.status, admin.status) == (404, 200)
    assert first["total"]["pageviews"] == 0


async def test_http_1_0_gets_the_same(service: Service) -> None:
    """Many a proxy speaks it: the end of the connection is the end of the body."""
    await service.site()
    async with watch(service, version="HTTP/1.0") as viewer:
        assert (await viewer.counts())["total"]["pageviews"] == 0
        await service.hit()
        assert (await viewer.counts())["total"] == pageviews(1)

    assert "transfer-encoding" not in viewer.headers


async def test_it_stands_below_the_base_path(valkey: Server) -> None:
    """As everything does."""
    async with run_service(valkey.url, base_path="/thongke") as service:
        await service.site()
        async with watch(service) as viewer:
            assert (await viewer.counts())["site"] == "portal"


async def test_one_viewer_too_many_is_refused(
    valkey: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503, and later there is room again."""
    monkeypatch.setattr("visit_counter.process.open_files.MOST_VIEWERS", 1)
    before = metric("refused_total", limit="all")
    async with run_service(valkey.url) as service:
        await service.site()
        async with watch(service) as first, watch(service) as second:
            body = json.loads(await second.reader.read())
            await first.counts()
        await until(lambda: not streams(service))
        async with watch(service) as third:
            await third.counts()

    assert (second.status, second.headers["retry-after"]) == (503, "5")
    assert second.headers["access-control-allow-origin"] == "*"
    assert body["title"] == "Too many viewers"
    assert metric("refused_total", limit="all") - before == 1


async def test_a_network_has_some_viewers_and_not_all(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each may choose a page, which costs a read a second; a site's trusted networks are exempt."""
    monkeypatch.setattr("visit_counter.reading.hub.MOST_AT_ONE", 1)
    await service.site()
    await service.site("intranet", trusted_networks=["127.0.0.0/8"])
    async with watch(service), watch(service) as second, watch(service, "/w/intranet/live") as own:
        statuses = (second.status, own.status)
    await until(lambda: not streams(service))
    async with watch(service) as third:
        await third.counts()

    assert statuses == (503, 200)


async def statuses(service: Service, *watched: tuple[str, str]) -> list[int]:
    """Of viewers that come one after the other, each from an address for a target."""
    async with AsyncExitStack() as viewers:
        found = []
        for address, target in watched:
            viewer = await viewers.enter_async_context(watch(service, target, address=address))
            if viewer.status == 200:
                await viewer.counts()
            found.append(viewer.status)
        return found


async def test_wider_networks_have_some_viewers_more(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A household's /56 and a customer's /48 too have some and not all."""
    monkeypatch.setattr("visit_counter.reading.hub.MOST_AT_ONE", 2)
    await service.site()
    of_one = [f"2001:db8:0:{n:x}::1" for n in range(4)]  # a /56
    of_other = [f"2001:db8:0:{n:x}00::1" for n in range(1, 4)]  # of the same /48
    got = await statuses(service, *((each, LIVE) for each in [*of_one, *of_other, "2001:db9::1"]))

    assert got == [200, 200, 200, 503, 200, 503, 503, 200]


async def test_different_pages_are_bounded(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In all and for each network; a site's own counts, and pages that somebody watches already,
    may be watched nevertheless."""
    monkeypatch.setattr("visit_counter.reading.hub.PAGES_AT_ONE", 2)
    monkeypatch.setattr("visit_counter.reading.hub.MOST_PAGES", 3)
    before = metric("refused_total", limit="network_pages"), metric("refused_total", limit="pages")
    await service.site()
    a, b, c = "192.0.2.1", "198.51.100.1", "203.0.113.1"
    asked = [(a, "1"), (a, "2"), (a, "3"), (b, "1"), (b, "4"), (c, "5"), (c, "2")]
    got = await statuses(
        service, *((each, f"{LIVE}?path=/{page}") for each, page in asked), (a, LIVE), (c, LIVE)
    )
    after = metric("refused_total", limit="network_pages"), metric("refused_total", limit="pages")
    await until(lambda: metric("pages") == 0)

    assert got == [200, 200, 503, 200, 200, 503, 200, 200, 200]
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1]
    assert not service.parts.hub._pages_of._held
    assert not service.parts.hub._viewers_of._held


async def test_rare_pages_delay_nobody_else(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A site's viewers, and those of pages that many watch, are told in each tick; the others in
    their turn, some in each tick and all in the end."""
    monkeypatch.setattr("visit_counter.reading.hub.PAGES_S", 0)
    monkeypatch.setattr("visit_counter.reading.hub.AT_ONCE", 2)
    await service.site()
    targets = [LIVE, *[f"{LIVE}?path=/many"] * 3, *(f"{LIVE}?path=/{n}" for n in range(9))]
    async with AsyncExitStack() as viewers:
        watching = [await viewers.enter_async_context(watch(service, each)) for each in targets]
        for viewer in watching:
            await viewer.counts()
        ticks = note_ticks(service, monkeypatch)
        await until(lambda: len(ticks) >= 8)
        rare = [[each for each in tick if each not in (None, "/many")] for tick in ticks[2:7]]
        await service.hit(p="/8")
        last = await watching[-1].until_counts(page={"path": "/8", "pageviews": 1})

    assert all({None, "/many"} < set(tick) for tick in ticks[2:7])
    assert [len(each) for each in rare] == [2] * 5
    assert {path for each in rare for path in each} == {f"/{n}" for n in range(9)}
    assert last["total"]["pageviews"] == 1


def note_ticks(service: Service, monkeypatch: pytest.MonkeyPatch) -> list[list[str | None]]:
    """What each tick looks at from now on."""
    hub, ticks = service.parts.hub, list[list[str | None]]()
    tick, turn = hub._tick, hub._turn

    async def noted_tick() -> None:
        ticks.append([])
        await tick()

    async def noted_turn(watched: Watched, channel: Channel) -> None:
        if ticks:
            ticks[-1].append(watched.path)
        await turn(watched, channel)

    monkeypatch.setattr(hub, "_tick", noted_tick)
    monkeypatch.setattr(hub, "_turn", noted_turn)
    return ticks


async def test_who_takes_the_last_place_takes_it_alone(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many who come at once: the others' streams end, and they come again."""
    monkeypatch.setattr("visit_counter.reading.hub.MOST_AT_ONE", 1)
    await service.site()
    async with AsyncExitStack() as viewers:
        opening = [viewers.enter_async_context(watch(service)) for _ in range(20)]
        await asyncio.gather(*opening)
        await until(lambda: metric("streams") == 1)


# -- viewers who do not read, and who go away


async def fill(service: Service, condition: Callable[[], object]) -> int:
    """Hits until a condition holds; how many."""
    (stream,), hits = streams(service), 0
    own = stream._transport.get_extra_info("socket")
    own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
    while not condition():
        await service.hit()
        hits += 1
    return hits


async def test_who_does_not_read_is_sent_the_newest(service: Service) -> None:
    """What it missed is not kept for it: one message is under way, one waits."""
    await service.site(trusted_networks=["127.0.0.0/8"])
    before = metric("skipped_messages_total")
    async with watch(service, received=SMALL) as viewer:
        hits = await fill(service, lambda: metric("skipped_messages_total") - before >= 5)
        (stream,) = streams(service)
        size = len(stream._mailbox._newest or b"")
        held = stream._transport.get_write_buffer_size()
        await viewer.until_counts(total=pageviews(hits))

    assert 0 < held <= size + 100


async def test_a_dead_viewer_is_noticed(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose kernel takes nothing any more."""
    monkeypatch.setattr("visit_counter.web.live.DEAD_MS", 300)
    await service.site(trusted_networks=["127.0.0.0/8"])
    async with watch(service, received=SMALL):
        await fill(service, lambda: not streams(service))

    assert metric("streams") == 0


async def test_a_viewer_takes_no_place_of_a_connection(service: Service) -> None:
    """Streams are bounded by themselves: they are many, and stay."""
    await service.site()
    async with watch(service) as viewer:
        await viewer.counts()
        metrics.CONNECTIONS.set(-1)
        await until(lambda: REGISTRY.get_sample_value("visitcounter_connections") == 0)


async def test_who_goes_is_forgotten(service: Service) -> None:
    """At once, together with what only it watched."""
    await service.site()
    async with watch(service) as one, watch(service) as two:
        await one.counts()
        await two.counts()
        assert metric("streams") == 2
        one.writer.close()
        await until(lambda: len(streams(service)) == 1)
        two.writer.transport.abort()
        await until(lambda: not streams(service))

    assert service.parts.hub._channels == {}


async def test_who_goes_in_the_middle_of_a_tick_disturbs_nobody(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two viewers others have their turn, and the second may leave meanwhile."""
    monkeypatch.setattr("visit_counter.reading.hub.IN_A_ROW", 1)
    await service.site()
    async with AsyncExitStack() as viewers:
        watching = [await viewers.enter_async_context(watch(service)) for _ in range(3)]
        for viewer in watching:
            await viewer.counts()

        async def leave() -> float:
            for viewer in watching[1:]:
                viewer.writer.transport.abort()
            await until(lambda: len(streams(service)) == 1)
            return 0.0

        monkeypatch.setattr("visit_counter.reading.hub.turn_of_others", leave)
        await service.hit()
        await watching[0].until_counts(online=1)

    assert tasks.problems() == []


async def test_one_site_s_mistake_ends_no_other_s_news(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is logged, and all are told at the next tick."""
    await service.site()
    async with watch(service) as viewer:
        await viewer.counts()
        read = service.parts.reader.read
        failed = asyncio.Event()

        async def fail(*_: object) -> Reading:
            failed.set()
            raise RuntimeError("a mistake")

        with monkeypatch.context() as patch:
            patch.setattr(service.parts.reader, "read", fail)
            await failed.wait()
        assert service.parts.reader.read == read
        await service.hit()
        await viewer.until_counts(online=1)

    assert tasks.problems() == []


# -- when there is nothing to see any more


async def test_a_site_made_private_ends_its_streams(service: Service) -> None:
    """Those of others go on."""
    await service.site()
    await service.site("other")
    async with watch(service) as viewer, watch(service, "/w/other/live") as other:
        await viewer.counts()
        await other.counts()
        await service.api("PATCH", "/sites/portal", {"public": False})
        assert await viewer.block() == ""
        await service.hit("other")
        assert (await other.counts())["total"] == pageviews(1)


async def test_a_store_that_is_away_ends_no_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Viewers are told once that the counts are old, and as soon as they are not."""
    monkeypatch.setattr("visit_counter.reading.hub.STALE_MS", 1500)
    with run_server(server_binaries()["valkey"]) as own:
        async with run_service(own.url) as service:
            await service.site()
            await service.site("unseen")
            async with watch(service) as viewer:
                first = await viewer.counts()
                own.kill()
                old, stale = await viewer.counts(), await viewer.event()
                async with watch(service) as late, watch(service, "/w/unseen/live") as unseen:
                    seen = [await late.event(), await late.event()]
                own.start()
                again = await viewer.counts()

    assert first["as_of"] <= old["as_of"]
    assert old == {**first, "as_of": old["as_of"]}
    assert stale == Event("stale", {"as_of": old["as_of"]})
    assert seen == [Event("message", old), stale]
    assert unseen.status == 503
    assert again["as_of"] > old["as_of"]


async def test_a_frozen_store_makes_counts_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for it longer than a tick or two."""
    monkeypatch.setattr("visit_counter.reading.hub.STALE_MS", 1000)
    with run_server(server_binaries()["valkey"]) as own:
        async with run_service(own.url) as service:
            await service.site()
            async with watch(service) as viewer:
                first = await viewer.counts()
                own.pause()
                assert {**await viewer.counts(), "as_of": 0} == {**first, "as_of": 0}
                assert (await viewer.event()).name == "stale"
                own.resume()
                assert (await viewer.counts())["as_of"] > first["as_of"]


async def test_the_end_of_the_hub_ends_all_streams(valkey: Server) -> None:
    """Whether their viewers read or not."""
    async with AsyncExitStack() as viewers:
        async with run_service(valkey.url) as service:
            await service.site(trusted_networks=["127.0.0.0/8"])
            stuck = await viewers.enter_async_context(watch(service, received=SMALL))
            await fill(service, lambda: streams(service)[0]._mailbox.stalled)
            reading = await viewers.enter_async_context(watch(service))
            await reading.counts()
        for viewer in (reading, stuck):
            await asyncio.wait_for(viewer.reader.read(), NEWS_S)


def test_a_stop_ends_all_streams() -> None:
    """Cleanly, and the process with them."""
    with serving() as service:
        service.site()
        with watching(urlsplit(service.url).port or 0, "portal", 300) as viewers:
            assert service.terminate() == 0
            assert wait_for_all(viewers, lambda viewer: viewer.ended, NEWS_S)
            assert {viewer.events for viewer in viewers} == {1}
        assert "Traceback" not in service.errors


# -- the mailbox


@given(st.lists(st.sampled_from(["put", "pause", "take"])))
def test_a_mailbox_keeps_the_newest_and_nothing_else(steps: list[str]) -> None:
    """What is sent is in order; who reads gets everything, who reads again the newest."""
    mailbox, sent, kept = Mailbox(), list[bytes](), list[bytes]()
    for number, step in enumerate(steps):
        if step == "put":
            message = str(number).encode()
            now = mailbox.put(message)
            assert now == (None if mailbox.stalled else message)
            if now is None:
                kept.append(message)
        elif step == "take":
            now = mailbox.take()
            assert now == (kept[-1] if kept else None)
            kept.clear()
        else:
            mailbox.stalled, now = True, None
        if now is not None:
            sent.append(now)

    assert sent == sorted(sent, key=int)
    assert mailbox._newest == (kept[-1] if kept else None)

"""Signs of a proxy that nobody has listed: a CDN before a proxy that is trusted, and others."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import pytest
from aiohttp import ClientSession, TCPConnector
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from loadtests.service_process import free_port
from tests.kit.pages.browser import until
from tests.kit.pages.documents import DOCS, code
from tests.kit.services.in_process import PERSON, Service, run_service
from tests.kit.stores.server import Server
from tests.test_own_host import answers, running
from visit_counter.config.settings import Settings
from visit_counter.rules.addresses import Address, parsed
from visit_counter.web.hits import forwarding
from visit_counter.web.hits.forwarding import MOST_NETWORKS, Forwarding

PAGE = DOCS / "how-to/proxies.md"
EDGE = "203.0.113.7"
SETTING = "VISIT_COUNTER_TRUSTED_PROXIES"
BEYOND = "visitcounter_forwarded_beyond_total"
V2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x01\x7f\0\0\x01\x1f\x90\x1f\x91"


async def ready(service: Service) -> tuple[str, list[str]]:
    _, body = await service.ready()
    return body["status"], body["hints"]


async def views(service: Service, chains: list[str]) -> int:
    """Views with these headers, behind a proxy on loopback; how many visits there are then."""
    for chain in chains:
        answer = await service.hit(headers={"X-Forwarded-For": chain})
    return int(answer["total"]["visits"])


async def test_a_cdn_before_a_trusted_proxy_is_told(valkey: Server) -> None:
    """Its visitors are one: the hint names setting and network, the log does once."""
    before = REGISTRY.get_sample_value(BEYOND) or 0.0
    chains = [f"198.51.100.{n}, {EDGE}" for n in range(1, 131)]
    with capture_logs() as logs:
        async with run_service(valkey.url) as service:
            await service.site()
            visits = await views(service, chains)
            status, (hint,) = await ready(service)
            async with service.client.get(f"{service.url}/w/portal/check") as answer:
                checked = [finding["name"] for finding in (await answer.json())["findings"]]
    async with run_service(valkey.url, trusted_proxies=f"127.0.0.0/8,{EDGE}/32") as service:
        await service.site()
        listed = await views(service, chains)
        no_hints = (await ready(service))[1]

    assert (visits, listed, no_hints) == (1, 130, [])
    assert status == "ok"
    assert "proxy" in checked
    assert SETTING in hint
    assert "203.0.113.0/24" in hint
    assert EDGE not in hint
    assert (REGISTRY.get_sample_value(BEYOND) or 0.0) - before == 130
    warned = [line for line in logs if SETTING in line["event"]]
    assert len(warned) == 1
    assert "203.0" not in str(warned)


class Told:
    """What is told of hits, at times that the test sets."""

    def __init__(self) -> None:
        self.at_s = 1000.0
        self.forwarding = Forwarding(lambda: self.at_s)

    def hits(self, client: str, *named: str) -> None:
        address = parsed(client)
        assert isinstance(address, Address)
        for hop in named:
            self.forwarding.beyond(address, hop)

    @property
    def hints(self) -> list[str]:
        return self.forwarding.hints


def many(number: int = 150) -> list[str]:
    return [f"198.51.{n // 250}.{n % 250}" for n in range(number)]


@pytest.mark.parametrize(
    "named",
    [
        ["192.0.2.1"] * 500,
        many(19) * 20,
        many(99),
        [f"10.1.0.{n}" for n in range(250)],
        [f"192.168.1.{n}" for n in range(250)],
        [f"fd00:0:0:{n:x}::1" for n in range(250)],
        [f"word{n}" for n in range(250)],
        ["", " ", "unknown"] * 100,
    ],
    ids=["one", "19", "99 hits", "10.", "192.168.", "fd00:", "words", "blanks"],
)
def test_who_forges_a_header_or_is_an_office_is_no_proxy(named: list[str]) -> None:
    told = Told()
    told.hits(EDGE, *named)

    assert told.hints == []


def test_a_visitor_that_is_named_twice_is_no_proxy() -> None:
    """As where nginx has found the visitor by itself and appends it once more."""
    told = Told()
    for address in many(250):
        told.hits(address, address, address)

    assert told.hints == []


@pytest.mark.parametrize(
    ("clients", "network"),
    [
        ([EDGE], "203.0.113.0/24"),
        ([f"203.0.113.{n}" for n in range(5)], "203.0.113.0/24"),
        (["10.42.0.9"], "10.42.0.0/24"),
        (["2001:db8:e:1::1", "2001:db8:e:2::9"], "2001:db8:e::/48"),
    ],
    ids=["an edge", "edges of a network", "a load balancer inside", "IPv6"],
)
def test_edges_of_a_network_are_one(clients: list[str], network: str) -> None:
    told = Told()
    for n, hop in enumerate([*many(60), *(f"2001:db8:{n:x}::1" for n in range(60))]):
        told.hits(clients[n % len(clients)], hop)
    (hint,) = told.hints

    assert hint.endswith(f"They are in {network}")


def test_a_hint_is_over_after_an_hour() -> None:
    """Unless it goes on, and hits of different hours are not added up."""
    told = Told()
    told.hits(EDGE, *many(60))
    told.at_s += forwarding.HINT_S + 1
    told.hits(EDGE, *many(60))
    assert told.hints == []

    told.hits(EDGE, *many(60))
    assert len(told.hints) == 1

    told.at_s += forwarding.HINT_S + 1
    assert told.hints == []


def test_nobody_is_remembered_for_longer() -> None:
    """As soon as somebody asks what is wrong, or the next sign comes; a network that has looked
    like a proxy since then stays, without those it named."""
    told = Told()
    told.hits(EDGE, *many())
    told.hits("192.0.2.9", *many(5))
    told.at_s += forwarding.HINT_S / 2
    told.hits(EDGE, *many())
    told.at_s += forwarding.HINT_S / 2 + 1
    (hint,) = told.hints
    (seen,) = told.forwarding.naming._seen.values()
    assert (seen.network, seen.beyond) == ("203.0.113.0/24", set())
    assert hint.endswith("203.0.113.0/24")

    told.at_s += forwarding.HINT_S
    told.hits("192.0.2.9", "198.51.100.1")
    assert [each.network for each in told.forwarding.naming._seen.values()] == ["192.0.2.0/24"]
    assert told.hints == []


def test_memory_is_bounded() -> None:
    """However many networks there are, those that go on are found among them."""
    told = Told()
    for n in range(4000):
        told.hits(f"1.{n // 250}.{n % 250}.1", "198.51.100.1")
    assert len(told.forwarding.naming) == MOST_NETWORKS

    for n in range(5):
        told.hits(f"203.0.{n}.1", *many())
    (hint,) = told.hints
    assert hint.count("/24") == forwarding.MOST_SHOWN
    assert hint.endswith("and 2 more")
    assert max(len(seen.beyond) for seen in told.forwarding.naming._seen.values()) == 20


async def test_an_address_that_brings_too_many_visitors_is_told(
    valkey: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a proxy that throws away what a CDN has said: else nothing shows it."""
    monkeypatch.setattr(forwarding, "MANY_HITS", 5)
    async with run_service(valkey.url) as service:
        await service.site()
        allowance = service.parts.intake.limits.of(Address(EDGE, 4, 0))
        for _ in range(1000):
            service.parts.intake.limits.charge_visitor(allowance)
        for n in range(4):
            answer = await service.hit(headers=from_edge(n))
        before = (await ready(service))[1]
        answer = await service.hit(headers=from_edge(5))
        _, (hint,) = await ready(service)

    assert answer["total"]["visits"] == 0
    assert before == []
    assert hint.endswith("They are in 203.0.113.0/24")
    assert "trusted_networks" in hint


def from_edge(n: int) -> dict[str, str]:
    return {"X-Forwarded-For": EDGE, "User-Agent": f"{PERSON} Another/{n}"}


@pytest.mark.parametrize("start", [b"PROXY TCP4 192.0.2.1 127.0.0.1 5 80\r\n", V2], ids="12")
async def test_the_proxy_protocol_is_told(valkey: Server, start: bytes) -> None:
    with capture_logs() as logs:
        async with run_service(valkey.url) as service:
            await service.site()
            for _ in range(2):
                address = urlsplit(service.url)
                reader, writer = await asyncio.open_connection(address.hostname, address.port)
                writer.write(start + b"GET /w/portal HTTP/1.1\r\nHost: a\r\n\r\n")
                answer = await reader.readline()
                writer.close()
            _, (hint,) = await ready(service)

    assert answer.startswith((b"HTTP/1.0 400", b"HTTP/1.1 400"))
    assert "PROXY protocol, which this service does not read" in hint
    assert len([line for line in logs if "PROXY protocol" in line["event"]]) == 1


@pytest.mark.parametrize(
    ("networks", "wide"),
    [
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("10.0.0.0/8,0.0.0.0/1,128.0.0.0/1", "0.0.0.0/1, 128.0.0.0/1"),
        ("127.0.0.1,::/0", "::/0"),
        ("2000::/3", "2000::/3"),
        ("10.0.0.0/8,fd00::/8,0.0.0.0,162.158.0.0/15,2a06:98c0::/29", ""),
        ("", ""),
    ],
)
def test_a_start_warns_where_nearly_everybody_is_trusted(networks: str, wide: str) -> None:
    given = {SETTING: networks, "VISIT_COUNTER_TIMEZONE": "UTC"}
    warnings = Settings.from_env(given).warnings

    assert [f"{SETTING} trusts {wide}: " in each for each in warnings] == [True] * bool(wide)


async def test_nginx_finds_the_visitor_behind_a_cdn(valkey: Server) -> None:
    """As the page has it, with an edge on loopback; and what a visitor forges is not believed."""
    async with run_service(valkey.url) as service:
        await service.site()
        port = free_port()
        (server,) = code(PAGE, "nginx")
        server = server.replace("listen 443 ssl", f"listen 127.0.0.1:{port}")
        server = server.replace("127.0.0.1:8080", service.url.removeprefix("http://"))
        server = server.replace("103.21.244.0/22", "127.0.0.9/32")
        url = f"http://127.0.0.1:{port}"
        with running("nginx", server):
            await until(lambda: answers(service, f"{url}/healthz"), "nginx")
            for chain in ("192.0.2.1", "192.0.2.2", "192.0.2.3, 192.0.2.2", "junk, 192.0.2.2"):
                counted = await hit_from_edge(f"{url}/w/portal", chain)
        hints = (await ready(service))[1]

    assert counted["today"]["pageviews"] == 4
    assert counted["today"]["visits"] == 2
    assert hints == []


async def hit_from_edge(url: str, chain: str) -> dict[str, dict[str, int]]:
    headers = {"User-Agent": PERSON, "X-Forwarded-For": chain}
    async with (
        ClientSession(connector=TCPConnector(local_addr=("127.0.0.9", 0))) as session,
        session.post(url, data=b"{}", headers=headers) as answer,
    ):
        found: dict[str, dict[str, int]] = await answer.json()
        return found

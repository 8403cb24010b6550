"""What the generators send: as many different browsers, pages and sites as a portal sees.

A request holds `ADDRESS` where the address of a visitor goes, and a hit `VIEW` where the id of the
view goes: each hit has others, and comes through a proxy. The generators for closed and for open
arrival take the same requests.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from loadtests.beacons import ORIGIN, address_of, hit_from

ADDRESS = "@"
VIEW = "~" * 16
VARIANTS = 1000
PAGES = 100
EVERY = 20  # one of so many requests is another one than a hit

USER_AGENTS = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/{n}.0.0.0 Safari/537.36",
    "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/{n}.0.0.0 Mobile Safari/537.36",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "coc_coc_browser/{n}.0.0 Chrome/{n}.0.0.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like "
    "Gecko) Version/18.{n} Mobile/15E148 Safari/604.1",
    "Mozilla/5.0 (X11; Linux x86_64; rv:{n}.0) Gecko/20100101 Firefox/{n}.0",
)
LANGUAGES = ("vi-VN,vi;q=0.9,en;q=0.8", "vi", "en-US,en;q=0.9", "km-KH,km;q=0.9,vi;q=0.8")

LOOK = (
    "GET {path} HTTP/1.1\r\n"
    "Host: {host}\r\n"
    "User-Agent: {user_agent}\r\n"
    "Accept: */*\r\n"
    "Accept-Language: {language}\r\n"
    "Accept-Encoding: gzip, deflate, br, zstd\r\n"
    f"Origin: {ORIGIN}\r\n"
    f"Referer: {ORIGIN}/\r\n"
    "Sec-Fetch-Site: cross-site\r\n"
    "Sec-Fetch-Mode: cors\r\n"
    "Sec-Fetch-Dest: empty\r\n"
    f"X-Forwarded-For: {ADDRESS}\r\n"
    "\r\n"
)


class Requests(NamedTuple):
    """What may be sent to a server."""

    hits: list[str]
    looks: list[str]
    others: list[str]
    """What pages ask for besides, none of which counts."""


def requests(host: str, sites: int, *, ids: bool = True) -> Requests:
    """Hits and looks spread evenly over the sites; `ids`: views have one, as those of pages do."""
    numbers = range(max(VARIANTS, sites))
    return Requests(
        [hit(host, n, sites, VIEW if ids else "") for n in numbers],
        [look(host, n, f"/w/{site_name(n % sites)}") for n in numbers],
        [look(host, n, path) for n, path in enumerate(("/embed.js", "/demo", "/w/s0?path=/"))],
    )


def site_name(n: int) -> str:
    return f"s{n}"


def hit(host: str, n: int, sites: int, view: str = VIEW) -> str:
    path = f"/tin-tuc/bai-viet-{n % PAGES}"
    site = site_name(n % sites)
    return hit_from(ADDRESS, site, host, path, user_agent(n), language(n), view).decode()


def of_visitor(text: str, visitor: int) -> bytes:
    """A request of the visitor of this number."""
    view = f"{visitor:0{len(VIEW)}d}"
    return text.replace(ADDRESS, address_of(visitor), 1).replace(VIEW, view, 1).encode()


def look(host: str, n: int, path: str) -> str:
    return LOOK.format(path=path, host=host, user_agent=user_agent(n), language=language(n))


def user_agent(n: int) -> str:
    return USER_AGENTS[n % len(USER_AGENTS)].format(n=100 + n // 7 % 40)


def language(n: int) -> str:
    return LANGUAGES[n // 3 % len(LANGUAGES)]


def as_lua(sent: Requests, every: int) -> str:
    """A Lua program that answers the requests, each as what stands before and after the address and
    the id; JSON's strings of ASCII are Lua's."""
    kinds = ",\n".join(
        f"{name} = {{{','.join(map(_parts, texts))}}}" for name, texts in sent._asdict().items()
    )
    return f"return {{\nevery = {every},\n{kinds}}}\n"


def _parts(text: str) -> str:
    before, after = text.split(ADDRESS)
    return "{" + ",".join(json.dumps(part) for part in (before, *after.split(VIEW))) + "}"

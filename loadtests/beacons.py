"""What a browser sends for a view, through a proxy that names the visitor's address.

Load tests write these bytes themselves: a client library would cost more than the service.
"""

from __future__ import annotations

import asyncio
import json
from typing import NamedTuple

ORIGIN = "https://portal.example"
USER_AGENT = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/142.0.0.0 Safari/537.36"
)
LANGUAGE = "vi-VN,vi;q=0.9,en;q=0.8"

HIT = (
    "POST /w/{site} HTTP/1.1\r\n"
    "Host: {host}\r\n"
    "User-Agent: {user_agent}\r\n"
    "Accept: */*\r\n"
    "Accept-Language: {language}\r\n"
    "Accept-Encoding: gzip, deflate, br, zstd\r\n"
    "Content-Type: text/plain;charset=UTF-8\r\n"
    f"Origin: {ORIGIN}\r\n"
    f"Referer: {ORIGIN}/\r\n"
    "Sec-Fetch-Site: cross-site\r\n"
    "Sec-Fetch-Mode: cors\r\n"
    "Sec-Fetch-Dest: empty\r\n"
    "X-Forwarded-For: {address}\r\n"
    "Content-Length: {length}\r\n"
    "\r\n"
    "{body}"
)


class Answer(NamedTuple):
    """Status and body of an HTTP answer."""

    status: int
    body: bytes


def hit(site: str, host: str, visitor: int, path: str, view: str = "") -> bytes:
    """The request of a visitor, who is a number below 2^24; the view's id if it has one."""
    return hit_from(address_of(visitor), site, host, path, view=view)


def hit_from(
    address: str,
    site: str,
    host: str,
    path: str,
    user_agent: str = USER_AGENT,
    language: str = LANGUAGE,
    view: str = "",
) -> bytes:
    """The request of a view from an address."""
    fields = {"k": "view", "p": path} | ({"i": view} if view else {})
    body = json.dumps(fields, separators=(",", ":"))
    named = {"site": site, "host": host, "user_agent": user_agent, "language": language}
    return HIT.format(**named, address=address, length=len(body), body=body).encode()


NETWORK = "10.0.0.0/8"
"""Of all visitors."""


def address_of(visitor: int) -> str:
    return f"10.{visitor >> 16 & 255}.{visitor >> 8 & 255}.{visitor & 255}"


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return Answer(int(head[9:12]), await reader.readexactly(length))

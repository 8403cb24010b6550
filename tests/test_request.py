"""Plain requests: what the lane reads of a head is what aiohttp's parser reads of it."""

from __future__ import annotations

import asyncio
from unittest.mock import Mock

import pytest
from aiohttp.http import HttpRequestParser, RawRequestMessage
from aiohttp.http_exceptions import HttpProcessingError
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from visit_counter.web.lane import request as lane_request
from visit_counter.web.lane.request import MAX_KNOWN, read_line, read_request

HEAD = (
    b"POST /w/portal HTTP/1.1\r\n"
    b"Host: count.example\r\n"
    b"Origin: https://a.example\r\n"
    b"User-Agent: Mozilla/5.0\r\n"
    b"X-Forwarded-For: 192.0.2.1\r\n"
    b"Sec-Fetch-Mode: cors\r\n"
    b"Accept: */*\r\n"
    b"Content-Length: 2"
)
NOISE = (
    *(b"\r", b"\n", b"\r\n", b"\r\n ", b"\x00", b"\x0b", b"\x7f", b"\xff", b" ", b"\t", b":", b","),
    *(b"\r\nContent-Length: 3", b"\r\nHost: b", b"\r\nTransfer-Encoding: chunked", b"\r\nA: b"),
    *(b"\r\nConnection: close", b"\r\nX-Forwarded-For: 192.0.2.9", b"\r\nDNT: 1", b"0", b"+", b"x"),
    *(b"\r\nConnection: keep-alive", b"\r\nOrigin:", b"\r\nUpgrade: h2c", b"\r\nPurpose: prefetch"),
    b"\r\nX-Purpose: preview",
)


def aiohttp_reads(head: bytes) -> RawRequestMessage | None:
    """One request as aiohttp reads it, or None where it reads none or more than that."""
    loop = asyncio.new_event_loop()
    try:
        parser = HttpRequestParser(Mock(), loop, 2**16)
        messages, upgraded, _ = parser.feed_data(head + b"\r\n\r\n")
    except HttpProcessingError:
        return None
    finally:
        loop.close()
    return messages[0][0] if len(messages) == 1 and not upgraded else None


@st.composite
def noisy_heads(draw: st.DrawFn) -> bytes:
    """A plain head with up to three pieces of noise anywhere in it."""
    head = HEAD
    for _ in range(draw(st.integers(0, 3))):
        ends = [place for place in range(len(head)) if head.startswith(b"\r\n", place)]
        place = draw(st.sampled_from([*ends, len(head)]) | st.integers(0, len(head)))
        cut = draw(st.sampled_from([0, 0, 0, 1, 2]))
        head = head[:place] + draw(st.sampled_from(NOISE)) + head[place + cut :]
    return head


@settings(max_examples=3000, deadline=None)
@given(noisy_heads())
@example(HEAD)
@example(HEAD.replace(b"X-F", b"X-Forwarded-For:\r\nX-F"))
def test_what_is_plain_aiohttp_reads_alike(head: bytes) -> None:
    """Method, target, length and every header that decides: never two readings."""
    request = read_request(head)
    event("plain" if request else "left to aiohttp")
    if request is None or request.target != b"/w/portal" or b"\r\n\r\n" in head:
        return

    theirs = aiohttp_reads(head)

    assert theirs
    assert not theirs.should_close
    assert not theirs.chunked
    assert request.method.decode() == theirs.method
    assert request.target.decode("latin-1") == theirs.path
    headers, ours = theirs.headers, request.head
    assert request.length == int(headers.get("Content-Length", 0))
    assert request.forwarded == ",".join(headers.getall("X-Forwarded-For", []))
    assert (ours.host, ours.origin) == (headers["Host"], headers.get("Origin", ""))
    assert (ours.user_agent, ours.fetch_mode) == (
        headers.get("User-Agent", ""),
        headers.get("Sec-Fetch-Mode", ""),
    )
    assert ours.no_identity == (headers.get("DNT") == "1")
    ahead = "prefetch" in headers.get("Purpose", "") or "preview" in headers.get("X-Purpose", "")
    assert ours.prefetch == ahead


def test_a_plain_head_is_read() -> None:
    """What most hits look like."""
    request = read_request(HEAD)

    assert request
    assert (request.method, request.target, request.length) == (b"POST", b"/w/portal", 2)
    assert request.forwarded == "192.0.2.1"


@pytest.mark.parametrize(
    "line",
    [
        *(b"Transfer-Encoding: chunked", b"transfer-encoding : x", b"Expect: 100-continue"),
        *(b"Connection: close", b"Connection: keep-alive, Upgrade", b"Upgrade: websocket"),
        *(b"Content-Length: 2", b"Host: other.example", b"Origin:", b" folded", b"X y: z", b": z"),
        *(b"nothing", b"", b"X: a\rb", b"X: a\nb", b"X: \x00", b"X: \x7f", b"Proxy-Connection: a"),
    ],
)
def test_what_is_not_plain_is_left(line: bytes) -> None:
    """A header that is odd, comes twice, is empty or broken."""
    assert read_request(HEAD + b"\r\n" + line) is None


@pytest.mark.parametrize(
    "length", [b"-1", b"+2", b"0x2", b"2 2", b"2,2", b"1e1", b"123456", "２".encode()]
)
def test_a_length_is_digits(length: bytes) -> None:
    """Nothing else is a Content-Length."""
    assert read_request(HEAD.replace(b"Length: 2", b"Length: " + length)) is None


@pytest.mark.parametrize(
    "first",
    [
        b"POST /w/portal HTTP/1.0",
        b"POST  /w/portal HTTP/1.1",
        b"POST /w/portal",
        b"",
        b"\tPOST / a",
    ],
)
def test_a_first_line_is_three_words(first: bytes) -> None:
    """Of HTTP/1.1."""
    assert read_request(HEAD.replace(b"POST /w/portal HTTP/1.1", first)) is None


def test_a_head_without_a_host_is_left() -> None:
    """HTTP/1.1 wants one."""
    assert read_request(HEAD.replace(b"Host: count.example\r\n", b"")) is None


def test_long_heads_are_not_remembered() -> None:
    """Whoever sends long lines does not fill the memory of known ones, and is read too."""
    long = HEAD + b"\r\nReferer: /" + b"a" * MAX_KNOWN

    request = read_request(long)

    assert request
    assert len(request.head.referer) > MAX_KNOWN
    assert read_line(b"Referer: /a")[1] == "/a"


def test_a_head_beyond_ascii_is_read_and_not_kept() -> None:
    """One wide character makes a text four times as large: it must not stay in memory."""
    head = HEAD + "\r\nReferer: https://a.example/\U0001f600".encode()
    before = lane_request._known.cache_info().currsize
    request, plain = read_request(head), read_request(HEAD)

    assert request
    assert plain
    assert (request.forwarded, request.head.origin) == ("192.0.2.1", "https://a.example")
    assert request.head.referer.endswith("\U0001f600")
    assert (request.head.kept, plain.head.kept) == (False, True)
    assert lane_request._known.cache_info().currsize <= before + 1

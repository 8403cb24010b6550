"""Bytes that are no HTTP, or HTTP that nobody means, and clients that go away at any point: none of
it makes a traceback, a long line of the log, or a 5xx."""

from __future__ import annotations

import asyncio
import random
import re
import socket
import struct
from urllib.parse import urlsplit

from loadtests.service_process import free_port
from tests.kit.services.process import serving

HOST = b"Host: a\r\n"
ABORT = struct.pack("ii", 1, 0)  # of SO_LINGER: a close resets
LONGEST_LINE = 1000


def get(target: bytes, *lines: bytes) -> bytes:
    return b"GET %b HTTP/1.1\r\n%b%b\r\n" % (target, HOST, b"".join(b"%b\r\n" % x for x in lines))


def post(target: bytes, rest: bytes, *lines: bytes) -> bytes:
    return get(target, *lines).replace(b"GET", b"POST", 1) + rest


CHUNKED, EXPECT = b"Transfer-Encoding: chunked", b"Expect: 100-continue"
UPGRADE = b"Connection: Upgrade"
MISUSE = [
    # Other protocols, and none.
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + random.Random(1).randbytes(250),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x12\x04\x00\x00\x00\x00\x00",
    random.Random(2).randbytes(3000),
    bytes(5000),
    b"\r\n" * 3000,
    b"\n" * 3000,
    b"GET\r\n\r\n",
    b"GET /x\n\n",
    b"G\x00T / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    # Targets.
    *(
        get(target)
        for target in (
            *(
                b"http://evil/",
                b"http://[::1",
                b"http://a:99999/",
                b"http:///x",
                b"http://u:p@h:0/",
            ),
            *(
                b"//[",
                b"//////",
                b"*",
                b"x:y",
                b"?x",
                b"/#f",
                b"/%ff%fe",
                b"/w/%2e%2e/demo",
                b"/\xff",
            ),
            *(b"/w/demo%00", b"/w/demo/dot.gif?p=%00", b"/oembed?url=http://[", b"/" + b"a" * 9000),
        )
    ),
    b"CONNECT evil:443 HTTP/1.1\r\n" + HOST + b"\r\nabc\x00def",
    b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
    b"OPTIONS http://[x]/ HTTP/1.1\r\n" + HOST + b"\r\n",
    b"TRACE / HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET /" + b"a" * 70_000,
    # Headers.
    *(
        b"GET /embed HTTP/1.1\r\nHost: %b\r\n\r\n" % host
        for host in (b"a/b?c#d", b"a:b:c", b"\xff\xfe", b"[::1", b"a:999999", b"b" * 9000)
    ),
    get(b"/", *(b"X%d: 1" % n for n in range(500))),
    get(b"/", b"Host: b"),
    get(b"/", b"X: a\r\n b"),
    get(b"/w/demo", b"Cookie: \xff=\x01; a"),
    get(b"/w/demo/block.svg", b"If-None-Match: \xff", b"If-Modified-Since: x", b"Range: bytes=0-1"),
    get(b"/healthz", b"Upgrade: h2c", UPGRADE) + b"GARBAGE\x00\r\n\r\n",
    get(b"/healthz", b"Upgrade: websocket", UPGRADE, b"Sec-WebSocket-Key: x") + b"\x81\x00",
    get(b"/w/demo/live", b"Upgrade: websocket", UPGRADE) + b"\x81\x00" * 1000,
    # Bodies.
    *(
        post(b"/w/demo", rest, CHUNKED)
        for rest in (
            *(
                b"zz\r\n",
                b"5\r\nabc",
                b"5;" + b"a" * 9000 + b"\r\n",
                b"ffffffffffff\r\n",
                b"-1\r\n",
            ),
            *(
                b"2\r\n{}\r\n0\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
                b"2\r\n{}\r\n0\r\nX\x00: a\r\n\r\n",
            ),
        )
    ),
    post(b"/w/demo", b"", b"Expect: x"),
    post(b"/nowhere", b"x" * 70_000, b"Expect: x", b"Content-Length: 100000"),
    post(b"/w/demo", b"", EXPECT, b"Content-Length: 5"),
    post(b"/w/demo", b"", EXPECT, CHUNKED).replace(b"HTTP/1.1", b"HTTP/1.0"),
    post(b"/w/demo", b"", b"Content-Length: 99999999999999999999999"),
    post(b"/w/demo", b"y" * 50_000, b"Content-Length: 100000"),
    post(b"/w/demo", b"\x1f\x8b\x00", b"Content-Encoding: gzip", b"Content-Length: 3"),
    post(b"/w/demo", b"{}", b"Content-Type: multipart/form-data; boundary=x", b"Content-Length: 2"),
    post(b"/w/demo", b"{}", b"Content-Type: a/b; charset=none", b"Content-Length: 2"),
    post(b"/api/v1/sites", b"{}", b"Authorization: Bearer \xff\xfe", b"Content-Length: 2"),
    # Nothing wrong but how it ends.
    get(b"/w/demo/live"),
    get(b"/w/demo/live") + b"junk" * 1000,
    get(b"/metrics") * 40,
    get(b"/w/demo") * 400,
    post(b"/w/demo", b"{}", b"User-Agent: Firefox", b"Content-Length: 2") * 40,
]


async def misuse(address: tuple[str, int], sent: bytes, how: str) -> bytes:
    """Send it, all or a part, and go away with a reset or by closing one direction first; what was
    answered."""
    own = socket.create_connection(address)
    reader, writer = await asyncio.open_connection(sock=own)
    got = b""
    try:
        whole = how in ("shut", "read")
        writer.write(sent if whole else sent[: random.Random(len(sent)).randrange(len(sent))])
        if how == "reset":
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
        elif how == "shut":
            writer.write_eof()
        if whole:
            async with asyncio.timeout(0.3):
                while piece := await reader.read(65536):
                    got += piece
    except (OSError, TimeoutError):
        pass
    finally:
        writer.transport.abort()
    return got


async def test_no_misuse_is_an_error_of_ours() -> None:
    """On both addresses; then the service stops as ever."""
    ops, answers = f"127.0.0.1:{free_port()}", list[bytes]()
    with serving(OPS_LISTEN=ops, LOG_FORMAT="json") as service:
        for url in (urlsplit(service.url), urlsplit(f"http://{ops}")):
            address = (url.hostname or "", url.port or 0)
            for how in ("read", "shut", "cut", "reset"):
                answers += await asyncio.gather(*(misuse(address, sent, how) for sent in MISUSE))

        assert service.terminate() == 0
        assert "Traceback" not in service.errors
        assert max(map(len, service.errors.splitlines())) < LONGEST_LINE
    statuses = {
        int(status) for each in answers for status in re.findall(rb"HTTP/1\.\d (\d+) ", each)
    }
    assert max(statuses) < 500
    assert {200, 400, 404, 417} <= statuses

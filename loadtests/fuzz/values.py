"""Values that a parameter, a header or a field was not made for, and usual ones beside them.

An odd value among usual ones reaches code that a request of odd values alone never does, so every
parameter and field has samples of what it takes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from random import Random
from typing import Any

TEXTS = (
    *("", " ", "\t", "\n", "\r\n", "\x00", "a\x00b", "\x7f", "\x1b[31m", "\u0085", "\ufeff"),
    *("\u202eevil", "\u2066", "\u2028", "\u200b", "\ud800", "\udfff", "\U0010ffff", "e\u0301"),
    *("Thống kê", "عدد", "中文", "🏴‍☠️", "١٢٣", "１２", "²", "ß", "İ", "ﬁ"),
    *("0", "-1", "+1", "1.5", "1e3", "1e309", "NaN", "Infinity", "0x10", "1_000", "1,891,451"),
    *("9" * 5000, "18446744073709551616", "9007199254740993", "-9223372036854775809"),
    *("true", "null", "None", "[]", "{}", "undefined", "demo", "self", "*", "__proto__"),
    *("../../etc/passwd", "/..", "//evil.vn/", "/%2e%2e/", "%", "%zz", "%00", "%c0%af", "%ff"),
    *(
        "<script>alert(1)</script>",
        '"onload="x',
        "'",
        "`",
        "{{7*7}}",
        "{0}",
        "%s",
        "%n",
        "$1",
        "\\",
    ),
    *(
        "javascript:alert(1)",
        "data:text/html,x",
        "file:///x",
        "http://",
        "https://[",
        "http://[::1",
    ),
    *("https://a.vn", "https://*.a.vn", "http://a.vn:99999", "https://a.vn@evil.vn", "null"),
    *("0.0.0.0/0", "::/0", "10.0.0.1/8", "::ffff:1.2.3.4", "fe80::1%eth0", "256.1.1.1", "1.1"),
    *("2026-11-29", "2026-02-30", "0000-00-00", "9999-12-31", "2026-11-29\n", "2026-1-1"),
    *("a" * 64, "a" * 300, "a" * 9000, "é" * 600, "/" * 600, "," * 400, ";" * 400, "%20" * 400),
)

HEADER_VALUES = (
    *("", "x", "\t", "\x7f", "\xff", "é", "a" * 4000, "a," * 2000, '"' * 100, "*", "W/", 'W/"a"'),
    *("http://", "https://[", "https://a.vn", "https://a.vn/x?y#z", "null", "data:,", "//x", "@"),
    *("127.0.0.1", "[::1]:80", "a.vn:99999", "a.vn:-1", "a b", "%00", "127.0.0.1, 10.0.0.1", ","),
    *(
        "10.0.0.1:5000",
        "[2001:db8::1]:1",
        "unknown",
        "_hidden",
        "1.2.3.4,," * 400,
        "::ffff:1.2.3.4",
    ),
    *("vi", "vi;q=0.5,en;q=x", "en;q=" + "9" * 400, "x-" * 500, "*;q=0", "zh-Hant-TW-x-y"),
    *("Bearer", "Bearer  ", "Bearer \xff", "Basic YTpi", "bearer x", "Bearer " + "a" * 3000),
    *("gzip", "br", "identity", "deflate, gzip;q=0", "prefetch", "navigate", "no-cors", "empty"),
    *("image", "document", "iframe", "1", "0", "text/plain", "application/json; charset=x"),
    *("bytes=0-", "bytes=5-1", "Thu, 01 Jan 1970 00:00:00 GMT", "100-continue", "nothing"),
)

NUMBERS = (
    0,
    1,
    -1,
    9,
    10,
    86_400,
    86_401,
    100_001,
    2**31,
    2**53,
    2**53 + 1,
    2**63,
    2**64,
    -(2**63),
)

SAMPLES: Mapping[str, tuple[Any, ...]] = {
    # What the URLs of pages, scripts and pictures take.
    "path": ("/", "/tin-tuc", "/a?b", "/a;jsessionid=1", "/" + "é" * 300),
    "p": ("/", "/tin-tuc", "/x/index.html"),
    "url": ("http://127.0.0.1/w/open/frame", "https://a.vn/w/open/frame?lang=vi"),
    "format": ("json", "xml"),
    "maxwidth": ("300", "1"),
    "maxheight": ("200", "1"),
    "lang": ("vi", "en", "ar", "km"),
    "script": ("vi", "en"),
    "site": ("open", "demo"),
    "page": ("https://a.vn/x", "http://localhost:8000/", True, False),
    "theme": ("auto", "dark", "light", "blue"),
    "period": ("total", "today", "online", "week"),
    "rows": ("online,today", "online today week total", "peak"),
    "metric": ("visits", "pageviews", "visitors"),
    "number-format": ("1,234", "1.234", "plain", "words"),
    "set": ("odometer", "lcd"),
    "zero-pad": ("0", "6", "12"),
    "color": ("blue", "#0a0", "ff00ff"),
    "label-color": ("grey", "#123456"),
    "label": ("lượt xem", ""),
    "shape": ("flat", "square"),
    "title": ("Thống kê", ""),
    "refresh": ("0", "60"),
    "paused": ("yes", "no"),
    "how": ("yes", "no"),
    # What a hit says.
    "i": ("3f9a2c77d01b4e68", "1"),
    "again": (True, False),
    "k": ("view", "here", "bye"),
    "v": ("a1b2c3d4e5f6", ""),
    # What the API takes.
    "preview": ("1", "0"),
    "from": ("2026-11-01",),
    "to": ("2026-11-29",),
    "confirm": ("f0", "f1", "f2", "f3"),
    "operation": ("fuzz-operation-1", "fuzz-operation-2"),
    "reason": ("moved in",),
    "add": ({"total": 5}, {"today": -1}, {}),
    "id": ("f0", "f1", "f2", "f3"),
    "origins": (["https://a.vn"], ["*"], ["self"], ["https://*.a.vn"]),
    "name": ("Cổng thông tin", ""),
    "timezone": ("Asia/Ho_Chi_Minh", "UTC", "America/New_York"),
    "week_start": ("monday", "sunday"),
    "online_window": (300, 10),
    "visit_timeout": (1800, 86_400),
    "identity": ("address", "browser"),
    "honour_dnt": (True, False),
    "max_pages": (10, 0, 50),
    "trusted_networks": (["10.0.0.0/8"], ["2001:db8::/32"], []),
    "public": (True, False),
    **dict.fromkeys(("total", "year", "month", "week", "today"), (1, -1, 1000)),
}


def text(rng: Random) -> str:
    """An odd text, sometimes two that were put together or one that was cut."""
    chosen = rng.choice(TEXTS)
    kind = rng.random()
    if kind < 0.2:
        return chosen + rng.choice(TEXTS)[:2000]
    if kind < 0.3:
        return chosen[: rng.randint(0, len(chosen))]
    if kind < 0.4:
        return "".join(
            chr(rng.choice((rng.randrange(256), rng.randrange(0x3000)))) for _ in "123456"
        )
    return chosen


def value(rng: Random, depth: int = 0) -> Any:
    """An odd value of JSON."""
    kind = rng.randrange(9 if depth < 3 else 6)
    if kind < 3:
        return text(rng)
    if kind == 3:
        return rng.choice(NUMBERS)
    if kind == 4:
        return rng.choice((None, True, False, 0.5, 1e308, -0.0, float("nan"), float("inf")))
    if kind == 5:
        return rng.choice((rng.getrandbits(70), -rng.getrandbits(65), rng.random() * 1e18))
    if kind == 6:
        return [value(rng, depth + 1) for _ in range(rng.choice((0, 1, 3, 40)))]
    if kind == 7:
        return {text(rng)[:50]: value(rng, depth + 1) for _ in range(rng.choice((0, 1, 3)))}
    return rng.choice(([text(rng)], [None], [[]], [""] * 300, {"total": text(rng)}))


def of_name(rng: Random, name: str) -> Any:
    """A value for the parameter or field of this name: usual, odd, or a usual one that was bent."""
    samples = SAMPLES.get(name, ())
    kind = rng.random()
    if samples and kind < 0.6:
        return rng.choice(samples)
    if samples and kind < 0.75 and isinstance(sample := rng.choice(samples), str):
        return rng.choice((sample + text(rng)[:300], text(rng)[:300] + sample, sample.upper()))
    return value(rng)


def json_of(rng: Random, fields: Mapping[str, Any]) -> bytes:
    """A body; sometimes cut, with a field twice, nested without end, or no JSON at all."""
    body = json.dumps(fields, ensure_ascii=rng.random() < 0.5).encode(errors="surrogatepass")
    kind = rng.random()
    if kind < 0.8:
        return body
    if kind < 0.85:
        return body[: rng.randint(0, len(body))]
    if kind < 0.9:
        return body[:-1] + b"," + body[1:] if len(body) > 2 else b"{,}"
    if kind < 0.93:
        return rng.choice((b"[" * 9000, b'{"a":' * 3000, b'"' + b"\\u0000" * 2000 + b'"'))
    if kind < 0.96:
        return body + rng.choice((b" ", b"\x00", b"{}", b"\n" * 500, b"//"))
    return rng.choice(
        (b"", b"null", b"1", b'""', b"\xff\xfe", b"\xef\xbb\xbf{}", rng.randbytes(40))
    )

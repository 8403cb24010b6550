"""What the fuzzers' judge finds: without it each run of theirs would be a good one."""

from __future__ import annotations

import pytest

from loadtests.fuzz.exchange import Reply
from loadtests.fuzz.judge import (
    GROWS_FILES,
    GROWS_MB,
    MOST_LINES,
    Size,
    wrong_with,
    wrong_with_log,
    wrong_with_size,
)
from loadtests.fuzz.requests import Case

LOOK = Case("public", 1, [b"GET /w/open HTTP/1.1\r\nHost: a\r\n\r\n"], True)
RAW = LOOK._replace(kind="raw", well_formed=False)
CORS = b"Access-Control-Allow-Origin: *\r\n"
PROBLEM = CORS + b"Content-Type: application/problem+json\r\n\r\n"
GOOD = b'{"status": 404, "detail": "There is no such site here."}'


def answered(status: bytes, rest: bytes = CORS + b"\r\n") -> Reply:
    return Reply(b"HTTP/1.1 " + status + b"\r\n" + rest, ended=True)


@pytest.mark.parametrize(
    ("case", "reply", "wrong"),
    [
        (LOOK, answered(b"200 OK"), ""),
        (LOOK, answered(b"404 Not Found", PROBLEM + GOOD), ""),
        (RAW, Reply(b"", ended=True), ""),
        (RAW, answered(b"400 Bad Request"), ""),
        (RAW._replace(resets=True), Reply(b"", ended=False), ""),
        (LOOK, Reply(b"", ended=True), "no answer"),
        (LOOK, Reply(answered(b"200 OK").received, ended=False), "was not ended"),
        (RAW, Reply(b"", ended=False), "was not ended"),
        (LOOK, answered(b"503 Service Unavailable"), "answered [503]"),
        (RAW, answered(b"200 OK", CORS + b"\r\nHTTP/1.1 500 Oh\r\n\r\n"), "answered [200, 500]"),
        (LOOK, answered(b"200 OK", b"\r\n"), "no CORS header"),
        (LOOK, answered(b"404 Not Found", PROBLEM + b"oh"), "no JSON"),
        (LOOK, answered(b"400 Bad Request", PROBLEM + GOOD), "says nothing"),
        (LOOK, answered(b"404 Not Found", PROBLEM + b'{"status": 404}'), "says nothing"),
        (
            LOOK,
            answered(b"404 Not Found", PROBLEM + GOOD.replace(b"such site", b"visit_counter.x")),
            "tells of the code",
        ),
    ],
)
def test_an_answer_is_judged(case: Case, reply: Reply, wrong: str) -> None:
    said = wrong_with(case, reply)

    assert wrong in said
    assert bool(said) == bool(wrong)


def test_the_log_is_judged() -> None:
    """Errors, tracebacks, and more lines than are borne."""
    line = '{"event": "a wrong admin token was sent", "level": "warning"}'
    few, many = "\n".join([line] * MOST_LINES), "\n".join([line] * (2 * MOST_LINES + 1))

    assert wrong_with_log(few, minutes=0) == []
    assert wrong_with_log(line + "\nTraceback (most recent call last):", 1)
    assert wrong_with_log('{"event": "a request failed", "level": "error"}', 1)
    assert "lines in the log" in wrong_with_log(many, minutes=1)[0]


def test_growth_is_judged() -> None:
    before = Size(100.0, 50)

    assert wrong_with_size(before, Size(100.0 + GROWS_MB, 50 + GROWS_FILES)) == []
    assert len(wrong_with_size(before, Size(101.0 + GROWS_MB, 51 + GROWS_FILES))) == 2

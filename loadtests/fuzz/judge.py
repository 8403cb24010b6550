"""What is wrong with an answer, and with the service after many of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

from loadtests.fuzz.exchange import Reply
from loadtests.fuzz.requests import Case
from tests.kit.services.process import ServiceProcess

STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3}) [A-Za-z' -]+\r\n")
BAD_WORDS = ("Traceback", '"level": "error"', '"level": "critical"')
GROWS_MB = 24.0
"""What caches and the allocator may take after the first cases."""
GROWS_FILES = 24
MOST_LINES = 20
"""Of the log, for a minute of strangers' cases: each kind of warning is told once a minute."""


def wrong_with(case: Case, reply: Reply) -> str:
    """Why this is no good answer; empty for a good one."""
    if case.resets:
        return ""
    if not reply.ended:
        return "the connection was not ended"
    statuses = [int(each) for each in STATUS.findall(reply.received)]
    if any(status >= 500 for status in statuses):
        return f"answered {statuses}"
    if not case.well_formed:
        return ""
    if not statuses:
        return "no answer"
    return _wrong_with_body(case, reply, statuses[0])


def _wrong_with_body(case: Case, reply: Reply, status: int) -> str:
    head, _, body = reply.received.partition(b"\r\n\r\n")
    if body and b"problem+json" in head:
        return _wrong_with_problem(body, status)
    public = case.sent.split(b" ")[1].startswith(b"/w/")
    if public and b"Access-Control-Allow-Origin: *" not in head:
        return "no CORS header"
    return ""


def _wrong_with_problem(body: bytes, status: int) -> str:
    try:
        problem = json.loads(body)
    except ValueError:
        return f"a problem that is no JSON: {body[:80]!r}"
    if problem.get("status") != status or len(problem.get("detail", "")) < 10:
        return f"a problem that says nothing: {problem}"
    if "Traceback" in body.decode() or "visit_counter" in problem["detail"]:
        return f"a problem that tells of the code: {problem}"
    return ""


class Size(NamedTuple):
    """What a service takes of its machine."""

    mb: float
    files: int


def size_of(service: ServiceProcess) -> Size:
    """Of all its processes that answer."""
    pids = service.workers or [service.process.pid]
    return Size(
        sum(_resident_mb(pid) for pid in pids),
        sum(len([*Path(f"/proc/{pid}/fd").iterdir()]) for pid in pids),
    )


def _resident_mb(pid: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found, "Linux tells it"
    return int(found[1]) / 1024


def wrong_with_size(before: Size, after: Size) -> list[str]:
    """Growth that is more than caches that fill."""
    wrong = []
    if after.mb - before.mb > GROWS_MB:
        wrong.append(f"it grew from {before.mb:.0f} to {after.mb:.0f} MB")
    if after.files - before.files > GROWS_FILES:
        wrong.append(f"open files grew from {before.files} to {after.files}")
    return wrong


def wrong_with_log(log: str, minutes: float) -> list[str]:
    """Tracebacks and errors; more lines than a reader of the log can bear."""
    lines = log.splitlines()
    bad = [line for line in lines if any(word in line for word in BAD_WORDS)]
    wrong = [f"logged: {line[:300]}" for line in bad[:5]]
    if len(lines) > MOST_LINES * (1 + minutes):
        wrong.append(f"{len(lines)} lines in the log, such as {lines[-1][:200]}")
    return wrong


def wrong_with_metrics(service: ServiceProcess) -> list[str]:
    """Answers of 5xx that the metrics know of."""
    series = re.findall(r"^visitcounter_request_seconds_count\{.*5xx.*", service.metrics(), re.M)
    return [f"in the metrics: {each}" for each in series if not each.endswith(" 0.0")]

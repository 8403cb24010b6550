"""The fuzzers of `loadtests/fuzz` in short; the long form is ten minutes of `./dev fuzz`."""

from __future__ import annotations

import re
from pathlib import Path

from loadtests.fuzz.__main__ import fuzz, fuzzed_service
from loadtests.fuzz.requests import PARAMETERS

SECONDS = 30.0
WEB = Path(__file__).parents[1] / "service/visit_counter/web"
READS = re.compile(
    r"(?:query\.get|(?:query|asked|given)\.(?:one_of|some_of|whole|text|color)|day_of)"
    r'\((?:request, )?\s*"([\w-]+)"'
)


async def test_odd_requests_harm_nothing() -> None:
    """No 5xx, no traceback, no growth, and each honest hit beside them is counted once."""
    with fuzzed_service(workers=1) as service:
        found = await fuzz(service, SECONDS, seed=1)
        assert found.wrong == []
        assert min(found.cases.values()) > 100, found.cases


def test_every_parameter_is_fuzzed() -> None:
    sources = "\n".join(each.read_text() for each in WEB.rglob("*.py"))
    read = {*READS.findall(sources)}
    assert {"path", "lang", "zero-pad", "from", "preview"} <= read
    assert read <= {*PARAMETERS}

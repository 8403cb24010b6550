"""A client that has what it asks for gets 304: If-None-Match, as RFC 9110 13.1.2 has it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kit.raw_http import GOOD, HOST, Ports, exchange, ports
from tests.kit.stores.server import Server, run_server, server_binaries

SAME = {"Host": "count.example"}
TARGETS = ["/w/portal", "/w/portal?path=/a", "/w/portal/block.svg", "/w/portal/frame", "/demo.css"]

# TAG is the weak tag of what is asked for, OPAQUE the same without W/.
LINES = {
    "it": (["TAG"], 304),
    "as a strong one: the comparison is weak": (["OPAQUE"], 304),
    "first of a list": (['TAG, "x"'], 304),
    "last of a list, without blanks": (['"x",W/"y",TAG'], 304),
    "in a list with empty elements": ([', TAG,, "x"'], 304),
    "beside one with a comma": (['"a,b", TAG'], 304),
    "in the second of two lines": (['"x"', "TAG"], 304),
    "whatever there is": (["*"], 304),
    "another": (['W/"x"'], 200),
    "none": ([], 200),
    "a star in quotes": (['"*"'], 200),
    "a star in a list": (['"x", *'], 200),
    "one that ends alike": (['"xOPAQUE"'], 200),
    "in the quotes of another": (['"x TAG x"'], 200),
    "without quotes": (["BARE"], 200),
    "with a small w": (["w/OPAQUE"], 200),
    "as a weak tag of a weak one": (["W/TAG"], 200),
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with run_server(server_binaries()["valkey"]) as own:
        yield own


async def test_who_has_it_is_not_sent_it_again(server: Server) -> None:
    """Counts, a page's counts, pictures and files; in the lane and by aiohttp."""
    async with ports(server.url) as both:
        found = {
            (target, name): await statuses(both, target, lines)
            for target in TARGETS
            for name, (lines, _) in LINES.items()
        }

    wrong = {each: got for each, got in found.items() if got != [LINES[each[1]][1]] * 2}
    assert wrong == {}


async def statuses(both: Ports, target: str, lines: list[str]) -> list[int]:
    """How the lane and aiohttp answer, in this order."""
    answers = []
    for service in (both.lane, both.plain):
        async with service.client.get(service.url + target, headers=SAME) as first:
            tag = first.headers["ETag"]
        assert tag.startswith('W/"')
        bare = tag[3:-1]
        spelled = {"TAG": tag, "OPAQUE": f'"{bare}"', "BARE": bare}
        sent = [f"If-None-Match: {_filled(line, spelled)}" for line in lines]
        head = "\r\n".join([f"GET {target} HTTP/1.1", HOST, *GOOD, *sent, "", ""])
        (answer,) = await exchange(service, [head.encode()])
        answers.append(answer.status)
    return answers


def _filled(line: str, spelled: dict[str, str]) -> str:
    for name, value in spelled.items():
        line = line.replace(name, value)
    return line

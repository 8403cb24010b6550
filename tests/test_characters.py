"""Characters that nobody sees: refused where an admin writes them, and where others' text goes to a
terminal or into the log, they do nothing.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import structlog
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from tests.kit.services.commands import ran
from tests.kit.services.in_process import Service
from tests.kit.stores.server import Server
from visit_counter import logs
from visit_counter.characters import UNSEEN, escaped, escaped_lines
from visit_counter.model.site_settings import partition_of

CONTROLS = ("\x00", "\n", "\x1b", "\x7f", "\x9b", "\u202e", "\u2066", "\u2028", "\u200b", "\ufeff")


async def test_texts_with_what_nobody_sees_are_refused(service: Service) -> None:
    """The answer names the field and the character; joiners of letters and emoji are fine."""
    await service.site("a")
    for character in CONTROLS:
        text, code = f"Cổng{character}thông tin", f"U+{ord(character):04X}"
        for path, body in (
            ("", {"name": text}),
            ("", {"timezone": text}),
            ("", {"origins": [text]}),
            ("/a/reset", {"confirm": "a", "reason": text}),
            ("/a/seed", {"metric": "visits", "add": {"total": 1}, "reason": text}),
        ):
            given = {"id": "b", "origins": ["*"], **body} if not path else body
            told = await service.api("POST", f"/sites{path}", given, status=400)

            assert told["field"] == [*body][-1]
            assert code in told["detail"]
    await service.site("c", name="خانه\u200cها 👨\u200d👩\u200d👧")


async def test_what_is_stored_already_stays_and_does_nothing(
    service: Service, valkey: Server
) -> None:
    """A name of before: other settings change, pages leave the character out, the command line
    escapes it; letters that need a joiner keep it."""
    name = "Cổng\x1b[31m\u202e thông\u200d tin\x9b"
    await service.site("old", name="before")
    key = f"{service.parts.store._tags[partition_of('old')]}:sites"
    async with Redis(unix_socket_path=valkey.socket_path) as client:
        raw: Any = await client.hget(key, "old")
        await client.hset(key, "old", raw.replace(b'"before"', json.dumps(name).encode()))
        await client.hincrby(key, "#", 1)
    await service.parts.sites.refresh()
    changed = await service.api("PATCH", "/sites/old", {"metric": "pageviews"})
    async with service.client.get(f"{service.url}/w/old/privacy") as answer:
        page = await answer.text()
    listed = await ran(service, "site", "list")
    shown = await ran(service, "site", "show", "old")
    missing = await ran(service, "site", "show", "\udcff\x1b")

    assert (changed["metric"], changed["name"]) == ("pageviews", name)
    assert "Cổng[31m thông\u200d tin" in page
    assert "old\tUTC\t*\tCổng\\u001b[31m\\u202e thông\u200d tin\\u009b\n" in listed[1]
    assert json.loads(shown[1])["settings"]["name"] == name
    assert not UNSEEN.search(
        (listed[1] + shown[1] + missing[1]).replace("\n", "").replace("\t", "")
    )
    assert missing[0] == 1


@given(st.text())
def test_escaped_text_is_one_line_that_json_reads_as_the_same(text: str) -> None:
    """Whatever it is."""
    plain = text.replace("\\", "").replace('"', "")

    assert not UNSEEN.search(escaped(text))
    assert json.loads(f'"{escaped(plain)}"') == plain
    assert escaped_lines(text).split("\n") == [*map(escaped, text.split("\n"))]


def test_a_log_for_eyes_does_nothing_to_the_terminal() -> None:
    """Neither names in it, nor what an error quotes; no line begins by itself."""
    processors: list[structlog.types.Processor] = [
        structlog.processors.add_log_level,
        logs._escape,
        logs._console(),
    ]
    event: Any = {"event": "site\x1b[2J\nforged", "name": "a\u202e\x9b", "reason": ["\x1b"]}
    try:
        raise ValueError("\x1b]0;title\x07")
    except ValueError:
        event["exc_info"] = sys.exc_info()
    for process in processors:
        event = process(None, "warning", event)
    written = str(event)

    assert not UNSEEN.search(re.sub("[\n\t]", "", written))
    assert "site\\u001b[2J\\u000aforged" in written
    assert "ValueError: \\u001b]0;title\\u0007" in written

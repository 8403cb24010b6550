"""The watch: what the log says of an outage, look by look."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from visit_counter.store.health import Told

AWAY = "Error 111 connecting to 10.0.0.1:6379."
EMPTY = "the data of the server at 10.0.0.1:6379 was removed"
LATE = "it takes these hits from 12:00:0{} on"


@pytest.mark.parametrize(
    ("looks", "told"),
    [
        ([AWAY] * 9, ["cannot AWAY"]),
        ([AWAY, None, None, None], ["cannot AWAY", "again"]),
        ([AWAY, None, AWAY, None, None], ["cannot AWAY"]),
        ([AWAY, EMPTY, AWAY, EMPTY, AWAY, EMPTY], ["cannot AWAY"]),
        ([AWAY, EMPTY, EMPTY, EMPTY], ["cannot AWAY", "another EMPTY"]),
        ([AWAY, *[EMPTY] * 3, *[AWAY] * 3, *[EMPTY] * 3], ["cannot AWAY", "another EMPTY"]),
        ([LATE.format(n) for n in range(9)], ["cannot LATE"]),
        ([AWAY, *[None] * 3, EMPTY], ["cannot AWAY", "again", "cannot EMPTY"]),
        ([None] * 5, []),
    ],
    ids=[
        "away",
        "back",
        "back for a moment",
        "two reasons in turn",
        "another reason",
        "each reason once",
        "a number changes",
        "twice",
        "well",
    ],
)
def test_the_log_says_each_change_once(looks: list[str | None], told: list[str]) -> None:
    """It began and why, another reason that lasts, and that it is over when it has been a while."""
    with capture_logs() as logs:
        log = Told("10.0.0.1:6379")
        for fault in looks:
            log.hear(fault)

    assert [short(str(line["event"]), str(line.get("reason", ""))) for line in logs] == told


def short(event: str, reason: str) -> str:
    word = next(word for word in ("another", "cannot", "again") if word in event)
    name = {AWAY: " AWAY", EMPTY: " EMPTY", "": ""}.get(reason, " LATE")
    return word + name

"""What the store's user must be allowed, and no more: `visit-counter acl` prints the rules (ACL).

Servers check a user's rules for each command, also for those that a function runs. These are read
from the library's own list; a test holds both lists against what the service sends and runs.
"""

from __future__ import annotations

import re

from visit_counter.config.settings import Settings
from visit_counter.config.store_url import CLUSTER, SENTINEL, has_database, parse_many_hosts
from visit_counter.store.libraries import parts

SENT = (
    *("fcall", "function|load", "function|list", "function|delete"),
    *("hget", "info", "time"),
)
"""Commands that the service itself sends to every store."""

SENT_TO_CLUSTERS = ("cluster|slots",)
SENT_TO_DATABASES = ("select",)
"""Where the URL names another one than 0."""
SENT_FOR_REPLICAS = ("wait", "waitaof", "config|get")
"""With VISIT_COUNTER_MIN_REPLICAS. Redis before 7.2 does not know WAITAOF."""

FOR_SENTINELS = (
    "ACL SETUSER {user} on >PASSWORD resetchannels -@all +sentinel|get-master-addr-by-name"
)


def in_functions() -> list[str]:
    """The commands that our functions run, as rules name them."""
    found = re.search(r"local COMMANDS = \{(.*?)\}", parts()["keys.lua"], re.S)
    assert found, "keys.lua lists them"
    return [command.lower() for command in re.findall(r"'([A-Z]+)'", found[1])]


def needed(*, cluster: bool = False, replicas: bool = False, database: bool = False) -> list[str]:
    """All commands that the store's user must be allowed."""
    more = (
        *(SENT_TO_CLUSTERS if cluster else ()),
        *(SENT_FOR_REPLICAS if replicas else ()),
        *(SENT_TO_DATABASES if database else ()),
    )
    return sorted({*SENT, *more, *in_functions()})


def setuser(settings: Settings, user: str) -> list[str]:
    """The commands that make a user of least rights: of the servers, and of sentinels."""
    url = settings.redis_url or ""
    many = parse_many_hosts(url)
    commands = needed(
        cluster=bool(many and many.kind == CLUSTER),
        replicas=settings.min_replicas > 0,
        database=has_database(url),
    )
    rules = " ".join(f"+{command}" for command in commands)
    keys = f"resetkeys ~{settings.namespace}:* resetchannels"
    lines = [f"ACL SETUSER {user} on >PASSWORD {keys} -@all {rules}"]
    if many and many.kind == SENTINEL:
        lines.append(FOR_SENTINELS.format(user=user))
    return lines

"""`acl`: the rules of the store's access list that the service needs, to be given to the store."""

from __future__ import annotations

import argparse
from typing import Any

from visit_counter.cli.parsers import command
from visit_counter.config.settings import Settings
from visit_counter.store.starting.permissions import setuser


def add_commands(commands: Any) -> None:
    made = command(commands, "acl", acl, "print the least rights of the store's user")
    made.add_argument("user", nargs="?", default="visit-counter", help="the name of that user")


def acl(options: argparse.Namespace, settings: Settings) -> int:
    print("\n".join(setuser(settings, options.user)))
    return 0

"""`site`: makes, shows and changes sites through the admin API of the running service."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from visit_counter.cli.calls import ask
from visit_counter.cli.output import say, show
from visit_counter.cli.parsers import command, named
from visit_counter.config.settings import Settings
from visit_counter.errors import CallError
from visit_counter.model.kinds import METRICS
from visit_counter.model.seeds import SEEDED

LISTS = ("origins", "trusted_networks", "ignored_networks", "query_keys")
"""The settings that have several values."""
UNDO_S = 120.0  # a large site comes back in many steps


def add_commands(commands: Any) -> None:
    site = commands.add_parser("site", help="make, show and change sites")
    site.add_argument("--url", help="the service's address (default: VISIT_COUNTER_LISTEN here)")
    actions = site.add_subparsers(title="actions", required=True, metavar="ACTION")
    named(actions, "add", add_site, "make a site").add_argument(
        "settings", nargs="+", metavar="SETTING=VALUE", help="such as origins=https://example.vn"
    )
    command(actions, "list", list_sites, "list the sites")
    named(actions, "show", show_site, "show a site's settings and counts")
    named(actions, "set", set_site, "change settings").add_argument(
        "settings", nargs="+", metavar="SETTING=VALUE", help="a list is written a,b"
    )
    reset = named(actions, "reset", reset_site, "count from 0; prints how to undo it")
    reset.add_argument("--reason", default="", help="why, for the log")
    reset.add_argument("--yes", action="store_true", help="do it, instead of showing what would go")
    undo = named(actions, "undo", undo_reset, "undo a reset")
    undo.add_argument("operation", help="what `reset` printed")
    seed = named(actions, "seed", seed_site, "add an older counter's numbers")
    seed.add_argument("--metric", choices=METRICS, default="visits")
    for period in SEEDED:
        seed.add_argument(f"--{period}", type=int, default=0, help=f"add to {period}")


def add_site(options: argparse.Namespace, settings: Settings) -> int:
    body = {"id": options.site, **assignments(options.settings)}
    return show(ask(options, settings, "POST", "", body))


def list_sites(options: argparse.Namespace, settings: Settings) -> int:
    listed = ask(options, settings, "GET", "")
    for site in listed["sites"]:
        say(site["id"], site["timezone"], ",".join(site["origins"]), site["name"])
    for site in listed.get("unreadable", []):
        say(f"{site['id']} cannot be read: {site['reason']}", file=sys.stderr)
    return 0


def show_site(options: argparse.Namespace, settings: Settings) -> int:
    shown = ask(options, settings, "GET", path_of(options))
    preview = ask(options, settings, "POST", path_of(options) + "/reset?preview=1")
    drops = ask(options, settings, "GET", path_of(options) + "/drops")
    return show({"settings": shown, "counts": preview["would_reset"], "drops": drops})


def set_site(options: argparse.Namespace, settings: Settings) -> int:
    return show(ask(options, settings, "PATCH", path_of(options), assignments(options.settings)))


def reset_site(options: argparse.Namespace, settings: Settings) -> int:
    path = path_of(options) + "/reset"
    if not options.yes:
        show(ask(options, settings, "POST", path + "?preview=1"))
        print("Nothing was reset: add --yes to do it.", file=sys.stderr)
        return 0
    body = {"confirm": options.site, "reason": options.reason}
    undo = ask(options, settings, "POST", path, body)["undo"]
    print(f"Reset. To undo it within 30 days: visit-counter site undo {options.site} {undo}")
    return 0


def undo_reset(options: argparse.Namespace, settings: Settings) -> int:
    path = f"{path_of(options)}/undo/{quote(options.operation, safe='', errors='surrogateescape')}"
    return show(ask(options, settings, "POST", path, timeout_s=UNDO_S))


def seed_site(options: argparse.Namespace, settings: Settings) -> int:
    add = {period: getattr(options, period) for period in SEEDED if getattr(options, period)}
    body = {"metric": options.metric, "add": add}
    return show(ask(options, settings, "POST", path_of(options) + "/seed", body))


def path_of(options: argparse.Namespace) -> str:
    return "/" + quote(options.site, safe="", errors="surrogateescape")


def assignments(texts: Sequence[str]) -> dict[str, Any]:
    """`timezone=Asia/Ho_Chi_Minh origins=https://a.vn,https://b.vn` as JSON fields."""
    return dict(assignment(text) for text in texts)


def assignment(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise CallError(f"{text!r} is no SETTING=VALUE, such as timezone=Asia/Ho_Chi_Minh")
    if name in LISTS:
        return name, [part for part in value.split(",") if part]
    if value in ("true", "false"):
        return name, value == "true"
    return name, int(value) if value.isdecimal() and name != "name" else value

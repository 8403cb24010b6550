"""`upgrade`: which versions use the store, the end of an upgrade, and the way back."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import Any

from visit_counter.cli.calls import call, here, token_of
from visit_counter.cli.output import say, show
from visit_counter.cli.parsers import command
from visit_counter.cli.spool import spools_of
from visit_counter.config.settings import Settings
from visit_counter.disk import files as spool_files
from visit_counter.errors import CallError

NO_COPY = Path()
FINISH_S = 600.0  # an upgrade converts all that is stored


def add_commands(commands: Any) -> None:
    upgrade = command(
        commands,
        "upgrade",
        upgrade_store,
        "show which versions use the store; finish an upgrade",
    )
    upgrade.add_argument("--url", help="the service's address (default: VISIT_COUNTER_LISTEN here)")
    what = upgrade.add_mutually_exclusive_group()
    what.add_argument(
        "--finish",
        action="store_true",
        help="write the newest form: no way back to an older version",
    )
    what.add_argument(
        "--put-back",
        type=Path,
        nargs="?",
        const=NO_COPY,
        metavar="FILE",
        help="go back to 0.1, while no service runs; FILE: the copy that the upgrade made",
    )
    upgrade.add_argument(
        "--yes", action="store_true", help="do it, instead of showing what it does"
    )


def upgrade_store(options: argparse.Namespace, settings: Settings) -> int:
    if options.put_back is not None:
        return put_back(options, settings)
    if options.yes:
        raise CallError("--yes belongs to --put-back: --finish needs none")
    base = options.url.rstrip("/") if options.url else here(settings, ops=True)
    token, elsewhere = token_of(settings), bool(options.url)
    url = f"{base}/api/v1/upgrade"
    if options.finish:
        return show(
            call(f"{url}/finish", "POST", {}, token, elsewhere=elsewhere, timeout_s=FINISH_S)
        )
    return show(call(url, "GET", token=token, elsewhere=elsewhere))


def put_back(options: argparse.Namespace, settings: Settings) -> int:
    from visit_counter.cli import downgrade

    if any(spool_files.describe(spool).partitions for spool in spools_of(settings)):
        raise CallError(
            "hits wait in the spool, and the version before cannot read them: start this version "
            "until `visit-counter spool show` says that the spool is empty"
        )
    copy = None if options.put_back is NO_COPY else options.put_back
    say(asyncio.run(downgrade.put_back(settings, copy, really=options.yes)))
    if not options.yes:
        print("Nothing was put back: add --yes to do it.", file=sys.stderr)
    return 0

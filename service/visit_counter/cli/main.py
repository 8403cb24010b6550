"""The command line: `visit-counter serve`, and what asks a running service.

Parses arguments and calls the command's function, one module for each group of commands.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from visit_counter.cli import serving, sites, snippet, spool, upgrade
from visit_counter.cli.calls import CallError
from visit_counter.config.settings import Settings
from visit_counter.errors import SettingsError, StartError, StoreError


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        run: Callable[[argparse.Namespace, Settings], int] = options.run
        return run(options, Settings.from_env(os.environ))
    except SettingsError as error:
        print(f"visit-counter: the settings are wrong.\n{error}", file=sys.stderr)
        return 2
    except StoreError as error:
        print(f"visit-counter: the store failed during the start: {error}", file=sys.stderr)
        return 1
    except (StartError, CallError) as error:
        print(f"visit-counter: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(
        prog="visit-counter",
        description="A self-hosted visit counter. `config` shows its settings.",
    )
    commands = root.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for group in (serving, snippet, spool, sites, upgrade):
        group.add_commands(commands)
    return root

"""How a command is declared: its name, what it runs, and its help."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any


def command(
    commands: Any, name: str, run: Callable[..., int], help_text: str
) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = commands.add_parser(name, help=help_text)
    made.set_defaults(run=run)
    return made


def named(
    commands: Any, name: str, run: Callable[..., int], help_text: str
) -> argparse.ArgumentParser:
    made = command(commands, name, run, help_text)
    made.add_argument("site", help="the site's id")
    return made

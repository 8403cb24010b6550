"""The command line: `visit-counter serve`, and what asks a running service.

Parses arguments and calls the command's function, one module for each group of commands. Only the
module of the command that is given is imported: a start of the service needs no other.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from traceback import extract_tb

from visit_counter.characters import escaped_lines
from visit_counter.config.settings import Settings
from visit_counter.errors import CallError, SettingsError, StartError, StoreError

COMMANDS = {
    "serving": ("serve", "healthcheck", "status", "config"),
    "snippet": ("snippet", "privacy"),
    "spool": ("spool",),
    "sites": ("site",),
    "upgrade": ("upgrade",),
    "acl": ("acl",),
}
"""Modules of this package, and their commands."""


def main(arguments: Sequence[str] | None = None) -> int:
    open_standard_descriptors()
    speak_any_encoding()
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser(arguments[0] if arguments else "").parse_args(arguments)
    try:
        run: Callable[[argparse.Namespace, Settings], int] = options.run
        return run(options, Settings.from_env(os.environ))
    except SettingsError as error:
        complain(f"the settings are wrong.\n{error}")
        return 2
    except StoreError as error:
        complain(f"the store failed during the start: {error}")
        return 1
    except (StartError, CallError) as error:
        complain(str(error))
        return 1
    except UnicodeEncodeError as error:
        complain(
            f"{error.object!r} is not text in the encoding of this locale: set LC_ALL=C.UTF-8, or "
            "the locale that your terminal has"
        )
        return 1
    except OSError as error:
        complain(f"the system refused something ({error}), at {place_of(error)}")
        return 1
    except KeyboardInterrupt:
        return 130


def open_standard_descriptors() -> None:
    """Give those that are closed to /dev/null. The next file that is opened would get such a
    number, be it of the spool, and what is written to standard error its content."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    # None is what Python makes of closed ones.
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115 # for this process's life
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115 # for this process's life


def speak_any_encoding() -> None:
    """Escape what a terminal cannot show, be it one of ASCII or ISO-8859-1, and those bytes of a
    path that are not text."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def place_of(error: OSError) -> str:
    """The line of this package that asked for it."""
    lines = extract_tb(error.__traceback__)
    line = next((line for line in reversed(lines) if "visit_counter" in line.filename), lines[-1])
    return f"{os.path.basename(line.filename)}:{line.lineno}"


def complain(sentence: str) -> None:
    """A full disk or a reader that went away does not change the exit code."""
    with suppress(OSError):
        print(f"visit-counter: {escaped_lines(sentence)}", file=sys.stderr)


def parser(command: str) -> argparse.ArgumentParser:
    """Of a command; of all where there is none such."""
    root = argparse.ArgumentParser(
        prog="visit-counter",
        description="A self-hosted visit counter. `config` shows its settings.",
    )
    commands = root.add_subparsers(title="commands", required=True, metavar="COMMAND")
    of = [name for name, has in COMMANDS.items() if command in has] or list(COMMANDS)
    for name in of:
        import_module(f"visit_counter.cli.{name}").add_commands(commands)
    return root

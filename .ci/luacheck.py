"""Runs luacheck on the function library as it is loaded: its files as one source.

A file uses names of the files before it, so checked alone it would be full of undefined ones. The
warnings are printed with the file and the line that they are about.
"""

from __future__ import annotations

import re
import subprocess
import sys

from visit_counter.store.libraries import library, place

LUACHECK = ("luacheck", "--quiet", "--formatter", "plain", "-")


def main() -> int:
    _, source = library("vc")
    found = subprocess.run(LUACHECK, input=source, stdout=subprocess.PIPE, text=True)
    print(located(found.stdout), end="")
    return found.returncode


def located(warnings: str) -> str:
    """The warnings, with the places in the library's files."""
    warnings = re.sub(r"^stdin:(\d+)", lambda line: _place(int(line[1])), warnings, flags=re.M)
    return re.sub(r"on line (\d+)", lambda line: f"in {_place(int(line[1]))}", warnings)


def _place(line: int) -> str:
    part, line = place(line)
    return f"service/visit_counter/store/lua/{part}:{line}"


if __name__ == "__main__":
    sys.exit(main())

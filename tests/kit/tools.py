"""What a test needs of the machine: a program of Debian's, or the project's shared data.

What is missing is skipped by name and reason, but a missing program fails the test where CI=true:
`./dev test` installs it there, so that a skip would hide work.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

PACKAGES = {
    "caddy": "caddy",
    "chromium": "chromium",
    "chromium-headless-shell": "chromium-headless-shell",
    "faketime": "faketime",
    "gcc": "gcc libc6-dev python3-dev",
    "luacheck": "lua-check",
    "nginx": "nginx",
    "openssl": "openssl",
    "promtool": "prometheus",
    "redis-server": "redis-server",
    "systemd-socket-activate": "systemd",
    "wrk": "wrk",
}

SHARED_DATA = Path(__file__).parents[3] / "shared/data"


def need(tool: str) -> Path:
    """The program's path."""
    found = shutil.which(
        tool, path=os.environ.get("PATH", "") + ":/usr/local/bin:/usr/bin:/bin:/usr/sbin"
    )
    if found:
        return Path(found)
    reason = f"needs {tool}: apt-get install {PACKAGES[tool]}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def faked_clock(when: str) -> dict[str, str]:
    """The variables by which a process and its children see another time: "-90s", or
    "@2027-06-01 12:00:00". Without the command faketime, whose shared memory a killed process
    leaves behind, so that a later one with its pid does not start, and signals reach the process.
    """
    need("faketime")
    library = "/usr/$LIB/faketime/libfaketimeMT.so.1"  # the dynamic linker fills $LIB in
    return {"LD_PRELOAD": library, "FAKETIME": when, "FAKETIME_DISABLE_SHM": "1"}


def at_another_time(when: str) -> list[str]:
    """The command that starts a program so."""
    return ["env", *(f"{name}={value}" for name, value in faked_clock(when).items())]


def need_script(name: str) -> Path:
    """The path of a file of npm's, which `./dev test` and `./dev lint` install."""
    found = Path(__file__).parents[2] / ".ci/node_modules" / name
    if not found.exists():
        reason = f"needs .ci/node_modules/{name}: ./dev lint installs it"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def shared_data(name: str) -> Path:
    """The path of a file that lies beside a clone of the repository, not in it."""
    path = SHARED_DATA / name
    if not path.exists():
        pytest.skip(f"needs ../shared/data/{name}")
    return path

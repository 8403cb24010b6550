"""The table, and on what it was measured: machine, versions, date and commit."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from loadtests.bench import cores
from loadtests.bench.measures import Found
from loadtests.bench.rows import ROWS
from tests.kit.services.process import ROOT
from tests.kit.stores.server import server_binaries
from visit_counter.delivery import recorder

PACKAGES = ("aiohttp", "uvloop", "redis", "hiredis", "msgspec", "orjson")

HEAD = """\
| what | median | lowest – highest | of rounds | per CPU-second | must | goal | reached |
|---|---|---|---|---|---|---|---|"""

ABOUT = """\
# What `./dev bench` has measured

{machine}

{rounds} rounds, in which all took turns, with windows of {seconds:g} s behind a warm-up. The server
under test had core {server} to itself, wrk (one thread) core {load}{store}. Every hit
came from another visitor, through a proxy that the service trusts, with a browser's headers, and
passed every check; a thousand different requests went round. The service kept its defaults: an
embedded Valkey that syncs every commit, and counts in every answer. What was acknowledged was
counted, hit for hit, in the store: {verdict}. Per CPU-second means user and system time of the
process under test, of the worker and not of Valkey; of two such ratios the worse one decides.
Other processes of this machine took up to {strangers:.2f} of a core meanwhile.
"""


def report(rounds: Sequence[Found], void: Counter[str], seconds: float) -> str:
    """All of it in Markdown; `void`: how often a measure gave no figure."""
    named = ", ".join(f"{name} ({times} times)" for name, times in void.items())
    about = ABOUT.format(
        machine=machine(),
        rounds=len(rounds),
        seconds=seconds,
        server=cores.SERVER,
        load=cores.LOAD,
        store=", which Valkey shared" if cores.STORE == cores.LOAD else "",
        verdict=f"but for what is void and left out, {named}" if void else "always",
        strangers=max((max(_strangers(found), default=0) for found in rounds), default=0),
    )
    cells = [row.cells(rounds) for row in ROWS]
    lines = [f"| {' | '.join(each)} |" for each in cells if each]
    return "\n".join([about, HEAD, *lines, ""])


def _strangers(found: Found) -> list[float]:
    return [value for name, value in found.items() if name.endswith(" strangers")]


def machine() -> str:
    """Processor, system, versions, date and commit."""
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return "\n".join(
        [
            f"- {time.strftime('%Y-%m-%d')}, commit {commit()}",
            f"- {processor()}, {os.cpu_count()} cores, {memory_gib():.0f} GiB, "
            f"{platform.system()} {platform.release()}",
            f"- Python {platform.python_version()}, {packages}; the hit path {made()}",
            f"- {said(str(server_binaries()['valkey']), '--version')}",
            f"- {said('nginx', '-v')}; {said('wrk', '-v')}",
        ]
    )


def made() -> str:
    return "interpreted" if (recorder.__file__ or "").endswith(".py") else "compiled by mypyc"


def commit() -> str:
    found = said("git", "describe", "--always", "--dirty=, with changes", "--exclude=*")
    return found or "unknown"


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def said(*command: str) -> str:
    """The first line that a command prints."""
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return (found.stdout + found.stderr).partition("\n")[0].strip()

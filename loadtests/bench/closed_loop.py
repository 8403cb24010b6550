"""A closed loop by wrk: each connection sends its next request when the last one is answered.

One thread of wrk on the core for load; `closed_loop.lua` says what it sends, and reads what the
processes have used at both ends of the window, so that warm-up and end are in no figure.
"""

from __future__ import annotations

import math
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Literal, NamedTuple

from loadtests.bench import cores
from loadtests.bench.requests import EVERY, Requests, as_lua

SCRIPT = Path(__file__).with_suffix(".lua")
WARM_UP_S = 0.5
END_S = 0.5  # at least, for what was sent in the window to be answered
MACHINE = "/proc/stat"
GENERATOR = "/proc/self/stat"


class Void(Exception):
    """A figure that must not be given, and why."""


class Window(NamedTuple):
    """What happened while it was measured."""

    hits: int
    """Sent and answered in all, warm-up too."""
    per_s: float
    """Requests answered."""
    cpu_s: dict[int, float]
    """Used by the processes that were watched, in a second."""
    generator_s: float
    """Used by wrk in a second."""
    machine_s: float
    """Used by all that ran on this machine in a second."""

    @property
    def strangers_s(self) -> float:
        """Used in a second by processes that have no part in it."""
        return self.machine_s - self.generator_s - sum(self.cpu_s.values())


def closed_loop(
    port: int,
    requests: Requests,
    connections: int,
    seconds: float,
    watched: tuple[int, ...],
    *,
    send: Literal["hits", "looks"] = "hits",
    mixed: bool = False,
) -> Window:
    """Send these requests for `seconds`; raises Void if anything was not answered as it must be."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        _ = file.write(as_lua(requests, EVERY if mixed else 0))
        file.flush()
        whole = math.ceil(WARM_UP_S + seconds + END_S)
        watch = [*map(cores.stat_file, watched), GENERATOR, MACHINE]
        options = ["-t1", f"-c{connections}", f"-d{whole}s", "-s", str(SCRIPT)]
        command = [*cores.on(cores.LOAD), "wrk", *options, f"http://127.0.0.1:{port}/"]
        arguments = [file.name, send, str(WARM_UP_S), str(seconds), *watch]
        found = subprocess.run(
            [*command, "--", *arguments], capture_output=True, text=True, env=_plain()
        )
    if found.returncode:
        raise Void(f"wrk failed: {found.stderr.strip() or found.stdout.strip()}")
    return _window(_told(found.stdout), watched)


def _plain() -> dict[str, str]:
    """Without what would have Lua load other modules."""
    return {name: value for name, value in os.environ.items() if not name.startswith("LUA")}


def _told(output: str) -> dict[str, str]:
    return dict(line.split("\t", 1) for line in output.splitlines() if "\t" in line)


def _window(told: dict[str, str], watched: tuple[int, ...]) -> Window:
    errors = {name: n for name, n in told.items() if name.startswith("errors ") and n != "0"}
    if errors:
        raise Void(", ".join(f"{name.split()[1]} errors: {n}" for name, n in errors.items()))
    if "seconds" not in told:
        raise Void("wrk ended before its window did")
    seconds = float(told["seconds"])

    def used(pid: int | str) -> float:
        path = cores.stat_file(pid) if isinstance(pid, int) else pid
        read = cores.busy_s_in if path == MACHINE else cores.cpu_s_in
        return (read(told[f"end {path}"]) - read(told[f"begin {path}"])) / seconds

    return Window(
        hits=int(told["hits"]),
        per_s=int(told["requests"]) / seconds,
        cpu_s={pid: used(pid) for pid in watched},
        generator_s=used(GENERATOR),
        machine_s=used(MACHINE),
    )

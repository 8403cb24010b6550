"""How long this machine stands still by itself while its cores and its disk are busy.

A virtual machine may be held back by its host, with all of its cores at once: whatever is measured
on it then waits too. Run as a program it keeps a core busy, and prints the seconds that it lost.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from time import perf_counter

from loadtests.bench import cores
from tests.kit.services.process import ROOT

GAP_S = 0.002  # a longer one is none of the scheduler's, with nobody else on the core
TURNS = 200  # between two syncs


def standstill_s(seconds: float) -> list[float]:
    """Each of the times in which a core did nothing, while another one wrote to the disk."""
    program = [sys.executable, "-m", "loadtests.bench.standstill", str(seconds)]
    disk = subprocess.Popen(
        [*cores.on(cores.LOAD), *program, "sync"], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    try:
        command = [*cores.on(cores.SERVER), *program]
        run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    finally:
        disk.wait()
    return list(json.loads(run.stdout))


def gaps(seconds: float, *, sync: bool) -> list[float]:
    lost, began_s, turn = [], perf_counter(), 0
    last_s = began_s
    with tempfile.NamedTemporaryFile(dir="/tmp", buffering=0) as file:
        while last_s < began_s + seconds:
            turn += 1
            if sync and turn % TURNS == 0:
                _ = file.write(bytes(512))
                os.fdatasync(file.fileno())
            now_s = perf_counter()
            if now_s - last_s > GAP_S:
                lost.append(now_s - last_s)
            last_s = now_s
    return lost


if __name__ == "__main__":
    print(json.dumps(gaps(float(sys.argv[1]), sync="sync" in sys.argv)))

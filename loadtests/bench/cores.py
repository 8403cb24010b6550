"""Which core runs what, and how much of it was used.

The server under test has a core to itself. The generator of load has another, which it shares with
the store where there are but two: the store needs a tenth of what the service needs.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")

_USABLE = sorted(os.sched_getaffinity(0))
SERVER = _USABLE[0]
LOAD = _USABLE[1 % len(_USABLE)]
STORE = _USABLE[2] if len(_USABLE) > 2 else LOAD


def spread(pids: Sequence[int]) -> None:
    """Each process on a core of its own, as far as there are so many."""
    for number, pid in enumerate(pids):
        move(pid, _USABLE[number % len(_USABLE)])


def on(core: int) -> tuple[str, ...]:
    """The beginning of a command that shall run there."""
    return ("taskset", "--cpu-list", str(core))


def load() -> tuple[str, ...]:
    """The beginning of the command of a generator: what wakes it does not take their core from the
    store in the middle of a batch, as nobody would whose clients are elsewhere."""
    return (*on(LOAD), "chrt", "--batch", "0")


def move(pid: int, core: int) -> None:
    """All threads of a process that runs."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})


def stat_file(pid: int) -> str:
    return f"/proc/{pid}/stat"


def cpu_s(pid: int) -> float:
    """CPU seconds that the threads of a process have used, to the nanosecond (the kernel's
    sched-stats.rst)."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def cpu_s_in(stat: str) -> float:
    """CPU seconds that a process has used, by a line of its /proc/PID/stat (proc(5): utime and
    stime), which counts hundredths."""
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def busy_s_in(stat: str) -> float:
    """CPU seconds that this machine has used, by the first line of /proc/stat: all but idle and
    waiting."""
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, stat.split()[1:9])
    return (user + nice + system + irq + softirq + steal) / TICKS_PER_S

"""Hostile clients, slow in every way, beside honest ones: the load test itself, once."""

from __future__ import annotations

import asyncio
import sys


async def test_slow_clients_hold_up_nobody() -> None:
    """Heads, bodies and answers that never end, all at once: bounded in time and memory, every hit
    counted, and the honest clients' p99 at most doubled; else the script says so and exits 1."""
    arguments = ["-m", "loadtests.hostile", "--together", "--clients", "105"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()

    assert process.returncode == 0, output.decode()

"""The load test itself, for a second: it runs, ends, and its counts hold."""

from __future__ import annotations

import asyncio
import sys


async def test_a_short_load_is_counted_exactly() -> None:
    """What was acknowledged is what is counted; else the script says void and exits 1."""
    arguments = ["-m", "loadtests.hits", "--connections", "16", "--seconds", "1"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()

    assert process.returncode == 0, output.decode()
    assert "refused 0" in output.decode()

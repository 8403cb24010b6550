"""A start of the service on a store that is killed at one of its calls; run in a child process."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

from visit_counter.clock import Clock
from visit_counter.store.functions import Functions
from visit_counter.store.store import Store


def start(url: str, namespace: str, copies: str, at_call: int, after: bool) -> None:
    """Start on a store; SIGKILL comes before the call of that number, or after it."""
    original, calls = Functions.calls, 0

    async def calls_or_dies(self: Functions, name: str, calls_: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at_call and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        replies = await original(self, name, calls_)
        if calls == at_call:
            os.kill(os.getpid(), signal.SIGKILL)
        return replies

    Functions.calls = calls_or_dies  # type: ignore[method-assign,assignment]
    asyncio.run(_started(url, namespace, Path(copies)))


async def _started(url: str, namespace: str, copies: Path) -> None:
    async with Store(url, namespace, Clock(), copies=copies):
        pass

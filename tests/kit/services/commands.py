"""Commands of the command line in this process, which ask a service that runs here too."""

from __future__ import annotations

import asyncio
import io
import os
from contextlib import redirect_stderr, redirect_stdout
from unittest.mock import patch

from tests.kit.services.in_process import TOKEN, Service
from visit_counter.cli.main import main


async def ran(service: Service, *arguments: str, token: str = TOKEN) -> tuple[int, str]:
    """Exit code and output of a command."""
    return await asyncio.to_thread(_run, service.ops_url, arguments, token)


def _run(url: str, arguments: tuple[str, ...], token: str) -> tuple[int, str]:
    given = {
        "VISIT_COUNTER_LISTEN": url.removeprefix("http://"),
        "VISIT_COUNTER_ADMIN_TOKEN": token,
    }
    out = io.StringIO()
    with patch.dict(os.environ, given), redirect_stdout(out), redirect_stderr(out):
        return main(arguments), out.getvalue()

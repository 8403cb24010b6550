"""aiohttp doing nothing: a handler that answers 204 to whatever comes, in a process of its own.

.venv/bin/python -m loadtests.bench.bare_aiohttp 8099
"""

from __future__ import annotations

import asyncio
import sys

import uvloop
from aiohttp import web


async def answer(_request: web.Request) -> web.Response:
    return web.Response(status=204)


async def serve(port: int) -> None:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))

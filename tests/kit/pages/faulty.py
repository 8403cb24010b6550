"""A proxy between a page and the service that fails in the ways of real networks.

    async with faulty(service.url) as proxy:
        proxy.fault = "hang"     # what becomes of hits, until it is "" again

It passes on what it does not break. The element's own questions (GET) always get through.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import ClientSession, web

from tests.kit.pages.browser import listening

CORS = {"Access-Control-Allow-Origin": "*"}
NOT_PASSED = ("Host", "Content-Length", "Connection", "Accept-Encoding")


@dataclass
class Faulty:
    """The proxy: `arrived` are the hits that came to it, by method."""

    upstream: str
    client: ClientSession
    fault: str = ""
    moved_to: str = ""
    url: str = ""
    arrived: list[str] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        is_hit = request.method == "POST" or request.path.endswith("dot.gif")
        if is_hit:
            self.arrived.append(request.method)
        if request.path == "/used-up":
            await self.ended.wait()
        if not (is_hit and self.fault):
            return await self.pass_on(request)
        match self.fault:
            case "hang":
                await self.ended.wait()
            case "reset":
                pass
            case "answer lost":
                await self.pass_on(request)
            case "html":
                return web.Response(text="<html>Sign in</html>", headers=CORS)
            case "503":
                return web.Response(status=503, text="<html>Back soon</html>")
            case _:
                status, _, cors = self.fault.partition(" ")
                headers = {"Location": self.moved_to + request.path_qs, **(CORS if cors else {})}
                return web.Response(status=int(status), headers=headers)
        assert request.transport, "the client is there"
        request.transport.abort()
        return web.Response()

    async def pass_on(self, request: web.Request) -> web.Response:
        headers = {k: v for k, v in request.headers.items() if k not in NOT_PASSED}
        async with self.client.request(
            request.method,
            self.upstream + request.path_qs,
            data=await request.read(),
            headers=headers,
            allow_redirects=False,
        ) as answer:
            kept = {k: v for k, v in answer.headers.items() if k not in NOT_PASSED}
            return web.Response(status=answer.status, body=await answer.read(), headers=kept)


@asynccontextmanager
async def faulty(upstream: str) -> AsyncIterator[Faulty]:
    async with ClientSession(auto_decompress=False) as client:
        proxy = Faulty(upstream, client)
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", proxy.answer)
        async with listening(app) as proxy.url:
            try:
                yield proxy
            finally:
                proxy.ended.set()

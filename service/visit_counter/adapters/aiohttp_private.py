"""aiohttp's private and undocumented parts, as they are in 3.14.5.

A live stream takes its connection, so that a viewer does not cost a task and a request for hours;
and what aiohttp answers by itself gets our words and headers. What is known of its log:
aiohttp_log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from aiohttp import web, web_server, web_urldispatcher
from aiohttp.web_protocol import RequestHandler


class Unframed(web.StreamResponse):
    """A response whose head announces neither a length nor chunks: its body ends with the
    connection. aiohttp's WebSocketResponse does the same; other responses have no public way."""

    _length_check = False


def take_transport(request: web.Request) -> asyncio.Transport | None:
    """Take a connection away from aiohttp, which then neither reads from it, nor counts it, nor
    closes it; None if it is closed already. The caller sets a protocol of its own.

    Upgrades are for WebSockets only in aiohttp: for others there is no public way.
    """
    transport = request.transport
    if transport is None or transport.is_closing():
        return None
    request.protocol.transport = None  # so that it closes nothing
    cast(asyncio.Protocol, transport.get_protocol()).connection_lost(None)
    return transport


def answer_errors_by(make: Callable[[int], web.Response]) -> None:
    """Have servers that are made from now on answer with `make` of the status where no handler is
    reached, or none can answer any more: broken HTTP, a mistake in the answer itself. By default
    aiohttp quotes the request, names its version, and knows nothing of our headers."""

    class Handler(RequestHandler):
        __slots__ = ()

        def handle_error(
            self, request: web.BaseRequest, status: int = 500, *about: Any, **more: Any
        ) -> web.StreamResponse:
            super().handle_error(request, status, *about, **more)  # it logs; raises after a head
            answer = make(status)
            answer.force_close()
            return answer

    web_server.RequestHandler = Handler  # type: ignore[attr-defined]


def refuse_expectations_by(make: Callable[[], web.Response]) -> None:
    """Have applications that are made from now on answer an Expect header of an unknown value with
    `make`. aiohttp quotes it, as text, and fails where its bytes are not text. It asks before any
    middleware, and routes that are not found have no handler of their own for it."""

    async def expect(request: web.Request) -> web.Response | None:
        try:
            await _expect_of_aiohttp(request)
        except (web.HTTPExpectationFailed, UnicodeEncodeError):
            return make()
        return None

    web_urldispatcher._default_expect_handler = expect  # type: ignore[assignment]


_expect_of_aiohttp = web_urldispatcher._default_expect_handler

"""aiohttp's private and undocumented parts, as they are in 3.14.5.

The lane answers with aiohttp's Server header, and a live stream takes its connection, so that a
viewer does not cost a task and a request for hours. What is known of its log: aiohttp_log.
"""

from __future__ import annotations

import asyncio
from typing import cast

from aiohttp import web
from aiohttp.http import SERVER_SOFTWARE as SERVER_SOFTWARE


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

"""What speaks at an address whose errors do not tell: a server without TLS waits in silence for the
end of what it takes for a command, one with TLS cuts the connection, and so do proxies at a command
that they do not pass.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress

from visit_counter.config.values import Address
from visit_counter.store.starting.final import HOST_ITSELF, URL

PEEK_S = 0.5
PING, HELLO = b"*1\r\n$4\r\nPING\r\n", b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n"


async def wrong_speech(address: Address, *, tls: bool) -> str:
    """What is wrong, where it speaks TLS and we do not, or the other way, or it is a proxy that
    hangs up; "" if nothing is."""
    if tls:
        if await _finds(_speaks_plain, address):
            return f"it does not speak TLS: write redis:// instead of rediss:// in {URL}"
        return ""
    if await _finds(_speaks_tls, address):
        return f"it speaks TLS: write rediss:// instead of redis:// in {URL}"
    if await _finds(_hangs_up, address):
        return (
            "it answers PING and hangs up at HELLO, as a proxy (twemproxy) that passes no "
            f"functions: {HOST_ITSELF}"
        )
    return ""


async def _finds(peek: Callable[[Address], Awaitable[bool]], address: Address) -> bool:
    try:
        return await peek(address)
    except (OSError, TimeoutError, RuntimeError, ssl.SSLError):
        return False


async def _speaks_plain(address: Address) -> bool:
    async with asyncio.timeout(PEEK_S):
        reader, writer = await asyncio.open_connection(*address)
        try:
            writer.write(b"PING\r\n")
            return (await reader.readline()).startswith((b"+PONG", b"-NOAUTH", b"-DENIED"))
        finally:
            writer.close()


async def _speaks_tls(address: Address) -> bool:
    anybody = ssl.create_default_context()
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
    async with asyncio.timeout(PEEK_S):
        _, writer = await asyncio.open_connection(*address, ssl=anybody)
    writer.close()
    with suppress(OSError, TimeoutError, RuntimeError):
        async with asyncio.timeout(PEEK_S):
            await writer.wait_closed()
    return True


async def _hangs_up(address: Address) -> bool:
    async with asyncio.timeout(PEEK_S):
        reader, writer = await asyncio.open_connection(*address)
        try:
            writer.write(PING)
            if not (await reader.readline()).startswith((b"+PONG", b"-")):
                return False
            writer.write(HELLO)
            return await reader.read(1) == b""
        finally:
            writer.close()

"""What speaks at an address whose errors do not tell: a server without TLS waits in silence for the
end of what it takes for a command, and one with TLS cuts the connection.
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress

from visit_counter.config.values import Address
from visit_counter.store.starting.final import URL

PEEK_S = 0.5


async def wrong_scheme(address: Address, *, tls: bool) -> str:
    """What is wrong, where it speaks TLS and we do not, or the other way; "" if neither is so."""
    try:
        if tls and await _speaks_plain(address):
            return f"it does not speak TLS: write redis:// instead of rediss:// in {URL}"
        if not tls and await _speaks_tls(address):
            return f"it speaks TLS: write rediss:// instead of redis:// in {URL}"
    except (OSError, TimeoutError, RuntimeError, ssl.SSLError):
        pass
    return ""


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

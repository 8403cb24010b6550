"""One case over a connection of its own: its bytes go out, and all that comes back is read."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from typing import NamedTuple

from loadtests.fuzz.requests import Case

MOST_READ = 1 << 20
STREAM_S = 0.5  # of a stream of live counts that is looked at
PIECE_S = 0.002  # between the parts of a request
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST


class Reply(NamedTuple):
    """What came back until the connection ended."""

    received: bytes
    ended: bool
    """The service ended the connection, in its time."""


async def exchange(address: tuple[str, int], case: Case, within_s: float) -> Reply:
    """Send a case, say that nothing more will come, and read until the service ends it."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        with suppress(OSError, RuntimeError):  # it may have answered and ended before all was sent
            for n, piece in enumerate(case.pieces):
                if n:
                    await asyncio.sleep(PIECE_S)
                writer.write(piece)
                await writer.drain()
            if case.resets:
                own = writer.get_extra_info("socket")
                own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                return Reply(b"", ended=True)
            if not case.well_formed:  # else its end is known, and some proxies end so as well
                writer.write_eof()
        return await _read(reader, within_s)
    finally:
        writer.close()
        with suppress(OSError, RuntimeError):
            await writer.wait_closed()


async def _read(reader: asyncio.StreamReader, within_s: float) -> Reply:
    received = bytearray()
    try:
        async with asyncio.timeout(within_s) as limit:
            while len(received) < MOST_READ:
                data = await reader.read(65536)
                if not data:
                    break
                received += data
                if b"text/event-stream" in received:
                    limit.reschedule(asyncio.get_running_loop().time() + STREAM_S)
    except (OSError, RuntimeError):
        pass
    except TimeoutError:
        return Reply(bytes(received), b"text/event-stream" in received)
    return Reply(bytes(received), ended=True)

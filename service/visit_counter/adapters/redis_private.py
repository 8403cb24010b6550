"""redis-py's private and undocumented parts, as they are in 8.1.0.

`store/writer.py` reads replies by itself, several exchanges in flight on one connection, which
redis-py's clients and pipelines cannot. It leaves to redis-py what is done once: how to connect,
greet and sign in, and what an error reply means.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from redis._parsers import BaseParser
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.crc import key_slot
from redis.maint_notifications import MaintNotificationsConfig

parse_error = cast(Callable[[str], Exception], BaseParser.parse_error)
"""The exception of an error reply, without the reply's first word where redis-py knows that word.

`redis._parsers` is private. Its parsers are the public users of it, and each reads from a
connection of its own. store/replies.py tells by these exceptions what was done.
"""

slot_of = cast(Callable[[bytes], int], key_slot)
"""The cluster slot of a key. `redis.crc` is undocumented; the documented `keyslot` is a method of
RedisCluster, which would connect."""

NO_NOTIFICATIONS = MaintNotificationsConfig(enabled=False)
"""Keeps redis-py from sending CLIENT MAINT_NOTIFICATIONS on every connect, which Valkey refuses.
`redis.maint_notifications` is undocumented, the clients' argument that takes this is not."""


async def detached_stream(connection: AbstractConnection) -> asyncio.StreamWriter:
    """Connect, greet and sign in; the stream is then the caller's, and `connection` has forgotten
    it, so that it neither reads from it nor closes it. Raises what `connect` raises.

    Uses `_reader` and `_writer`: redis-py has no public way to get at a connection's transport.
    """
    await connection.connect()  # type: ignore[no-untyped-call]
    stream = connection._writer
    assert stream, "redis-py has connected it"
    connection._reader = connection._writer = None
    return stream


def address_of(client: Redis) -> str:
    """`host:port` of the server, or the path of its socket.

    Uses `connection_kwargs`: no public way tells what a pool has read in its URL.
    """
    known = client.connection_pool.connection_kwargs
    host = str(known.get("host"))
    shown = f"[{host}]" if ":" in host else host
    return str(known.get("path") or f"{shown}:{known.get('port', 6379)}")

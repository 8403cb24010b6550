"""Which servers take writes, as one server of a cluster or one sentinel answers, each over a
connection of its own; and how we connect to any server.

Nothing is kept here: `shards` chooses whom to ask, and continues with the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from visit_counter.adapters.redis_private import NO_NOTIFICATIONS
from visit_counter.config.store_url import ManyHosts
from visit_counter.config.values import Address
from visit_counter.errors import StoreUnavailable
from visit_counter.store.replies import is_final

SLOTS = 16384
CONNECT_S = 1.0
LOOK_S = 0.5  # for one host's answer


class NobodyTells(StoreUnavailable):
    """Neither sentinels nor servers of a cluster say which servers take writes."""

    def __init__(self, message: str, *, sentinels: bool) -> None:
        super().__init__(message)
        self.sentinels = sentinels


class Range(NamedTuple):
    """Slots of a cluster, `first` to `last`, and the server that takes their writes."""

    first: int
    last: int
    server: Address
    """Its host is empty where it is the one that was asked."""

    def at(self, asked: Address) -> Range:
        host = self.server.host or asked.host
        return self._replace(server=Address(host, self.server.port))


async def primaries(host: Address, many: ManyHosts) -> list[Range]:
    """What a server of a cluster says of its primaries."""
    found = await ask(url_of(host, many), "CLUSTER", "SLOTS")
    if not all(server[1] for _, _, server, *_ in found):
        raise ConnectionError(
            "it tells port 0 of servers of the cluster: with TLS set tls-cluster yes there, and in "
            "VISIT_COUNTER_REDIS_URL write rediss+cluster://"
        )
    return [
        Range(first, last, Address(_endpoint(server), server[1]))
        for first, last, server, *_ in found
    ]


def _endpoint(server: Sequence[Any]) -> str:
    """Where a server of a cluster is reached, "" for the host that was asked: it does not know its
    own address, or is to name none (cluster-preferred-endpoint-type unknown-endpoint). `?` stands
    for a name that it lacks (hostname), and then its address is told beside it."""
    named: str = (server[0] or b"").decode()
    if named != "?":
        return named
    beside = [value.decode() for value in server[3]] if len(server) > 3 else []
    of: dict[str, str] = dict(zip(beside[::2], beside[1::2], strict=False))
    return of.get("ip", "")


async def watched_primary(host: Address, many: ManyHosts) -> list[Range]:
    """What a sentinel says of the primary that it watches. Where the URL has no user of the
    sentinels, theirs is that of the servers if they ask for one."""
    question = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", many.name)
    own = many._replace(
        username=many.sentinel_username, password=many.sentinel_password, database=0
    )
    try:
        found = await ask(url_of(host, own), *question)
    except exceptions.RedisError as error:
        if own.password or not many.password or not is_final(error):
            raise
        found = await ask(url_of(host, many._replace(database=0)), *question)
    if found is None:
        raise ConnectionError(f"this sentinel watches no primary called {many.name}")
    return [Range(0, SLOTS - 1, Address(found[0].decode(), int(found[1])))]


async def ask(url: str, *command: str) -> Any:
    client = Redis(connection_pool=pool_of(url, 1, LOOK_S))
    try:
        return await client.execute_command(*command)  # type: ignore[no-untyped-call]
    finally:
        await client.aclose()
        await client.connection_pool.disconnect()


def url_of(server: Address, many: ManyHosts) -> str:
    user = ""
    if many.username or many.password:
        user = f"{quote(many.username or '', safe='')}:{quote(many.password or '', safe='')}@"
    scheme, options = "rediss" if many.tls else "redis", urlencode(many.options)
    return f"{scheme}://{user}{server}/{many.database}" + (f"?{options}" if options else "")


def pool_of(url: str, connections: int, answer_s: float) -> BlockingConnectionPool:
    return BlockingConnectionPool.from_url(
        url,
        max_connections=connections,
        timeout=answer_s,
        protocol=3,
        socket_timeout=answer_s,
        socket_connect_timeout=CONNECT_S,
        retry=Retry(NoBackoff(), 0),
        maint_notifications_config=NO_NOTIFICATIONS,
        driver_info=None,  # nor CLIENT SETINFO, which few users of least rights may run
    )

"""Which server takes a partition's writes, and our connections to it.

One server, or the primary that sentinels name, takes all; of a cluster every primary takes some.
Who tells that a server is not the right one any more (MOVED, READONLY, a lost connection) has this
look again. Whatever stands behind an address (a DNS name, a virtual IP, a TCP proxy, the path of a
socket) may be moved to another server while connections to the old one last: a server that says
that it takes no writes is left with all connections, and its address resolved and connected anew.
Nothing is sent twice here, and no reply is followed anywhere (ASK): a call that a server refuses is
for its caller to send again.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from random import shuffle
from typing import Any

import structlog
from redis import exceptions
from redis.asyncio import Redis

from visit_counter.adapters.redis_private import address_of, slot_of
from visit_counter.config.store_url import CLUSTER, SENTINEL, ManyHosts, parse_many_hosts
from visit_counter.config.values import Address, parse_address
from visit_counter.errors import OutcomeUnknown, StoreError
from visit_counter.store.replies import LOST, speaking
from visit_counter.store.servers.primaries import (
    CONNECT_S,
    LOOK_S,
    NobodyTells,
    Range,
    ask,
    pool_of,
    primaries,
    url_of,
    watched_primary,
)
from visit_counter.store.starting.final import Asked, sentence
from visit_counter.store.starting.peek import wrong_speech
from visit_counter.store.writer import SILENT_S, Call, Writer

ANSWER_S = 2.0
READERS, OTHERS = 16, 4  # connections
REPLICAS_MS = 400  # for replicas to have a batch, and again to have it on disk
REST_S = 0.5  # between two times that all connections to an address are made anew
RUN_ID = re.compile(rb"run_id:([0-9a-f]+)")
GONE = "another server takes these writes now"

log = structlog.get_logger()


class Shard:
    """The server that takes writes at an address, and our connections to it."""

    def __init__(self, url: str, min_replicas: int) -> None:
        self._url = url
        self._min_replicas = min_replicas
        self._connect()
        self.writer = Writer(pool_of(url, 1, SILENT_S).make_connection)
        self.run_id = ""
        """Of the primary at the address when `follow` asked last."""
        self._closed = False
        self._left_s = float("-inf")
        self._rest: asyncio.TimerHandle | None = None
        self._closing: set[asyncio.Task[None]] = set()

    def _connect(self) -> None:
        """Pools that have no connection yet."""
        self._waits_for_disk: bool | None = None
        # Whoever reads counts cannot take the connections of admins and of the watch.
        self.readers = Redis(connection_pool=pool_of(self._url, READERS, ANSWER_S))
        self.client = Redis(connection_pool=pool_of(self._url, OTHERS, ANSWER_S))

    @property
    def address(self) -> str:
        return address_of(self.client)

    @property
    def tcp(self) -> tuple[bool, tuple[Address, ...]] | None:
        """Whether it is spoken to by TLS, and where; None for a unix socket."""
        if self._url.startswith("unix:"):
            return None
        known = self.client.connection_pool.connection_kwargs
        address = Address(str(known.get("host")), int(known.get("port", 6379)))
        return self._url.startswith("rediss:"), (address,)

    async def write(self, calls: Sequence[Call]) -> list[Any]:
        """Calls of batches, over the one connection for them: for each its reply or a StoreError.
        What too few replicas have confirmed is unknown: it is sent again, and they are asked
        again."""
        if not self._min_replicas:
            return await self.writer.exchange(calls)
        waits: list[Call] = [("WAIT", self._min_replicas, REPLICAS_MS)]
        if await self._waits_until_on_disk():
            # Behind WAIT this takes no longer. Alone it takes a second: it asks a replica that gets
            # the batch and the question at once, has not synced yet, and tells once a second.
            waits.append(("WAITAOF", 1, self._min_replicas, REPLICAS_MS))
        answers = await self.writer.exchange([*calls, *waits])
        replies, confirmed = answers[: len(calls)], answers[-1]
        if isinstance(confirmed, StoreError):
            if "unknown command" in str(confirmed):  # Redis 7.0 does not know WAITAOF
                self._waits_for_disk = False
            why = str(confirmed)
        else:
            local, replicas = confirmed if len(waits) == 2 else (1, confirmed)
            if local and replicas >= self._min_replicas:
                return replies
            why = f"only {replicas} of {self._min_replicas} replicas have confirmed"
        return [each if isinstance(each, StoreError) else OutcomeUnknown(why) for each in replies]

    async def rehearse(self) -> None:
        """Raises StoreError where it does not let us wait for replicas, if we are to."""
        if not self._min_replicas:
            return
        async with speaking():
            await self.client.wait(0, 1)
            if await self._waits_until_on_disk():
                try:
                    await self.client.execute_command("WAITAOF", 0, 0, 1)  # type: ignore[no-untyped-call]
                except exceptions.NoPermissionError:
                    raise
                except exceptions.ResponseError:  # Redis 7.0 does not know it
                    pass

    async def _waits_until_on_disk(self) -> bool:
        """Whether replicas can be waited for until they have a batch on disk: where servers sync
        once a second that would take as long."""
        if self._waits_for_disk is None:
            try:
                found = await self.client.config_get("appendfsync")
            except exceptions.ResponseError as error:
                log.warning(
                    "the store does not tell whether it syncs every write (ACL rule +config|get): "
                    "replicas confirm that they have a hit, not that it is on their disk",
                    address=self.address,
                    reason=str(error),
                )
                found = {}
            except LOST:
                return False
            self._waits_for_disk = found.get("appendfsync") == "always"
        return self._waits_for_disk

    # -- another server at the address

    def leave(self, said_s: float) -> None:
        """Close every connection, since the server takes no writes or gives no answer; the next
        calls resolve the address and connect anew. Batches in flight are sent again, all else in
        flight still gets its reply.

        `said_s`: when that was found (monotonic seconds): what a server said that has been left
        since means nothing. At most once in REST_S; within it, at its end.
        """
        if said_s <= self._left_s or self._rest is not None or self._closed:
            return
        wait_s = self._left_s + REST_S - time.monotonic()
        if wait_s <= 0:
            self._leave()
        else:
            self._rest = asyncio.get_running_loop().call_later(wait_s, self._leave)

    def _leave(self) -> None:
        self._left_s, self._rest = time.monotonic(), None
        self.writer.drop(GONE)
        closing = asyncio.create_task(_retire(self.readers, self.client), name="leave a server")
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        self._connect()

    async def follow(self) -> bool:
        """Leave the server that takes our batches if another primary answers at the address by now,
        as after a failover of which the old primary knows nothing. Returns whether it was left;
        raises StoreError."""
        async with speaking():
            there: Mapping[str, Any] = await ask(self._url, "INFO", "server", "replication")
        if there.get("role") == "slave":
            return False  # a replica is not followed; our own server may be the primary
        run_id = str(there.get("run_id", ""))
        if self.run_id not in ("", run_id):
            log.warning(
                "the server at this address was replaced or restarted", address=self.address
            )
        self.run_id = run_id
        try:
            async with asyncio.timeout(CONNECT_S):
                (ours,) = await self.writer.exchange([("INFO", "server")])
        except TimeoutError:  # it is slow, or hangs: then its batches say so
            return False
        found = not isinstance(ours, StoreError) and RUN_ID.search(ours)
        if not found or found[1].decode() == run_id:
            return False
        self.leave(time.monotonic())
        return True

    async def close(self) -> None:
        self._closed = True
        if self._rest is not None:
            self._rest.cancel()
        self.writer.end()
        await _close(self.readers, self.client)
        closing = [*self._closing]
        for task in closing:
            task.cancel()
        await asyncio.gather(*closing, return_exceptions=True)


class Shards:
    """The servers behind a URL, for these tags; of a cluster and of sentinels there are none before
    the first `look`."""

    def __init__(self, url: str, tags: Sequence[str], min_replicas: int = 0) -> None:
        """`min_replicas`: how many must have a batch, on disk if they can say so, before it is
        confirmed."""
        self._min_replicas = min_replicas
        self._slots = {tag: slot_of(tag.encode()) for tag in tags}
        self.changes = 0
        """Raised whenever a tag has gone to another server."""
        self._by_tag: dict[str, Shard] = {}
        self._many = parse_many_hosts(url)
        self._looking: asyncio.Task[None] | None = None
        if self._many is None:
            self._by_tag = dict.fromkeys(tags, Shard(url, min_replicas))
            return
        self._locate = primaries if self._many.kind == CLUSTER else watched_primary
        self._asked: Address | None = None
        """Of servers that name no host of theirs: whose host has been taken for all of them."""

    def of(self, tag: str) -> Shard:
        return self._by_tag[tag]

    def all(self) -> list[Shard]:
        return [*dict.fromkeys(self._by_tag.values())]

    def by_server(self, tags: Sequence[str]) -> dict[Shard, list[int]]:
        """The numbers of tags by the server that takes their writes."""
        groups: dict[Shard, list[int]] = {}
        for n, tag in enumerate(tags):
            groups.setdefault(self.of(tag), []).append(n)
        return groups

    async def write(self, calls: Sequence[tuple[str, Call]]) -> list[Any]:
        """Calls of batches by their tags: for each its reply or a StoreError. One round trip to
        each server, all at once."""
        groups = self.by_server([tag for tag, _ in calls])
        if len(groups) == 1:  # as a flow's: not by a task of its own
            (shard,) = groups
            return await shard.write([call for _, call in calls])
        writes = [shard.write([calls[n][1] for n in numbers]) for shard, numbers in groups.items()]
        return in_order(groups.values(), await asyncio.gather(*writes))

    @property
    def address(self) -> str:
        if self._many is None:
            return self.all()[0].address
        return ", ".join(str(host) for host in self._many.hosts)

    @property
    def is_cluster(self) -> bool:
        return self._many is not None and self._many.kind == CLUSTER

    async def wrong_speech(self) -> str:
        """What is wrong, where servers speak TLS and we do not, or the other way, or where proxies
        hang up; else ""."""
        if self._many is not None:
            tls, hosts = self._many.tls, self._many.hosts
        elif (single := self.all()[0].tcp) is not None:
            tls, hosts = single
        else:
            return ""  # a unix socket
        found = [await wrong_speech(host, tls=tls) for host in hosts]
        return found[0] if all(found) else ""

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait({self._looking})
        for shard in self.all():
            await shard.close()

    async def look(self) -> None:
        """Learn which servers take writes; raises StoreUnavailable where nobody tells."""
        self.look_soon()
        if self._looking is not None:
            await asyncio.shield(self._looking)

    async def moved(self, tag: str, said_s: float) -> None:
        """The server of a tag has said that another one takes its writes: learn which; where that
        has the same address, connect anew. Raises StoreUnavailable where nobody tells."""
        shard = self.of(tag)
        try:
            await self.look()
        finally:
            if self.of(tag) is shard:
                shard.leave(said_s)

    async def follow(self) -> bool:
        """Whether a server was left, since another one answers at its address; raises
        StoreError."""
        return any(await asyncio.gather(*(shard.follow() for shard in self.all())))

    def look_soon(self) -> None:
        """The same in the background; nothing happens for a single server."""
        if self._many is None or (self._looking is not None and not self._looking.done()):
            return
        self._looking = asyncio.create_task(self._look(self._many), name="look for shards")
        self._looking.add_done_callback(_ended)

    async def _look(self, many: ManyHosts) -> None:
        errors: dict[Address, BaseException] = {}
        for host in self._who_knows(many):
            try:
                async with asyncio.timeout(LOOK_S):
                    found = await self._locate(host, many)
                self._asked = host if any(not each.server.host for each in found) else None
                await self._take([each.at(host) for each in found], many)
                return
            except LOST as error:
                errors[host] = error
        reasons = "; ".join(f"{host}: {str(e) or 'no answer'}" for host, e in errors.items())
        # One that may pass decides: of several hosts only all can be wrong for good.
        causes = sorted(errors.values(), key=lambda error: bool(sentence(error, Asked(""))))
        raise NobodyTells(
            f"nobody tells which servers take writes: {reasons}", sentinels=many.kind == SENTINEL
        ) from causes[0]

    def _who_knows(self, many: ManyHosts) -> list[Address]:
        """Sentinels, or any servers of a cluster; in any order, since one may be cut off and have
        an old view of the others. Where servers name no host of theirs, the one that was asked is
        it: then the same one comes first."""
        servers = [] if many.name else [parse_address(shard.address) for shard in self.all()]
        hosts = [*dict.fromkeys((*servers, *many.hosts))]
        shuffle(hosts)
        return sorted(hosts, key=lambda host: host != self._asked)

    async def _take(self, found: Sequence[Range], many: ManyHosts) -> None:
        """Go on with these servers. A slot that nobody takes stays where it was: its server will
        say what is wrong."""
        before = {**self._by_tag}
        servers = {shard.address: shard for shard in self.all()}
        for tag, slot in self._slots.items():
            for each in found:
                if each.first <= slot <= each.last:
                    address = str(each.server)
                    if address not in servers:
                        servers[address] = Shard(url_of(each.server, many), self._min_replicas)
                    self._by_tag[tag] = servers[address]
            if tag not in self._by_tag:
                raise ConnectionError(f"no server of the cluster takes slot {slot}")
        self.changes += before != self._by_tag
        left = {*servers.values()} - {*self.all()}
        for shard in left:
            await shard.close()


def in_order(groups: Iterable[Sequence[int]], answered: Iterable[Sequence[Any]]) -> list[Any]:
    """The servers' replies in the order of their calls' numbers."""
    replies: dict[int, Any] = {}
    for numbers, some in zip(groups, answered, strict=True):
        replies.update(zip(numbers, some, strict=True))
    return [replies[n] for n in range(len(replies))]


async def _retire(*clients: Redis) -> None:
    """Close idle connections at once, the others when their calls have had their time."""
    try:
        for client in clients:
            with suppress(*LOST):
                await client.connection_pool.disconnect(inuse_connections=False)
        await asyncio.sleep(ANSWER_S)
    finally:
        await _close(*clients)


async def _close(*clients: Redis) -> None:
    for client in clients:
        with suppress(*LOST):  # it is closed then
            await client.aclose()
            await client.connection_pool.disconnect()


def _ended(looking: asyncio.Task[None]) -> None:
    """Takes note of an error, also where nobody waits for it."""
    if not looking.cancelled():
        looking.exception()

"""The writer: exchanges behind one another on one connection, each with its own replies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.kit.services.in_process import until
from tests.kit.stores.server import Server, run_server, server_binaries
from visit_counter.errors import OutcomeUnknown, StoreUnavailable
from visit_counter.store.servers.shards import Shard
from visit_counter.store.writer import Call, Writer


@asynccontextmanager
async def writing(url: str) -> AsyncIterator[Writer]:
    shard = Shard(url, 0)
    try:
        yield shard.writer
    finally:
        await shard.close()


def echoes(*words: str) -> list[Call]:
    return [("ECHO", word) for word in words]


async def test_replies_come_to_those_who_asked(store_server: Server) -> None:
    """Many exchanges are under way at once, over one connection."""
    async with writing(store_server.url) as writer:
        numbers = [[f"{n}.{m}" for m in range(n % 4 + 1)] for n in range(200)]
        answers = await asyncio.gather(*(writer.exchange(echoes(*each)) for each in numbers))
        (found,) = await writer.exchange([("CLIENT", "ID")])
        (again,) = await writer.exchange([("CLIENT", "ID")])

    assert answers == [[word.encode() for word in each] for each in numbers]
    assert found == again


async def test_an_error_is_the_reply_of_its_call_alone(store_server: Server) -> None:
    """The calls around it have theirs."""
    async with writing(store_server.url) as writer:
        calls = [*echoes("a"), ("EVAL", "return redis.error_reply('NO')", 0), *echoes("b")]
        before, error, behind = await writer.exchange(calls)

    assert (before, behind) == (b"a", b"b")
    assert isinstance(error, OutcomeUnknown)


async def test_what_the_server_tells_unasked_is_no_reply(store_server: Server) -> None:
    """RESP3 pushes, as of a key that changed, come between replies."""
    async with writing(store_server.url) as writer:
        await writer.exchange([("CLIENT", "TRACKING", "ON", "BCAST")])
        answers = await writer.exchange([("SET", "told", "1"), *echoes("a")])
        again = await writer.exchange(echoes("b"))

    assert [*answers, *again] == [b"OK", b"a", b"b"]


async def test_a_silent_server_is_given_up_for_all_who_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """None of them can know; the next exchange has another connection."""
    monkeypatch.setattr("visit_counter.store.writer.SILENT_S", 0.2)
    with run_server(server_binaries()["valkey"]) as own:
        async with writing(own.url) as writer:
            await writer.exchange(echoes("a"))
            own.pause()
            silent = [asyncio.ensure_future(writer.exchange(echoes("b", "c"))) for _ in range(2)]
            unknown = [reply for replies in await asyncio.gather(*silent) for reply in replies]
            own.resume()
            known = await writer.exchange(echoes("d"))

    assert [type(reply) for reply in unknown] == [OutcomeUnknown] * 4
    assert known == [b"d"]


async def test_a_connection_that_was_ended_costs_nothing(store_server: Server) -> None:
    """CLIENT KILL, as an idle timeout: found out before anything is sent on it."""
    async with writing(store_server.url) as writer, writing(store_server.url) as other:
        (client,) = await writer.exchange([("CLIENT", "ID")])
        await other.exchange([("CLIENT", "KILL", "ID", client)])
        await until(lambda: writer._link is None or writer._link.lost)
        replies = await writer.exchange(echoes("a"))

    assert replies == [b"a"]


async def test_a_server_that_is_away_is_unavailable(store_server: Server) -> None:
    """Nothing was sent; with the server back the next exchange finds it."""
    with run_server(server_binaries()["valkey"]) as own:
        async with writing(own.url) as writer:
            await writer.exchange(echoes("a"))
            own.kill()
            lost = await writer.exchange(echoes("b"))
            away = await writer.exchange(echoes("c"))
            own.start()
            back = await writer.exchange(echoes("d"))

    assert isinstance(lost[0], (OutcomeUnknown, StoreUnavailable))
    assert isinstance(away[0], StoreUnavailable)
    assert back == [b"d"]

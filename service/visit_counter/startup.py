"""What a service does at its start, however many processes it has.

One process does it in `app.py`, the parent of several in `workers/supervisor.py`, which need know
nothing of the web and of stores.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import structlog

from visit_counter.config.admin_token import AdminToken
from visit_counter.config.host import data_warning
from visit_counter.config.settings import Settings
from visit_counter.config.values import Address
from visit_counter.embedded.server import Embedded
from visit_counter.errors import StartError

log = structlog.get_logger()


def prepare(settings: Settings) -> None:
    allow_many_connections()
    for warning in settings.warnings:
        log.warning(warning)


def allow_many_connections() -> None:
    """A connection is an open file, and the usual soft limit of 1,024 is soon reached."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@asynccontextmanager
async def embedded_store(settings: Settings) -> AsyncIterator[Embedded]:
    if warning := data_warning(settings.data_dir):
        log.warning(warning)
    async with Embedded(settings.data_dir, settings.embedded_fsync) as embedded:
        yield embedded


@contextmanager
def refused_address(address: Address) -> Iterator[None]:
    """Turn what the system says of an address into a sentence with a remedy."""
    try:
        yield
    except OSError as error:
        raise StartError(
            f"cannot listen on {address} ({error.strerror}): end the program that does, or set "
            "another VISIT_COUNTER_LISTEN or VISIT_COUNTER_OPS_LISTEN"
        ) from None


def url_of(address: Address, server: asyncio.Server) -> str:
    return f"http://{address._replace(port=server.sockets[0].getsockname()[1])}"


def welcome(token: AdminToken, pages: str, ops: str) -> None:
    where = "from the settings" if token.path is None else f"in {token.path}"
    log.info("counting", demo=f"{pages}/demo", admin_api=f"{ops}/api/v1")
    if token.new:
        print(f"\n  Admin token (shown once, kept {where}): {token.token}\n", flush=True)
    else:
        log.info(f"the admin token is {where}")

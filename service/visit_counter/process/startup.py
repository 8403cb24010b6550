"""What a service does at its start, however many processes it has.

One process does it in `app.py`, the parent of several in `workers/supervisor.py`, which need know
nothing of the web and of stores.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from visit_counter.config.admin_token import AdminToken
from visit_counter.config.data_directory import checked
from visit_counter.config.host import data_warning, in_container
from visit_counter.config.settings import Settings
from visit_counter.embedded.server import Embedded
from visit_counter.process import open_files

log = structlog.get_logger()


def prepare(settings: Settings) -> None:
    """Raises StartError."""
    open_files.allow_many()
    for warning in settings.warnings:
        log.warning(warning)


def prepare_data(settings: Settings) -> None:
    """Once the addresses are ours; raises StartError where others may write in the directory."""
    kept = "hits that wait in the spool" if settings.redis_url else "the numbers"
    if settings.admin_token is None:
        kept += " and the admin token"
    warnings = (checked(settings.data_dir), data_warning(settings.data_dir, kept))
    for warning in filter(None, warnings):
        log.warning(warning)


@asynccontextmanager
async def store_url(settings: Settings, of_parent: str | None = None) -> AsyncIterator[str]:
    """The store to speak to; the embedded one, unless it is a parent's, runs meanwhile."""
    if url := settings.redis_url or of_parent:
        yield url
        return
    async with embedded_store(settings) as embedded:
        yield embedded.url


@asynccontextmanager
async def embedded_store(settings: Settings) -> AsyncIterator[Embedded]:
    async with Embedded(settings.data_dir, settings.embedded_fsync) as embedded:
        yield embedded


def welcome(token: AdminToken, pages: str, ops: str) -> None:
    """Say where the service is, and where its admin token. The token itself is shown on a terminal
    only: what is written elsewhere is kept, by journald, by Docker, for more people than its file
    is for."""
    log.info("counting", demo=f"{pages}/demo", admin_api=f"{ops}/api/v1")
    if token.path is None:
        log.info("the admin token is from the settings")
    elif token.new and sys.stdout.isatty():
        print(f"\n  Admin token (shown once, kept in {token.path}): {token.token}\n", flush=True)
    else:
        outside = "docker exec CONTAINER " if in_container() else ""
        read = f"{outside}cat {shlex.quote(str(token.path))}"
        log.info(f"the admin token is in {token.path}", read=read)

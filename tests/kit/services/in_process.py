"""The real service for tests: in this process on a free port, over a real store.

    async with run_service(store_url) as service:
        await service.api("POST", "/sites", {"id": "portal", "origins": ["*"]})

Every service has a namespace of its own, so that all tests of a worker share one server.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import ClientSession
from orjson import dumps

from visit_counter.app import components
from visit_counter.clock import Clock
from visit_counter.config.settings import Settings
from visit_counter.process import startup
from visit_counter.process.listeners import bound
from visit_counter.serving import listening
from visit_counter.web.components import Components

PERSON = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
TOKEN = "token-of-the-tests-with-32-characters"

_namespaces = itertools.count(1)


def namespace() -> str:
    return f"t{next(_namespaces)}"


class StoppedClock(Clock):
    """A clock that a test sets; the store's time does not move it."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def now(self) -> int:
        return self.at

    def observe(self, sent: int, store_time: int, received: int) -> None:
        pass


@dataclass
class Service:
    """A running service and a client to talk to it."""

    url: str
    ops_url: str
    token: str
    parts: Components
    client: ClientSession

    async def api(self, method: str, path: str, json: Any = None, status: int | None = None) -> Any:
        """Call /api/v1; the answer must be a success, or exactly `status`."""
        headers = {"Authorization": f"Bearer {self.token}"}
        url = f"{self.ops_url}/api/v1{path}"
        async with self.client.request(method, url, json=json, headers=headers) as answer:
            body = await answer.json(content_type=None)
            assert (answer.status == status) if status else answer.ok, (answer.status, body)
            return body

    async def site(self, site: str = "portal", **settings: Any) -> None:
        """Make a site, open to all origins if not said otherwise."""
        defaults = {"origins": ["*"], "timezone": "UTC"}
        await self.api("POST", "/sites", {"id": site, **defaults, **settings})

    async def hit(
        self,
        site: str = "portal",
        body: bytes | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        status: int = 200,
        **fields: Any,
    ) -> Any:
        """POST a hit as a person's browser would, of the given fields or body; its JSON answer."""
        data = dumps(fields) if body is None else body
        sent = {"User-Agent": PERSON, "Content-Type": "text/plain", **(headers or {})}
        async with self.client.post(f"{self.url}/w/{site}", data=data, headers=sent) as answer:
            assert answer.status == status, (answer.status, await answer.text())
            return await answer.json(content_type=None)

    async def ready(self) -> tuple[int, Any]:
        """The status and JSON of /readyz, as an admin sees it."""
        headers = {"Authorization": f"Bearer {self.token}"}
        async with self.client.get(f"{self.ops_url}/readyz", headers=headers) as answer:
            return answer.status, await answer.json()

    async def counts(self, site: str = "portal") -> Any:
        """The counts as the store has them now: GET /w/{site} may be a second old."""
        answer = await self.api("POST", f"/sites/{site}/reset?preview=1")
        return answer["would_reset"]


@asynccontextmanager
async def run_service(
    store_url: str | None,
    *,
    clock: Clock | None = None,
    data_dir: Path | None = None,
    **settings: str,
) -> AsyncIterator[Service]:
    """A service over the store at a URL (None: its own embedded Valkey)."""
    with tempfile.TemporaryDirectory(prefix="vc-") as scratch:
        environ = {
            "LISTEN": "127.0.0.1:0",
            "NAMESPACE": namespace(),
            "DATA_DIR": str(data_dir or scratch),
            "ADMIN_TOKEN": TOKEN,
            "TIMEZONE": "UTC",
            **({"REDIS_URL": store_url} if store_url else {}),
            **{name.upper(): value for name, value in settings.items()},
        }
        read = Settings.from_env(
            {f"VISIT_COUNTER_{name}": value for name, value in environ.items()}
        )
        with bound(read) as listeners:
            async with (
                startup.store_url(read) as url,
                components(read, url, clock, listeners=listeners) as parts,
                listening(parts, listeners) as urls,
                ClientSession() as client,
            ):
                yield Service(urls["pages"], urls["ops"], parts.token.token, parts, client)


async def until(condition: Callable[[], object], within_s: float = 5) -> None:
    """Wait until a condition holds; TimeoutError if it does not within the time."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 # what is waited for has no event
            await asyncio.sleep(0.01)

"""Which versions count in the store, and whether all of them can write the newest form by now.

Each worker announces itself: its version, the newest form that it writes, its function library. A
store that an older version may come back to is written in the older form, until `upgrade --finish`
or until no worker of the older version was seen for a day. By the same list function libraries
that nobody uses any more are removed. It never stands between a hit and the store.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from typing import Self

import msgspec
import structlog
from msgspec import Struct

from service import forms
from service.errors import Problem, StartError, StoreError
from service.store import Store
from service.tasks import supervised

ANNOUNCE_S = 10.0
LIVING_MS = 60_000  # a worker that was not seen for so long has ended
BACK_MS = 86_400_000  # and may come back for so long
FAREWELL_S = 0.5
TIDY_EVERY = 360  # announcements

log = structlog.get_logger()


class Announced(Struct, frozen=True):
    """What a worker says of itself."""

    version: str
    form: int
    """The newest one that it writes."""
    library: str
    host: str
    stopped: bool = False


class Seen(Struct, frozen=True):
    """A worker, and when it was last seen (ms since the epoch)."""

    name: str
    worker: Announced
    at: int

    def lives(self, now: int) -> bool:
        return not self.worker.stopped and self.at > now - LIVING_MS


def seen_in(said: Mapping[str, tuple[int, bytes]]) -> list[Seen]:
    """The workers that the store knows, without those that cannot be read."""
    found: list[Seen] = []
    for name, (at, text) in said.items():
        with suppress(msgspec.MsgspecError):
            found.append(Seen(name, msgspec.json.decode(text, type=Announced), at))
    return found


async def living(store: Store) -> list[Seen]:
    """The workers that count in a store now, for somebody who is none of them."""
    now, said = await store.workers()
    return [seen for seen in seen_in(said) if seen.lives(now)]


class Versions:
    """The workers of a store, while it is entered."""

    def __init__(self, store: Store, worker: str) -> None:
        """`worker`: its producer's id, which it keeps when it is started again."""
        self.seen: list[Seen] = []
        self.now = 0
        """When the list was read, by the store's clock."""
        self._store = store
        self._name = f"{worker}:{forms.NEWEST}"  # beside what an older version said under its id
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        with suppress(StoreError):  # it is announced soon
            await self._announce()
        if self._store.writes < forms.NEWEST:
            log.info(
                "the store is written so that the version before can come back: finish the upgrade "
                "with `visit-counter upgrade --finish`",
                writes=self._store.writes,
                newest=forms.NEWEST,
            )
        self._task = supervised(self._run(), "versions")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        with suppress(StoreError, TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                await self._announce(stopped=True)

    async def finish(self) -> None:
        """Bring the store into the newest form; raises Problem 409 while a worker lives that cannot
        write it, and where the copy cannot be made; and StoreError."""
        await self._announce()
        if living := [seen for seen in self._older(LIVING_MS) if seen.lives(self.now)]:
            names = ", ".join(f"{s.worker.version} on {s.worker.host}" for s in living[:5])
            raise Problem(
                409,
                "Older workers run",
                f"These workers cannot write form {forms.NEWEST}: {names}. Upgrade or stop them, "
                f"wait {LIVING_MS // 1000} s, then finish again.",
            )
        try:
            await self._store.upgrade(forms.NEWEST)
        except StartError as problem:
            raise Problem(409, "Not upgraded", str(problem)) from None

    async def _run(self) -> None:
        looks = 0
        while True:
            await asyncio.sleep(ANNOUNCE_S)
            looks += 1
            with suppress(StoreError):  # the watch tells
                await self._announce()
                await self._finish_by_itself()
                if looks % TIDY_EVERY == 0:
                    await self._tidy()

    async def _announce(self, *, stopped: bool = False) -> None:
        about = Announced(
            version=version("visit-counter"),
            form=forms.NEWEST,
            library=self._store.library,
            host=socket.gethostname(),
            stopped=stopped,
        )
        self.now, said = await self._store.announce(self._name, msgspec.json.encode(about))
        self.seen = seen_in(said)

    def _older(self, age_ms: int) -> list[Seen]:
        """Workers seen within so long that cannot write the newest form."""
        since = self.now - age_ms
        return [s for s in self.seen if s.worker.form < forms.NEWEST and s.at > since]

    async def _finish_by_itself(self) -> None:
        living = [seen.name for seen in self.seen if seen.lives(self.now)]
        if self._store.writes == forms.NEWEST or self._older(BACK_MS):
            return
        if self._name == min(living):  # one of us does it
            log.warning("no older version was seen for a day: finishing the upgrade")
            try:
                await self._store.upgrade(forms.NEWEST)
            except StartError as problem:
                log.error("the upgrade is not finished", reason=str(problem))

    async def _tidy(self) -> None:
        used = {seen.worker.library for seen in self.seen if seen.at > self.now - BACK_MS}
        if removed := await self._store.remove_libraries(lambda name: name not in used):
            log.info("removed function libraries that nobody uses", libraries=removed)

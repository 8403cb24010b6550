"""Which versions use the store, and whether all of them can write the newest form by now.

Each worker announces itself: its version, the newest form that it writes, its function library. The
store is written in the form that the version before reads too, until `upgrade --finish`, or until
no worker of that version was seen for a day. By the same list function libraries that nobody uses
any more are removed. The hit path never waits for it.
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

from visit_counter import deadlines
from visit_counter.errors import Problem, StartError, StoreError
from visit_counter.model import forms
from visit_counter.store.migration import Installation
from visit_counter.store.schema import Announced
from visit_counter.store.store import Store
from visit_counter.tasks import supervised

ANNOUNCE_S = 10.0
LIVING_MS = 60_000  # a worker that was not seen for so long has ended
BACK_MS = 86_400_000  # and may come back for so long
AGAIN_EVERY = 6  # announcements, between two tries to finish an upgrade
TIDY_EVERY = 360
SCAN_EVERY = 8640  # a day: a server that was promoted may lack what was converted

log = structlog.get_logger()


class About(Struct, frozen=True):
    """What a worker says of itself."""

    version: str
    form: int
    """The newest one that it writes."""
    library: str
    host: str
    since: int = 0
    """When it was first announced with this form (ms since the epoch)."""
    stopped: bool = False


class Seen(Struct, frozen=True):
    """A worker, and when it was last seen (ms since the epoch)."""

    name: str
    worker: About
    at: int

    def lives(self, now: int) -> bool:
        return not self.worker.stopped and self.at > now - LIVING_MS


def seen_in(workers: Mapping[str, tuple[int, bytes]]) -> list[Seen]:
    """The workers that the store knows, without those whose words cannot be read."""
    found: list[Seen] = []
    for name, (at, text) in workers.items():
        with suppress(msgspec.MsgspecError):
            found.append(Seen(name, msgspec.json.decode(text, type=About), at))
    return found


async def living(store: Store) -> list[Seen]:
    """The workers that count in a store now; the caller is not one."""
    announced = await store.schema.workers()
    return [seen for seen in seen_in(announced.workers) if seen.lives(announced.now)]


class Versions:
    """The workers of a store, while it is entered."""

    def __init__(self, store: Store, worker: str) -> None:
        """`worker`: its producer's id, which it keeps when it is started again."""
        self.seen: list[Seen] = []
        self.now = 0
        """When the list was read, by the store's clock."""
        self._name = f"{worker}:{forms.NEWEST}"  # beside what an older version said under its id
        self._since = 0
        self._store = store
        self._installation = Installation(0, 0, 0, 0)
        self._upgrading: asyncio.Task[None] | None = None
        self._problem = ""
        self._untidy = ""
        """Why libraries that nobody uses are not removed."""
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
        self._task = supervised(self._run, "versions")
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = {task for task in (self._task, self._upgrading) if task}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        with suppress(StoreError, TimeoutError):
            async with asyncio.timeout(deadlines.FAREWELL_S):
                await self._announce(stopped=True)

    @property
    def problems(self) -> list[str]:
        """Why an upgrade that has begun, or should end, is not finished, and what keeps a service
        from starting in this store again, in sentences."""
        if self.now and not self._installation.writes:
            return [
                "The store has lost the installation's record (its key ends with {meta}): hits "
                "are counted, and no service starts here again. Restore that key from a backup."
            ]
        problems = (
            [f"The store's upgrade is not finished: {self._problem}"] if self._problem else []
        )
        return problems + ([self._untidy] if self._untidy else [])

    async def finish(self) -> None:
        """Bring the store into the newest form; raises Problem 409 while a worker lives that cannot
        write it, and where the copy cannot be made; and StoreError."""
        await self._announce()
        if older := [seen for seen in self._older(0) if seen.lives(self.now)]:
            names = ", ".join(f"{s.worker.version} on {s.worker.host}" for s in older[:5])
            raise Problem(
                409,
                "Older workers run",
                f"These workers cannot write form {forms.NEWEST}: {names}. Upgrade or stop them "
                f"(one that was killed counts as running for {LIVING_MS // 1000} s), then finish "
                "again.",
            )
        try:
            await asyncio.shield(self._upgrade())
        except StartError as problem:
            raise Problem(409, "Not upgraded", str(problem)) from None

    def _upgrade(self) -> asyncio.Task[None]:
        """The one upgrade that this process makes at a time."""
        if self._upgrading is None or self._upgrading.done():
            older = {seen.worker.library for seen in self._older(0)}
            upgrade = self._store.schema.upgrade(forms.NEWEST, older)
            self._upgrading = asyncio.create_task(upgrade, name="upgrade")
        return self._upgrading

    async def _run(self) -> None:
        looks = 0
        while True:
            await asyncio.sleep(ANNOUNCE_S)
            looks += 1
            with suppress(StoreError):  # the watch tells
                await self._announce()
                if looks % TIDY_EVERY == AGAIN_EVERY:  # soon, also where no worker lives long
                    await self._tidy()
                if looks % SCAN_EVERY == 0 and self._is_first():
                    await self._store.schema.convert_rest()
            if looks % AGAIN_EVERY == 1 and self._should_finish():
                await self._finish_by_itself()

    async def _announce(self, *, stopped: bool = False) -> None:
        if not self._since:
            self._learn(await self._store.schema.workers())
            mine = (seen.worker.since for seen in self.seen if seen.name == self._name)
            self._since = next(mine, 0) or self.now
        about = About(
            version=version("visit-counter"),
            form=forms.NEWEST,
            library=self._store.schema.library,
            host=socket.gethostname(),
            since=self._since,
            stopped=stopped,
        )
        self._learn(await self._store.schema.announce(self._name, msgspec.json.encode(about)))

    def _learn(self, announced: Announced) -> None:
        self.now, self._installation = announced.now, announced.installation
        self.seen = seen_in(announced.workers)
        if self._installation.converted == forms.NEWEST:
            self._problem = ""

    def _older(self, since: int) -> list[Seen]:
        """Workers seen since an instant that cannot write the newest form."""
        return [s for s in self.seen if s.worker.form < forms.NEWEST and s.at > since]

    def _is_first(self) -> bool:
        """Whether it is for this worker, of all that could, to do what one of them must."""
        return self._name == min((seen.name for seen in self._able()), default="")

    def _able(self) -> list[Seen]:
        """Living workers that write the newest form."""
        return [s for s in self.seen if s.worker.form >= forms.NEWEST and s.lives(self.now)]

    def _should_finish(self) -> bool:
        """Whether this worker should go on with an upgrade now."""
        if not self._is_first():
            return False
        if self._installation.is_unfinished:
            return True
        day_ago = self.now - BACK_MS
        watched = min(seen.worker.since for seen in self._able()) <= day_ago
        return self._store.writes < forms.NEWEST and watched and not self._older(day_ago)

    async def _finish_by_itself(self) -> None:
        log.info("finishing the store's upgrade", form=forms.NEWEST)
        try:
            await asyncio.shield(self._upgrade())
        except (StartError, StoreError) as problem:
            if str(problem) != self._problem:
                log.error("the store's upgrade is not finished", reason=str(problem))
            self._problem = str(problem)
        else:
            self._problem = ""

    async def _tidy(self) -> None:
        used = {seen.worker.library for seen in self.seen if seen.at > self.now - BACK_MS}
        try:
            removed = await self._store.schema.remove_libraries(lambda name: name not in used)
        except StoreError as error:
            why = self._store.why(error)
            self._untidy = why and f"Function libraries that nobody uses are not removed: {why}"
            return
        self._untidy = ""
        if removed:
            log.info("removed function libraries that nobody uses", libraries=removed)

"""A worker's parent, as the worker sees it: what it handed down, and the line to it.

A worker is the same program started again by its parent (`workers/pool.py`), with the listening
sockets, the embedded Valkey's address and one end of a line, all of which it finds in one variable
of its environment. Over the line it tells that it is up, what it has counted and what is wrong with
it, and hears who the workers are, what is wrong with the others, and what all of them have counted.
When the line ends the parent is dead: the worker drains as at SIGTERM, and the last one also ends
the embedded Valkey that the parent left behind.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

import msgspec
import structlog

from visit_counter import metrics
from visit_counter.disk import locks
from visit_counter.embedded import server as embedded
from visit_counter.errors import StartError
from visit_counter.tasks import once, supervised
from visit_counter.workers.messages import (
    MOST_BYTES,
    TELL_S,
    Ask,
    Company,
    Everything,
    FromParent,
    FromWorker,
    Inherited,
    Question,
    Reply,
    Told,
    Up,
)
from visit_counter.workers.metrics_sum import figures

LOCK = "workers.lock"  # in the data directory: shared by all workers
ANSWER_S = 2.0
QUESTION_S = 1.5  # for the parent to ask the others, which have a second
SILENT: Final = 4  # times that we tell the parent something and have heard nothing from it

log = structlog.get_logger()


class Parent:
    """The line to the parent, while it is entered."""

    def __init__(
        self,
        inherited: Inherited,
        data_dir: Path,
        when_gone: Callable[[], None] = lambda: None,
    ) -> None:
        self.inherited = inherited
        self.workers: list[int] = []
        """The pids of those that are up."""
        self.accepted_here: Callable[[str, str], Awaitable[bool]] = _none_accepted
        """Whether this worker has accepted a view, by its site and id: the others ask."""
        self._when_gone = when_gone
        self._data_dir = data_dir
        self._asked: list[asyncio.Future[str]] = []
        """Who waits for the answer to the question for the metrics that is in flight."""
        self._to_ask: list[asyncio.Future[str]] = []
        """Who came since, and is for the next one."""
        self._numbers = itertools.count(1)
        self._questions: dict[int, asyncio.Future[bool | None]] = {}
        """Of ours, by number."""
        self._replies: set[asyncio.Task[None]] = set()
        self._others: list[str] = []
        """What is wrong with the parent and the other workers, as it has told last."""
        self._silent = 0
        """How often we have told something since the parent did."""
        self._ours: Callable[[], list[str]] = list
        self._up = False
        self._gone = False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        with embedded.explained(self._data_dir):
            self._lock = locks.share(self._data_dir / LOCK)
        line = socket.socket(fileno=self.inherited.line)
        self._reader, self._writer = await asyncio.open_unix_connection(sock=line, limit=MOST_BYTES)
        self._task = supervised(self._run, "line to the parent")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        if self._gone:
            await self._tidy()
        else:
            self._tell(Told(figures()))
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(ANSWER_S):
                    await self._writer.drain()
        self._writer.close()
        os.close(self._lock)

    @property
    def problems(self) -> list[str]:
        """What is wrong with the parent and the other workers, in sentences."""
        if self._silent >= SILENT:
            return [
                f"The parent of the workers (pid {os.getppid()}) does not answer: no worker or "
                "Valkey that ends is started again, and /metrics is 503. If that lasts, restart "
                "the service."
            ]
        problems = [*self._others]
        if (up := len(self.workers)) < (most := self.inherited.workers):
            problems.append(f"Only {up} of {most} workers are up: the log says why.")
        return problems

    def tell_up(self, problems: Callable[[], list[str]] = list) -> None:
        """From here on this worker's figures mean something, and so does what `problems` answers:
        what is wrong with it."""
        self._ours = problems
        self._up = True
        self._tell(Up())

    async def metrics(self) -> str:
        """What all workers have counted, as Prometheus reads it; raises TimeoutError. One question
        is in flight at a time, however many ask: all figures go over the line with each."""
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._to_ask.append(answer)
        if not self._asked:
            self._ask_for_metrics()
        try:
            async with asyncio.timeout(ANSWER_S):
                return await answer
        finally:
            for waiting in (self._asked, self._to_ask):
                if answer in waiting:  # there was no answer
                    waiting.remove(answer)

    def _ask_for_metrics(self) -> None:
        self._asked, self._to_ask = self._to_ask, []
        self._tell(Told(figures(), ask=True))

    async def accepted_elsewhere(self, site: str, view: str) -> bool | None:
        """Whether another worker has accepted this view; None if one does not say."""
        number, loop = next(self._numbers), asyncio.get_running_loop()
        answer: asyncio.Future[bool | None] = loop.create_future()
        self._questions[number] = answer
        self._tell(Question(number, site, view))
        try:
            async with asyncio.timeout(QUESTION_S):
                return await answer
        except TimeoutError:
            return None
        finally:
            del self._questions[number]

    async def _run(self) -> None:
        """Hear the parent, and tell it once a second; until it is gone."""
        loop = asyncio.get_running_loop()
        tell_s = loop.time() + TELL_S
        while True:
            try:
                async with asyncio.timeout_at(tell_s):
                    line = await self._reader.readline()
            except TimeoutError:
                tell_s = loop.time() + TELL_S
                self._tell_what_we_have()
                continue
            except OSError:
                line = b""
            if not line.endswith(b"\n"):
                break
            self._hear(msgspec.json.decode(line, type=FromParent))
        log.error("the parent of this worker has ended, and so does the worker")
        self._gone = True
        self._when_gone()

    def _tell_what_we_have(self) -> None:
        if self._up:
            self._silent += 1
            if not self._writer.transport.get_write_buffer_size():
                self._tell(self._told())

    def _told(self) -> Told:
        return Told(figures(), problems=self._ours())

    def _hear(self, message: FromParent) -> None:
        self._silent = 0
        match message:
            case Ask():
                self._tell(self._told())
            case Company(workers, problems):
                self.workers, self._others = workers, problems
                metrics.WORKERS.set(len(workers))
            case Everything(text):
                answered, self._asked = self._asked, []
                for answer in answered:
                    if not answer.done():
                        answer.set_result(text)
                if self._to_ask:
                    self._ask_for_metrics()
            case Question():
                self._replies.add(reply := once(self._reply(message), "reply to a worker"))
                reply.add_done_callback(self._replies.discard)
            case Reply(number, accepted):
                if (question := self._questions.get(number)) and not question.done():
                    question.set_result(accepted)

    async def _reply(self, question: Question) -> None:
        """Without haste: the parent waits no longer than it can."""
        accepted = await self.accepted_here(question.site, question.view)
        self._tell(Reply(question.number, accepted))

    def _tell(self, message: FromWorker) -> None:
        self._writer.write(msgspec.json.encode(message) + b"\n")

    async def _tidy(self) -> None:
        """The last of a dead parent's workers ends its Valkey."""
        if self.inherited.store_url is not None and locks.is_last(self._lock):
            try:
                await embedded.end_orphan(self._data_dir)
            except StartError as problem:
                log.error(str(problem))


async def _none_accepted(site: str, view: str) -> bool:
    """Before a worker counts anything."""
    return False

"""The workers of a parent: as many as there should be, and what all of them have counted.

One that ends is replaced, more and more slowly; at SIGHUP all are, one by one. One that hangs is
killed, after its siblings were told for their /readyz. What /metrics of any worker shows is added
up here, where it is known what those had counted that have ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Container, Iterable
from contextlib import suppress
from functools import partial
from typing import Self

import structlog

from visit_counter import deadlines, tasks
from visit_counter.process.systemd import Systemd
from visit_counter.tasks import Work, once, supervised
from visit_counter.workers.messages import (
    TELL_S,
    Ask,
    Company,
    Everything,
    FromWorker,
    Inherited,
    Question,
    Reply,
    Told,
    Up,
)
from visit_counter.workers.metrics_sum import Tally
from visit_counter.workers.process import Worker, spawn
from visit_counter.workers.questions import Questions

PAUSE_MIN_S, PAUSE_MAX_S = 0.1, 10.0
SILENT, HUNG = 4, 30  # looks, of which there is one each TELL_S, without a word of a worker
MOST_NAMED = 10  # problems of a worker's siblings

log = structlog.get_logger()


class Place:
    """One of the workers that there should be: who has it. `turn` is for whoever gives it away."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.turn = asyncio.Lock()


class Workers:
    """The workers; leaving ends them all, in bounded time."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._inherited: Inherited
        self._tally = Tally()
        self._living: set[Worker] = set()
        self._up: set[Worker] = set()
        self._places: list[Place] = []
        self._answers: set[asyncio.Task[None]] = set()
        self._questions = Questions()
        self._given_up: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for answer in self._answers:
            answer.cancel()
        await self._end(self._living)

    async def start(self, inherited: Inherited) -> int:
        """Have all of them try, or answer the exit code of the first if that could not start. It
        starts alone: what keeps them all from starting is said once. Of the others one that could
        not is started again by `keep`, as one that has ended: the first is counting already."""
        self._inherited = inherited
        first = await self._begin()
        if not first.up.result():
            await asyncio.wait({first.life})
            return first.exit_code
        others = await asyncio.gather(*(self._begin() for _ in range(1, self._number)))
        self._places = [Place(worker) for worker in (first, *others)]
        return 0

    @property
    def up(self) -> int:
        """How many take connections."""
        return len(self._up)

    async def keep(self, hangup: asyncio.Event, manager: Systemd) -> int:
        """Start another one for each that ends, and others for all at a hangup. Answers an exit
        code when none is up and none can start."""
        loops = {supervised(partial(self._keep, place), "workers") for place in self._places}
        loops.add(supervised(partial(self._replace_at, hangup, manager), "replacement of workers"))
        loops.add(supervised(self._watch, "watch over the workers"))
        try:
            return await self._given_up
        finally:
            for task in loops:
                task.cancel()
            await asyncio.wait(loops)

    async def _keep(self, place: Place) -> None:
        pause_s = PAUSE_MIN_S
        while True:
            worker = place.worker
            await asyncio.wait({worker.life})
            async with place.turn:
                if place.worker is not worker:
                    continue
                if not (worker.up.result() or self._up):
                    self._give_up(worker.exit_code)
                    return
                lived_s = asyncio.get_running_loop().time() - worker.since_s
                pause_s = PAUSE_MIN_S if lived_s > PAUSE_MAX_S else min(pause_s * 2, PAUSE_MAX_S)
                log.error(
                    "a worker has ended, another takes its place",
                    worker=worker.pid,
                    why=worker.why_it_ended,
                    pause_s=pause_s,
                )
                await asyncio.sleep(pause_s)
                place.worker = await self._begin()

    def _give_up(self, exit_code: int) -> None:
        if not self._given_up.done():
            self._given_up.set_result(exit_code)

    async def _replace_at(self, hangup: asyncio.Event, manager: Systemd) -> None:
        while True:
            await hangup.wait()
            hangup.clear()
            manager.reloading()
            log.info("replacing the workers one by one")
            for place in self._places:
                if not await self._replace(place):
                    log.error("a new worker could not start: the others stay")
                    break
            else:
                log.info("the workers are replaced")
            manager.reloaded()

    async def _replace(self, place: Place) -> bool:
        """The new one takes connections before the old one ceases to."""
        async with place.turn:
            worker = await self._begin()
            if worker.up.result():
                old, place.worker = place.worker, worker
                await self._end([old])
        return worker.up.result()

    async def _watch(self) -> None:
        """Tell the workers of one another, and end one that hangs. Looks are counted and not
        seconds: while this process or the machine stands still nobody falls silent."""
        while True:
            await asyncio.sleep(TELL_S)
            for worker in self._up:
                worker.silent += 1
                if worker.silent == SILENT:
                    log.error("a worker hangs: its connections wait", worker=worker.pid)
                elif worker.silent == HUNG:
                    log.error("killing a worker that hangs", worker=worker.pid)
                    worker.kill()
            self._tell_who_is_up()

    # -- one worker

    async def _begin(self) -> Worker:
        """Start one, and wait until it is up or has ended."""
        worker = await spawn(self._inherited)
        self._living.add(worker)
        worker.life = asyncio.create_task(self._live(worker), name="worker")
        await asyncio.wait({worker.up})
        return worker

    async def _live(self, worker: Worker) -> int:
        """Hear a worker until it ends; its return code."""
        try:
            async for message in worker.messages():
                self._hear(worker, message)
        except Exception:  # it may be of another version
            log.exception("a worker is not understood, ending it", worker=worker.pid)
            worker.kill()
        code = await worker.ended()
        worker.told.set()
        self._tally.end(worker.pid)
        self._living.discard(worker)
        self._up.discard(worker)
        self._tell_who_is_up()
        if not worker.up.done():
            worker.up.set_result(False)
        return code

    def _hear(self, worker: Worker, message: FromWorker) -> None:
        worker.silent = 0
        match message:
            case Up():
                self._up.add(worker)
                self._tell_who_is_up()
                worker.up.set_result(True)
            case Told(families, ask, problems):
                self._tally.put(worker.pid, families)
                worker.problems = problems
                worker.told.set()
                if ask:
                    self._answer(self._tell_everything(worker), "metrics")
            case Question():
                self._answer(self._ask_others(worker, message), "question about a view")
            case Reply():
                self._questions.hear(worker, message)

    def _answer(self, answering: Work, name: str) -> None:
        self._answers.add(answer := once(answering, name))
        answer.add_done_callback(self._answers.discard)

    async def _ask_others(self, asker: Worker, question: Question) -> None:
        accepted = await self._questions.ask(self._up - {asker}, question)
        asker.tell(Reply(question.number, accepted))

    async def _tell_everything(self, asker: Worker) -> None:
        """Tell a worker what all have counted; of one that does not answer, what it told last."""
        others = self._up - {asker}
        for each in others:
            each.told.clear()
            each.tell(Ask())
        with suppress(TimeoutError):
            async with asyncio.timeout(TELL_S):
                await asyncio.gather(*(each.told.wait() for each in others))
        asker.tell(Everything(self._tally.text()))

    def _tell_who_is_up(self) -> None:
        up = sorted(self._up, key=lambda worker: worker.pid)
        pids = [worker.pid for worker in up]
        for worker in up:
            others = [each for each in up if each is not worker]
            said = [problem for each in others for problem in _said_of(each, worker.problems)]
            if more := len(said[MOST_NAMED:]):
                said[MOST_NAMED:] = [f"And {more} more problems of other workers."]
            worker.tell(Company(pids, tasks.problems() + said))

    async def _end(self, workers: Iterable[Worker]) -> None:
        """Let them drain, at most WORKER_S; then kill them."""
        lives = {worker.life: worker for worker in workers}
        for worker in lives.values():
            worker.terminate()
        if not lives:
            return
        _, late = await asyncio.wait(lives, timeout=deadlines.WORKER_S)
        for life in late:
            log.warning("a worker did not stop in time, killing it", worker=lives[life].pid)
            lives[life].kill()
        await asyncio.wait(lives)


def _said_of(worker: Worker, known: Container[str]) -> list[str]:
    """What another worker says of it, in sentences, except what is `known` there of itself."""
    if worker.silent >= SILENT:
        return [
            f"Worker {worker.pid} hangs: its connections wait. After {HUNG * TELL_S:.0f} s it is "
            "killed, and another takes its place."
        ]
    return [
        f"Worker {worker.pid}: {problem}" for problem in worker.problems if problem not in known
    ]

"""What is on its way to one server: which batches leave, when, and in which order.

Natural batching: while flushes are under way, the hits that arrive form the next one. With little
load a hit is flushed at once, with much the batches grow by themselves; there is no timer to tune.
Two flushes may be under way, so that there is always work: while the store syncs the first to its
disk, the second waits at its door. The second leaves when it is worth its costs: with as many hits
as the first one has. With little load that is at once.

A batch that was sent is sent again, as it is, until the store has answered for it, and no later one
of its partition before it. If that takes much longer than it takes otherwise, it goes into the
spool, and so do its partition's later ones, until the store has them all. Where nothing can be kept
either, later hits are refused at once, unnumbered, until the store answers again.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from visit_counter import logs, metrics
from visit_counter.clock import Clock
from visit_counter.delivery.ledger import Ledger
from visit_counter.delivery.queues import (
    AGAIN_MAX_S,
    AGAIN_MIN_S,
    Queue,
    Sealed,
    State,
    Waiting,
    refuse,
)
from visit_counter.delivery.replay import Replay
from visit_counter.disk.spool import DISK_S
from visit_counter.errors import (
    OutcomeUnknown,
    SpoolBroken,
    SpoolFull,
    StoreError,
    StoreUnavailable,
)
from visit_counter.store.batch import Outcome
from visit_counter.store.replies import Fenced, Rejected
from visit_counter.tasks import once

MAX_PENDING = 10_000  # hits without a batch
AHEAD: Final = 2  # flushes under way, and batches of a partition
MOMENT_S: Final = 0.02  # so often there is a look at what rests or waits too long
SPILL_S = 0.25  # at least, for an answer of the store, before a batch goes into the spool
MOST_SPILL_S = 5.0
WAIT_S = 0.75  # for the spool, before the page gets an answer without either
TURNS_S: Final = 2 * DISK_S  # and so much more while its disk may still answer
SLICE_S, SLICES = 2.5, 24  # the last minute, which tells what is usual
LATELY: Final = 2  # slices
# Each bound is a fourth above the one before, from 1 ms to 8 s.
TOOK_S: Final = [0.001 * 1.25**n for n in range(41)]

# To find them in their enum takes longer.
TO_SEND: Final = State.TO_SEND
SENT: Final = State.SENT
TO_SPOOL: Final = State.TO_SPOOL
DONE: Final = State.DONE

Answers = list[list[Outcome] | StoreError]


class Flush(NamedTuple):
    """Batches that were sent, and the answers that are to come."""

    batches: list[tuple[Queue, Sealed]]
    answers: asyncio.Task[Answers]
    began_s: float


class Refusal(NamedTuple):
    """Hits that were neither counted nor kept: when (monotonic seconds), and why."""

    at_s: float
    why: str


class Pace:
    """How long a server takes to commit a flush, and so when an answer is late."""

    def __init__(self) -> None:
        self._usual_s = 0.0
        self._slices: deque[list[int]] = deque([self._slice()], SLICES)
        self._began_s = time.monotonic()

    @property
    def spill_s(self) -> float:
        """Four times what 99 of 100 flushes of the last minute took at most, within bounds."""
        return min(max(SPILL_S, 4 * self._usual_s), MOST_SPILL_S)

    @property
    def lately_s(self) -> float:
        """What 99 of 100 flushes of the last seconds took at most; 0 if there were none."""
        self._roll()
        return self._p99_s(LATELY)

    def note(self, took_s: float) -> None:
        self._roll()
        self._slices[-1][bisect_left(TOOK_S, took_s)] += 1
        if 4 * took_s > self.spill_s:
            self._usual_s = self._p99_s(SLICES)

    def _roll(self) -> None:
        now_s = time.monotonic()
        passed = int((now_s - self._began_s) / SLICE_S)
        for _ in range(min(passed, SLICES)):
            self._slices.append(self._slice())
        if passed:
            self._began_s = now_s
            self._usual_s = self._p99_s(SLICES)

    def _p99_s(self, slices: int) -> float:
        counts = [sum(column) for column in zip(*[*self._slices][-slices:], strict=True)]
        least, seen = sum(counts) / 100, 0
        for n in range(len(counts) - 1, -1, -1):
            seen += counts[n]
            if seen > least:
                return TOOK_S[min(n, len(TOOK_S) - 1)]
        return 0.0

    @staticmethod
    def _slice() -> list[int]:
        return [0] * (len(TOOK_S) + 1)


class Flow:
    """What goes to the server at an address; begun where a loop runs, ended by `close`."""

    def __init__(
        self,
        address: str,
        ledger: Ledger,
        replay: Replay | None,
        clock: Clock,
        reroute: Callable[[], None],
    ) -> None:
        """`reroute` is called where a partition may have gone to another server."""
        self.pending = 0
        """Hits without a batch in its queues."""
        self.pace = Pace()
        self.refused = Refusal(float("-inf"), "")
        """The last hits that were not counted although nothing was wrong with them."""
        self._ledger = ledger
        self._replay = replay
        self._clock = clock
        self._reroute = reroute
        self._queues: set[Queue] = set()
        """Those with something to do."""
        self._flushes: deque[Flush] = deque()
        self._enough = 1.0
        """So many pending hits let the next flush leave."""
        self._loop = asyncio.get_running_loop()
        self._stirred = self._loop.create_future()
        self._moment: asyncio.TimerHandle | None = None
        self._closing = False
        self._task = once(self._run(), f"recorder to {address}")

    @property
    def ended(self) -> bool:
        return self._task.done()

    @property
    def takes_hits(self) -> bool:
        return self.pending < MAX_PENDING and not self._task.done()

    def add(self, queue: Queue, waiting: Waiting) -> None:
        queue.pending.append(waiting)
        self._queues.add(queue)
        self.pending += 1
        if self.pending >= self._enough:
            self._stir()

    def take_over(self, queues: Iterable[Queue]) -> None:
        """Go on with these queues instead of those of before."""
        self._queues = {queue for queue in queues if queue}
        self._count()
        self._stir()

    async def close(self, within_s: float) -> bool:
        """Send what is pending, in bounded time; refuse the rest. Whether all was counted."""
        self._closing = True
        self._stir()
        await asyncio.wait({self._task}, timeout=within_s)
        counted = self._task.done()
        self._task.cancel()
        await asyncio.wait({self._task})
        if self._moment is not None:
            self._moment.cancel()
        for flush in self._flushes:
            flush.answers.cancel()
        self._refuse_late(at_once=True)
        return counted

    async def _run(self) -> None:
        while not self._closing or self._queues:
            try:
                while self._flushes and self._flushes[0].answers.done():
                    self._land(self._flushes.popleft())
                self._flush()
                await self._spill()
                self._reroute()
            except Exception as error:  # our bug: the batches stay, and are sent again
                logs.mistake("a flush failed", error)
                self._rest(self._queues)
            await self._wait()

    # -- a flush leaves

    def _flush(self) -> None:
        """Send what is due, in one round trip."""
        due = self._due()
        for queue in due:
            if self._may_seal(queue):
                self._seal(queue)
        batches = [
            (queue, sealed) for queue in due for sealed in queue.sealed if sealed.state is TO_SEND
        ]
        if batches:
            self._send(batches)

    def _due(self) -> list[Queue]:
        """The queues with something to send, or to keep in the spool, now."""
        now_s = time.monotonic()
        has_room = not self._flushes or self.pending >= self._enough
        return [
            queue
            for queue in self._queues
            if queue.rests_until_s <= now_s
            and (self._is_spooling(queue) or (has_room and self._may_send(queue)))
        ]

    def _may_send(self, queue: Queue) -> bool:
        """Whether there is something to send that does not overtake what comes again."""
        sent = sum(sealed.state is SENT for sealed in queue.sealed)
        if sent == len(queue.sealed):
            return self._may_seal(queue)
        return not sent

    def _may_seal(self, queue: Queue) -> bool:
        """Whether one more batch may get a number: to be sent, none while one comes again."""
        comes_again = queue.pause_s > AGAIN_MIN_S
        most = 1 if comes_again and not self._is_spooling(queue) else AHEAD
        return bool(queue.pending) and len(queue.sealed) < most

    def _is_spooling(self, queue: Queue) -> bool:
        """Whether its next batch belongs into the spool."""
        replay = self._replay
        return replay is not None and replay.in_use and replay.is_spooling(queue.partition)

    def _seal(self, queue: Queue) -> None:
        """Number what has gathered, if there is a way for it."""
        spooling = self._is_spooling(queue)
        if spooling and (why := self._replay.cannot_keep if self._replay else ""):
            self._rest([queue])
            self._tell_refused(queue.take_late(float("inf")), StoreUnavailable(why))
            return
        waiting = queue.take()
        metrics.BATCH_HITS.note(len(waiting))
        entries = [each.entry for each in waiting]
        debts = self._replay.debts if spooling and self._replay else None
        charged = debts.charge(entries, hold=True) if debts else {}
        try:
            batch = self._ledger.seal(queue.partition, entries, self._clock.now())
        except Exception:
            error = StoreUnavailable("a batch could not be made of these hits")
            self._tell_refused(waiting, error)
            raise
        if debts:
            debts.note(batch, charged)
        state = TO_SPOOL if spooling else TO_SEND
        queue.sealed.append(Sealed(batch, waiting, time.monotonic(), state))

    def _send(self, batches: list[tuple[Queue, Sealed]]) -> None:
        for _, sealed in batches:
            sealed.state = SENT
        before = self._flushes[-1].answers if self._flushes else None
        commit = self._ledger.commit([sealed.batch for _, sealed in batches], before)
        flush = Flush(batches, self._loop.create_task(commit), time.perf_counter())
        self._flushes.append(flush)
        flush.answers.add_done_callback(lambda _: self._stir())
        self._count()

    # -- a flush lands

    def _land(self, flush: Flush) -> None:
        """What has become of its batches, where they are not in the spool meanwhile."""
        self._count()
        took_s = time.perf_counter() - flush.began_s
        metrics.FLUSH_SECONDS.note(took_s)
        batches = [
            (queue, sealed, number)
            for number, (queue, sealed) in enumerate(flush.batches)
            if sealed.state is SENT
        ]
        for _, sealed, _ in batches:
            sealed.state = TO_SEND
        answers = flush.answers.result()
        if any(isinstance(answer, (list, Rejected)) for answer in answers):
            self.pace.note(took_s)
        for queue, sealed, number in batches:
            self._learn(queue, sealed, answers[number])
        if len(batches) < len(flush.batches) and self._replay and self._replay.debts:
            for (_, sealed), answer in zip(flush.batches, answers, strict=True):
                if sealed.state is DONE and isinstance(answer, list):
                    self._replay.debts.learn(sealed.batch, answer)

    def _learn(self, queue: Queue, sealed: Sealed, answer: list[Outcome] | StoreError) -> None:
        if isinstance(answer, list):
            self._finish(queue, answer)
        elif isinstance(answer, (Rejected, Fenced)):
            queue.finish([answer] * len(sealed.waiting))
        else:
            self._rest([queue])

    def _finish(self, queue: Queue, became: list[Outcome] | list[None]) -> None:
        """Its oldest batch got on, and so may the next one, at once."""
        queue.finish(became)
        queue.refuses = ""
        queue.rests_until_s, queue.pause_s = 0.0, AGAIN_MIN_S

    def _rest(self, queues: Iterable[Queue]) -> None:
        """They did not get on: they try again after a pause, each one longer than the last."""
        now_s = time.monotonic()
        for queue in queues:
            if queue.rests_until_s <= now_s:
                queue.rests_until_s = now_s + queue.pause_s
                queue.pause_s = min(2 * queue.pause_s, AGAIN_MAX_S)

    # -- into the spool

    async def _spill(self) -> None:
        """Keep in the spool what belongs there, and what the store has not confirmed in time."""
        late_s = time.monotonic() - self.pace.spill_s
        late = [
            (queue, sealed)
            for queue in self._queues
            if any(sealed.state is TO_SPOOL or sealed.since_s <= late_s for sealed in queue.sealed)
            for sealed in queue.sealed  # all of them: they stay in their order
        ]
        if not late:
            return
        queues = {queue for queue, _ in late}
        if self._replay is None:
            self._refuse(queues, "there is no spool")
            return
        debts = self._replay.debts
        try:
            hits = sum(len(sealed.waiting) for _, sealed in late)
            await self._replay.spool([sealed.batch.record for _, sealed in late], hits)
        except (SpoolFull, SpoolBroken) as why:
            self._rest(queues)
            self._refuse(queues, str(why))
            self._leave_spool(late)
            return
        for queue, sealed in late:
            if debts and sealed.state is not TO_SPOOL:  # nobody was charged when it was sealed
                debts.note(sealed.batch, debts.charge(sealed.batch.entries, hold=False))
            if sealed.state is not DONE:  # by another server's flow, meanwhile
                self._finish(queue, [None] * len(sealed.waiting))
        self._count()

    def _leave_spool(self, late: list[tuple[Queue, Sealed]]) -> None:
        """The spool cannot be written: what was to follow others there, and follows none, is to be
        sent."""
        for queue, sealed in late:
            if sealed.state is TO_SPOOL and not self._is_spooling(queue):
                sealed.state = TO_SEND
                if self._replay and self._replay.debts:
                    self._replay.debts.undo(sealed.batch)

    def _refuse(self, queues: Iterable[Queue], why: str) -> None:
        """Neither the store nor the spool takes these queues' hits: what has no number is refused,
        and what comes, until a batch has got on."""
        for queue in queues:
            queue.refuses = why
            error = StoreUnavailable(f"the store does not answer, and nothing is kept: {why}")
            self._tell_refused(queue.take_late(float("inf")), error)
        self._count()

    def _tell_refused(self, waiting: list[Waiting], error: StoreError) -> None:
        if waiting:
            self.refused = Refusal(time.monotonic(), str(error))
            refuse(waiting, error)

    # -- between

    def _count(self) -> None:
        """How many hits wait, and how many would let the next flush leave."""
        self.pending = sum(len(queue.pending) for queue in self._queues)
        self._enough = 1.0
        if len(self._flushes) == AHEAD:
            self._enough = float("inf")
        elif self._flushes:
            self._enough = float(sum(len(sealed.waiting) for _, sealed in self._flushes[0].batches))
        if self.pending >= self._enough:
            self._stir()

    async def _wait(self) -> None:
        """Until something arrives or lands, and a moment at most while there is something."""
        self._queues = {queue for queue in self._queues if queue}
        self._look_soon()
        await self._stirred
        self._stirred = self._loop.create_future()

    def _look_soon(self) -> None:
        if self._queues and self._moment is None:
            self._moment = self._loop.call_later(MOMENT_S, self._pass)

    def _stir(self) -> None:
        """There may be something to do."""
        if not self._stirred.done():
            self._stirred.set_result(None)

    def _pass(self) -> None:
        """One timer for all waits of a moment, and not one for each. It goes on while the loop
        waits for a disk, which may never answer."""
        self._moment = None
        self._refuse_late()
        self._stir()
        self._look_soon()

    def _refuse_late(self, *, at_once: bool = False) -> None:
        """Answer those who have waited too long. A pending hit is forgotten, it has no number yet;
        a sealed one may be counted later."""
        most_s = 0.0 if at_once else self.pace.spill_s + WAIT_S
        for queue in self._queues:
            turns_s = 0.0 if at_once or queue.refuses else TURNS_S
            oldest_s = time.monotonic() - most_s - turns_s
            late = [each for each in queue.late_in_batches(oldest_s) if each.tell]
            self._tell_refused(late, OutcomeUnknown("the store has not answered"))
            self._tell_refused(
                queue.take_late(oldest_s), StoreUnavailable("the store does not answer")
            )
        self._count()

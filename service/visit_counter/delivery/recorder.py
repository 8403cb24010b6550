"""The recorder: takes hits from handlers, and gives each to the flow of its partition's server.

A handler is told what became of its hit once the store has committed it, or the spool has it. In
between stand a queue for each partition and a flow for each server, which decides what leaves when.
"""

from __future__ import annotations

import asyncio
import time
from typing import Self

import structlog

from visit_counter import deadlines, metrics
from visit_counter.clock import Clock
from visit_counter.delivery.flow import Flow, Refusal
from visit_counter.delivery.ledger import Ledger
from visit_counter.delivery.queues import Queue, Tell, Waiting
from visit_counter.delivery.replay import Replay
from visit_counter.errors import StoreUnavailable
from visit_counter.model.hit import Drop, Hit
from visit_counter.model.site_settings import PARTITIONS

SLOW_S = 0.25  # of a commit: then readiness says so
LATELY_S = 3.0  # for hits that were refused

log = structlog.get_logger()


class Recorder:
    """Counts hits of a partition in the order in which they are recorded."""

    def __init__(
        self, ledger: Ledger, clock: Clock, replay: Replay | None = None, no_spool: str = ""
    ) -> None:
        """`no_spool`: why there is no replay, in a sentence."""
        self._no_spool = no_spool or "No spool: hits are refused while the store is away."
        self._ledger = ledger
        self._replay = replay
        self._clock = clock
        self._queues = [Queue(partition) for partition in range(PARTITIONS)]
        self._flows: dict[str, Flow] = {}  # by the server's address
        self._flow_of: list[Flow] = []  # by partition
        self._routed = -1
        self._refused = Refusal(float("-inf"), "")
        self._open = False

    async def __aenter__(self) -> Self:
        self._route()
        self._open = True
        metrics.PENDING.set_function(self._pending)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Flush what is pending, in bounded time; the rest is answered with an error."""
        self._open = False
        waiting = [flow.close(deadlines.RECORDER_S) for flow in self._flows.values()]
        if not all(await asyncio.gather(*waiting)):
            log.error("stopped before all hits were counted", hits=sum(map(len, self._queues)))
        metrics.PENDING.set_function(lambda: 0)

    @property
    def producer(self) -> str:
        """The id of who numbers the batches."""
        return self._ledger.producer

    @property
    def fault(self) -> str:
        """Why nothing more is counted here, in a sentence with the remedy: another process goes on
        as this producer, or a flow has ended by a bug."""
        if self._open and (ended := [at for at, flow in self._flows.items() if flow.ended]):
            return f"The task that sends hits to {ended[0]} has ended: restart the service."
        return self._ledger.fault

    @property
    def cannot_keep(self) -> str:
        """Why hits would be refused if the store were away, in a sentence; empty if they would be
        kept."""
        return self._replay.cannot_keep if self._replay else self._no_spool

    @property
    def problems(self) -> list[str]:
        """What is not as it should be between hits and the store, in sentences."""
        problems = [self._no_spool] if self._replay is None else self._replay.problems
        problems += self._ledger.problems
        for address, flow in self._flows.items():
            if flow.pace.lately_s > SLOW_S:
                problems.append(
                    f"The store at {address} takes {flow.pace.lately_s * 1000:.0f} ms to commit: "
                    "on a slow disk sync once a second (appendfsync everysec, or "
                    "VISIT_COUNTER_EMBEDDED_FSYNC=everysec), else use a store that is nearer."
                )
        refused = max([self._refused, *(flow.refused for flow in self._flows.values())])
        if refused.at_s > time.monotonic() - LATELY_S:
            problems.append(f"Hits were refused in the last {LATELY_S:.0f} s: {refused.why}")
        if refusing := [queue for queue in self._queues if queue.refuses]:
            problems.append(
                f"Hits of {len(refusing)} of {PARTITIONS} partitions are refused: the store does "
                f"not answer for them, and they cannot be kept: {refusing[0].refuses}"
            )
        return problems

    def record(self, entry: Hit | Drop, tell: Tell) -> None:
        """Put a hit into the next batch; `tell` is called once, with what became of it.

        Never waits. Raises StoreUnavailable when nothing more can be kept.
        """
        partition = entry.site.partition
        flow, queue = self._flow_of[partition], self._queues[partition]
        fenced = self._ledger.fenced
        if queue.refuses or fenced or not (self._open and flow.takes_hits):
            metrics.HITS.labels("refused").inc()
            why = self._ledger.fault if fenced else queue.refuses
            why = why or f"{flow.pending} hits wait, which are too many, or the service stops"
            self._refused = Refusal(time.monotonic(), why)
            raise StoreUnavailable(why)
        flow.add(queue, Waiting(entry, tell, time.monotonic()))

    def _route(self) -> None:
        """Each queue to the flow of the server that has its partition now."""
        if self._routed == self._ledger.routes:
            return
        self._routed = self._ledger.routes
        self._flow_of = [self._flow(self._ledger.shard(n)) for n in range(PARTITIONS)]
        for flow in self._flows.values():
            pairs = zip(self._queues, self._flow_of, strict=True)
            flow.take_over([queue for queue, its in pairs if its is flow])

    def _flow(self, address: str) -> Flow:
        flow = self._flows.get(address)
        if flow is None:
            flow = Flow(address, self._ledger, self._replay, self._clock, self._route)
            self._flows[address] = flow
        return flow

    def _pending(self) -> int:
        return sum(flow.pending for flow in self._flows.values())

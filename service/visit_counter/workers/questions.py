"""What a worker asks the others through their parent: whether one of them has accepted a view.

The parent passes the question on, and the answer back. Whether a view was accepted each worker
knows for itself (`web/hits/views.py`).
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Collection

from visit_counter.workers.messages import Question, Reply
from visit_counter.workers.process import Worker

SILENT_S = 1.0
"""A worker that has not answered by then may have accepted the view: nobody knows."""


class Questions:
    """Those that the parent has passed on and that are not answered yet."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._open: dict[int, dict[Worker, asyncio.Future[bool | None]]] = {}
        """By number, what each worker that was asked will say."""

    async def ask(self, others: Collection[Worker], question: Question) -> bool | None:
        """Whether one of the workers has accepted the view; None if one does not say."""
        if not others:
            return False
        number, loop = next(self._numbers), asyncio.get_running_loop()
        answers = self._open[number] = {each: loop.create_future() for each in others}
        try:
            for each in others:
                each.tell(Question(number, question.site, question.view))
            await asyncio.wait(answers.values(), timeout=SILENT_S)
        finally:
            del self._open[number]
        said = {answer.result() if answer.done() else None for answer in answers.values()}
        return True if True in said else None if None in said else False

    def hear(self, worker: Worker, reply: Reply) -> None:
        """What a worker says; too late it is of no use."""
        answer = self._open.get(reply.number, {}).get(worker)
        if answer is not None and not answer.done():
            answer.set_result(reply.accepted)

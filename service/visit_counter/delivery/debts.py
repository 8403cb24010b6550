"""Charges networks for new visitors whose hits are spooled.

A network may bring so many new visitors (`rules/limits.py`), and is charged for each that the store
says was new. While hits go into the spool nobody says so. A visitor whom this process has not seen
within `visit_timeout` is then charged as new before the batch is sealed; if the network has no room
left, the hit counts only if the store knows its visitor. When the store has got the batch, what was
charged for visitors that it knew is given back.

All of it is in memory, as the limits are, and forgotten when the spool is empty.
"""

from __future__ import annotations

from collections.abc import Sequence

from visit_counter.model.hit import Drop, Hit
from visit_counter.model.kinds import Kind
from visit_counter.rules.limits import Allowance, Limits
from visit_counter.store.batch import NEW, PLAIN, Batch, Outcome

MOST_IDS = 200_000  # that are remembered, about 25 MB
MOST_CHARGES = 100_000  # that can be given back

Charged = dict[bytes, Allowance]
"""Visitors that were charged as new, and to whom."""


class Debts:
    """What networks owe for visitors in this process's spool."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._young: dict[bytes, int] = {}
        self._old: dict[bytes, int] = {}
        """When visitors were seen last; forgotten in two halves, as the limits forget networks."""
        self._charges: dict[tuple[int, int], list[tuple[int, Allowance]]] = {}
        """By partition and number of a batch: which of its marked hits were charged to whom."""
        self._number = 0

    def charge(self, entries: Sequence[Hit | Drop], *, hold: bool) -> Charged:
        """Charge for visitors who may be new; `hold`: have those count only if the store knows them
        for whom there is no room, as long as no batch is made of them."""
        charged: Charged = {}
        for hit in entries:
            if not isinstance(hit, Hit) or hit.known_only or hit.kind is Kind.BYE:
                continue
            network, visitor = hit.charged, hit.visitor
            if network is None or not visitor:
                continue
            if self._is_new(hit):
                if hold and not self._limits.may_bring_visitors(network):
                    hit.known_only = True
                    continue
                self._limits.charge_visitor(network)
                charged[visitor] = network
            self._see(visitor, hit.at)
        return charged

    def note(self, batch: Batch, charged: Charged) -> None:
        """A batch was made of the hits for which these were charged."""
        if not charged or self._number >= MOST_CHARGES:
            return
        found = []
        for n, index in enumerate(batch.marked()):
            hit = batch.entries[index]
            if isinstance(hit, Hit) and (allowance := charged.pop(hit.visitor, None)):
                found.append((n, allowance))
        self._charges[batch.partition, batch.seq] = found
        self._number += len(found)

    def settle(self, partition: int, seq: int, marks: bytes) -> None:
        """The store has a batch, and says what became of its hits: give back what was charged for
        visitors that were not new. Without marks, as for a batch that it had already, nobody knows.
        """
        for n, allowance in self._take(partition, seq):
            if n < len(marks) and marks[n] != NEW:
                self._limits.give_back_visitor(allowance)

    def learn(self, batch: Batch, became: Sequence[Outcome]) -> None:
        """The same, of a batch that the store has answered for while it was being spooled."""
        told = bytes(NEW if became[index].new else PLAIN for index in batch.marked())
        self.settle(batch.partition, batch.seq, told)

    def undo(self, batch: Batch) -> None:
        """A batch goes to the store after all, which will say who is new."""
        for _, allowance in self._take(batch.partition, batch.seq):
            self._limits.give_back_visitor(allowance)

    def forget(self) -> None:
        """Nothing is in the spool."""
        if self._charges or self._young or self._old:
            self._charges, self._young, self._old, self._number = {}, {}, {}, 0

    def _take(self, partition: int, seq: int) -> list[tuple[int, Allowance]]:
        found = self._charges.pop((partition, seq), [])
        self._number -= len(found)
        return found

    def _is_new(self, hit: Hit) -> bool:
        """Whether this process has not seen the visitor of late, as far as it remembers."""
        since = hit.at - hit.site.settings.visit_timeout * 1000
        return self._young.get(hit.visitor, self._old.get(hit.visitor, 0)) <= since

    def _see(self, visitor: bytes, at: int) -> None:
        self._young[visitor] = at
        if len(self._young) >= MOST_IDS // 2:
            self._young, self._old = {}, self._young

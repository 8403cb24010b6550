"""What an admin adds to a site's running periods, so that a counter goes on with an older one's
numbers."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from visit_counter.model.calendar import Periods
from visit_counter.model.kinds import Metric

DAY = "day"
"""The kind of the period that is called today; the others' kinds are called as they are."""

Amount = Annotated[int, Meta(ge=-(10**14), le=10**14)]


class Seed(Struct, frozen=True, array_like=True):
    """What an admin added to a period."""

    period: str
    metric: Metric
    amount: int


class SeedPeriods(Struct, forbid_unknown_fields=True):
    """What to add to the running periods."""

    total: Amount = 0
    year: Amount = 0
    month: Amount = 0
    week: Amount = 0
    today: Amount = 0

    def labelled(self, periods: Periods) -> dict[tuple[str, str], int]:
        """The amounts by kind and label of their period, as the store takes them; without zeros."""
        amounts = {
            ("total", ""): self.total,
            ("year", periods.year): self.year,
            ("month", periods.month): self.month,
            ("week", periods.week): self.week,
            (DAY, periods.today): self.today,
        }
        return {period: amount for period, amount in amounts.items() if amount}


SEEDED = SeedPeriods.__struct_fields__
"""The periods to which something can be added."""


def period_of(kind: str) -> str:
    """The seeded period of a kind, as the store calls that."""
    return "today" if kind == DAY else kind

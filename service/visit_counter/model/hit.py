"""A hit or a drop on its way, with its site and who is charged for it.

A request becomes one of the two in `web/hits/intake.py`; `store/batch.py` packs them for the store.
Made for each request, and therefore plain classes, whose fields cost nothing to read where they are
compiled.
"""

from __future__ import annotations

from visit_counter.model.kinds import Kind
from visit_counter.model.reasons import Reason
from visit_counter.model.site import Site
from visit_counter.rules.limits import Allowance


class Hit:
    """One report from a page, ready to be counted."""

    def __init__(
        self,
        site: Site,
        kind: Kind,
        at: int,
        visitor: bytes = b"",
        path: str = "/",
        known_only: bool = False,
        charged: Allowance | None = None,
        wants_page: bool = False,
        view: int = 0,
    ) -> None:
        self.site = site
        self.kind = kind
        self.at = at
        """The instant it was accepted, in ms since the epoch, by the store's clock."""
        self.visitor = visitor
        """8 bytes, or none: the pageview counts and nobody is remembered."""
        self.path = path
        self.known_only = known_only
        """Hold the visitor back if the store has not seen them."""
        self.charged = charged
        """Who is charged if the visitor is new; nobody for a trusted network."""
        self.wants_page = wants_page
        """The answer shall carry this path's pageviews."""
        self.view = view
        """By what it is known if it comes again, see web/hits/views.py; 0 for what has no id."""


class Drop:
    """A hit that is not counted, and why."""

    def __init__(self, site: Site, reason: Reason, at: int) -> None:
        self.site = site
        self.reason = reason
        self.at = at

"""What the handlers work with, under one key of the application, so that none imports `app`.

A component that is new has a field here, and a line in `app.components`, where it is made.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from aiohttp import web

from visit_counter.clock import Clock
from visit_counter.config.admin_token import AdminToken
from visit_counter.config.settings import Settings
from visit_counter.delivery.adoption import Adoption
from visit_counter.delivery.recorder import Recorder
from visit_counter.reading.hub import Hub
from visit_counter.reading.reader import Reader
from visit_counter.reading.sites import Sites
from visit_counter.store.health import Watch
from visit_counter.store.store import Store
from visit_counter.store.versions import Versions
from visit_counter.web.hits.answers import HitAnswers
from visit_counter.web.hits.intake import Intake
from visit_counter.workers.parent import Parent


@dataclass(frozen=True, slots=True)
class Components:
    """In the order in which they start."""

    settings: Settings
    clock: Clock
    parent: Parent | None
    """None in a service of one process."""
    store: Store
    watch: Watch
    sites: Sites
    recorder: Recorder
    adoption: Adoption
    versions: Versions
    reader: Reader
    hub: Hub
    token: AdminToken
    intake: Intake
    answers: HitAnswers
    stopping: asyncio.Event
    """Set as soon as the service begins to stop."""


COMPONENTS = web.AppKey("components", Components)


def parts_of(request: web.Request) -> Components:
    return request.app[COMPONENTS]

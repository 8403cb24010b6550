"""X-Forwarded-For of those whom we do not trust: ignored, counted, and hinted at."""

from __future__ import annotations

import time

import structlog

from visit_counter import metrics

HINT_S = 3600.0

log = structlog.get_logger()

HINT = (
    "X-Forwarded-For comes from a peer that is no trusted proxy and is ignored, so all its "
    "visitors are one. If that peer is your proxy, name it in VISIT_COUNTER_TRUSTED_PROXIES"
)


class Forwarding:
    """Remembers when a stranger's X-Forwarded-For was last ignored: logged once, hinted at for an
    hour."""

    def __init__(self) -> None:
        self._ignored_s: float | None = None

    @property
    def lately_ignored(self) -> bool:
        return self._ignored_s is not None and time.monotonic() - self._ignored_s < HINT_S

    def ignore(self) -> None:
        metrics.FORWARDED_IGNORED.inc()
        if self._ignored_s is None:
            log.warning(HINT)
        self._ignored_s = time.monotonic()

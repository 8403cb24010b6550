"""How long each part of a stop may take, in seconds, in the order in which they follow one another.

A process that gets SIGTERM is gone within PROMISED_S, whatever hangs: the sum of the parts is less
(tests/test_start.py). What is not done by then was not acknowledged, or lies in the spool.
"""

from __future__ import annotations

LANE_S = 1.25
"""Connections of the fast lane: answers that wait for their commit."""
WEB_S = 1.0
"""Requests of aiohttp; it waits twice as long, once for its streams."""
FAREWELL_S = 0.04
"""Telling the store that this worker stops."""
RECORDER_S = 1.5
"""Hits that wait for a batch or for its answer; the rest is refused."""
SPOOL_S = 1.0
"""Groups that are being written; a disk that hangs then fails the spool."""

WORKER_S = 5.8
"""All of that, where several workers stop at once; then they are killed."""
VALKEY_S = 2.0
"""The embedded Valkey; killing it then loses nothing: what was acknowledged is in the file."""
LOG_S = 0.15
"""Lines of the log that are not yet written; without a bound a reader that sleeps would hold us."""

LEAVE_S = 7.5
"""From SIGTERM until the process leaves in any case: what is left is a disk that hangs."""
PROMISED_S = 8.0

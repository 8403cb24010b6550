"""The spool: keeps sealed batches on disk while the store is away, until the store confirms them.

The recorder appends what the store did not confirm in time, and answers the hits when `append`
returns; when the store is back it reads a partition's batches oldest first and acks them. While an
fdatasync runs the next group gathers, as batches do. A full disk or a full spool refuses before it
keeps; any other error of the disk ends keeping for good, since a second fsync proves nothing.
A segment goes when all in it is confirmed. Acks are not written: after a restart, records of a
segment that stayed come again, and the store knows them as duplicates. Only one process may use the
directory: the caller holds its lock. Never looks into a batch.
"""

from __future__ import annotations

import asyncio
import errno
import os
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import structlog

from service import segment, spool_files
from service.errors import SpoolBroken, SpoolFull, StartError, StoreError, StoreUnavailable
from service.segment import HEADER, OVERHEAD, Record
from service.tasks import supervised

SEGMENT_BYTES = 4 << 20  # a group that does not fit begins the next one
STOP_S = 3.0

log = structlog.get_logger()

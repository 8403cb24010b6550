"""The admin token: from the settings, else made at first start and kept in the data directory.

It has at least 32 characters, so guessing is hopeless and needs no throttle, which would only lock
out an admin who shares an address with the guesser. Wrong tokens are counted and logged.
"""

from __future__ import annotations

import logging
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import structlog

from visit_counter import logs, metrics
from visit_counter.disk import directories, guarded
from visit_counter.errors import StartError

NAME = "admin-token"
MOST_BYTES = 4096

log = structlog.get_logger()


class AdminToken(NamedTuple):
    """The token, the file that holds it (none: it came from the settings), and whether that file
    was made just now."""

    token: str
    path: Path | None
    new: bool


def note_wrong_token() -> None:
    """Count a request with a wrong token, and tell of it, seldom."""
    metrics.WRONG_TOKENS.inc()
    logs.seldom(logging.WARNING, "a wrong admin token was sent")


def admin_token(given: str | None, data_dir: Path) -> AdminToken:
    """Raises StartError when a token can be neither read nor kept."""
    if given is not None:
        return AdminToken(given, None, False)
    path = data_dir / NAME
    try:
        directories.make(data_dir, 0o700)
        try:
            return AdminToken(_make(path), path, True)
        except FileExistsError:
            return AdminToken(_read(path), path, False)
    except OSError as error:
        remedy = guarded.remedy(error, "make the directory writable")
        raise StartError(
            f"the admin token cannot be kept in {path} ({error.strerror}), so nothing is counted: "
            f"{remedy}, or set VISIT_COUNTER_ADMIN_TOKEN"
        ) from None


def _make(path: Path) -> str:
    token = "vc_" + secrets.token_urlsafe(32)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(token + "\n")
        file.flush()
        os.fsync(handle)
    return token


def _read(path: Path) -> str:
    with os.fdopen(guarded.opened(path, os.O_RDONLY), "rb") as file:
        token = file.read(MOST_BYTES).decode(errors="replace").strip()
        _make_private(path, os.fstat(file.fileno()), file.fileno())
    if len(token) < 16 or not (token.isascii() and token.isprintable()):
        raise StartError(f"{path} holds no admin token: remove the file to make another")
    return token


def _make_private(path: Path, found: os.stat_result, file: int) -> None:
    """Raises StartError if another user has put the file there: that one knows the token."""
    if found.st_uid not in (0, os.geteuid(), path.parent.stat().st_uid):
        raise StartError(
            f"{path} belongs to user id {found.st_uid}, who knows this admin token, so nothing is "
            "counted: remove the file, and another token is made"
        )
    if found.st_uid == os.geteuid() and found.st_mode & 0o077:
        # The group's rights come from a volume that is given to a group at each mount (fsGroup).
        if found.st_mode & 0o007:
            log.warning(
                f"other users could read the admin token in {path}: if there are any here, stop "
                "the service and remove the file, and another token is made"
            )
        with suppress(OSError):
            os.fchmod(file, 0o600)

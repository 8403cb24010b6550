"""Which store a data directory belongs to: the id of its installation, in a file.

The spool of a data directory holds hits of one store, and the admin token and the backups are of
that one too. A service that is pointed at another store by mistake, or at one that was emptied,
would count hits where nobody looks for them; so it is refused, and told how to go on.
"""

from __future__ import annotations

from pathlib import Path

import structlog

from visit_counter.disk import guarded
from visit_counter.errors import StartError

NAME = "installation"

log = structlog.get_logger()


def remembered(data_dir: Path) -> str:
    """The id of the store that this data directory was used with; empty if it was with none.
    Raises StartError where something else has the file's name."""
    try:
        return guarded.read(data_dir / NAME).decode().strip()
    except guarded.Planted as error:
        raise StartError(
            f"the file {error.filename}, which says whose hits are in the spool, cannot be read "
            f"({error.strerror}), so nothing is counted: {guarded.remedy(error, '')}"
        ) from None
    except (OSError, UnicodeDecodeError):
        return ""


def remember(data_dir: Path, installation: str) -> None:
    """Keep the id; where that is not possible, the log says so, and nothing is checked later."""
    if remembered(data_dir) == installation:
        return
    try:
        guarded.replace(data_dir / NAME, f"{installation}\n".encode())
    except OSError as error:
        log.warning("the store of this data directory is not remembered", why=str(error))


def check(data_dir: Path, found: str, address: str) -> None:
    """Raises StartError where the store's id is another than the one remembered; `found` is empty
    for a store that holds nothing of ours."""
    known = remembered(data_dir)
    if not known or known == found:
        return
    holds = f"holds the data of another ({found})" if found else "holds nothing"
    raise StartError(
        f"the data directory {data_dir} belongs to the store with installation {known}, and the "
        f"one at {address} {holds}: correct VISIT_COUNTER_REDIS_URL or VISIT_COUNTER_NAMESPACE, "
        f"or restore that store. To go on with this one instead, remove {data_dir / NAME}: hits "
        "that are still in the spool are then counted here."
    )

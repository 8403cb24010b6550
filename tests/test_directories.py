"""Directories are made with those above them, and only where nothing else is in the way."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from visit_counter.disk import directories


def test_what_is_missing_is_made_and_the_last_is_as_private_as_asked(tmp_path: Path) -> None:
    """Those above it are like any other directory of this user."""
    wanted = tmp_path / "a" / "b" / "c"
    for _ in range(2):  # again: it is there already
        directories.make(wanted, 0o700)

    assert stat.S_IMODE(wanted.stat().st_mode) == 0o700
    assert stat.S_IMODE(wanted.parent.stat().st_mode) & 0o700 == 0o700


@pytest.mark.parametrize("way", ["file", "dangling link"])
def test_something_else_in_the_way_is_an_error(tmp_path: Path, way: str) -> None:
    """Above or in its place, it is told, and stays as it is."""
    obstacle = tmp_path / "a"
    if way == "file":
        obstacle.touch()
    else:
        obstacle.symlink_to(tmp_path / "nowhere")

    for wanted in (obstacle, obstacle / "b"):
        with pytest.raises(FileExistsError):
            directories.make(wanted)

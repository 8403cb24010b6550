"""The source of the function library: what is loaded."""

from __future__ import annotations

import pytest

from visit_counter.store.libraries import PARTS, library, parts, place


def test_a_line_of_the_source_is_found_in_its_file() -> None:
    """Also the first and the last ones of each."""
    lines = "".join(parts().values()).splitlines()
    places = [place(number) for number in range(1, len(lines) + 1)]

    assert len(library("vc")[1].splitlines()) == len(lines)
    assert [parts()[part].splitlines()[line - 1] for part, line in places] == lines
    assert list(dict.fromkeys(part for part, _ in places)) == list(PARTS)
    with pytest.raises(IndexError):
        place(len(lines) + 1)

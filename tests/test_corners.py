"""The random driver of `loadtests/corners.py` in short; the long form is 50,000 steps of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from loadtests.corners import drive
from tests.kit.stores.clocked import Clocked, run_clocked


@pytest.fixture(scope="module")
def clocked_server() -> Iterator[Clocked]:
    with run_clocked() as server:
        yield server


@pytest.mark.parametrize("seed", [2, 6, 17])
async def test_numbers_are_those_of_the_definitions(clocked_server: Clocked, seed: int) -> None:
    """Clocks wrong and right, spools, late hits and byes: three stores, one with right clocks."""
    await drive(clocked_server, seed, 900)

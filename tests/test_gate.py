"""The gate of a partition: flushes pass together, a repair or a replay alone."""

from __future__ import annotations

import asyncio

import pytest

from visit_counter.delivery.ledger import Gate


async def alone(gate: Gate, told: list[str], name: str, until: asyncio.Event) -> None:
    async with gate:
        told.append(name)
        await until.wait()


async def steps() -> None:
    """Let whoever can go on go on."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_flushes_pass_together() -> None:
    """Two are under way at once."""
    gate = Gate()

    assert [gate.begin_flush(), gate.begin_flush()] == [True, True]


async def test_a_repair_waits_for_flushes_and_lets_none_begin() -> None:
    """Otherwise flushes that follow one another would never let it in."""
    gate, told, done = Gate(), list[str](), asyncio.Event()
    gate.begin_flush()
    gate.begin_flush()
    repair = asyncio.ensure_future(alone(gate, told, "repair", done))
    await steps()
    refused = not gate.begin_flush()
    gate.end_flush()
    await steps()
    waiting = told.copy()
    gate.end_flush()
    await steps()

    assert (refused, waiting, told) == (True, [], ["repair"])
    assert not gate.begin_flush()
    done.set()
    await repair
    assert gate.begin_flush()


async def test_a_repair_and_a_replay_follow_one_another() -> None:
    """Each has it alone."""
    gate, told, done = Gate(), list[str](), asyncio.Event()
    both = [asyncio.ensure_future(alone(gate, told, name, done)) for name in ("a", "b")]
    await steps()
    first = told.copy()
    done.set()
    await asyncio.gather(*both)

    assert (first, told) == (["a"], ["a", "b"])


@pytest.mark.parametrize("flushing", [True, False], ids=["behind a flush", "behind another"])
async def test_who_gives_up_waiting_keeps_nobody_out(flushing: bool) -> None:
    """A cancelled repair leaves the gate as it was."""
    gate, done = Gate(), asyncio.Event()
    other = None
    if flushing:
        gate.begin_flush()
    else:
        other = asyncio.ensure_future(alone(gate, [], "other", done))
    await steps()
    given_up = asyncio.ensure_future(alone(gate, [], "given up", done))
    await steps()
    given_up.cancel()
    await asyncio.wait({given_up})
    done.set()
    if other:
        await other
    else:
        gate.end_flush()

    assert gate.begin_flush()

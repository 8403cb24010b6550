"""How much of a bounded number one client network may have: connections, viewers, watched pages.

An address counts by itself and by the networks around it, which is what one customer can have: of
IPv4 its /24; an IPv6 /64 is one host or household, and whoever has a /56 or a /48 has 256 or 65,536
of them. A wider network may have more, since it may be many customers.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from visit_counter.rules.addresses import Address

# Prefix lengths by the size of an address, narrow to wide.
WIDTHS: Final = {4: (32, 24), 16: (64, 56, 48)}
# In halves of what one address (IPv6: a /64) may have.
HALVES: Final = {32: 2, 24: 4, 64: 2, 56: 3, 48: 4}

Blocks = tuple[int, ...]
"""The networks around an address, narrow to wide; empty for whoever has no bound."""


def blocks_of(address: Address) -> Blocks:
    """Each network as one number: its prefix, and in the last byte the prefix's length."""
    bits = address.size * 8
    return tuple(address.number >> (bits - width) << 8 | width for width in WIDTHS[address.size])


def share(block: int, most: int) -> int:
    """What a network may have where one address may have `most`."""
    return most * HALVES[block & 0xFF] // 2


class Shares:
    """How many each network has."""

    def __init__(self) -> None:
        self._held = Counter[int]()

    def have_room(self, blocks: Blocks, most: int) -> bool:
        """Whether no network around an address has its share."""
        return all(self._held[block] < share(block, most) for block in blocks)

    def take(self, blocks: Blocks) -> None:
        self._held.update(blocks)

    def give_back(self, blocks: Blocks) -> None:
        for block in blocks:
            self._held[block] -= 1
            if not self._held[block]:
                del self._held[block]

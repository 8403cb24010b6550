"""The bytes of the spool: what is read back after any tear, flip or nonsense."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visit_counter.disk.format import (
    HEADER,
    MARK,
    OVERHEAD,
    NewerSegment,
    Record,
    length_at,
    pack,
    record_at,
    scan,
)

numbers = st.integers(0, 2**64 - 1)
records = st.builds(Record, st.integers(0, 2**32 - 1), numbers, numbers, st.binary(max_size=90))
groups_of_records = st.lists(st.lists(records, min_size=1, max_size=4), max_size=4)

SMALL = [
    [Record(3, 1, 7, b"first")],
    [Record(3, 1, 8, b"second, with a mark " + MARK), Record(60, 1, 1, b"")],
    [Record(3, 1, 9, b"the last group"), Record(60, 1, 2, b"has two")],
]


def segment_of(groups: list[list[Record]]) -> tuple[bytes, list[int]]:
    """A segment, and where its records lie."""
    data, places = HEADER, []
    for group in groups:
        packed, at = pack(group, len(data))
        data += packed
        places += at
    return data, places


def read(data: bytes, sealed: bool = False) -> list[Record]:
    return [record for found in scan(data, sealed).records if (record := record_at(data, found.at))]


def flat(groups: list[list[Record]]) -> list[Record]:
    return [record for group in groups for record in group]


def test_the_format_stays() -> None:
    """Another release reads what this one wrote: a change of these bytes is a new version."""
    data, _ = segment_of([[Record(3, 1, 7, b"batch")]])
    expected = (
        "766373706f6f6c01" "ff5643fe" "a31d125d" "29000000" "08000000" "03000000"
        "0100000000000000" "0700000000000000" "6261746368"
    )  # fmt: skip

    assert expected == data.hex()


@given(groups_of_records)
def test_what_was_packed_is_read_back(groups: list[list[Record]]) -> None:
    """Every record, in order, from a running segment as from a sealed one."""
    data, places = segment_of(groups)

    for sealed in (False, True):
        found = scan(data, sealed)
        assert flat(groups) == read(data, sealed)
        assert (places, [], len(data)) == ([f.at for f in found.records], found.damage, found.end)
    assert [length_at(data[at : at + OVERHEAD]) for at in places] == [
        OVERHEAD + len(record.payload) for record in flat(groups)
    ]


@pytest.mark.parametrize("groups", [SMALL, []], ids=["records", "empty"])
def test_a_segment_that_ends_anywhere_keeps_its_whole_records(groups: list[list[Record]]) -> None:
    """A tear is cut off; it is no damage while the segment is the last one."""
    data, places = segment_of(groups)
    ends = [*places[1:], len(data)]

    for size in range(len(data)):
        found = scan(data[:size], sealed=False)
        whole = [record for record, end in zip(flat(groups), ends, strict=False) if end <= size]
        assert (whole, []) == (read(data[:size]), found.damage)
        assert found.end == max([end for end in [0, len(HEADER), *ends] if end <= size])


def test_every_flipped_bit_is_seen() -> None:
    """It is damage where later records prove that the place was on disk, else a torn tail."""
    data, places = segment_of(SMALL)
    last_group = places[3]

    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        hurt = max([-1, *(n for n, at in enumerate(places) if at <= bit // 8)])
        place = places[hurt] if hurt >= 0 else 0
        found = scan(bytes(flipped), sealed=False)
        if place < last_group:
            expected = [record for n, record in enumerate(flat(SMALL)) if n != hurt]
            assert (place, len(data)) == (found.damage[0][0], found.end)
        else:
            expected = flat(SMALL)[:hurt]
            assert ([], place) == (found.damage, found.end)
        assert expected == read(bytes(flipped))
        assert scan(bytes(flipped), sealed=True).damage[0][0] == place


def test_a_sealed_segment_has_no_torn_tail() -> None:
    """Before a later segment is begun all of it is on disk, so a missing end is damage."""
    data, places = segment_of(SMALL)
    ends = {len(HEADER), *places, len(data)}

    for size in set(range(len(data))) - ends:
        assert scan(data[:size], sealed=True).damage


@given(st.lists(st.lists(records, min_size=1, max_size=4), min_size=1, max_size=4), st.data())
def test_whatever_a_power_loss_leaves_of_the_last_group_is_no_damage(
    groups: list[list[Record]], draw: st.DataObject
) -> None:
    """Its sectors reach the disk in any order, and what is before it stays."""
    data, _ = segment_of(groups)
    before, _ = segment_of(groups[:-1])
    torn = bytearray(data)
    for sector in range(len(before) // 32, len(data) // 32 + 1):
        if draw.draw(st.booleans()):
            begin, end = max(len(before), sector * 32), min(len(data), (sector + 1) * 32)
            torn[begin:end] = bytes(max(0, end - begin))
    found = scan(bytes(torn), sealed=False)
    kept = flat(groups[:-1])

    assert not found.damage
    assert flat(groups)[: len(found.records)] == read(bytes(torn))
    assert kept == read(bytes(torn))[: len(kept)]


@given(st.lists(st.one_of(st.binary(max_size=60), st.sampled_from([HEADER, MARK])), max_size=12))
def test_nonsense_holds_no_record(parts: list[bytes]) -> None:
    """Random bytes, with headers and marks among them, are never taken for a batch."""
    data = b"".join(parts)
    found = scan(data, sealed=False)

    assert found.records == []
    assert 0 <= found.end <= len(data)
    assert all(record_at(data, at) is None for at in range(len(data) + 1))


@pytest.mark.parametrize("version", [b"\x02", b"A", b"\xff"])
def test_a_segment_with_another_header_is_never_cut(version: bytes) -> None:
    """What lies behind it is not thrown away, even where it cannot be read."""
    data, _ = segment_of(SMALL)
    other = HEADER[:-1] + version + data[len(HEADER) :] + b"in another way"
    found = scan(other, sealed=False)

    assert (0, len(other)) == (found.damage[0][0], found.end)


@given(st.binary(), st.booleans())
def test_a_segment_of_a_newer_version_is_not_damaged(rest: bytes, sealed: bool) -> None:
    """It is for that version to read: nothing is cut, skipped or set aside."""
    with pytest.raises(NewerSegment):
        scan(HEADER[:-1] + b"\x02" + rest, sealed)

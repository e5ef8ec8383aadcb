"""Which bytes of a declared buffer are written: known as soon as somebody asks, and taken back with the store."""

import numpy as np
import pytest
import torch

from indexfuzz.lockstep.values.buffers import describe_buffer

OFFSETS = np.array([[0, 4], [8, 12]])


@pytest.fixture
def buffer():
    return describe_buffer("x", torch.zeros(8), initialised=False)


def unwritten(buffer) -> list[int]:
    found = buffer.find_unwritten(np.arange(0, 32, 4), 4, aligned=True, inside=True)
    return [] if found is None else np.flatnonzero(found).tolist()


@pytest.mark.parametrize("aligned", [True, False])
def test_what_is_stored_is_written_from_then_on(buffer, aligned):
    assert unwritten(buffer) == [*range(8)]
    buffer.mark_written(OFFSETS, 4, aligned=aligned, inside=True)
    assert unwritten(buffer) == [4, 5, 6, 7]


@pytest.mark.parametrize("is_asked", [True, False])
def test_a_store_that_is_taken_back_wrote_nothing_new(buffer, is_asked):
    buffer.mark_written(OFFSETS[:1], 4, aligned=True, inside=True)
    marks = buffer.mark_written(OFFSETS, 4, aligned=True, inside=True)
    if is_asked:
        assert unwritten(buffer) == [4, 5, 6, 7]
    for mark in reversed(marks):
        mark.roll_back()
    assert unwritten(buffer) == [2, 3, 4, 5, 6, 7]


def test_many_stores_do_not_wait_for_a_question(buffer):
    for _ in range(100):
        buffer.mark_written(OFFSETS, 4, aligned=True, inside=True)
    assert len(buffer.marks) < 100
    assert unwritten(buffer) == [4, 5, 6, 7]


@pytest.mark.parametrize(
    ("offset", "size", "expected"),
    [(-1, 1, False), (0, 4, True), (28, 4, True), (29, 4, False), (31, 1, True), (32, 1, False), (-(2**62), 4, False)],
)
def test_the_ends_of_a_buffer(buffer, offset, size, expected):
    assert buffer.contains(np.array([offset]), size).tolist() == [expected]


def test_gaps_and_what_is_smaller_than_an_element_hold_nothing():
    rows = describe_buffer("x", torch.zeros(4, 8)[:, :3], initialised=True)
    assert rows.contains(np.array([0, 8, 9, 12, 32, 96, 108]), 4).tolist() == [
        True,
        True,
        False,
        False,
        True,
        True,
        False,
    ]
    empty = describe_buffer("x", torch.zeros(0), initialised=True)
    assert empty.contains(np.array([0, 4]), 4).tolist() == [False, False]


def test_flags_of_memory_that_no_machine_has_are_those_that_are_set():
    """A page lies 2^45 bytes behind another one: as many flags are never written, nor counted as memory."""
    apart = 1 << 45
    pages = torch.empty(0, dtype=torch.uint8, device="meta").set_(
        torch.empty(0, dtype=torch.uint8, device="meta").untyped_storage(), 0, (2, 4), (apart, 1)
    )
    far = describe_buffer("cache", pages, initialised=torch.ones(8, dtype=torch.bool))
    assert far.end == apart + 4
    found = far.find_unwritten(np.array([3, 4, apart - 1, apart]), 1, aligned=True, inside=True)
    assert found is not None
    assert found.tolist() == [False, True, True, False]

"""Ends of conditions in kernels: which of them were seen, and the operands that were closest to another one."""

import torch
import triton
import triton.language as tl

from indexfuzz.lockstep import Lockstep, watch_ends


@triton.jit
def _kernel(x, out, n, limit, BLOCK: tl.constexpr, DOUBLE: tl.constexpr, KIND: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(x + i, mask=i < n, other=0.0)
    values = tl.where(values > 0, values, 0.0)
    if n * 2 > limit:
        values += 1
    if DOUBLE:
        values *= 2
    if BLOCK >= 16 and KIND == "plain":
        values += 1
    for _ in range(limit, n):
        values += 1
    row = tl.where((i[:, None] >= 0) & (i[:, None] < limit), 1.0, 0.0)
    values += tl.sum(row, 1) * (1 if DOUBLE else 0)
    tl.store(out + i, values)


def _ends(*launches):
    """By text, what was seen of each condition."""
    with Lockstep(), watch_ends() as ends:
        for programs, n, limit in launches:
            size = programs * 8
            _kernel[(programs,)](torch.ones(size), torch.zeros(size), n, limit, BLOCK=8, DOUBLE=False, KIND="other")
    found = {}
    for end in ends:
        assert end.place.file == __file__
        found.setdefault(end.place.text, {})[end.holds] = end.left, end.right
    return found


UNKNOWN = (None, None)


def test_a_mask_that_cuts_nothing_off_tells_its_last_lane():
    found = _ends((2, 20, 100))
    assert found["i < n"] == {True: (15, 20)}
    assert found["n * 2 > limit"] == {False: (40, 100)}
    assert found["limit < n"] == {False: (100, 20)}
    assert found["i[:, None] >= 0"] == {True: (0, 0)}
    assert found["i[:, None] < limit"] == {True: (15, 100)}


def test_a_mask_that_cuts_something_off_has_ended_both_ways():
    assert _ends((2, 12, 9))["i < n"] == {True: UNKNOWN, False: UNKNOWN}
    assert _ends((2, 0, 9))["i < n"] == {False: (0, 0)}


def test_what_launches_compare_comes_together():
    found = _ends((1, 20, 100), (1, 30, 100), (1, 60, 100), (1, 21, 100))
    assert found["n * 2 > limit"] == {False: (60, 100), True: (120, 100)}
    assert found["i < n"] == {True: (7, 20)}


def test_what_is_known_while_compiling_is_a_condition_too():
    found = _ends((1, 8, 8))
    assert found["DOUBLE"] == {False: UNKNOWN}
    assert found["BLOCK >= 16"] == {False: (8, 16)}
    assert 'KIND == "plain"' not in found  # `and` has not come to it
    with Lockstep(), watch_ends() as ends:
        _kernel[(1,)](torch.ones(16), torch.zeros(16), 16, 16, BLOCK=16, DOUBLE=True, KIND="other")
    assert {(end.place.text, end.holds, end.left, end.right) for end in ends} >= {
        ("DOUBLE", True, None, None),
        ("KIND == 'plain'", False, "other", "plain"),
    }


def test_floats_are_not_compared_by_size():
    assert "values > 0" not in _ends((2, 20, 100))


@triton.jit
def _undefined(x, out, n):
    i = tl.arange(0, 8)
    found = tl.load(x + i, mask=i < n)
    tl.store(out + i, 1, mask=(i < n) & (found > 3))


def test_lanes_that_hold_nothing_count_for_nothing():
    with Lockstep(), watch_ends() as ends:
        _undefined[(1,)](torch.full((8,), 5), torch.zeros(8, dtype=torch.int64), 4)
    assert {end.place.text for end in ends} == {"i < n"}


def test_nobody_looks_where_nobody_asks():
    with watch_ends() as before:
        pass
    with Lockstep():
        _undefined[(1,)](torch.full((8,), 5), torch.zeros(8, dtype=torch.int64), 8)
    assert list(before) == []


def test_an_inner_watch_takes_note_alone():
    with Lockstep(), watch_ends() as outer:
        with watch_ends() as inner:
            _undefined[(1,)](torch.full((8,), 5), torch.zeros(8, dtype=torch.int64), 8)
        assert list(outer) == []
        _undefined[(1,)](torch.full((8,), 5), torch.zeros(8, dtype=torch.int64), 4)
    assert {end.place.text for end in inner} == {"i < n", "found > 3"}
    assert list(outer)

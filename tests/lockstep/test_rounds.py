"""Rounds of loops are counted, and a kernel that comes to more than may be is ended."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from indexfuzz.lockstep import Lockstep, UnsupportedFeature, count_rounds


@triton.jit
def _counts(x, n):
    total = 0
    for i in range(n):
        total += i
    tl.store(x + tl.program_id(0), total)


@triton.jit
def _waits(x, n):
    i = 0
    while i < n:
        i += 1
    tl.store(x + tl.program_id(0), i)


@triton.jit
def _unrolls(x, n):
    total = 0
    for i in tl.static_range(4):
        total += i
    tl.store(x + tl.program_id(0), total + n)


def launch(kernel, n, programs=1):
    out = torch.zeros(programs, dtype=torch.int32)
    with Lockstep():
        kernel[(programs,)](out, n)
    return out


@pytest.mark.parametrize(("kernel", "rounds"), [(_counts, 7), (_waits, 8), (_unrolls, 0)])
def test_rounds_are_counted_once_for_all_programs_that_run_alike(kernel, rounds):
    with count_rounds() as counted:
        launch(kernel, 7, programs=3)
    assert counted.count == rounds
    assert not counted.is_over


@pytest.mark.parametrize("kernel", [_counts, _waits])
def test_a_kernel_that_comes_to_more_than_may_be_is_ended_and_one_that_does_not_runs(kernel):
    with count_rounds(10) as counted:
        launch(kernel, 9)
    assert not counted.is_over
    with count_rounds(10) as counted, pytest.raises(UnsupportedFeature, match="more than 10 rounds"):
        launch(kernel, 1 << 20)
    assert counted.is_over


def test_all_launches_count_together_and_those_of_others_do_not():
    with count_rounds(10) as outer:
        with count_rounds() as inner:
            launch(_counts, 6)
        assert (outer.count, inner.count) == (6, 6)
        with pytest.raises(UnsupportedFeature):
            launch(_counts, 6)
    assert inner.count == 6
    np.testing.assert_array_equal(launch(_counts, 20).numpy(), [190])

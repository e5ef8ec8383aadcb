"""Autotuned kernels: the first configuration, or all of them, of which the first has the last word."""

import pytest
import torch
import triton
import triton.language as tl

from indexfuzz.lockstep import Lockstep


@triton.autotune(configs=[triton.Config({"BLOCK": 8}), triton.Config({"BLOCK": 16})], key=[])
@triton.jit
def count_in_place(x, out, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x + i, tl.load(x + i) + 1)
    tl.store(out, BLOCK)


@triton.autotune(configs=[triton.Config({"BLOCK": 24}), triton.Config({"BLOCK": 16})], key=[])
@triton.jit
def power_of_two_only(out, BLOCK: tl.constexpr):
    tl.static_assert((BLOCK & (BLOCK - 1)) == 0)
    tl.store(out, BLOCK)


def launch(configs):
    x, out = torch.zeros(8, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    with Lockstep(configs=configs) as machine:
        count_in_place[(1,)](x, out)
    return x, out, machine.violations


def test_the_first_alone():
    x, out, violations = launch("first")
    assert (x.tolist(), out.item(), violations) == ([1] * 8, 8, [])


def test_all_of_them_and_what_the_others_stored_is_taken_back():
    x, out, violations = launch("all")
    assert (x.tolist(), out.item()) == ([1] * 8, 8)
    assert {v.kind for v in violations} == {"out-of-bounds"}


@pytest.mark.parametrize("configs", ["first", "all"])
def test_a_configuration_that_does_not_compile_is_passed_over(configs):
    out = torch.zeros(1, dtype=torch.int32)
    with Lockstep(configs=configs):
        power_of_two_only[(1,)](out)
    assert out.item() == 16


def test_an_unknown_choice():
    with pytest.raises(ValueError, match="unknown choice of configurations 'some'; there are first, all"):
        Lockstep(configs="some")

"""Large accesses of consecutive elements, which go as one range, give what single elements give."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from indexfuzz.lockstep import Lockstep
from indexfuzz.lockstep.values import arrays
from indexfuzz.lockstep.values.arrays import as_slice


@pytest.mark.parametrize("n", [1 << 14, (1 << 14) + 1, 3 << 14])
def test_a_range_is_known_for_one(n):
    index = np.arange(5, 5 + n)
    assert as_slice(index) == slice(5, 5 + n)
    assert as_slice(index.reshape(1, -1)) == slice(5, 5 + n)
    for place in (1, n // 2, n - 3):
        swapped = index.copy()
        swapped[place], swapped[place + 1] = index[place + 1], index[place]
        assert as_slice(swapped) is None
    assert as_slice(index[::-1]) is None
    assert as_slice(np.zeros(n, np.int64)) is None


def test_few_are_not_looked_at():
    assert as_slice(np.arange((1 << 14) - 1)) is None


@triton.jit
def _add_and_diverge(x, out, N: tl.constexpr):
    program = tl.program_id(0)
    i = program * N + tl.arange(0, N)
    value = tl.load(x + i)
    tl.store(out + i, value + 1)
    if program % 2 == 1:
        tl.store(out + i, value * 2)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("start", [0, 3])
def test_stores_are_taken_back_where_programs_diverge(dtype, start, monkeypatch):
    x = torch.arange(start + 8 * 4096).remainder(50).to(dtype)[start:]
    found = []
    for least in (arrays._LARGE, 1 << 40):
        monkeypatch.setattr(arrays, "_LARGE", least)
        out = torch.zeros(start + 8 * 4096, dtype=dtype)[start:]
        with Lockstep() as machine:
            _add_and_diverge[(8,)](x, out, N=4096)
        assert machine.violations == []
        found.append(out)
    wanted = x.view(8, 4096) + 1
    wanted[1::2] = x.view(8, 4096)[1::2] * 2
    assert torch.equal(found[0], wanted.view(-1))
    assert torch.equal(found[0], found[1])

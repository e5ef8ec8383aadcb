"""Large accesses of consecutive elements, which go as one range, give what single elements give."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from indexfuzz.lockstep import Lockstep
from indexfuzz.lockstep.operations.context import Context
from indexfuzz.lockstep.tracking.moments import Recorder
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


def _masks():
    lanes = np.random.default_rng(3).integers(0, 2, (6, 4, 8)).astype(np.bool_)
    yield lanes
    yield lanes[:, :, :1]
    for one in (lanes[:1], lanes[:1, :1], np.arange(8).reshape(1, 1, 8) < 5, np.arange(4).reshape(1, 4, 1) > 1):
        yield np.broadcast_to(one, (6, 4, 8))
    for every in (True, False):
        yield np.broadcast_to(np.array(every), (6, 4, 8))


@pytest.mark.parametrize("lanes", list(_masks()), ids=lambda lanes: str(lanes.strides))
@pytest.mark.parametrize("order", ["C", "F"])
def test_lanes_are_selected_and_placed_as_with_a_mask(lanes, order):
    lanes = np.broadcast_to(lanes, (6, 4, 8)) if lanes.shape != (6, 4, 8) else lanes
    data = np.arange(6 * 4 * 8).reshape(6, 4, 8).copy(order)
    chosen = arrays.select(data, lanes)
    assert chosen.tolist() == data[lanes].tolist()
    wanted = data.copy()
    wanted[lanes] = -chosen
    arrays.place(data, lanes, -chosen)
    assert (data == wanted).all()


@triton.jit
def _scale_rows(x, out, n, N: tl.constexpr):
    i = tl.arange(0, N)
    row = tl.program_id(0) * n
    tl.store(out + row + i, tl.load(x + row + i, mask=i < n) * 2, mask=i < n)


@pytest.mark.parametrize("largest", [1 << 21, 5 << 12, 1])
def test_programs_run_together_as_far_as_their_blocks_allow(largest, monkeypatch):
    monkeypatch.setattr(Context, "largest", largest)
    x = torch.arange(16 * 4000, dtype=torch.float32)
    out = torch.zeros(16 * 4000 + 1)
    recorder = Recorder()
    with Lockstep(recorder=recorder) as machine:
        _scale_rows[(16,)](x, out, 4000, N=4096)
    assert machine.violations == []
    assert torch.equal(out[:-1], 2 * x)
    together = {moment.programs.size for moment in recorder.moments}
    assert together == {1 << 21: {16}, 5 << 12: {4}, 1: {1}}[largest]

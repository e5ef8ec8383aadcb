"""Accesses of runs of consecutive elements give and report what accesses of single elements do."""

import pytest
import torch
import triton
import triton.language as tl

from indexfuzz.lockstep import Lockstep
from indexfuzz.lockstep.tracking import access
from indexfuzz.lockstep.values.memory import Allocation

ROWS, LANES = 24, 512


@triton.jit
def _scale_rows(x, out, stride, n, N: tl.constexpr):
    i = tl.arange(0, N)
    row = tl.program_id(0) * stride
    tl.store(out + row + i, tl.load(x + row + i, mask=i < n) * 2, mask=i < n)


@triton.jit
def _scale_all(x, out, stride, n, N: tl.constexpr):
    place = tl.program_id(0) * stride + tl.arange(0, N)
    tl.store(out + place, tl.load(x + place) * 2 + n)


@triton.jit
def _scale_blocks(x, out, stride, n, N: tl.constexpr):
    place = (tl.program_id(0) * 4 + tl.arange(0, 4))[:, None] * stride + tl.arange(0, N)[None, :]
    first = tl.program_id(0) * 4 * stride + tl.arange(0, N)[None, :]
    tl.store(out + place, tl.load(x + first) + n)


@triton.jit
def _scale_middle(x, out, stride, n, N: tl.constexpr):
    i = tl.arange(0, N)
    row = tl.program_id(0) * stride
    inside = (i >= 7) & (i < n)
    tl.store(out + row + i, tl.load(x + row + i, mask=inside, other=1), mask=inside)


@triton.jit
def _reverse_rows(x, out, stride, n, N: tl.constexpr):
    i = tl.arange(0, N)
    row = tl.program_id(0) * stride
    tl.store(out + row + n - 1 - i, tl.load(x + row + i * 1, mask=i < n), mask=i < n)


@triton.jit
def _fill(x, out, stride, n, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + tl.program_id(0) * stride + i, tl.load(x), mask=i < n)


@triton.jit
def _own_tails(x, out, stride, n, N: tl.constexpr):
    i = tl.arange(0, N)
    program = tl.program_id(0)
    tl.store(out + program * stride + i, tl.load(x + program * stride + i, mask=i < n - program), mask=i < n - program)


KERNELS = [_scale_rows, _scale_all, _scale_blocks, _scale_middle, _reverse_rows, _fill, _own_tails]
LAYOUTS = {
    "apart": (600, 500, ROWS * 600),
    "touching": (500, 500, ROWS * 500),
    "overlapping": (400, 500, ROWS * 600),
    "one place": (0, 512, 700),
    "beyond the end": (500, 512, ROWS * 500 - 100),
    "written in part": (600, 512, ROWS * 600),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.fn.__name__)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8])
def test_runs_change_nothing(kernel, layout, dtype, monkeypatch):
    stride, n, size = LAYOUTS[layout]
    found = []
    for least in (1 << 10, 1 << 40):
        monkeypatch.setattr(access, "_MANY", least)
        x = torch.randint(-50, 50, (size,), generator=torch.Generator().manual_seed(3)).to(dtype)
        out = torch.full((size,), 3, dtype=dtype)
        programs = ROWS // 4 if kernel is _scale_blocks else ROWS
        with Lockstep() as machine:
            if layout == "written in part":
                machine.declare("x", x, torch.arange(size * x.element_size()) < 5000)
                machine.declare("out", out, initialised=False)
            kernel[(programs,)](x, out, stride, n, N=LANES)
        found.append((out.view(torch.uint8), machine.violations))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


def test_what_runs_are_found(monkeypatch):
    """The test above compares two ways; this is the proof that there are two."""
    seen = []
    gather, scatter = Allocation.gather_runs, Allocation.scatter_runs

    def note_load(self, runs, dtype):
        seen.append(("load", runs.starts.size, runs.length))
        return gather(self, runs, dtype)

    def note_store(self, runs, rows):
        seen.append(("store", runs.starts.size, runs.length))
        return scatter(self, runs, rows)

    monkeypatch.setattr(Allocation, "gather_runs", note_load)
    monkeypatch.setattr(Allocation, "scatter_runs", note_store)
    x = torch.zeros(ROWS * 600)
    wanted = {
        _scale_rows: [("load", ROWS, 500), ("store", ROWS, 500)],
        _scale_all: [("load", ROWS, LANES), ("store", ROWS, LANES)],
        _scale_blocks: [("store", ROWS, LANES)],
        _scale_middle: [("load", ROWS, 493), ("store", ROWS, 493)],
        _reverse_rows: [("load", ROWS, 500)],
        _fill: [("store", ROWS, 500)],
        _own_tails: [],
    }
    for kernel, runs in wanted.items():
        seen.clear()
        with Lockstep() as machine:
            kernel[(ROWS // 4 if kernel is _scale_blocks else ROWS,)](x, torch.zeros_like(x), 600, 500, N=LANES)
        assert seen == runs, kernel.fn.__name__
        assert machine.violations == []


@triton.jit
def _wrapping(x, N: tl.constexpr):
    i = tl.arange(0, N)
    place = (2147483647 - 5000 + tl.program_id(0) * 0) + i
    tl.store(x + (place & 16383), i)


def test_a_sum_that_wraps_is_no_run():
    x = torch.full((1 << 14,), -1, dtype=torch.int32)
    with Lockstep() as machine:
        _wrapping[(1,)](x, N=1 << 14)
    assert torch.equal(x.sort().values, torch.arange(1 << 14, dtype=torch.int32))
    assert [v.kind for v in machine.violations] == ["overflow"]

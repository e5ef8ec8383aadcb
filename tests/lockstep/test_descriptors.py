"""Tensor descriptors: made in the kernel or by the launcher, read and written by windows and by rows."""

import pytest
import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from indexfuzz.lockstep import Lockstep, UnsupportedFeature


@triton.jit
def _copy_window(source, target, x, y, M: tl.constexpr, N: tl.constexpr):
    place = tl.program_id(0) * M
    target.store([place, 0], source.load([place + x, y]))


@pytest.mark.parametrize("padding", ["zero", "nan"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_windows_of_host_made_descriptors(dtype, padding):
    x = torch.arange(12 * 16).reshape(12, 16).to(dtype)
    out = torch.zeros(16, 8, dtype=dtype)
    source, target = TensorDescriptor.from_tensor(x, [4, 8], padding), TensorDescriptor.from_tensor(out, [4, 8])
    with Lockstep() as machine:
        _copy_window[(4,)](source, target, -2, 12, M=4, N=8)
    wanted = torch.full((16, 8), 0.0 if padding == "zero" else float("nan"), dtype=dtype)
    wanted[2:14, :4] = x[:, 12:]
    assert torch.equal(out.nan_to_num(-1), wanted.nan_to_num(-1))
    assert machine.violations == []


@triton.jit
def _facts(source, out):
    tl.store(out, source.shape[0])
    tl.store(out + 1, source.strides[0])


def test_shape_and_strides_of_a_host_made_descriptor():
    x, out = torch.zeros(12, 32)[:, :16], torch.zeros(2, dtype=torch.int64)
    with Lockstep():
        _facts[(1,)](TensorDescriptor.from_tensor(x, [4, 8]), out)
    assert out.tolist() == [12, 32]


def test_a_descriptor_that_claims_more_than_its_tensor():
    x, out = torch.zeros(4, 8), torch.zeros(8, 8)
    source = TensorDescriptor(x, [8, 8], [8, 1], [4, 8])
    with Lockstep() as machine:
        _copy_window[(2,)](source, TensorDescriptor.from_tensor(out, [4, 8]), 0, 0, M=4, N=8)
    assert [(v.kind, v.argument, v.program) for v in machine.violations][:1] == [("out-of-bounds", "source", (1, 0, 0))]


@triton.jit
def _gather_rows(source, rows, out, y, K: tl.constexpr, N: tl.constexpr):
    first = tl.program_id(0) * K
    i, j = first + tl.arange(0, K), tl.arange(0, N)
    tl.store(out + i[:, None] * N + j[None, :], source.gather(tl.load(rows + i), y))


@triton.jit
def _scatter_rows(target, rows, x, y, K: tl.constexpr, N: tl.constexpr):
    first = tl.program_id(0) * K
    i, j = first + tl.arange(0, K), tl.arange(0, N)
    target.scatter(tl.load(x + i[:, None] * N + j[None, :]), tl.load(rows + i), y)


@pytest.mark.parametrize("y", [0, 4, 12])
@pytest.mark.parametrize("index", [torch.int32, torch.int16])
def test_rows(index, y):
    x = torch.arange(20 * 16, dtype=torch.float32).reshape(20, 16)
    rows = torch.tensor([3, 19, 20, -1, 0, 7, 7, 5, 1, 2, 100, 4, 6, 8, 9, 10], dtype=index)
    gathered, scattered = torch.empty(16, 8), torch.zeros(20, 16)
    with Lockstep() as machine:
        _gather_rows[(2,)](TensorDescriptor.from_tensor(x, [1, 8]), rows, gathered, y, K=8, N=8)
        _scatter_rows[(2,)](TensorDescriptor.from_tensor(scattered, [1, 8]), rows, gathered, y, K=8, N=8)
    wanted, back = torch.zeros(16, 8), torch.zeros(20, 16)
    for place, row in enumerate(rows.tolist()):
        if 0 <= row < 20:
            width = min(8, 16 - y)
            wanted[place, :width] = x[row, y : y + width]
            back[row, y : y + width] = wanted[place, :width]
    assert torch.equal(gathered, wanted)
    assert torch.equal(scattered, back)
    assert machine.violations == []


@triton.jit
def _gather_undefined_rows(source, rows, out, N: tl.constexpr):
    i, j = tl.arange(0, 8), tl.arange(0, N)
    tl.store(out + i[:, None] * N + j[None, :], source.gather(tl.load(rows + i, mask=i < 7), 0))


def test_a_row_that_nothing_defined():
    source, rows = TensorDescriptor.from_tensor(torch.zeros(8, 8), [1, 8]), torch.zeros(8, dtype=torch.int32)
    with Lockstep() as machine:
        _gather_undefined_rows[(1,)](source, rows, torch.zeros(8, 8), N=8)
    assert "uninitialised" in {v.kind for v in machine.violations}


@triton.jit
def _reduce_window(x, target, out, KIND: tl.constexpr, N: tl.constexpr):
    i = tl.arange(0, N)
    value = tl.load(x + tl.program_id(0) * N + i)
    window = tl.make_tensor_descriptor(target, shape=[6], strides=[1], block_shape=[N])
    if KIND == "add":
        window.atomic_add([0], value)
    elif KIND == "max":
        window.atomic_max([0], value)
    else:
        window.atomic_xor([0], value)


@pytest.mark.parametrize(
    ("dtype", "kind", "wanted"),
    [
        (torch.float32, "add", [12.0, 14, 16, 18, 20, 22, 0, 0]),
        (torch.int32, "max", [8, 9, 10, 11, 12, 13, 0, 0]),
        (torch.uint32, "max", [2**32 - 8, 9, 10, 11, 12, 13, 0, 0]),
        (torch.int32, "xor", [12, 12, 12, 12, 4, 4, 0, 0]),
    ],
)
def test_atomic_windows(dtype, kind, wanted):
    x = torch.tensor([4, 5, 6, 7, 8, 9, 10, 11, 8, 9, 10, 11, 12, 13, 14, 15]).to(dtype)
    if dtype is torch.uint32:
        x.view(torch.int32)[0] = -8
    target = torch.zeros(8, dtype=dtype)
    with Lockstep() as machine:
        _reduce_window[(2,)](x, target, target, KIND=kind, N=8)
    assert target.tolist() == wanted
    assert machine.violations == []


def test_what_an_atomic_window_has_not():
    x = torch.zeros(16, dtype=torch.float16)
    with Lockstep(), pytest.raises(UnsupportedFeature, match="descriptor's atomic max of fp16"):
        _reduce_window[(1,)](x, torch.zeros(8, dtype=torch.float16), x, KIND="max", N=8)

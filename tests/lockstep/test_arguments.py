"""What a launch makes of its arguments, as Triton does: tuples, numbers that are known while compiling, warps."""

from typing import NamedTuple

import pytest
import torch
import triton
import triton.language as tl
from triton.compiler.errors import CompilationError
from triton.language.extra import cuda

from indexfuzz.lockstep import Lockstep, UnsupportedFeature


class Pair(NamedTuple):
    x: object
    factor: object


@triton.jit
def _named(pair, out):
    tl.store(out, tl.load(pair.x) * pair.factor)


@pytest.mark.parametrize("factor", [1, 3])
def test_items_of_a_named_tuple_have_their_names(factor):
    out = torch.zeros(1)
    with Lockstep():
        _named[(1,)](Pair(torch.full((1,), 2.0), factor), out)
    assert out.item() == 2 * factor


@triton.jit
def _rename(pair):
    return pair


@triton.jit
def _handed_on(pair, out):
    again = _rename(pair)
    tl.store(out, tl.load(again.x) + again.factor)


def test_names_outlive_a_call_and_an_assignment():
    out = torch.zeros(1)
    with Lockstep():
        _handed_on[(1,)](Pair(torch.full((1,), 2.0), 5), out)
    assert out.item() == 7


@triton.jit
def _unpack(out, SIZES: tl.constexpr, PAIR: tl.constexpr):
    first, second = SIZES
    lanes = tl.arange(0, SIZES[0])
    tl.store(out + lanes, lanes * first + second + PAIR.factor)


def test_a_constexpr_tuple_can_be_unpacked():
    out = torch.zeros(4, dtype=torch.int32)
    with Lockstep():
        _unpack[(1,)](out, SIZES=(4, 7), PAIR=Pair(0, 10))
    assert out.tolist() == [17, 21, 25, 29]


@triton.jit
def _describe(x, out, stride, N: tl.constexpr):
    block = tl.make_tensor_descriptor(x, [N, N], [N, stride], [N, N]).load([0, 0])
    lanes = tl.arange(0, N)
    tl.store(out + lanes[:, None] * N + lanes[None, :], block)


def test_an_argument_of_1_is_known_while_compiling():
    x, out = torch.randn(16, 16), torch.zeros(16, 16)
    with Lockstep() as machine:
        _describe[(1,)](x, out, 1, N=16)
    assert torch.equal(x, out)
    assert machine.violations == []


@triton.jit(do_not_specialize=["stride"])
def _unspecialised(out, stride):
    tl.store(out, stride.to(tl.float32))


@triton.jit
def _annotated(out, stride: tl.int32):
    tl.store(out, stride.to(tl.float32))


@triton.jit
def _specialised(out, stride):
    tl.static_assert(stride == 1)
    tl.store(out, stride)


def test_an_argument_of_1_stays_a_value_where_the_kernel_says_so():
    out = torch.zeros(1)
    with Lockstep():
        _unspecialised[(1,)](out, 1)
        assert out.item() == 1
        _annotated[(1,)](out.zero_(), 1)
        assert out.item() == 1
        _specialised[(1,)](out.zero_(), 1)
        assert out.item() == 1
        with pytest.raises(CompilationError, match="could not be determined at compile-time"):
            _specialised[(1,)](out, 2)


@pytest.mark.parametrize(
    ("warps", "words"),
    [(64, "2048 threads a program, as num_warps=64; a GPU launches at most 1024"), (6, "Triton takes powers of two")],
)
def test_warps_that_no_gpu_launches(warps, words):
    out = torch.zeros(1)
    with Lockstep():
        _unspecialised[(1,)](out, 2, num_warps=32)
        with pytest.raises(ValueError, match=words):
            _unspecialised[(1,)](out, 2, num_warps=warps)


@triton.jit
def _warps(out):
    tl.store(out, cuda.num_warps())
    tl.store(out + 1, cuda.num_threads())


def test_warps_are_those_of_the_launch():
    out = torch.zeros(2, dtype=torch.int32)
    with Lockstep():
        _warps[(1,)](out, num_warps=8)
        assert out.tolist() == [8, 256]
        _warps[(1,)](out)
    assert out.tolist() == [4, 128]


@triton.jit
def _rows(x, num_rows):
    tl.store(x + tl.program_id(1), 1.0)


def test_a_grid_that_no_gpu_launches_is_refused_with_the_argument_that_made_it():
    x = torch.zeros(65536)
    with Lockstep():
        _rows[(1, 65535)](x, 65535)
        assert x.sum() == 65535
        with pytest.raises(
            ValueError, match="65536 programs along y, as large as x and num_rows; a GPU launches at most 65535"
        ):
            _rows[(1, 65536)](x, 65536)
        with pytest.raises(ValueError, match="70000 programs along z; a GPU"):
            _rows[(1, 1, 70000)](x, 3)


class Wrapper:
    """Points into a tensor, as wrappers do that libraries make of them."""

    def __init__(self, tensor, offset, dtype):
        self._held, self._offset, self.dtype = tensor, offset, dtype

    def data_ptr(self):
        return self._held.data_ptr() + self._offset


class Address:
    """An address and no tensor."""

    dtype = torch.int32

    def data_ptr(self):
        return 1 << 20


@triton.jit
def _first(x, out, N: tl.constexpr):
    tl.store(out + tl.arange(0, N), tl.load(x + tl.arange(0, N)))


def test_an_object_that_points_into_a_tensor():
    x, out = torch.arange(8, dtype=torch.int32)[1:], torch.zeros(4, dtype=torch.int32)
    with Lockstep() as machine:
        _first[(1,)](Wrapper(x, 8, torch.int32), out, N=4)
        assert out.tolist() == [3, 4, 5, 6]
        assert machine.drain() == []
        _first[(1,)](Wrapper(x, 16, torch.float32), out, N=4)
        assert [v.kind for v in machine.drain()] == ["out-of-bounds"]


def test_an_object_with_nothing_but_an_address():
    with Lockstep(), pytest.raises(UnsupportedFeature, match="argument x, a Address with an address and no tensor"):
        _first[(1,)](Address(), torch.zeros(4), N=4)

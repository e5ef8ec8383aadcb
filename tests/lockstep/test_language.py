"""Each feature of the language on its own, against numpy or torch."""

import inspect
from typing import NamedTuple

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from indexfuzz.lockstep import KernelError, Lockstep

FACTOR = tl.constexpr(3)


class Pair(NamedTuple):
    first: object
    second: object


@triton.jit
def _vector_add(x, y, out, n, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < n
    tl.store(out + offsets, tl.load(x + offsets, mask=mask) + tl.load(y + offsets, mask=mask), mask=mask)


@pytest.mark.parametrize("n", [1, 63, 64, 65, 1000])
def test_masked_tail(n: int) -> None:
    x, y = torch.randn(n), torch.randn(n)
    out = torch.empty(n)
    with Lockstep() as machine:
        _vector_add[(triton.cdiv(n, 64),)](x, y, out, n, BLOCK=64)
    assert machine.violations == []
    assert torch.equal(out, x + y)


@triton.jit
def _grid(out, BLOCK: tl.constexpr):
    x, y, z = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    place = (z * tl.num_programs(1) + y) * tl.num_programs(0) + x
    tl.store(out + place, x + 10 * y + 100 * z)


def test_three_dimensional_grid_and_callable_grid() -> None:
    out = torch.zeros(4, 3, 2, dtype=torch.int32)
    expected = torch.arange(2) + 10 * torch.arange(3)[:, None] + 100 * torch.arange(4)[:, None, None]
    with Lockstep() as machine:
        _grid[(2, 3, 4)](out, BLOCK=1)
        assert torch.equal(out, expected.int())
        out.zero_()
        _grid[lambda meta: (2 * meta["BLOCK"], 3, 4)](out, BLOCK=1)
    assert torch.equal(out, expected.int())
    assert machine.violations == []


def test_an_empty_grid_does_nothing() -> None:
    out = torch.zeros(4, dtype=torch.int32)
    with Lockstep():
        _grid[(0, 3, 4)](out, BLOCK=1)
    assert not out.any()


@triton.jit
def _constexpr_flow(out, MODE: tl.constexpr, LIMIT: tl.constexpr):
    scale: tl.constexpr = FACTOR * 2
    if MODE == "double":
        factor = 2
    elif MODE is None:
        factor = 5
    else:
        factor = scale
    total = 0
    for i in tl.static_range(LIMIT):
        if i % 2 == 0 and i != 4:
            total += i * factor
    tl.store(out, total)


@pytest.mark.parametrize(("mode", "expected"), [("double", 2 * 8), (None, 5 * 8), ("other", 6 * 8)])
def test_constexpr_if_and_static_range(mode: str | None, expected: int) -> None:
    out = torch.zeros(1, dtype=torch.int32)
    with Lockstep():
        _constexpr_flow[(1,)](out, mode, 8)
    assert out.item() == expected


@triton.jit
def _loops(out, n, step):
    total = 0
    for i in range(n):
        total += i
    for i in tl.range(2, n, step, num_stages=2):
        total += 100 * i
    for i in range(n, 0, -1):
        total += 1000 + i * 0
    k = 0
    while k * k < n:
        k += 1
    tl.store(out, total)
    tl.store(out + 1, k)


def test_loops_with_tensor_bounds() -> None:
    out = torch.zeros(2, dtype=torch.int32)
    with Lockstep():
        _loops[(1,)](out, 10, 3)
    assert out.tolist() == [sum(range(10)) + 100 * sum(range(2, 10, 3)) + 1000 * 10, 4]


@triton.jit
def _helper(x, y, FLAG: tl.constexpr = True):
    if FLAG:
        return x + y, x - y
    return x, x + y


@triton.jit
def _single(x):
    return x * 2


@triton.jit
def _calls(a, out):
    i = tl.arange(0, 8)
    x = tl.load(a + i)
    plus, minus = _helper(x, 1.0)
    same, _ = _helper(x, 3.0, FLAG=False)
    pair = (plus, minus)
    tl.store(out + i, pair[0] * pair[1] + _single(same))


def test_nested_jit_functions_and_tuples() -> None:
    a, out = torch.randn(8), torch.zeros(8)
    with Lockstep():
        _calls[(1,)](a, out)
    assert torch.equal(out, (a + 1) * (a - 1) + a * 2)


@triton.jit
def _operators(x, y, out, n: tl.constexpr):
    i = tl.arange(0, n)
    a, b = tl.load(x + i), tl.load(y + i)
    tl.store(out + i, (a + b) * 2 - (a ^ b) + (a & 7) + (a | 1) + (~b) + (-a) + (a << 2) + (a >> 1))
    tl.store(out + n + i, a // 3 + a % 5)
    close = (a > b) & (a != 4) | (b <= -3)
    tl.store(out + 2 * n + i, tl.where(close, a, b))
    chosen = 1 if n > 4 else 2
    tl.store(out + 3 * n + i, (10 - a) * chosen + (7 // (b * 0 + 2)))


def test_integer_operators() -> None:
    x = torch.arange(-8, 8, dtype=torch.int32)
    y = torch.arange(16, dtype=torch.int32).flip(0) - 6
    out = torch.zeros(4, 16, dtype=torch.int32)
    with Lockstep() as machine:
        _operators[(1,)](x, y, out, 16)
    a, b = x.numpy(), y.numpy()
    expected = (a + b) * 2 - (a ^ b) + (a & 7) + (a | 1) + ~b + -a + (a << 2) + (a >> 1)
    np.testing.assert_array_equal(out[0], expected)
    np.testing.assert_array_equal(out[1], np.trunc(a / 3).astype(int) + np.fmod(a, 5))
    np.testing.assert_array_equal(out[2], np.where((a > b) & (a != 4) | (b <= -3), a, b))
    np.testing.assert_array_equal(out[3], 10 - a + 3)
    assert machine.violations == []


@triton.jit
def _shapes(x, out, M: tl.constexpr, N: tl.constexpr):
    m, n = tl.arange(0, M), tl.arange(0, N)
    block = tl.load(x + m[:, None] * N + n[None, :])
    turned = tl.trans(block)
    flat = tl.reshape(turned, [M * N])
    low, high = tl.split(tl.reshape(flat, [M * N // 2, 2]))
    joined = tl.reshape(tl.join(high, low), [M * N])
    wide = tl.broadcast_to(tl.expand_dims(m, 1), [M, N])
    permuted = tl.permute(tl.reshape(block, [M, N // 2, 2]), (2, 0, 1))
    tl.store(out + tl.arange(0, M * N), joined)
    tl.store(out + M * N + m[:, None] * N + n[None, :], wide.to(tl.float32) + block.T.T)
    tl.store(out + 2 * M * N + tl.arange(0, M * N), tl.ravel(permuted))


def test_shape_operations() -> None:
    M, N = 4, 8
    x = torch.randn(M, N)
    out = torch.zeros(3, M * N)
    with Lockstep():
        _shapes[(1,)](x, out, M, N)
    flat = x.T.reshape(-1, 2)
    assert torch.equal(out[0], flat.flip(1).reshape(-1))
    assert torch.equal(out[1], (torch.arange(M)[:, None] + x).reshape(-1))
    assert torch.equal(out[2], x.reshape(M, N // 2, 2).permute(2, 0, 1).reshape(-1))


@triton.jit
def _more_shapes(x, index, out):
    i = tl.arange(0, 8)
    a = tl.load(x + i)
    tl.store(out + i, tl.gather(a, tl.load(index + i), 0))
    tl.store(out + 8 + i, tl.flip(a, 0))
    tl.store(out + 16 + tl.arange(0, 16), tl.interleave(a, a + 1))
    tl.store(out + 32 + i, tl.zeros([8], tl.float32) + tl.full([8], 2.5, tl.float32))
    tl.store(out + 40 + tl.arange(0, 16), tl.cat(a, a * 2, can_reorder=True))


@pytest.mark.filterwarnings("ignore:.*can_reorder")
def test_gather_flip_interleave_full_and_cat() -> None:
    x = torch.randn(8)
    index = torch.tensor([3, 3, 0, 7, 1, 2, 6, 5], dtype=torch.int32)
    out = torch.zeros(56)
    with Lockstep():
        _more_shapes[(1,)](x, index, out)
    assert torch.equal(out[:8], x[index.long()])
    assert torch.equal(out[8:16], x.flip(0))
    assert torch.equal(out[16:32], torch.stack([x, x + 1], 1).reshape(-1))
    assert torch.equal(out[32:40], torch.full((8,), 2.5))
    assert torch.equal(out[40:], torch.cat([x, x * 2]))


@triton.jit
def _scalars(out, flag, real, small, big, nothing, wide: tl.int64):
    value = real if nothing is None else real * 2
    if flag and small > 2:
        value = value + 1
    if not flag or small == 2:
        value = value + 1000
    tl.store(out, value)
    tl.store(out + 1, (big // 1024).to(tl.float32))
    tl.static_assert(wide.dtype == tl.int64)
    tl.static_assert(small.dtype == tl.int32)
    tl.static_assert(big.dtype == tl.int64)
    tl.store(out + 2, wide.to(tl.float32))


def test_scalar_arguments() -> None:
    out = torch.zeros(3)
    with Lockstep():
        _scalars[(1,)](out, True, 0.5, 3, 1 << 40, None, 7, num_warps=8)
    assert out.tolist() == [1.5, 2.0**30, 7.0]


@triton.jit
def _unpack_with_none(values, out):
    first, second, nothing = values
    tl.store(out, first + second)
    if nothing is None:
        tl.store(out + 1, 1)


def test_a_tuple_with_none_is_unpacked() -> None:
    out = torch.zeros(2)
    with Lockstep():
        _unpack_with_none[(1,)]((2.0, 3.0, None), out)
    assert out.tolist() == [5, 1]


@triton.jit
def _tuple_argument(pair, out):
    first, scale = pair
    i = tl.arange(0, 4)
    tl.store(out + i, tl.load(first + i) * scale)


def test_tuple_argument() -> None:
    x, out = torch.randn(4), torch.zeros(4)
    with Lockstep():
        _tuple_argument[(1,)]((x, 2), out)
    assert torch.equal(out, 2 * x)


@triton.jit
def _default(out, VALUE: tl.constexpr = 7):
    tl.store(out, VALUE)


@triton.autotune(configs=[triton.Config({"VALUE": 3}), triton.Config({"VALUE": 4})], key=[])
@triton.heuristics({"DOUBLE": lambda args: args["VALUE"] * 2})
@triton.jit
def _tuned(out, VALUE: tl.constexpr, DOUBLE: tl.constexpr):
    tl.store(out, DOUBLE)


def test_defaults_heuristics_and_autotune_take_the_first_configuration() -> None:
    out = torch.zeros(1, dtype=torch.int32)
    with Lockstep():
        _default[(1,)](out)
        assert out.item() == 7
        _default[(1,)](out, VALUE=9)
        assert out.item() == 9
        _tuned[(1,)](out)
    assert out.item() == 6


@triton.jit
def _f_string(out, N: tl.constexpr):
    tl.static_assert(N == 4, f"N is {N}")
    tl.store(out, N)


def test_static_assert_names_the_line() -> None:
    out = torch.zeros(1, dtype=torch.int32)
    with Lockstep():
        _f_string[(1,)](out, 4)
        with pytest.raises(KernelError, match=r"test_language.py:\d+: in _f_string: AssertionError: N is 5"):
            _f_string[(1,)](out, 5)


@triton.jit
def _device_assert(x):
    value = tl.load(x + tl.program_id(0))
    tl.device_assert(value > 0, "positive")
    assert value < 10, "small"


def test_device_assert_names_program_and_line() -> None:
    with Lockstep():
        _device_assert[(3,)](torch.tensor([1, 2, 3]))
        with pytest.raises(KernelError, match=r"program \(2, 0, 0\): positive"):
            _device_assert[(3,)](torch.tensor([1, 2, 0]))
        with pytest.raises(KernelError, match="small"):
            _device_assert[(3,)](torch.tensor([1, 12, 1]))


@triton.jit
def _type_error(x):
    tl.store(x, tl.load(x) + tl.arange(0, 4))


def test_an_error_in_the_kernel_names_the_line_and_undoes_nothing_else() -> None:
    x = torch.zeros(4)
    with Lockstep(), pytest.raises(KernelError, match=r"test_language.py:\d+: in _type_error: ValueError"):
        _type_error[(1,)](x)


@triton.jit
def _prints(x):
    tl.device_print("x is", tl.load(x))


def test_device_print(capsys: pytest.CaptureFixture[str]) -> None:
    with Lockstep():
        _prints[(1,)](torch.tensor([5]))
    assert "x is" in capsys.readouterr().out


@triton.jit
def _list_comprehension(out):
    values = [2 * v for v in (1, 2, 3)]
    tl.store(out, values[0] + values[1] + values[2])


def test_list_comprehension() -> None:
    out = torch.zeros(1, dtype=torch.int32)
    with Lockstep():
        _list_comprehension[(1,)](out)
    assert out.item() == 12


hidden = 5


@triton.jit
def _reads_plain_global(out):
    tl.store(out, hidden)


def test_a_plain_global_is_as_unreadable_as_on_a_gpu() -> None:
    with Lockstep(), pytest.raises(KernelError, match="hidden"):
        _reads_plain_global[(1,)](torch.zeros(1))


def test_outside_the_block_launches_are_triton_s_own() -> None:
    before = triton.runtime.jit.JITFunction.run
    with Lockstep():
        assert triton.runtime.jit.JITFunction.run is not before
    assert triton.runtime.jit.JITFunction.run is before


@triton.jit
def _scalar_map(x, y):
    if x > y:
        result = x * 2
    elif x == y:
        result = x * 0
    else:
        result = y + 1
    return result


@triton.jit
def _map(x, y, out):
    i = tl.arange(0, 8)
    tl.store(out + i, tl.map_elementwise(_scalar_map, tl.load(x + i), tl.load(y + i)))


def test_map_elementwise_branches_lane_by_lane() -> None:
    x = torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8])
    y = torch.tensor([2.0, 2, 2, 9, 5, 1, 7, 0])
    out = torch.zeros(8)
    with Lockstep():
        _map[(1,)](x, y, out)
    assert torch.equal(out, torch.where(x > y, 2 * x, torch.where(x == y, 0.0, y + 1)))


@triton.jit
def _cat(x, y, out, DIM: tl.constexpr):
    i = tl.arange(0, 4)
    at = i[:, None] * 4 + i[None, :]
    both = tl.cat(tl.load(x + at, cache_modifier=".cg"), tl.load(y + at, eviction_policy="evict_last"), dim=DIM)
    rows, columns = tl.arange(0, both.shape[0]), tl.arange(0, both.shape[1])
    tl.store(out + rows[:, None] * both.shape[1] + columns[None, :], both)


@pytest.mark.parametrize("dim", [0, 1])
def test_cat_along_an_axis(dim: int) -> None:
    if "dim" not in inspect.signature(tl.cat).parameters:
        pytest.skip(f"tl.cat has no dim in Triton {triton.__version__}")
    x, y = torch.randn(4, 4), torch.randn(4, 4)
    out = torch.zeros(8, 4) if dim == 0 else torch.zeros(4, 8)
    with Lockstep():
        _cat[(1,)](x, y, out, dim)
    assert torch.equal(out, torch.cat([x, y], dim))


@triton.jit
def _plus(a, b):
    return a + b


@triton.jit
def _named_arguments(x, sums, running, largest, N: tl.constexpr, LIMIT: tl.constexpr):
    i = tl.arange(0, min(N, LIMIT))
    block = tl.load(x + i[:, None] * N + tl.arange(0, N)[None, :])
    tl.store(sums + i, tl.reduce(input=block, axis=1, combine_fn=_plus))
    tl.store(running + i[:, None] * N + tl.arange(0, N)[None, :], tl.cumsum(block, axis=1))
    tl.store(largest + i, tl.max(block.abs(), axis=-1))


def test_reductions_by_named_arguments_and_methods() -> None:
    x = torch.randint(-9, 9, (4, 8)).float()
    sums, running, largest = torch.zeros(4), torch.zeros(4, 8), torch.zeros(4)
    with Lockstep():
        _named_arguments[(1,)](x, sums, running, largest, 8, 4)
    assert torch.equal(sums, x.sum(1))
    assert torch.equal(running, x.cumsum(1))
    assert torch.equal(largest, x.abs().amax(1))


@triton.jit
def _batched(a, b, out, N: tl.constexpr):
    batch, rows = tl.arange(0, 2)[:, None, None], tl.arange(0, N)
    index = batch * N * N + rows[None, :, None] * N + rows[None, None, :]
    own = index + tl.program_id(0) * 2 * N * N
    tl.store(out + own, tl.dot(tl.load(a + own), tl.load(b + index)))


@pytest.mark.parametrize("swapped", [False, True])
def test_a_batched_dot_of_which_one_operand_is_the_same_in_all_programs(swapped):
    generator = torch.Generator().manual_seed(1)
    a = torch.randint(-8, 8, (3, 2, 16, 16), generator=generator).float()
    b = torch.randint(-8, 8, (2, 16, 16), generator=generator).float()
    out = torch.zeros(3, 2, 16, 16)
    with Lockstep():
        (_batched_right if swapped else _batched)[(3,)](a, b, out, N=16)
    assert torch.equal(out, b @ a if swapped else a @ b)


@triton.jit
def _batched_right(a, b, out, N: tl.constexpr):
    batch, rows = tl.arange(0, 2)[:, None, None], tl.arange(0, N)
    index = batch * N * N + rows[None, :, None] * N + rows[None, None, :]
    own = index + tl.program_id(0) * 2 * N * N
    tl.store(out + own, tl.dot(tl.load(b + index), tl.load(a + own)))


@triton.jit
def _print_hexadecimal(x):
    tl.device_print("", tl.load(x + tl.arange(0, 2)), hex=True)


@pytest.mark.parametrize(
    ("dtype", "shown"),
    [(torch.float32, "[[0x1.8000000000000p+0 -0x1.0000000000000p+1]]"), (torch.int16, "[[0x0001 0xfffe]]")],
)
def test_device_print_in_hexadecimal(dtype, shown, capsys) -> None:
    with Lockstep():
        _print_hexadecimal[(1,)](torch.tensor([1.5, -2]).to(dtype))
    assert capsys.readouterr().out.strip() == f": {shown}"


@triton.jit
def _count_down(lengths, out):
    last = tl.load(lengths + tl.program_id(0))
    for i in range(last - 1):
        tl.store(out + i, i)


def test_a_loop_whose_bound_is_wrong_ends_before_it_begins() -> None:
    lengths, out = torch.tensor([3, -(2**31)], dtype=torch.int32), torch.zeros(4, dtype=torch.int32)
    message = r":\d+: in _count_down: OverflowError: a loop from 0 to 2147483647 would run 2,147,483,647 times"
    with Lockstep():
        _count_down[(1,)](lengths, out)
        with pytest.raises(KernelError, match=message):
            _count_down[(2,)](lengths, out)
    assert out.tolist() == [0, 1, 0, 0]

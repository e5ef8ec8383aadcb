"""Values that nothing defined: masked-off lanes without `other`, and bytes that were declared uninitialised."""

import linecache
import re

import numpy as np
import torch
import triton
import triton.language as tl

from indexfuzz.lockstep import Lockstep


@triton.jit
def _sum(x, out, n, N: tl.constexpr, HOW: tl.constexpr):
    i = tl.arange(0, N)
    mask = i < n
    values = tl.load(x + i, mask=mask, other=0.0) if HOW == "other" else tl.load(x + i, mask=mask)
    if HOW == "where":
        values = tl.where(mask, values, 0.0)
    tl.store(out, tl.sum(values, 0))


@triton.jit
def _max_row(x, out, n, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out, tl.max(tl.load(x + i, mask=i < n), 0))


@triton.jit
def _store_all(x, out, n, N: tl.constexpr, MASKED: tl.constexpr):
    i = tl.arange(0, N)
    values = tl.load(x + i, mask=i < n) * 2 + 1
    if MASKED:
        tl.store(out + i, values, mask=i < n)
    else:
        tl.store(out + i, values)


@triton.jit
def _address(table, x, out, n, N: tl.constexpr):
    i = tl.arange(0, N)
    page = tl.load(table + i, mask=i < n)
    tl.store(out + i, tl.load(x + page))


@triton.jit
def _mask_from(flags, x, out, n, N: tl.constexpr):
    i = tl.arange(0, N)
    keep = tl.load(flags + i, mask=i < n) > 0
    tl.store(out + i, tl.load(x + i), mask=keep)


@triton.jit
def _branch_on(flag, out, n):
    if tl.load(flag, mask=n > 0) > 0:
        tl.store(out, 1.0)


@triton.jit
def _loop_to(count, out, n):
    total = 0
    for i in range(tl.load(count, mask=n > 0)):
        total += i
    tl.store(out, total)


@triton.jit
def _dot_rows(x, y, out, n):
    i = tl.arange(0, 16)
    a = tl.load(x + i[:, None] * 16 + i[None, :], mask=(i < n)[:, None])
    b = tl.load(y + i[:, None] * 16 + i[None, :])
    tl.store(out + i[:, None] * 16 + i[None, :], tl.dot(a, b), mask=(i < n)[:, None])


@triton.jit
def _dot_inner(x, y, out, n):
    i = tl.arange(0, 16)
    a = tl.load(x + i[:, None] * 16 + i[None, :], mask=(i < n)[None, :])
    b = tl.load(y + i[:, None] * 16 + i[None, :])
    tl.store(out + i[:, None] * 16 + i[None, :], tl.dot(a, b))


def _found(machine: Lockstep) -> list[str]:
    return [f"{v.kind}: {v.message.partition(': ')[0]}" for v in machine.drain()]


def _reasons(machine: Lockstep) -> list[str]:
    """What the first violation says about its origin, with the source in place of line numbers."""
    message = machine.drain()[0].message
    return [
        re.sub(r"line (\d+)", lambda found: linecache.getline(__file__, int(found[1])).strip(), reason)
        for reason in message.partition(": ")[2].split(" or ")
    ]


def test_a_sum_over_masked_lanes() -> None:
    x, out = torch.ones(8), torch.zeros(1)
    with Lockstep() as machine:
        _sum[(1,)](x, out, 5, 8, "nothing")
        assert _found(machine) == ["uninitialised: a store writes an undefined value"]
        for how in ("other", "where"):
            _sum[(1,)](x, out, 5, 8, how)
            assert out.item() == 5
        _sum[(1,)](x, out, 8, 8, "nothing")
        assert _found(machine) == []


def test_a_maximum_over_masked_lanes() -> None:
    with Lockstep() as machine:
        _max_row[(1,)](torch.ones(8), torch.zeros(1), 7, 8)
        assert len(_found(machine)) == 1


def test_a_store_of_masked_lanes() -> None:
    with Lockstep() as machine:
        _store_all[(1,)](torch.ones(8), torch.zeros(8), 5, 8, False)
        (found,) = machine.drain()
        assert (found.argument, found.lane) == ("out", (5,))
        _store_all[(1,)](torch.ones(8), torch.zeros(8), 5, 8, True)
    assert _found(machine) == []


def test_an_address_from_masked_lanes() -> None:
    table = torch.arange(8, dtype=torch.int32)
    with Lockstep() as machine:
        _address[(1,)](table, torch.ones(8), torch.zeros(8), 6, 8)
        found = machine.drain()[0]
        assert found.message.startswith("the address of a load is undefined")
        assert found.byte_offset is None
        assert found.detail.endswith("[program (0, 0, 0), lane (6,)]")
        _address[(1,)](table, torch.ones(8), torch.zeros(8), 8, 8)
    assert _found(machine) == []


def test_a_mask_from_masked_lanes() -> None:
    with Lockstep() as machine:
        _mask_from[(1,)](torch.ones(8), torch.ones(8), torch.zeros(8), 6, 8)
        assert _found(machine) == ["uninitialised: the mask of a store is undefined"]


def test_control_flow_on_an_undefined_value() -> None:
    one = torch.ones(1, dtype=torch.int32)
    with Lockstep() as machine:
        _branch_on[(1,)](one, torch.zeros(1), 0)
        assert _found(machine) == ["uninitialised: a branch condition is undefined"]
        _branch_on[(1,)](one, torch.zeros(1), 1)
        assert _found(machine) == []
        _loop_to[(1,)](one * 3, torch.zeros(1), 1)
        assert _found(machine) == []
        _loop_to[(1,)](one * 0, torch.zeros(1), 0)
        assert "uninitialised: a loop bound is undefined" in _found(machine)


def test_dot_spoils_rows_or_everything() -> None:
    x = y = torch.ones(16, 16).half()
    with Lockstep() as machine:
        _dot_rows[(1,)](x, y, torch.zeros(16, 16), 9)
        assert _found(machine) == []
        _dot_inner[(1,)](x, y, torch.zeros(16, 16), 9)
        assert _found(machine) == ["uninitialised: a store writes an undefined value"]


@triton.jit
def _sum_of_two(x, y, out, n, N: tl.constexpr):
    i, program = tl.arange(0, N), tl.program_id(0)
    a = tl.load(x + i, mask=i < n + program)
    b = tl.load(y + i)
    c = tl.load(x + i, mask=i < n, other=0.0)
    tl.store(out + program * N + i, a + b + c)


def test_the_masked_load_is_named() -> None:
    with Lockstep() as machine:
        _sum_of_two[(1,)](torch.ones(8), torch.ones(8), torch.zeros(8), 5, 8)
        (reason,) = _reasons(machine)
    assert reason == "a = tl.load(x + i, mask=i < n + program) loads x, lane (5,) masked off without `other`"


def test_the_bytes_that_nobody_wrote_are_named() -> None:
    y = torch.ones(8)
    with Lockstep() as machine:
        machine.declare("y", y, initialised=torch.arange(32) < 26)
        _sum_of_two[(2,)](torch.ones(8), y, torch.zeros(16), 8, 8)
        (reason,) = _reasons(machine)
    assert reason == "b = tl.load(y + i) loads y at byte 24, where nobody wrote"


def test_only_loads_of_the_program_are_named() -> None:
    out = torch.zeros(16)
    with Lockstep() as machine:
        _sum_of_two[(2,)](torch.ones(8), torch.ones(8), out, 7, 8)
        (found,) = machine.drain()
    assert (found.program, found.lane) == ((0, 0, 0), (7,))
    assert "lane (7,)" in found.message
    assert found.detail == f"{found.message} [program (0, 0, 0), lane (7,), byte 28]"
    assert str(found).endswith(f"uninitialised in _sum_of_two: {found.detail}")


@triton.jit
def _five_loads(x, out, n):
    a = tl.load(x, mask=n > 1)
    b = tl.load(x + 1, mask=n > 1)
    c = tl.load(x + 2, mask=n > 1)
    d = tl.load(x + 3, mask=n > 1)
    e = tl.load(x + 4, mask=n > 0)
    tl.store(out, a + b + c + d + e)


def test_a_few_of_many_loads_are_named() -> None:
    with Lockstep() as machine:
        _five_loads[(1,)](torch.ones(8), torch.zeros(1), 1)
        reasons = _reasons(machine)
        assert reasons[0] == "a = tl.load(x, mask=n > 1) loads x, masked off without `other`"
        assert reasons[-1] == "2 other loads"
        assert len(reasons) == 3
        _five_loads[(1,)](torch.ones(8), torch.zeros(1), 2)
        assert machine.drain() == []


@triton.jit
def _copy(x, out, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i, tl.load(x + i))


def test_bytes_declared_uninitialised() -> None:
    x, out = torch.zeros(8), torch.zeros(8)
    with Lockstep() as machine:
        machine.declare("x", x, initialised=False)
        _copy[(1,)](x, out, 8)
        assert len(_found(machine)) == 1
        _copy[(1,)](torch.ones(8), x, 8)
        _copy[(1,)](x, out, 8)
    assert _found(machine) == []
    assert out.all()


def test_some_bytes_declared_uninitialised() -> None:
    whole = torch.zeros(4, 8)
    rows, out = whole[:, 2:6], torch.zeros(4)
    known = np.ones((4, 4, 4), np.bool_)
    known[2, 3, 1] = False
    with Lockstep() as machine:
        machine.declare("rows", rows, initialised=known.reshape(-1))
        for row in (0, 1, 3):
            _copy[(1,)](whole[row, 2:6], out, 4)
        assert _found(machine) == []
        _copy[(1,)](whole[2, 2:6], out, 4)
        (found,) = machine.drain()
    assert (found.kind, found.lane) == ("uninitialised", (3,))


@triton.jit
def _scale_of_page(page, out, tokens, N: tl.constexpr):
    scales = (page + tokens * N).to(tl.pointer_type(tl.float32))
    value = tl.load(page + tl.program_id(0) * N + tl.arange(0, N)).to(tl.float32)
    tl.store(out + tl.program_id(0) * N + tl.arange(0, N), value * tl.load(scales + tl.program_id(0)))


@triton.jit
def _row_sum(x, out, stride, n, N: tl.constexpr):
    i = tl.arange(0, N)
    values = tl.load(x + tl.program_id(0) * stride + i, mask=i < n, other=0.0)
    tl.store(out + tl.program_id(0), tl.sum(values, 0))


@triton.jit
def _matmul(x, y, out):
    i = tl.arange(0, 16)
    at = i[:, None] * 16 + i[None, :]
    tl.store(out + at, tl.dot(tl.load(x + at), tl.load(y + at)))


@triton.jit
def _read_before_writing(x, out, N: tl.constexpr):
    i = tl.arange(0, N)
    before = tl.load(x + i)
    tl.store(x + i, 1.0)
    tl.store(out + i, before)


@triton.jit
def _write_before_reading(x, out, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(x + i, 1.0)
    tl.store(out + i, tl.load(x + i))


@triton.jit
def _count_up(x, out):
    tl.store(out, tl.atomic_add(x, 1.0))


def test_a_scale_that_nobody_wrote() -> None:
    page, out = torch.zeros(4 * 20, dtype=torch.int8), torch.zeros(4, 16)
    known = torch.ones(4 * 20, dtype=torch.bool)
    with Lockstep() as machine:
        machine.declare("page", page, initialised=known)
        _scale_of_page[(4,)](page, out, 4, 16)
        assert _found(machine) == []
        known[4 * 16 + 2 * 4 + 3] = False
        machine.declare("page", page, initialised=known)
        _scale_of_page[(4,)](page, out, 4, 16)
        (found,) = machine.drain()
    assert (found.kind, found.program) == ("uninitialised", (2, 0, 0))


def test_a_sum_that_goes_into_the_padding_of_rows() -> None:
    x, out = torch.zeros(3, 20), torch.zeros(3)
    known = torch.zeros(3, 20, 4, dtype=torch.bool)
    known[:, :13] = True
    with Lockstep() as machine:
        machine.declare("x", x, initialised=known)
        _row_sum[(3,)](x, out, 20, 13, 16)
        assert _found(machine) == []
        _row_sum[(3,)](x, out, 20, 14, 16)
        assert _found(machine) == ["uninitialised: a store writes an undefined value"]


def test_an_index_that_nobody_wrote() -> None:
    table = torch.zeros(8, dtype=torch.int32)
    with Lockstep() as machine:
        machine.declare("table", table, initialised=torch.arange(32) < 28)
        _address[(1,)](table, torch.ones(8), torch.zeros(8), 8, 8)
        assert "uninitialised: the address of a load is undefined" in _found(machine)


def test_a_product_with_a_row_that_nobody_wrote() -> None:
    x = y = torch.ones(16, 16).half()
    with Lockstep() as machine:
        machine.declare("x", x, initialised=torch.arange(512) < 480)
        _matmul[(1,)](x, y, torch.zeros(16, 16))
        (found,) = machine.drain()
    assert (found.kind, found.argument) == ("uninitialised", "out")


def test_reading_before_writing() -> None:
    with Lockstep() as machine:
        for kernel, found in ((_read_before_writing, 1), (_write_before_reading, 0)):
            x = torch.zeros(8)
            machine.declare("x", x, initialised=False)
            kernel[(1,)](x, torch.zeros(8), 8)
            assert len(_found(machine)) == found


def test_counting_from_nothing() -> None:
    x = torch.zeros(1)
    with Lockstep() as machine:
        machine.declare("x", x, initialised=False)
        _count_up[(1,)](x, torch.zeros(1))
        assert "uninitialised: an atomic updates bytes that nobody wrote" in _found(machine)
        _count_up[(1,)](x, torch.zeros(1))
        assert _found(machine) == []


def test_switched_off() -> None:
    with Lockstep(checkers=["bounds"]) as machine:
        _sum[(1,)](torch.ones(8), torch.zeros(1), 5, 8, "nothing")
        _branch_on[(1,)](torch.ones(1), torch.zeros(1), 0)
    assert _found(machine) == []


@triton.jit
def _count_equal(x, out, n, N: tl.constexpr, EITHER: tl.constexpr):
    i = tl.arange(0, N)
    value = tl.load(x + i, mask=i < n)
    found = (value == 1) | (i >= n) if EITHER else (value == 1) & (i < n)
    tl.store(out, tl.sum(tl.where(found, 1, 0)))


@triton.jit
def _count_equal_with_bits(x, out, n, N: tl.constexpr):
    i = tl.arange(0, N)
    value = tl.load(x + i, mask=i < n)
    tl.store(out, tl.sum(value & tl.where(i < n - 1, -1, 0)) + tl.sum(value & 1))


def test_what_a_defined_operand_decides_is_defined() -> None:
    x, out = torch.ones(8, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    with Lockstep() as machine:
        _count_equal[(1,)](x, out, 5, 8, EITHER=False)
        assert (out.item(), _found(machine)) == (5, [])
        _count_equal[(1,)](x, out, 5, 8, EITHER=True)
        assert (out.item(), _found(machine)) == (8, [])
        _count_equal_with_bits[(1,)](x, out, 5, 8)
        assert len(_found(machine)) == 1

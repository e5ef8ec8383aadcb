"""Inline assembly of one known PTX instruction; anything else is refused by name."""

import math

import pytest
import torch
import triton
import triton.language as tl

from indexfuzz.lockstep import Lockstep, UnsupportedFeature

X, Y, Z = [0.5, 2.0, 3.0, math.nan], [4.0, -1.0, 0.25, 1.0], [1.0, 1.0, -8.0, 0.0]


@triton.jit
def _assemble(x, y, z, out, ASM: tl.constexpr, CONSTRAINTS: tl.constexpr, COUNT: tl.constexpr, PACK: tl.constexpr):
    i = tl.arange(0, 4)
    a, b, c = tl.load(x + i), tl.load(y + i), tl.load(z + i)
    if COUNT == 1:
        made = tl.inline_asm_elementwise(ASM, CONSTRAINTS, [a], dtype=out.dtype.element_ty, is_pure=True, pack=PACK)
    elif COUNT == 2:
        made = tl.inline_asm_elementwise(ASM, CONSTRAINTS, [a, b], dtype=out.dtype.element_ty, is_pure=True, pack=PACK)
    else:
        made = tl.inline_asm_elementwise(
            ASM, CONSTRAINTS, [a, b, c], dtype=out.dtype.element_ty, is_pure=True, pack=PACK
        )
    tl.store(out + i, made)


def run(asm, constraints, count, *, dtype=torch.float32, pack=1):
    out = torch.zeros(4, dtype=dtype)
    with Lockstep() as machine:
        _assemble[(1,)](*map(torch.tensor, (X, Y, Z)), out, asm, constraints, count, pack)
    assert machine.violations == []
    return out.tolist()


@pytest.mark.parametrize(
    ("asm", "wanted"),
    [
        ("mov.f32 $0, $1;", X[:3]),
        ("  mov.b32   $0,$1 ", X[:3]),
        ("ex2.approx.ftz.f32 $0, $1;", [2**0.5, 4.0, 8.0]),
        ("lg2.approx.f32 $0, $1;", [-1.0, 1.0, math.log2(3)]),
        ("rcp.approx.f32 $0, $1;", [2.0, 0.5, 1 / 3]),
        ("sqrt.rn.f32 $0, $1;", [0.5**0.5, 2**0.5, 3**0.5]),
        ("tanh.approx.f32 $0, $1;", [math.tanh(x) for x in X[:3]]),
    ],
)
def test_one_operand(asm, wanted):
    found = run(asm, "=f,f", 1)
    assert found[:3] == pytest.approx(wanted, rel=2**-23)
    assert math.isnan(found[3])


@pytest.mark.parametrize(
    ("asm", "wanted"),
    [
        ("add.rn.f32 $0, $1, $2;", [4.5, 1.0, 3.25, math.nan]),
        ("sub.f32 $0, $1, $2;", [-3.5, 3.0, 2.75, math.nan]),
        ("max.f32 $0, $1, $2;", [4.0, 2.0, 3.0, 1.0]),
        ("min.NaN.f32 $0, $1, $2;", [0.5, -1.0, 0.25, math.nan]),
    ],
)
def test_two_operands(asm, wanted):
    assert run(asm, "=r,r,r", 2) == pytest.approx(wanted, nan_ok=True)


def test_three_operands():
    assert run("fma.rn.f32 $0, $1, $2, $3;", "=f,f,f,f", 3)[:3] == [3.0, -1.0, -7.25]


def test_a_move_to_another_type_keeps_the_bits():
    assert run("mov.b32 $0, $1;", "=r,r", 1, dtype=torch.int32)[:3] == torch.tensor(X[:3]).view(torch.int32).tolist()


@pytest.mark.parametrize(
    ("asm", "constraints", "count", "more"),
    [
        ("nonsense $0, $1;", "=r,r", 1, {}),
        ("mov.f32 $1, $0;", "=r,r", 1, {}),
        ("mov.f32 $0, $2;", "=r,r,r", 2, {}),
        ("add.f32 $0, $1;", "=r,r", 1, {}),
        ("mov.f32 $0, $1;", "=r,r", 1, {"pack": 2}),
        ("mov.b64 $0, $1;", "=l,l", 1, {}),
        ("mov.f32 $0, $1; add.f32 $0, $0, $1;", "=r,r", 1, {}),
        ("ex2.approx.f32 $0, $1;", "=f,f", 1, {"dtype": torch.int32}),
        ("mov.u32 $0, %globaltimer_lo;", "=r,r", 1, {}),
    ],
)
def test_anything_else_is_refused(asm, constraints, count, more):
    with pytest.raises(
        UnsupportedFeature, match=r"test_assembly.py:\d+: tl.inline_asm_elementwise of '.*' in _assemble"
    ):
        run(asm, constraints, count, **more)


E2M1 = """
    {
        .reg .b8 tmp;
        cvt.rn.satfinite.e2m1x2.f32 tmp, $1, $2;
        cvt.u32.u8 $0, tmp;
    }
"""
NUMBERS = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


@triton.jit
def _pack(high, low, out, ASM: tl.constexpr, COUNT: tl.constexpr):
    i = tl.program_id(0) * COUNT + tl.arange(0, COUNT)
    args = [tl.load(high + i), tl.load(low + i)]
    made = tl.inline_asm_elementwise(ASM, "=r,f,f", args, dtype=tl.uint32, is_pure=True, pack=1)
    tl.store(out + i, made.to(tl.uint8))


def pack(high, low, asm=E2M1):
    out = torch.zeros(len(high), dtype=torch.uint8)
    count = min(len(high), 1 << 12)
    with Lockstep() as machine:
        _pack[(len(high) // count,)](high, low, out, asm, count)
    assert machine.violations == []
    return out


def test_every_bf16_value_becomes_the_nearest_4_bit_number():
    """Ties go to the even code, and what is beyond 6 becomes 6."""
    x = (torch.arange(1 << 16, dtype=torch.int32) << 16).view(torch.float32)
    x = x[~x.isnan()].repeat(2)[: 1 << 16]
    packed = pack(x, x.flip(0))
    away = (x.double().abs().clamp_max(6.0).unsqueeze(1) - NUMBERS.double()).abs()
    nearest = away == away.min(1, keepdim=True).values
    is_tie = nearest.sum(1) == 2
    even = (nearest & (torch.arange(8) % 2 == 0)).int().argmax(1)
    code = torch.where(is_tie, even, nearest.int().argmax(1)) + 8 * x.signbit()
    assert is_tie.sum() == 14
    assert torch.equal(packed, (code << 4 | code.flip(0)).to(torch.uint8))


def test_numbers_that_bf16_does_not_hold_are_rounded_once():
    above = torch.nextafter(torch.tensor([0.25, 1.25, 2.5, 5.0]), torch.tensor(9.0))
    below = torch.nextafter(torch.tensor([0.75, 1.75, 3.5, 6.0]), torch.tensor(0.0))
    assert pack(above, -below).tolist() == [0x19, 0x3B, 0x5D, 0x7F]


def test_nan_is_the_largest_number():
    special = torch.tensor([math.nan, -math.nan, math.inf, -math.inf])
    assert pack(special, torch.zeros(4)).tolist() == [0x70, 0x70, 0x70, 0xF0]


def test_a_block_of_other_instructions_is_refused():
    with pytest.raises(UnsupportedFeature, match=r"cvt\.rz\.satfinite\.e2m1x2\.f32"):
        pack(torch.zeros(4), torch.zeros(4), E2M1.replace("cvt.rn", "cvt.rz"))


@triton.jit
def _store_what_a_barrier_gives(out):
    tl.store(out, tl.inline_asm_elementwise("bar.sync 0;", "=r", [], dtype=tl.int32, is_pure=False, pack=1))


def test_a_barrier_gives_nothing():
    with Lockstep() as machine:
        _store_what_a_barrier_gives[(1,)](torch.zeros(1, dtype=torch.int32))
    assert [violation.kind for violation in machine.violations] == ["uninitialised"]

"""tl.dot_scaled against sums of fractions."""

from fractions import Fraction

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from indexfuzz.lockstep import Lockstep, UnsupportedFeature

M, N, K = 16, 32, 64
E2M1 = [0, Fraction(1, 2), 1, Fraction(3, 2), 2, 3, 4, 6]


@triton.jit
def _multiply(
    a,
    sa,
    b,
    sb,
    acc,
    out,
    A: tl.constexpr,
    B: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    KA: tl.constexpr,
    KB: tl.constexpr,
    GROUP: tl.constexpr,
):
    m, n, g = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K // GROUP)
    p = tl.program_id(0)
    x = tl.load(a + p * M * KA + m[:, None] * KA + tl.arange(0, KA)[None, :])
    y = tl.load(b + tl.arange(0, KB)[:, None] * N + n[None, :])
    if sa is not None:
        sa = tl.load(sa + m[:, None] * (K // GROUP) + g[None, :])
    if sb is not None:
        sb = tl.load(sb + n[:, None] * (K // GROUP) + g[None, :])
    total = tl.load(acc + m[:, None] * N + n[None, :])
    total = tl.dot_scaled(x, sa, A, y, sb, B, total)
    tl.store(out + p * M * N + m[:, None] * N + n[None, :], total)


def operand(fmt, rows, columns, axis, generator):
    """Codes of a matrix, packed along an axis where they have four bits, and its values."""
    if fmt == "e2m1":
        codes = torch.randint(0, 16, (rows, columns), generator=generator, dtype=torch.uint8)
        values = [[E2M1[c & 7] * (-1 if c & 8 else 1) for c in row] for row in codes.tolist()]
        low, high = (codes[i::2] if axis == 0 else codes[:, i::2] for i in (0, 1))
        return (low | high << 4).contiguous(), values
    dtype = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2, "bf16": torch.bfloat16, "fp16": torch.float16}[fmt]
    made = (4 * torch.randn(rows, columns, generator=generator)).to(dtype)
    return made, [[Fraction(v) for v in row] for row in made.double().tolist()]


@pytest.mark.parametrize("scaled", ["both", "left", "none"])
@pytest.mark.parametrize(("left", "right"), [("e2m1", "e2m1"), ("e4m3", "e2m1"), ("e5m2", "e4m3"), ("e2m1", "bf16")])
def test_it_is_the_exact_product_rounded_once(left, right, scaled):
    generator = torch.Generator().manual_seed(5)
    a, x = operand(left, 2 * M, K, 1, generator)
    b, y = operand(right, K, N, 0, generator)
    sa = torch.randint(118, 136, (M, K // 32), generator=generator, dtype=torch.uint8) if scaled != "none" else None
    sb = torch.randint(118, 136, (N, K // 32), generator=generator, dtype=torch.uint8) if scaled == "both" else None
    acc, out = torch.randn(M, N, generator=generator), torch.zeros(2, M, N)
    with Lockstep() as machine:
        _multiply[(2,)](a, sa, b, sb, acc, out, A=left, B=right, M=M, N=N, K=K, KA=a.shape[1], KB=b.shape[0], GROUP=32)
    assert machine.violations == []
    for p, i, j in [(0, 0, 0), (1, 3, 7), (1, 15, 31), (0, 8, 16)]:
        total = Fraction(0)
        for k in range(K):
            term = x[p * M + i][k] * y[k][j]
            for scales, row in ((sa, i), (sb, j)):
                if scales is not None:
                    term *= Fraction(2) ** (int(scales[row, k // 32]) - 127)
            total += term
        wanted = np.float32(np.float32(float(total)) + np.float32(acc[i, j]))
        assert out[p, i, j].item() == wanted


def run(sa, dot="ieee", dtype=torch.float8_e4m3fn):
    a, b, out = torch.ones(M, K).to(dtype), torch.ones(K, N).to(dtype), torch.zeros(M, N)
    group = K // sa.shape[1]
    with Lockstep(dot=dot):
        _multiply[(1,)](
            a, sa, b, None, torch.zeros(M, N), out, A="e4m3", B="e4m3", M=M, N=N, K=K, KA=K, KB=K, GROUP=group
        )
    return out


def test_a_scale_of_255_is_not_a_number():
    scale = torch.full((M, 2), 127, dtype=torch.uint8)
    scale[3, 1] = 255
    out = run(scale)
    assert out[3].isnan().all()
    assert (out[[0, 1, 2, 4]] == K).all()


def test_scales_in_fp8_go_with_groups_of_sixteen():
    scale = torch.full((M, 4), 1.5).to(torch.float8_e4m3fn)
    assert (run(scale) == 1.5 * K).all()


def test_matrix_units_of_a_name_have_none():
    with pytest.raises(UnsupportedFeature, match="dot_scaled"):
        run(torch.full((M, 2), 127, dtype=torch.uint8), dot="sm90")

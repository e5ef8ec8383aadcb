"""Features that are missing say so."""

import pytest
import torch
import triton
import triton.language as tl
from triton.experimental import gluon
from triton.tools.tensor_descriptor import TensorDescriptor

from indexfuzz.lockstep import Lockstep, UnsupportedFeature


@triton.jit
def _inline_assembly(x):
    tl.inline_asm_elementwise("bfind.u32 $0, $1;", "=r,r", [tl.load(x)], dtype=tl.int32, is_pure=True, pack=1)


@triton.jit
def _waits(x):
    tl.store(x, tl.atomic_poll(x, 1).to(tl.int32))


@triton.jit
def _described(x):
    tl.store(x, 1.0)


def _rounding_descriptor() -> TensorDescriptor:
    descriptor = TensorDescriptor.from_tensor(torch.zeros(16), [16])
    descriptor.round_f32_to_tf32 = True  # an argument that older releases do not have
    return descriptor


@pytest.mark.parametrize(
    ("kernel", "arguments", "feature"),
    [
        (_inline_assembly, (torch.zeros(1, dtype=torch.int32),), "tl.inline_asm_elementwise of"),
        pytest.param(
            _waits,
            (torch.zeros(1, dtype=torch.int32),),
            "waiting without a limit in tl.atomic_poll",
            marks=pytest.mark.skipif(not hasattr(tl, "atomic_poll"), reason="newer releases of Triton have it"),
        ),
        (_described, (_rounding_descriptor(),), "_described: a TensorDescriptor with round_f32_to_tf32"),
    ],
    ids=lambda value: getattr(getattr(value, "fn", None), "__name__", None),
)
def test_a_missing_feature_names_itself_and_its_line(
    kernel: triton.runtime.jit.JITFunction, arguments: tuple[torch.Tensor, ...], feature: str
) -> None:
    with Lockstep(), pytest.raises(UnsupportedFeature, match=rf"test_unsupported\.py:\d+: .*{feature}"):
        kernel[(1,)](*arguments)


@triton.jit
def _product(x, y, out, D: tl.constexpr):
    i, d = tl.arange(0, 16), tl.arange(0, D)
    a = tl.load(x + i[:, None] * D + d[None, :])
    b = tl.load(y + i[None, :] * D + d[:, None])
    tl.store(out + i[:, None] * 16 + i[None, :], tl.dot(a, b))


@pytest.mark.parametrize(
    ("unit", "dtype", "depth", "message"),
    [
        ("sm90", torch.float8_e4m3fnuz, 32, "sm_90 has no dot of e4m3fnuz"),
        ("sm90", torch.float8_e4m3fn, 16, "takes K in multiples of 32, not 16"),
        ("cdna3", torch.float8_e4m3fnuz, 8, "takes K in multiples of 16, not 8"),
    ],
)
def test_a_dot_that_the_matrix_unit_lacks(unit: str, dtype: torch.dtype, depth: int, message: str) -> None:
    x = torch.zeros(16, depth).to(dtype)
    with Lockstep(dot=unit), pytest.raises(UnsupportedFeature, match=rf"test_unsupported\.py:\d+: .*{message}"):
        _product[(1,)](x, x, torch.zeros(16, 16), depth)
    with Lockstep(dot="ieee"):
        _product[(1,)](x, x, torch.zeros(16, 16), depth)


@gluon.jit
def _of_gluon(x):
    tl.store(x, 1.0)


def test_kernels_of_gluon() -> None:
    with (
        Lockstep(),
        pytest.raises(UnsupportedFeature, match=r"test_unsupported\.py:\d+: _of_gluon is a kernel of Gluon"),
    ):
        _of_gluon[(1,)](torch.zeros(1))

"""Functions of the device library against Python's own, which are rounded from float64 here too."""

import math

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from triton.compiler.errors import CompilationError
from triton.language.extra import libdevice

from indexfuzz.lockstep import Lockstep, UnsupportedFeature

ONE = {
    "log1p": math.log1p,
    "log10": math.log10,
    "expm1": math.expm1,
    "exp10": lambda x: 10.0**x,
    "tan": math.tan,
    "asin": math.asin,
    "acos": math.acos,
    "atan": math.atan,
    "sinh": math.sinh,
    "cosh": math.cosh,
    "asinh": math.asinh,
    "acosh": lambda x: math.acosh(x) if x >= 1 else math.nan,
    "atanh": math.atanh,
    "cbrt": math.cbrt,
    "erfc": math.erfc,
    "rcbrt": lambda x: 1 / math.cbrt(x),
}
TWO = {"copysign": math.copysign, "pow": math.pow, "atan2": math.atan2, "hypot": math.hypot, "fmod": math.fmod}


@triton.jit
def _one(x, out, F: tl.constexpr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i, F(tl.load(x + i)))


@triton.jit
def _two(x, y, out, F: tl.constexpr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i, F(tl.load(x + i), tl.load(y + i)))


def is_near(found, wanted, dtype):
    """Within two units in the last place: two libraries for float64 need not agree on it."""
    return np.isclose(found, wanted, rtol=2 * torch.finfo(dtype).eps, atol=0, equal_nan=True).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ONE)
def test_functions_of_one_argument(name, dtype):
    x = torch.tensor([0.001, 0.25, 0.5, 0.7, 0.99, 1e-5, 0.3, 0.125]).to(dtype)
    x = x + 1 if name == "acosh" else x
    out = torch.zeros_like(x)
    with Lockstep():
        _one[(1,)](x, out, getattr(libdevice, name), N=8)
    assert is_near(out.numpy(), [ONE[name](v) for v in x.double().tolist()], dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", TWO)
def test_functions_of_two_arguments(name, dtype):
    x = torch.tensor([0.001, 0.25, 5.5, 70.0, 0.99, 1e-5, 3.0, 0.125]).to(dtype)
    y = torch.tensor([2.0, 0.25, -0.5, 0.75, 3.0, 7.0, 0.1, 1.5]).to(dtype)
    out = torch.zeros_like(x)
    with Lockstep():
        _two[(1,)](x, y, out, getattr(libdevice, name), N=8)
    wanted = [TWO[name](*operands) for operands in zip(x.double().tolist(), y.double().tolist(), strict=True)]
    assert is_near(out.numpy(), wanted, dtype)


def test_questions():
    x = torch.tensor([1.0, math.inf, -math.inf, math.nan])
    found = []
    with Lockstep():
        for function in (libdevice.isnan, libdevice.isinf, libdevice.finitef):
            out = torch.zeros(4, dtype=torch.int32)
            _one[(1,)](x, out, function, N=4)
            found.append(out.bool().tolist())
    assert found == [[False] * 3 + [True], [False, True, True, False], [True, False, False, False]]


@triton.jit
def _missing(x, out, RANK: tl.constexpr):
    i = tl.arange(0, 4)
    if RANK == 0:
        tl.store(out + i, libdevice.lgamma(tl.load(x + i)))
    else:
        tl.store(out + i, libdevice.erfcx(tl.load(x + i)))


@pytest.mark.parametrize("name", ["lgamma", "erfcx"])
def test_what_there_is_not_is_refused_by_name(name):
    x = torch.ones(4)
    with Lockstep(), pytest.raises(UnsupportedFeature, match=rf"test_libdevice.py:\d+: libdevice.{name} in _missing"):
        _missing[(1,)](x, x, ["lgamma", "erfcx"].index(name))


@triton.jit
def _half(x, out):
    i = tl.arange(0, 4)
    tl.store(out + i, libdevice.log1p(tl.load(x + i)))


def test_what_there_is_not_for_a_type_is_what_triton_says():
    x = torch.ones(4, dtype=torch.float16)
    with Lockstep(), pytest.raises(CompilationError, match=r"_libdevice.py:\d+: in _half: \(triton.language.float16\)"):
        _half[(1,)](x, x)


@triton.jit
def _undefined(x, out):
    i = tl.arange(0, 4)
    tl.store(out + i, libdevice.log1p(tl.load(x + i, mask=i < 3)))


def test_what_nothing_defined_stays_so():
    with Lockstep() as machine:
        _undefined[(1,)](torch.ones(4), torch.ones(4))
    assert [v.kind for v in machine.violations] == ["uninitialised"]

"""A launch whose programs need more shared memory than an H100 has is refused where `shared` is asked for."""

import pickle

import pytest
import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.runtime.errors import OutOfResources

from indexfuzz.compiling.specialisation import compile_for_target, specialise
from indexfuzz.compiling.targets import Target
from indexfuzz.lockstep import KernelError, Lockstep
from indexfuzz.lockstep.tracking.checks import ALL_CHECKERS

CHECKERS = (*ALL_CHECKERS, "shared")
SM_90 = Target("sm_90", GPUTarget("cuda", 90, 32), "e4m3fn", True, 232448)


@triton.jit
def _multiply(a, b, out, steps, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr):
    rows, columns, depth = tl.arange(0, ROWS), tl.arange(0, COLUMNS), tl.arange(0, DEPTH)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for step in range(steps):
        k = step * DEPTH + depth
        left = tl.load(a + rows[:, None] * 512 + k[None, :])
        right = tl.load(b + k[:, None] * COLUMNS + columns[None, :])
        total = tl.dot(left, right, total)
    tl.store(out + rows[:, None] * COLUMNS + columns[None, :], total)


@triton.jit
def _fails_everywhere(x, N: tl.constexpr):
    tl.static_assert(N < 8, "too many")
    tl.store(x + tl.arange(0, N), 1.0)


def _arguments(rows, columns):
    a, b = torch.ones(rows, 512, dtype=torch.bfloat16), torch.ones(512, columns, dtype=torch.bfloat16)
    return a, b, torch.zeros(rows, columns)


def _launch(kernel=_multiply, checkers=CHECKERS, rows=128, columns=256, depth=128, **options):
    a, b, out = _arguments(rows, columns)
    with Lockstep(checkers=checkers) as machine:
        kernel[(1,)](a, b, out, 512 // depth, ROWS=rows, COLUMNS=columns, DEPTH=depth, **options)
    return out, machine.violations


def test_what_does_not_fit_is_refused_with_the_arguments_that_make_it_grow():
    with pytest.raises(OutOfResources) as refused:
        _launch(num_stages=4, num_warps=8)
    error = refused.value
    compiled = specialise(
        _multiply,
        (*_arguments(128, 256), 4),
        {"ROWS": 128, "COLUMNS": 256, "DEPTH": 128, "num_stages": 4, "num_warps": 8},
        SM_90,
    )
    assert error.required == compile_for_target(compiled, assemble=False).shared > error.limit == 232448
    assert isinstance(error, KernelError)
    words = str(error)
    assert "test_shared_memory.py:" in words
    assert f"in _multiply: {error.required} bytes of shared memory a program, which grows with " in words
    for grows in ("ROWS=128", "COLUMNS=256", "DEPTH=128", "num_stages=4"):
        assert grows in words
    assert "steps" not in words
    assert str(pickle.loads(pickle.dumps(error))) == words


def test_what_fits_runs():
    out, violations = _launch(num_stages=2, num_warps=8)
    assert violations == []
    assert (out == 512).all()


def test_nothing_is_compiled_where_nobody_asks():
    out, _ = _launch(checkers=ALL_CHECKERS, num_stages=4, num_warps=8)
    assert (out == 512).all()


def test_tuners_pass_over_what_does_not_fit():
    sizes = {"ROWS": 128, "COLUMNS": 256, "DEPTH": 128}
    tuned = triton.autotune([triton.Config(sizes, num_stages=n, num_warps=8) for n in (4, 2)], key=[])(_multiply)
    a, b, out = _arguments(128, 256)
    for configs in ("first", "all"):
        with Lockstep(checkers=CHECKERS, configs=configs):
            tuned[(1,)](a, b, out.zero_(), 4)
        assert (out == 512).all()
        assert tuned.best_config.num_stages == 2


def test_what_does_not_compile_at_all_is_refused_for_its_own_reason():
    with Lockstep(checkers=CHECKERS), pytest.raises(KernelError, match="too many"):
        _fails_everywhere[(1,)](torch.zeros(8), N=8)

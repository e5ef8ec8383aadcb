"""An error of the executor is never taken for one of the kernel, nor the other way round."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from indexfuzz.core.case import Case
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.implementations import load
from indexfuzz.lockstep import KernelError, Lockstep, LockstepError, launch
from indexfuzz.lockstep.checkers import bounds, disjoint
from indexfuzz.lockstep.operations import floats
from indexfuzz.lockstep.operations.builder import Builder
from indexfuzz.lockstep.tracking import access
from indexfuzz.oracles import differential


@triton.jit
def _add(x, out, N: tl.constexpr):
    lanes = tl.program_id(0) * N + tl.arange(0, N)
    tl.store(out + lanes, tl.load(x + lanes, mask=lanes < 5, other=0.0) + 1.0)


PLANTED = {
    "an operation": (Builder, "create_fadd", Builder.create_select),
    "numpy": (floats, "canonical_nan", np.linalg.inv),
    "an access": (access, "select", None),
    "a checker": (bounds, "_fits", "no function"),
    "a checker of the whole launch": (disjoint, "_FAR", "no number"),
    "the launch": (launch, "MOST_PROGRAMS", None),
}


@pytest.mark.parametrize("where", PLANTED)
def test_a_planted_defect_is_named_with_the_kernels_line(where, monkeypatch):
    x, out = torch.zeros(8), torch.zeros(8)
    monkeypatch.setattr(*PLANTED[where])
    with Lockstep(), pytest.raises(LockstepError, match=r"test_own_errors\.py:\d+: in _add: .*an error of lockstep"):
        _add[(2,)](x, out, N=4)


@pytest.fixture
def _defect(monkeypatch):
    monkeypatch.setattr(*PLANTED["a checker"])


@pytest.mark.usefixtures("_defect")
def test_no_finding_comes_of_it():
    with pytest.raises(LockstepError, match=r"select\.py:\d+: in _slots_kernel"):
        differential.run(Case().replace(batch={"decode": (3,), "max_model_len": 3}), load("builtin"), LockstepDevice())


@pytest.mark.usefixtures("_defect")
def test_the_command_line_calls_it_an_internal_error(indexfuzz):
    code, _, err = indexfuzz("run", "--cases", 3, "--seed", 1, "--corpus", "kept")
    assert code == 3
    words = err.splitlines()[-1]
    assert words.startswith("internal error: LockstepError: ")
    assert "(traceback in " in words


@triton.jit
def _wrong_attribute(x):
    tl.store(x, tl.load(x).nonsense)


@triton.jit
def _wrong_python(x, N: tl.constexpr):
    tl.store(x, max(N, None))


@triton.jit
def _helper(a, b):
    return a + b


@triton.jit
def _wrong_call(x):
    tl.store(x, _helper(1.0))


@triton.jit
def _wrong_argument(x):
    tl.store(x, tl.load(x, no_such_option=1))


@triton.jit
def _wrong_index(x, N: tl.constexpr):
    shape = (N, N)
    tl.store(x, shape[2])


@triton.jit
def _wrong_operand(x, N: tl.constexpr):
    tl.store(x, N + None)


@triton.jit
def _wrong_types(x):
    tl.store(x, tl.load(x) & 1)


@pytest.mark.parametrize(
    ("kernel", "options"),
    [
        (_wrong_attribute, {}),
        (_wrong_python, {"N": 3}),
        (_wrong_call, {}),
        (_wrong_argument, {}),
        (_wrong_index, {"N": 3}),
        (_wrong_operand, {"N": 3}),
        (_wrong_types, {}),
    ],
)
def test_what_the_kernel_does_wrong_is_its_own_fault(kernel, options):
    with Lockstep(), pytest.raises(KernelError, match=r"test_own_errors\.py:\d+: in _wrong_"):
        kernel[(1,)](torch.zeros(4), **options)


def test_what_the_launcher_does_wrong_is_its_own_fault():
    x = torch.zeros(8)
    with Lockstep():
        with pytest.raises(TypeError, match="missing a required argument"):
            _add[(1,)](x, N=4)
        with pytest.raises(TypeError, match="a kernel takes no object"):
            _add[(1,)](object(), x, N=4)
        with pytest.raises(ZeroDivisionError):
            _add[lambda _: (1 // 0,)](x, x, N=4)
        with pytest.raises(ValueError, match="one to three sizes"):
            _add[(1, 1, 1, 1)](x, x, N=4)
        with pytest.raises(ValueError, match="invalid literal"):
            _add[("many",)](x, x, N=4)

"""Every built-in kernel, in every form of keys that a launcher gives it, compiles for a GPU that need not be there."""

from itertools import islice

import pytest
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler.errors import CompilationError
from triton.runtime.jit import mangle_type

from indexfuzz.core.case import Case
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.generation.sessions import sessions
from indexfuzz.generation.stream import draw
from indexfuzz.implementations.builtin import builtin
from indexfuzz.lockstep import executor
from indexfuzz.oracles import schedule

STEP = Case().replace(
    model={"head_dim": 64, "quant_group": 64, "num_heads": 4, "rope_dim": 32},
    cache={"block_size": 16},
    batch={"decode": (20,), "prefill": ({"length": 20, "new": 3},), "max_model_len": 32},
)
FORMS = {
    "fp32": STEP,
    "ue8m0": STEP.replace(cache={"scales": "ue8m0"}, model={"quant_group": 16}),
    "mxfp4": STEP.replace(cache={"scales": "mxfp4"}, model={"quant_group": 16}),
}


def launched(cases, monkeypatch):
    """The kernels that cases launch, with the types of their arguments and one set of constants for each of these."""
    found = {}
    execute = executor.execute

    def noting(kernel, grid, args, kwargs, **rest):
        bound = kernel.signature.bind(*args, **{k: v for k, v in kwargs.items() if k in kernel.arg_names})
        bound.apply_defaults()
        constants = {p.name: bound.arguments[p.name] for p in kernel.params if p.is_constexpr}
        types = {n: "constexpr" if n in constants else mangle_type(v) for n, v in bound.arguments.items()}
        found.setdefault((kernel, tuple(types.values())), (types, constants))
        return execute(kernel, grid, args, kwargs, **rest)

    monkeypatch.setattr(executor, "execute", noting)
    device, tested = LockstepDevice(), builtin()
    for case in cases:
        assert schedule.run(case, tested, device).findings == []
    return found


def compile_kernel(kernel, types, constants):
    numbered = {(list(types).index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, signature=types, constexprs=numbered)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": True})


def compile_all(found):
    for (kernel, _), (types, constants) in found.items():
        assert compile_kernel(kernel, types, constants).asm["ptx"]


@pytest.mark.parametrize("form", FORMS)
def test_the_kernels_of_a_step_compile(form, monkeypatch):
    found = launched([FORMS[form]], monkeypatch)
    names = {kernel.fn.__name__ for kernel, _ in found}
    assert {"_k_quant_cache_kernel", "_paged_mqa_logits_kernel", "_mqa_logits_kernel"} <= names
    compile_all(found)


def test_the_kernels_of_sessions_compile(monkeypatch):
    compile_all(launched(islice(draw(sessions(formats=("e4m3fn",)), 3, 12), 12), monkeypatch))


@triton.jit
def _half_or_whole(x, HALF: tl.constexpr):
    if HALF:
        return x.to(tl.float16)
    return x


@triton.jit
def _copy_kernel(x_ptr, out_ptr, HALF: tl.constexpr):
    tl.store(out_ptr, _half_or_whole(tl.load(x_ptr), HALF))


@pytest.mark.parametrize("is_half", [False, True])
def test_a_kernel_that_does_not_compile_is_noticed(is_half):
    types = {"x_ptr": "*fp32", "out_ptr": "*fp32", "HALF": "constexpr"}
    if not is_half:
        compile_kernel(_copy_kernel, types, {"HALF": False})
        return
    with pytest.raises(CompilationError):
        compile_kernel(_copy_kernel, types, {"HALF": True})

"""The arithmetic contract read from PTX: of the built-in kernels, cross-compiled without a GPU, and of lines of PTX."""

from dataclasses import replace

import pytest
import torch
from triton.backends.compiler import GPUTarget

from indexfuzz.compiling.specialisation import Specialisation, compile_for_target
from indexfuzz.compiling.targets import TARGETS
from indexfuzz.core.guarantees import Promises
from indexfuzz.devices import assembly, cuda
from indexfuzz.devices.assembly import Compiled, arithmetic, read, unit
from indexfuzz.kernels.mqa_logits import HIDDEN, KEYS, LANES, STAGES, _mqa_logits_kernel
from indexfuzz.kernels.quant import _q_quant_kernel, q_quant
from indexfuzz.lockstep.triton_api.specialisation import DEFAULTS
from indexfuzz.reference.arithmetic import DOT_UNITS, PRESETS

LOGITS = (
    {
        "q_ptr": "*fp8e4nv",
        "k_ptr": "*fp8e4nv",
        "k_scale_ptr": "*fp32",
        "weights_ptr": "*fp32",
        "ks_ptr": "*i32",
        "ke_ptr": "*i32",
        "logits_ptr": "*fp32",
    },
    {
        "NUM_HEADS": 32,
        "HEAD_DIM": 128,
        "KEY_BYTES": 128,
        "ROWS": LANES // 32,
        "HEADS": 32,
        "KEYS": KEYS,
        "STAGES": STAGES,
        "HIDDEN": HIDDEN,
        "PACKED": False,
    },
)
QUANT = (
    {"q_ptr": "*bf16", "weights_ptr": "*fp32", "q_fp8_ptr": "*fp8e4nv", "q_weights_ptr": "*fp32"},
    {"WEIGHT_FACTOR": 0.015625, "NUM_HEADS": 32, "HEAD_DIM": 128, "QUANT_MAX": 448.0, "UE8M0": False, "ROWS": 16},
)


def compiled(kernel, pointers, constants, capability: int) -> Compiled:
    """A kernel's PTX for a GPU that need not be there; every argument that is no pointer or constant is an int32."""
    names = [parameter.name for parameter in kernel.params]
    types = {name: "constexpr" if name in constants else pointers.get(name, "i32") for name in names}
    target = replace(TARGETS["sm_90"], gpu=GPUTarget("cuda", capability, 32))
    numbered = {(names.index(name),): value for name, value in constants.items()}
    made = Specialisation(target, kernel, types, numbered, options=DEFAULTS)
    return read(compile_for_target(made, assemble=False).text)


@pytest.mark.parametrize(("capability", "found"), [(89, "sm89-fp8"), (90, "sm90-qgmma"), (100, "sm100-fp8")])
def test_the_dot_of_the_built_in_logits(capability, found):
    assert compiled(_mqa_logits_kernel, *LOGITS, capability).units == {found}


def test_small_tiles_run_on_another_unit_than_large_ones():
    pointers, constants = LOGITS
    small = compiled(_mqa_logits_kernel, pointers, constants | {"KEYS": 32}, 90)
    assert small.units == {"sm90-hmma"}
    assert unit([small]) == "sm90-hmma"


def test_divisions_and_conversion_of_the_built_in_quantisation():
    found = compiled(_q_quant_kernel, *QUANT, 90)
    assert (found.divisions, found.units) == ({"full"}, frozenset())
    assert len(found.constant_divisions) == 1
    known = arithmetic([found])
    assert (known.division, known.amax_division, known.conversion) == ("full", "portable", "rne")
    assert known.dot == DOT_UNITS["ieee"]


def ptx(*lines: str, target: str = "sm_90a") -> str:
    return "\n".join([".version 8.7", f".target {target}", *(f"\t{line};" for line in lines)])


WGMMA = "wgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3 {%r1}, %rd1, %rd2, p, 1, 1"
HMMA = "@%p1 mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%r1}, {%r2}, {%r3}, {%r4}"


@pytest.mark.parametrize(
    ("line", "target", "found"),
    [
        (WGMMA, "sm_90a", "sm90-qgmma"),
        (HMMA, "sm_90a", "sm90-hmma"),
        (HMMA, "sm_86", "sm80-f16"),
        ("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%r1}", "sm_89", "sm89-fp8"),
        ("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%r1}", "sm_90a", "unknown"),
        (WGMMA, "sm_120a", "unknown"),
    ],
)
def test_an_instruction_names_its_unit(line, target, found):
    assert read(ptx(line, target=target)).units == {found}


def test_what_is_not_recognised_counts_as_the_weakest():
    assert arithmetic([]) == PRESETS["unknown"]
    assert unit([read(ptx(WGMMA)), read(ptx(HMMA))]) == "sm90-qgmma"
    assert unit([read(ptx(HMMA)), Compiled()]) == "sm90-hmma"
    assert unit([Compiled()]) == "ieee"
    assert arithmetic([read("no PTX at all")]).division == "portable"


@pytest.mark.parametrize(
    ("lines", "division", "amax_division"),
    [
        (["mul.f32 %r1, %r2, %r3"], "portable", "portable"),
        (["div.rn.f32 %r1, %r2, %r3"], "portable", "portable"),
        (["div.full.f32 %r1, %r2, %r3"], "full", "unknown"),
        (["div.full.f32 %r1, %r2, %r3", "div.full.f32 %r4, %r5, 0f43E00000"], "full", "portable"),
        (["mov.b32 %r5, 0f43E00000", "div.approx.f32 \t%r1, %r2, %r5"], "portable", "portable"),
        (["mov.b32 %r5, 7", "div.approx.f32 \t%r1, %r2, %r5"], "unknown", "unknown"),
        (["div.approx.f32 %r1, %r2, %r3", "div.full.f32 %r1, %r2, %r3"], "unknown", "unknown"),
    ],
)
def test_divisions(lines, division, amax_division):
    known = arithmetic([read(ptx(*lines))])
    assert (known.division, known.amax_division) == (division, amax_division)


def test_a_conversion_through_fp16_rounds_twice():
    assert arithmetic([read(ptx("cvt.rn.satfinite.e4m3x2.f16x2 %rs1, %r1"))]).conversion == "f16-then-rne"
    assert arithmetic([read(ptx("cvt.rn.satfinite.e4m3x2.f32 %rs1, %r1, %r2"))]).conversion == "rne"


def test_a_fast_logarithm_may_miss_a_power_of_two():
    assert arithmetic([read(ptx("lg2.approx.ftz.f32 %r1, %r2"))]).log2_exact_at_powers is False
    assert arithmetic([read(ptx("ex2.approx.ftz.f32 %r1, %r2"))]).log2_exact_at_powers is True


def test_bits_are_known_where_one_dot_is_one_unit():
    large, small = read(ptx(WGMMA)), read(ptx(HMMA))
    whole, envelope = Promises(dot_rows=64), Compiled(frozenset({"sm90-hmma", "sm90-qgmma"}))
    assert cuda.guarantees([large, large], whole, envelope).simulated_dot is not None
    assert cuda.guarantees([small], whole, envelope).simulated_dot is None
    assert cuda.guarantees([large], Promises(), envelope).simulated_dot is None
    assert not cuda.guarantees([large], Promises(), envelope).arithmetic.dot.in_order


def test_kernels_that_triton_did_not_compile_may_use_any_unit_of_the_gpu():
    envelope = Compiled(frozenset({"sm90-hmma", "sm90-qgmma"}))
    free = cuda.guarantees([], Promises(dot_rows=64), envelope)
    assert free.simulated_dot is None
    assert free.arithmetic.dot == replace(DOT_UNITS["sm90-qgmma"], in_order=False)


@pytest.mark.parametrize(
    ("error", "lacks"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 6.00 GiB."), True),
        (RuntimeError("Triton Error [CUDA]: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"), False),
        (MemoryError(), False),
    ],
)
def test_a_gpu_without_room_is_told_from_a_kernel_that_fails(error, lacks, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert cuda.CudaDevice().lacks_memory(error) is lacks


@pytest.mark.gpu
def test_launches_are_noted():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    q = torch.ones(3, 2, 64, dtype=torch.bfloat16, device="cuda")
    with cuda.noting_kernels() as kernels:
        q_quant(q, torch.ones(3, 2, device="cuda"), scale_fmt="fp32", fp8="e4m3fn")
    assert len(kernels) == 1
    assert kernels[0].divisions
    assert assembly.unit(kernels) == "ieee"

"""What a kernel became, and what it must not become, on small kernels of either kind."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from indexfuzz.compiling.dots import read_dots
from indexfuzz.compiling.examination import Wanted, examine, refused, unexamined
from indexfuzz.compiling.machine_code import SOFTWARE, read_machine_code
from indexfuzz.compiling.specialisation import Compiled
from indexfuzz.compiling.targets import TARGETS
from tests.compiling.kernels import dot_kernel, other_dot_kernel, specialised, two_types_kernel

FORMATS = {"e4m3fn": torch.float8_e4m3fn, "e4m3fnuz": torch.float8_e4m3fnuz}


def dot(target, fp8="", *, keys=64, widen=False, may_widen=False, assemble=False):
    """One program that multiplies `keys` keys with 64 heads in an FP8 format, or that of the target."""
    x = torch.zeros(128, 64, dtype=torch.uint8).view(FORMATS[fp8 or TARGETS[target].fp8])
    args = (x, x, torch.zeros(128, 64))
    made = specialised(dot_kernel, args, target, HEADS=64, DIM=64, KEYS=keys, WIDEN=widen)
    return examine(Wanted(made, "prefill_logits", may_widen), assemble=assemble)


@pytest.mark.parametrize(
    ("target", "opcode"),
    [("sm_90", "wgmma.mma_async"), ("sm_100", "tcgen05.mma"), ("gfx942", "_fp8_fp8"), ("gfx950", "f8f6f4")],
)
def test_a_dot_that_stays_fp8_is_right(target, opcode):
    examined = dot(target)
    assert (examined.verdict, examined.sentence) == ("right", "")
    assert all(opcode in found for found in examined.code.matrices)
    assert examined.constants == {"HEADS": "64", "DIM": "64", "KEYS": "64", "WIDEN": "False"}


@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
def test_fp8_that_the_kernel_makes_wider_is_wrong_unless_promised(target):
    examined = dot(target, widen=True)
    assert examined.verdict == "wrong"
    place, _, words = examined.sentence.partition(": ")
    assert words == "FP8 is made f16 before tl.dot"
    assert place.endswith(f"kernels.py:{number_of('scores = tl.dot')}")
    assert dot(target, widen=True, may_widen=True).verdict == "right"


def number_of(text):
    lines = Path(dot_kernel.fn.__code__.co_filename).read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if line.strip().startswith(text))


@pytest.mark.parametrize(("target", "fp8", "keys"), [("sm_90", "e4m3fn", 16), ("gfx942", "e4m3fn", 64)])
def test_fp8_that_the_compiler_makes_wider_is_wrong_unless_promised(target, fp8, keys):
    """A tile too small for wgmma on Hopper, and on MI300 the format that it has not."""
    examined = dot(target, fp8, keys=keys)
    assert examined.verdict == "wrong"
    assert "tl.dot of f8E4M3FN and f8E4M3FN became " in examined.sentence
    assert examined.sentence.endswith(", which takes no FP8")
    assert dot(target, fp8, keys=keys, may_widen=True).verdict == "right"


def test_a_dot_of_something_else_is_nobodys_fp8():
    x, out = torch.zeros(64, 64), torch.zeros(64, 64, dtype=torch.uint8).view(torch.float8_e4m3fn)
    examined = examine(Wanted(specialised(other_dot_kernel, (x, out), "sm_90", SIZE=64), "fused_q"), assemble=False)
    assert examined.verdict == "right"
    assert "bf16.bf16" in examined.code.matrices[0]
    assert examined.code.conversions == ("cvt.rn.satfinite.e4m3x2.f32",)


def test_a_gpu_without_a_matrix_unit_for_fp8_widens_without_blame():
    examined = dot("sm_80", "e4m3fn")
    assert (examined.verdict, examined.code) == ("unsupported", None)
    assert examined.sentence == "type fp8e4nv not supported in this architecture"


@pytest.mark.parametrize("is_half", [False, True])
def test_a_kernel_that_does_not_compile_is_named_with_its_line(is_half):
    args = (torch.zeros(1), torch.zeros(1))
    examined = examine(Wanted(specialised(two_types_kernel, args, "sm_90", HALF=is_half), "rope"), assemble=False)
    assert examined.verdict == ("wrong" if is_half else "right")
    if is_half:
        # Triton 3.9 names the function, 3.6 the statement.
        told = re.match(r"does not compile: (\S+):(\d+): (def _half_or_whole|return x)", examined.sentence)
        file, line, text = told[1], int(told[2]), told[3]
        assert Path(file).read_text().splitlines()[line - 1].strip().startswith(text)
        assert "fp16" in examined.sentence
        assert "fp32" in examined.sentence


def test_a_kernel_that_refers_to_a_stand_in_is_not_to_blame():
    before = unexamined(Wanted(specialised(two_types_kernel, (torch.zeros(1),) * 2, "sm_90", HALF=False), "rope"))
    assert refused(before, "Unsupported function referenced: <stand-in for other.pack>").verdict == "unsupported"
    assert refused(before, "Unsupported function referenced: pack").verdict == "wrong"


def test_more_shared_memory_than_there_is_is_wrong(monkeypatch):
    small = replace(TARGETS["sm_90"], shared=1000)
    monkeypatch.setitem(TARGETS, "sm_90", small)
    examined = dot("sm_90")
    assert examined.verdict == "wrong"
    assert examined.sentence == (
        f"needs {examined.code.shared} bytes of shared memory, a program on sm_90 can have 1000"
    )


def test_registers_and_spills_are_told_where_an_assembler_ran():
    nvidia, amd = dot("sm_90", assemble=True).code, dot("gfx942").code
    assert nvidia.registers > 16
    assert amd.registers > 16
    assert (nvidia.spilled, amd.spilled) == (0, 0)
    assert dot("sm_90").code.registers is None


LOG = """ptxas info    : Function properties for f
    0 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 168 registers, used 1 barriers, 456 bytes cmem[0]"""
CDNA = """\tv_cvt_pk_f32_fp8_e32 v[0:1], v2
\tv_mfma_f32_32x32x8_f16 v[0:15], v[0:1], v[2:3], 0
    .private_segment_fixed_size: 16
    .vgpr_count:     259"""
FROM_FP8 = "%1 = tt.fp_to_fp %0 : tensor<4xf8E4M3FN> -> tensor<4xf32>"


def test_what_an_assembler_says_is_read():
    read = read_machine_code("ptx", Compiled(FROM_FP8, "", LOG, 8))
    assert (read.registers, read.spilled, read.shared, read.conversions) == (168, 8, 8, (SOFTWARE,))
    read = read_machine_code("amdgcn", Compiled(FROM_FP8, CDNA, "", 0))
    assert (read.registers, read.spilled, read.conversions) == (259, 16, ("v_cvt_pk_f32_fp8_e32",))
    assert read.wide_matrices == ("v_mfma_f32_32x32x8_f16",)


CARRIED = """#loc = loc("k.py":1:1)
#loc7 = loc("scores"(#loc9))
#loc9 = loc("k.py":12:34)
  %q = tt.load %p : tensor<64x32x!tt.ptr<f8E4M3FN>> loc(#loc)
  %wide = tt.fp_to_fp %q : tensor<64x32xf8E4M3FN> -> tensor<64x32xf16> loc(#loc)
  %all:2 = scf.for %i = %a to %b step %c iter_args(%held = %wide, %sum = %zero) -> (tensor<64x32xf16>, f32)  : i32 {
    %x = tt.load %y : tensor<32x64x!tt.ptr<f16>> loc(#loc)
    %scores = tt.dot %held, %x, %sum : tensor<64x32xf16> * tensor<32x64xf16> -> tensor<64x64xf32> loc(#loc7)
"""


def test_an_operand_is_followed_into_a_loop_and_not_behind_a_load():
    (found,) = read_dots(CARRIED)
    assert (found.operands, found.is_widened, found.place) == (("f16", "f16"), True, "k.py:12")
    plain = CARRIED.replace("= %wide,", "= %other,").replace("%y :", "%wide :")
    assert not read_dots(plain)[0].is_widened

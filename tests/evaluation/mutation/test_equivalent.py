"""Mutants of the 4-bit numbers that are called equivalent: each makes the same of every number there is."""

import pytest
import torch

from indexfuzz.evaluation.mutation.mutants import Mutant, choose_mutants
from indexfuzz.evaluation.mutation.survivors import equivalent
from indexfuzz.implementations.faults.planting import edited_kernels, import_source
from indexfuzz.lockstep import Lockstep

CALLED_EQUIVALENT = [mutant for mutant in choose_mutants(["nibbles"]) if mutant.id in equivalent()]
CALLER = """
import triton
import triton.language as tl
from {package}.nibbles import decode_pairs, to_bytes

@triton.jit
def store(x_ptr, stored_ptr, PER_BYTE: tl.constexpr, COUNT: tl.constexpr):
    at = tl.arange(0, COUNT)[None, :]
    stored = to_bytes(tl.load(x_ptr + at), stored_ptr.dtype.element_ty)
    tl.store(stored_ptr + tl.arange(0, COUNT // PER_BYTE)[None, :], stored)

@triton.jit
def load(packed_ptr, x_ptr, COUNT: tl.constexpr):
    values = decode_pairs(tl.load(packed_ptr + tl.arange(0, COUNT)[None, :]))
    tl.store(x_ptr + tl.arange(0, 2 * COUNT)[None, :], values)
"""


def made_by(package: str) -> list[torch.Tensor]:
    """The bytes of every finite bf16 number as E2M1 and FP8, and the numbers of every byte as fp32."""
    name = f"caller_of_{package.rpartition('.')[2]}"
    caller = import_source(name, CALLER.format(package=package), f"{name}.py")
    numbers = (torch.arange(1 << 16, dtype=torch.int32) << 16).view(torch.float32).nan_to_num(0.0, 0.0, 0.0)
    packed, fp8 = torch.zeros(1 << 15, dtype=torch.uint8), torch.zeros(1 << 16, dtype=torch.float8_e4m3fn)
    read, every = torch.zeros(512), torch.arange(256, dtype=torch.uint8)
    with Lockstep():
        caller.store[(1,)](numbers, packed, 2, 1 << 16)
        caller.store[(1,)](numbers.clamp(-448, 448), fp8, 1, 1 << 16)
        caller.load[(1,)](every, read, 256)
    return [packed, fp8.view(torch.uint8), read]


@pytest.fixture(scope="module")
def right() -> list[torch.Tensor]:
    return made_by("indexfuzz.kernels")


def is_same(mutant: Mutant, right: list[torch.Tensor]) -> bool:
    package = edited_kernels(mutant.id, [(mutant.id, mutant.file, mutant.before, mutant.after)])
    return all(bool((got == want).all()) for got, want in zip(made_by(package), right, strict=True))


@pytest.mark.parametrize("mutant", CALLED_EQUIVALENT, ids=lambda mutant: mutant.id)
def test_a_mutant_that_is_called_equivalent_is(mutant: Mutant, right: list[torch.Tensor]) -> None:
    assert is_same(mutant, right)


def test_others_are_not(right: list[torch.Tensor]) -> None:
    others = [m for m in choose_mutants(["nibbles"]) if m.operator == "comparison" and "size" in m.old]
    assert len(others) == 14
    assert not any(is_same(mutant, right) for mutant in others)

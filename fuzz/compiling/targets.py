"""The GPUs that kernels are compiled for."""

from collections.abc import Mapping
from dataclasses import dataclass

from triton.backends.compiler import GPUTarget


@dataclass(frozen=True)
class Target:
    """A GPU: what Triton calls it, and what its documentation says of it.

    `fp8` is the format of its own, which cases for it are in; `multiplies_fp8` whether a matrix instruction takes that;
    `shared` the bytes of shared memory that one program can have.
    """

    name: str
    gpu: GPUTarget
    fp8: str
    multiplies_fp8: bool
    shared: int

    @property
    def text(self) -> str:
        """The form of assembly that Triton makes for it."""
        return "ptx" if self.gpu.backend == "cuda" else "amdgcn"


def _nvidia(capability: int, shared: int, *, multiplies_fp8: bool = True) -> Target:
    gpu = GPUTarget("cuda", capability, 32)
    return Target(f"sm_{capability}", gpu, "e4m3fn", multiplies_fp8, shared << 10)


def _amd(name: str, fp8: str, shared: int) -> Target:
    return Target(name, GPUTarget("hip", name, 64), fp8, True, shared << 10)  # noqa: FBT003


TARGETS: Mapping[str, Target] = {
    target.name: target
    for target in (
        _nvidia(80, 163, multiplies_fp8=False),
        _nvidia(90, 227),
        _nvidia(100, 227),
        _amd("gfx942", "e4m3fnuz", 64),
        _amd("gfx950", "e4m3fn", 160),
    )
}
"""A100, H100 and H200, B200, MI300, MI350. Shared memory: CUDA C++ Programming Guide, "Technical Specifications per
Compute Capability"; AMD Instinct MI300 and CDNA 4 instruction set architecture, "LDS"."""

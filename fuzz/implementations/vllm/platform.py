"""What the executed files of vLLM get in place of the rest of vLLM."""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import torch
import triton
import triton.language as tl

from indexfuzz.reference.fp8 import FORMATS


@dataclass(frozen=True)
class RocmPlatform:
    """`vllm.platforms.current_platform` on an AMD GPU that has one FP8 format natively."""

    fp8: str

    def fp8_dtype(self) -> torch.dtype:
        """The format of the GPU's matrix units."""
        return FORMATS[self.fp8].dtype

    def is_fp8_fnuz(self) -> bool:
        """Whether that is e4m3fnuz."""
        return self.fp8 == "e4m3fnuz"

    def is_rocm(self) -> bool:
        """AMD: yes."""
        return True

    def is_cuda_alike(self) -> bool:
        """NVIDIA or AMD: yes."""
        return True

    def is_cuda(self) -> bool:
        """NVIDIA: no."""
        return False

    def is_arch_support_pdl(self) -> bool:
        """Programmatic dependent launch, which NVIDIA has: no."""
        return False

    def is_cpu(self) -> bool:
        """No GPU: no."""
        return False

    def is_xpu(self) -> bool:
        """Intel: no."""
        return False


@dataclass(frozen=True)
class MultipleOf:
    """`vllm.v1.attention.backend.MultipleOf`: a backend advertises every multiple of `base`."""

    base: int


class _SilentLogger:
    def __getattr__(self, _: str) -> Callable[..., None]:
        return lambda *_, **__: None


def provide_vllm(fp8: str) -> dict[str, object]:
    """Real objects for the names that vLLM's files use as values: gfx950 for e4m3fn, gfx942 for e4m3fnuz.

    AITER, a package of its own, counts as not installed, so vLLM dispatches to the kernels in its own files.
    """
    return {
        "vllm.platforms.current_platform": RocmPlatform(fp8),
        "vllm.platforms.rocm._ON_GFX942": fp8 == "e4m3fnuz",
        "vllm.platforms.rocm._ON_GFX950": fp8 == "e4m3fn",
        "vllm.triton_utils.tl": tl,
        "vllm.triton_utils.triton": triton,
        "vllm.utils.math_utils.cdiv": triton.cdiv,
        "vllm.v1.attention.backend.MultipleOf": MultipleOf,
        "vllm._aiter_ops.rocm_aiter_ops": SimpleNamespace(is_enabled=bool, is_rdna_aiter_enabled=bool),
        "vllm.logger.init_logger": lambda _: _SilentLogger(),
    }

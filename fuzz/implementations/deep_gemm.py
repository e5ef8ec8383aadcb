"""DeepGEMM's FP8 logits, prefill and paged, from an installed package; they run on NVIDIA GPUs since Hopper only.

The package is called `deep_gemm` whoever publishes it: DeepGEMM's own build, or SGLang's wheel `sgl-deep-gemm`. Its
host code asserts what it takes; places are those of the branch release/v0.1.0 of SGLang's fork.
"""

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

import torch
from torch import Tensor

from indexfuzz.core.contract import Clause, Clauses
from indexfuzz.implementations.base import Implementation, ImplementationError, StageFunction, fill
from indexfuzz.implementations.callers import as_callers_do
from indexfuzz.reference.layout import resolve
from indexfuzz.reference.paged_mqa_logits import row_windows

PACKAGE = "deep_gemm"
DISTRIBUTIONS = ("sgl-deep-gemm", "deep-gemm")
_NEEDED = ("fp8_mqa_logits", "fp8_paged_mqa_logits", "get_paged_mqa_logits_metadata", "get_num_sms")
_HOPPER = 9
_API = "DeepGEMM csrc/apis/attention.hpp"
_PAGED_LAUNCH = "DeepGEMM csrc/jit_kernels/impls/smxx_fp8_fp4_paged_mqa_logits.hpp"
_SCHEDULER = "DeepGEMM deep_gemm/include/deep_gemm/scheduler/paged_mqa_logits.cuh"
_BOTH = ("prefill_logits", "paged_logits")
_BLOCK_SIZE = 64
_TMA_BYTES = 16
"""The tensor memory accelerator wants strides that are multiples of this."""

CONTRACT = Clauses(
    (
        Clause(_BOTH, lambda case: case.model.fp8 == "e4m3fn", "q and k are e4m3fn", f"{_API}:122, :129, :291"),
        Clause(_BOTH, lambda case: case.model.num_heads in {32, 64}, "num_heads is 32 or 64", f"{_API}:120, :288"),
        Clause(
            _BOTH, lambda case: case.model.head_dim in {32, 64, 128}, "head_dim is 32, 64 or 128", f"{_API}:121, :289"
        ),
        Clause(
            _BOTH,
            lambda case: case.model.quant_group == case.model.head_dim,
            "every key has one scale",
            f"{_API}:134, :297",
        ),
        Clause(
            ("paged_logits",),
            lambda case: case.cache.block_size == _BLOCK_SIZE,
            f"block_size is {_BLOCK_SIZE} (Blackwell takes 32, too)",
            f"{_API}:216",
        ),
        Clause(
            ("paged_logits",),
            lambda case: case.cache.page_layout == "normal",
            "pages are NORMAL: values, then scales",
            f"{_API}:304",
        ),
        Clause(
            ("paged_logits",),
            lambda case: case.cache.page_pad % _TMA_BYTES == 0,
            f"pages lie a multiple of {_TMA_BYTES} bytes apart",
            f"{_PAGED_LAUNCH}:201",
        ),
        Clause(("paged_logits",), lambda case: case.batch.next_n <= 2, "next_n is 1 or 2", f"{_PAGED_LAUNCH}:233"),
        Clause(
            ("paged_logits",),
            lambda case: case.batch.lens != "ragged" or case.batch.next_n == 1,
            "the last row of a request sees the most",
            f"{_SCHEDULER}, get_num_kv",
        ),
        *as_callers_do(_API),
    )
)


def load() -> Implementation:
    """Import the package.

    Raises ImplementationError where it is not installed, cannot be imported or lacks a function, or without a GPU.
    """
    if importlib.util.find_spec(PACKAGE) is None:
        raise ImplementationError(f"{PACKAGE} is not installed; `pip install sgl-deep-gemm` or build DeepGEMM")
    if not has_gpu():
        raise ImplementationError(f"{PACKAGE} needs an NVIDIA GPU, Hopper or newer; there is none here")
    try:
        module = importlib.import_module(PACKAGE)
    except Exception as error:
        raise ImplementationError(f"{PACKAGE} cannot be imported: {type(error).__name__}: {error}") from error
    missing = [name for name in _NEEDED if not callable(getattr(module, name, None))]
    if missing:
        raise ImplementationError(f"{PACKAGE} has no {' and no '.join(missing)}; a newer DeepGEMM has")
    kernels = Kernels(module)
    stages: dict[str, StageFunction] = {"prefill_logits": kernels.mqa_logits, "paged_logits": kernels.paged_mqa_logits}
    notes = ("it leaves columns that a row does not see as they are in paged logits; they are not judged",)
    return Implementation(f"{PACKAGE} {_version()}", stages, CONTRACT, notes=notes)


def has_gpu() -> bool:
    """Whether there is a GPU that DeepGEMM has logits kernels for."""
    return torch.cuda.is_available() and torch.cuda.get_device_capability()[0] >= _HOPPER


def _version() -> str:
    for distribution in DISTRIBUTIONS:
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return "unknown"


class Kernels:
    """The functions of the package, with the signatures of the stages.

    All raise AssertionError where DeepGEMM's host code refuses its arguments, ImplementationError for tensors that are
    not on a GPU.
    """

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def mqa_logits(
        self, q_fp8: Tensor, k_fp8: Tensor, k_scale: Tensor, weights: Tensor, ks: Tensor, ke: Tensor, logits: Tensor
    ) -> None:
        """Fill logits [M,N]; DeepGEMM returns a tensor of its own and clears what is not visible itself."""
        _need_gpu(q_fp8)
        with refusals():
            got = self._module.fp8_mqa_logits(q_fp8, (k_fp8, k_scale), weights, ks, ke, clean_logits=True)
        fill(logits, got)

    def paged_mqa_logits(
        self,
        q_fp8: Tensor,
        cache: Tensor,
        weights: Tensor,
        context_lens: Tensor,
        block_table: Tensor,
        logits: Tensor,
        *,
        layout: str,
    ) -> None:
        """Fill logits [B*next_n, max_model_len]; callers of DeepGEMM ignore what a row does not see, here it is -inf.

        Raises ValueError for SHUFFLE pages, which no argument can ask for.
        """
        _need_gpu(q_fp8)
        block_size, columns = cache.shape[1], logits.shape[1]
        if resolve(layout, block_size) == "shuffle":
            raise ValueError("DeepGEMM reads pages in NORMAL layout only")
        lens = per_row(context_lens, q_fp8.shape[1])
        with refusals():
            schedule = self._module.get_paged_mqa_logits_metadata(lens, block_size, self._module.get_num_sms())
            got = self._module.fp8_paged_mqa_logits(
                q_fp8, cache.unsqueeze(2), weights, lens, block_table, schedule, columns, clean_logits=False
            )
        column = torch.arange(columns, device=logits.device)
        visible = column < row_windows(context_lens, q_fp8.shape[1], columns).reshape(-1, 1)
        fill(logits, got)
        logits.masked_fill_(~visible, float("-inf"))


def per_row(context_lens: Tensor, next_n: int) -> Tensor:
    """Lengths as DeepGEMM's callers give them, int32 [B, next_n], from [B] or [B, next_n]; none below 0."""
    if context_lens.dim() == 1:
        context_lens = context_lens.unsqueeze(1) - next_n + 1 + torch.arange(next_n, device=context_lens.device)
    return context_lens.clamp_min(0).to(torch.int32).contiguous()


@contextmanager
def refusals() -> Iterator[None]:
    """Turn what DeepGEMM's host assertions raise into AssertionError.

    A CUDA error or a failed compilation stays what it is.
    """
    try:
        yield
    except RuntimeError as error:
        if "Assertion error (" in str(error):
            raise AssertionError(str(error)) from error
        raise


def _need_gpu(tensor: Tensor) -> None:
    if tensor.device.type != "cuda":
        raise ImplementationError("DeepGEMM takes tensors on a GPU only; add --device cuda")

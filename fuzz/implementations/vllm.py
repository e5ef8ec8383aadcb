"""vLLM's sparse indexer on ROCm, from a wheel, an unpacked wheel or a checkout.

Kernels and their launchers come from `vllm/v1/attention/ops/rocm_aiter_mla_sparse.py` and get what their caller in the
same file, `rocm_aiter_sparse_attn_indexer`, hands them. The stage rope is `Indexer.forward`; see vllm_caller.
"""

import inspect
from functools import cache
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from indexfuzz.implementations.base import Implementation, StageFunction
from indexfuzz.implementations.formats import format_of
from indexfuzz.implementations.loader import Loader
from indexfuzz.implementations.source import Project, open_project
from indexfuzz.implementations.vllm_caller import Caller
from indexfuzz.implementations.vllm_contract import VllmContract
from indexfuzz.implementations.vllm_platform import provided
from indexfuzz.terms import Promises

KNOWN_VERSIONS = "0.21 to 0.33"
_OPS = "vllm.v1.attention.ops.rocm_aiter_mla_sparse"
_WANTED = (
    "indexer_k_quant_and_cache_triton",
    "cp_gather_indexer_k_quant_cache_triton",
    "rocm_fp8_mqa_logits",
    "rocm_fp8_paged_mqa_logits",
)
_BLOCK_FLAT_RATIO = 4
"""Models with this compress_ratio keep their pages in NORMAL layout; all others in SHUFFLE where block_size > 1."""


def load(path: str | Path) -> Implementation:
    """Find vLLM at a path. Raises SourceError where it is absent or its kernels have moved."""
    project = open_project(path, "vllm", known_versions=KNOWN_VERSIONS)
    kernels = Kernels(project)
    kernels.module("e4m3fn")
    stages: dict[str, StageFunction] = {
        "rope": Caller(project).rope,
        "k_quant_cache": kernels.k_quant_cache,
        "gather": kernels.gather,
        "prefill_logits": kernels.mqa_logits,
        "paged_logits": kernels.paged_mqa_logits,
    }
    promises = Promises(gather_padding="undefined", hidden_logits="minus-infinity")
    return Implementation(project.label, stages, VllmContract.read(project), promises, notes=(f"read from {path}",))


class Kernels:
    """The launchers of one vLLM release, with the signatures of the stages."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._workspace = _Workspace()
        self.module = cache(self._load)
        """The executed file for an FP8 format; vLLM fixes the format while the file is imported."""

    def _load(self, fp8: str) -> ModuleType:
        provide = provided(fp8) | {"vllm.v1.worker.workspace.current_workspace_manager": lambda: self._workspace}
        return Loader(self._project, provide=provide, execute={_OPS: _WANTED}).load(_OPS)

    def k_quant_cache(
        self,
        k: Tensor,
        cache: Tensor,
        slot_mapping: Tensor,
        *,
        scale_fmt: str,
        fp8: str,
        quant_group: int,
        layout: str,  # noqa: ARG002 - vLLM's writer decides by the block size alone
    ) -> None:
        """Quantise k [T,D] and insert it into the cache; the caller cuts k to the length of slot_mapping."""
        write = self.module(fp8).indexer_k_quant_and_cache_triton
        write(k[: slot_mapping.shape[0]], cache, slot_mapping, quant_group, scale_fmt)

    def gather(
        self,
        cache: Tensor,
        block_table: Tensor,
        cu_seqlens: Tensor,
        token_to_seq: Tensor,
        k_fp8: Tensor,
        k_scale: Tensor,
        *,
        quant_group: int,  # noqa: ARG002 - one scale per token
        layout: str,
    ) -> None:
        """Gather keys into k_fp8 [N,D] and k_scale [N]; the caller's scales are a uint8 [N,4] buffer."""
        read = self.module(format_of(k_fp8)).cp_gather_indexer_k_quant_cache_triton
        options = {"cache_layout": "NORMAL"} if _is_block_flat(layout, cache.shape[1]) else {}
        read(cache, k_fp8, _bytes(k_scale), block_table, cu_seqlens, token_to_seq, **options)

    def mqa_logits(
        self, q_fp8: Tensor, k_fp8: Tensor, k_scale: Tensor, weights: Tensor, ks: Tensor, ke: Tensor, logits: Tensor
    ) -> None:
        """Fill logits [M,N]; the caller's scales reach this function as fp32 [N,1]."""
        score = self.module(format_of(k_fp8)).rocm_fp8_mqa_logits
        logits.copy_(score(q_fp8, (k_fp8, k_scale.unsqueeze(1)), weights, ks, ke))

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
        """Fill logits [B*next_n, max_model_len]; vLLM leaves a row untouched behind its length, here that is -inf."""
        score = self.module(format_of(q_fp8)).rocm_fp8_paged_mqa_logits
        takes_ratio = "compress_ratio" in inspect.signature(score).parameters
        flat = takes_ratio and _is_block_flat(layout, cache.shape[1])
        options = {"compress_ratio": _BLOCK_FLAT_RATIO} if flat else {}
        logits.fill_(float("-inf"))
        self._workspace.lend(logits)
        out = score(q_fp8, cache.unsqueeze(-2), weights, context_lens, block_table, None, logits.shape[1], **options)
        if out.data_ptr() != logits.data_ptr():
            logits.copy_(out)


class _Workspace:
    """vLLM's workspace manager: kernels take their output from it, so here it lends the stage's own output."""

    def __init__(self) -> None:
        self._lent: Tensor | None = None

    def lend(self, tensor: Tensor) -> None:
        """Hand out this tensor to the next request of its shape and dtype."""
        self._lent = tensor

    def get_simultaneous(self, *wanted: tuple[tuple[int, ...], torch.dtype]) -> list[Tensor]:
        """Return a tensor for each (shape, dtype), uninitialised but for the lent one."""
        return [self._take(shape, dtype) for shape, dtype in wanted]

    def _take(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        lent, self._lent = self._lent, None
        if lent is not None and (tuple(lent.shape), lent.dtype) == (tuple(shape), dtype):
            return lent
        return torch.empty(shape, dtype=dtype, device=lent.device if lent is not None else None)


def _is_block_flat(layout: str, block_size: int) -> bool:
    return layout == "normal" and block_size > 1


def _bytes(k_scale: Tensor) -> Tensor:
    return k_scale.view(torch.uint8).view(-1, 4)

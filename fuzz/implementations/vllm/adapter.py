"""vLLM's sparse indexer on ROCm, from a wheel, an unpacked wheel or a checkout.

Kernels, launchers and fallbacks come from `vllm/v1/attention/ops/rocm_aiter_mla_sparse.py` and get what their caller in
the same file, `rocm_aiter_sparse_attn_indexer`, hands them. `vllm` has the Triton kernels, and as the stage rope
`Indexer.forward` (see vllm_caller), but for the logits of DeepSeek-V4, whose pages another kernel writes: these are
`vllm-v4-logits`. `vllm-torch` has the fallbacks in plain PyTorch.
"""

from functools import cache, partial
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from indexfuzz.core.guarantees import Promises
from indexfuzz.implementations.base import Implementation, StageFunction, fill
from indexfuzz.implementations.loading.elsewhere import Elsewhere
from indexfuzz.implementations.loading.loader import Loader
from indexfuzz.implementations.loading.source import Project, SourceError, module_of, open_project
from indexfuzz.implementations.vllm import v32
from indexfuzz.implementations.vllm.caller import Caller
from indexfuzz.implementations.vllm.contract import OPS, kernels_contract, reads_flat_pages, torch_contract
from indexfuzz.implementations.vllm.platform import provide_vllm
from indexfuzz.implementations.vllm.standalone import standalone_source
from indexfuzz.reference.fp8 import format_of
from indexfuzz.reference.layout import resolve

KNOWN_VERSIONS = "0.21 to 0.33"
_MODULE = module_of(OPS)
_WRITER, _GATHER = "indexer_k_quant_and_cache_triton", "cp_gather_indexer_k_quant_cache_triton"
_TRITON_LOGITS = "rocm_fp8_paged_mqa_logits"
_PREFILL_TORCH, _PAGED_TORCH, _TOPK_TORCH = "fp8_mqa_logits_torch", "fp8_paged_mqa_logits_torch", "_topk_indices_torch"
_BLOCK_FLAT_RATIO = 4
"""Models with this compress_ratio keep their pages in NORMAL layout; all others in SHUFFLE where block_size > 1."""

_BF16_ROUNDING = 2.0**-8
"""Of the scores of the prefill fallback, which multiplies in bf16."""


def load(path: str | Path) -> Implementation:
    """Find vLLM's Triton kernels at a path. Raises SourceError where they are absent or have moved."""
    project = _open(path)
    kernels = Kernels(project, (_WRITER, _GATHER))
    of_v4 = ("the logits of DeepSeek-V4 are vllm-v4-logits:PATH",) if reads_flat_pages(project) else ()
    return Implementation(
        project.label,
        {"rope": Caller(project).rope, "k_quant_cache": kernels.k_quant_cache, "gather": kernels.gather},
        kernels_contract(project),
        Promises(gather_padding="undefined"),
        notes=(
            f"read from {path}",
            "its logits come from AITER or from PyTorch, which vllm-torch:PATH tests",
            *of_v4,
            *_off_path(project),
        ),
        replaced=project.replaced,
        sources=project.executed,
        source_of=partial(standalone_source, project, Path(path)),
    )


def load_v4_logits(path: str | Path) -> Implementation:
    """Find the logits of DeepSeek-V4 in decode at a path. Raises SourceError where they are absent or have moved."""
    project = _open(path)
    if not reads_flat_pages(project):
        raise SourceError(f"{project.label} has no Triton kernel that scores NORMAL pages of several tokens")
    called = project.place(OPS, f"def {_TRITON_LOGITS}(", f"{_TRITON_LOGITS}_triton(")
    return Implementation(
        f"{project.label} deepseek_v4 logits",
        {"paged_logits": Kernels(project, (_TRITON_LOGITS,)).paged_mqa_logits},
        kernels_contract(project),
        notes=(f"read from {path}", f"reached by DeepSeek-V4 on AMD (called at {called})"),
        replaced=project.replaced,
        sources=project.executed,
    )


def _off_path(project: Project) -> tuple[str, ...]:
    """Which stages no model of a release runs on a GPU by default."""
    if not project.has(v32.KERNELS):
        return ()
    return (
        (
            f"rope and k_quant_cache are off the default path of DeepSeek-V3.2 and GLM-5 on GPUs since {v32.KERNELS}, "
            "which vllm-v32:PATH tests"
        ),
    )


def load_torch(path: str | Path) -> Implementation:
    """Find vLLM's fallbacks in PyTorch at a path. Raises SourceError where they are absent or have moved."""
    project = _open(path)
    has_topk = f"def {_TOPK_TORCH}(" in project.read(OPS)
    fallbacks = Fallbacks(project, (_PREFILL_TORCH, _PAGED_TORCH, *((_TOPK_TORCH,) if has_topk else ())))
    stages: dict[str, StageFunction] = {
        "prefill_logits": fallbacks.mqa_logits,
        "paged_logits": fallbacks.paged_mqa_logits,
    }
    if has_topk:
        stages["topk"] = fallbacks.topk
    return Implementation(
        f"{project.label} torch",
        stages,
        torch_contract(project),
        Promises(score_rounding=_BF16_ROUNDING, batch_invariant=False),
        notes=(f"read from {path}", "used where AITER is off or has no kernel; prefill multiplies in bf16"),
        replaced=project.replaced,
        sources=project.executed,
    )


def _open(path: str | Path) -> Project:
    return open_project(path, "vllm", known_versions=KNOWN_VERSIONS)


class Executed:
    """Some names of the ops file of one vLLM release, executed for an FP8 format; both loads try it at once."""

    def __init__(self, project: Project, wanted: tuple[str, ...]) -> None:
        self._project = project
        self._reads_flat_pages = reads_flat_pages(project)  # reads the file, which takes as long as ten launches
        self._wanted = wanted
        self._workspace = _Workspace()
        self.module = cache(self._load)
        """The executed file for an FP8 format; vLLM fixes the format while the file is imported."""
        self.module("e4m3fn")

    def _load(self, fp8: str) -> ModuleType:
        provide = provide_vllm(fp8) | {"vllm.v1.worker.workspace.current_workspace_manager": lambda: self._workspace}
        return Loader(self._project, provide=provide, execute={_MODULE: self._wanted}).load(_MODULE)


class Kernels(Executed):
    """Launchers of Triton kernels, with the signatures of the stages.

    All raise ValueError for a layout that they cannot be asked for.
    """

    def k_quant_cache(
        self,
        k: Tensor,
        cache: Tensor,
        slot_mapping: Tensor,
        *,
        scale_fmt: str,
        fp8: str,
        quant_group: int,
        layout: str,
    ) -> None:
        """Quantise k [T,D] and insert it into the cache; the caller cuts k to the length of slot_mapping."""
        _refuse_unless_shuffle(layout, cache.shape[1])
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
        options = {}
        if self._reads_flat_pages and _is_flat(layout, cache.shape[1]):
            options["cache_layout"] = "NORMAL"
        else:
            _refuse_unless_shuffle(layout, cache.shape[1])
        read(cache, k_fp8, _bytes(k_scale), block_table, cu_seqlens, token_to_seq, **options)

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
        block_size = cache.shape[1]
        if not _is_flat(layout, block_size):
            raise ValueError("the Triton kernel reads pages of several tokens in NORMAL layout only")
        score = self.module(format_of(q_fp8)).rocm_fp8_paged_mqa_logits
        logits.fill_(float("-inf"))
        self._workspace.lend(logits)
        pages, length = cache.unsqueeze(-2), logits.shape[1]
        out = score(q_fp8, pages, weights, context_lens, block_table, None, length, compress_ratio=_BLOCK_FLAT_RATIO)
        if out.data_ptr() != logits.data_ptr():
            fill(logits, out)


class Fallbacks(Executed):
    """Functions in plain PyTorch, with the signatures of the stages."""

    def mqa_logits(
        self, q_fp8: Tensor, k_fp8: Tensor, k_scale: Tensor, weights: Tensor, ks: Tensor, ke: Tensor, logits: Tensor
    ) -> None:
        """Fill logits [M,N]; the caller's scales reach this function as fp32 [N,1]."""
        score = self.module(format_of(k_fp8)).fp8_mqa_logits_torch
        with Elsewhere(logits.device):
            got = score(q_fp8, (k_fp8, k_scale.unsqueeze(1)), weights, ks, ke)
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
        layout: str,  # noqa: ARG002 - it knows one
    ) -> None:
        """Fill logits [B*next_n, max_model_len]."""
        score = self.module(format_of(q_fp8)).fp8_paged_mqa_logits_torch
        with Elsewhere(logits.device):
            got = score(q_fp8, cache.unsqueeze(-2), weights, context_lens, block_table, logits.shape[1])
        fill(logits, got)

    def topk(self, logits: Tensor, *, index_topk: int) -> Tensor:
        """The best columns of each row of logits [M,N]: int32 [M, index_topk], -1 where there is none."""
        selected: Tensor = getattr(self.module("e4m3fn"), _TOPK_TORCH)(logits, index_topk)
        return selected


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


def _is_flat(layout: str, block_size: int) -> bool:
    return block_size > 1 and resolve(layout, block_size) == "normal"


def _refuse_unless_shuffle(layout: str, block_size: int) -> None:
    """Raise ValueError for pages of several tokens in NORMAL layout."""
    if _is_flat(layout, block_size):
        raise ValueError("pages of several tokens are SHUFFLE here; no argument asks for another layout")


def _bytes(k_scale: Tensor) -> Tensor:
    return k_scale.view(torch.uint8).view(-1, 4)

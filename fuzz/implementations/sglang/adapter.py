"""SGLang's Triton kernels for the index K cache, from a wheel, an unpacked wheel or a checkout.

`act_quant` (sglang/kernels/ops/quantization/act_quant_triton.py) quantises, `SetKAndS` and `GetKAndS`
(sglang/kernels/ops/kvcache/dsa_index_k_cache.py) write to the cache and gather from it. SGLang scores with DeepGEMM,
CuTe or AITER kernels, not with Triton kernels of its own, so there are no stages for logits.
"""

from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace

from torch import Tensor

from indexfuzz.core.guarantees import Promises
from indexfuzz.implementations.base import Implementation, StageFunction
from indexfuzz.implementations.loading.loader import Loader
from indexfuzz.implementations.loading.source import Project, open_project
from indexfuzz.implementations.sglang.contract import HEAD_DIM, cache_contract, is_shuffle

KNOWN_VERSIONS = "0.5.23"
_CACHE = "sglang.kernels.ops.kvcache.dsa_index_k_cache"
_QUANT = "sglang.kernels.ops.quantization.act_quant_triton"
_UTILS = "sglang.srt.layers.attention.dsa.utils"

LEFT_OUT = (
    "its logits come from DeepGEMM, CuTe DSL or AITER, its fused quantisation from CUDA: no Triton there",
    "FP4 caches are Triton, but no stage; sglang-kpool:PATH has pooled keys, sglang-index:PATH positions to slots",
)


def load(path: str | Path) -> Implementation:
    """Find SGLang at a path. Raises SourceError where it is absent or its kernels have moved."""
    project = open_sglang(path)
    kernels = Kernels(project)
    kernels.cache_module("normal", 1)
    kernels.quant_module()
    stages: dict[str, StageFunction] = {
        "q_quant": kernels.q_quant,
        "k_quant_cache": kernels.k_quant_cache,
        "gather": kernels.gather,
    }
    promises = Promises(gather_padding="undefined")
    notes = (f"read from {path}", *LEFT_OUT)
    return Implementation(
        project.label, stages, cache_contract(project), promises, notes, project.replaced, sources=project.executed
    )


def open_sglang(path: str | Path) -> Project:
    """A wheel, an unpacked wheel or a checkout. Raises SourceError."""
    return open_project(path, "sglang", known_versions=KNOWN_VERSIONS, roots=("", "python/"))


class Kernels:
    """The launchers of one SGLang release, with the signatures of the stages."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self.quant_module = cache(self._load_quant)
        self._load_cache_once = cache(self._load_cache)

    def cache_module(self, layout: str, block_size: int) -> ModuleType:
        """The cache kernels on the platform that keeps its pages in a layout.

        CUDA: NORMAL pages of 64. ROCm: SHUFFLE pages of several tokens with AITER, NORMAL pages of 1 without.
        """
        shuffle = is_shuffle(layout, block_size)
        return self._load_cache_once(hip=shuffle or block_size == 1, preshuffle=shuffle)

    def q_quant(self, q: Tensor, weights: Tensor, *, scale_fmt: str, fp8: str) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Quantise q [T,H,D]; the scales are folded into the weights here, as Indexer does in several places."""
        heads, head_dim = q.shape[1:]
        q_fp8, scale = self.quant_module().act_quant(q, head_dim, _scale_fmt(scale_fmt))
        return q_fp8, weights * scale.squeeze(-1) * head_dim**-0.5 * heads**-0.5

    def k_quant_cache(
        self,
        k: Tensor,
        cache: Tensor,
        slot_mapping: Tensor,
        *,
        scale_fmt: str,
        fp8: str,  # noqa: ARG002 - act_quant has one format
        quant_group: int,
        layout: str,
    ) -> None:
        """Quantise k [T,D], then insert it, as `_store_index_k_cache` does where no fused kernel applies."""
        k, slot_mapping = with_slots(k, slot_mapping)
        k_fp8, k_scale = self.quant_module().act_quant(k, quant_group, _scale_fmt(scale_fmt))
        num_blocks, block_size, bytes_per_token = cache.shape
        store = self.cache_module(layout, block_size).SetKAndS.execute
        pages = cache.view(num_blocks, block_size * bytes_per_token)
        store(_pool(block_size), buf=pages, loc=slot_mapping, index_k=k_fp8, index_k_scale=k_scale)

    def gather(
        self,
        cache: Tensor,
        block_table: Tensor,
        cu_seqlens: Tensor,
        token_to_seq: Tensor,  # noqa: ARG002 - SGLang's kernel takes the lengths alone
        k_fp8: Tensor,
        k_scale: Tensor,
        *,
        quant_group: int,  # noqa: ARG002 - one scale per token
        layout: str,
    ) -> None:
        """Gather keys; SGLang returns new tensors, which are copied to k_fp8 [N,D] and k_scale [N].

        Raises ValueError for SHUFFLE pages, which SGLang leaves to AITER.
        """
        if is_shuffle(layout, cache.shape[1]):
            raise ValueError("SGLang gathers SHUFFLE pages with a C++ op of AITER; NORMAL pages have a Triton kernel")
        num_blocks, block_size, bytes_per_token = cache.shape
        lens = cu_seqlens.diff()
        read = self.cache_module(layout, block_size).GetKAndS.execute
        pages = cache.view(num_blocks, block_size * bytes_per_token)
        longest = int(lens.max()) if len(lens) else 0
        keys, scales = read(_pool(block_size), pages, block_table, lens, k_fp8.shape[0], longest)
        k_fp8.copy_(keys.view(k_fp8.dtype))
        k_scale.copy_(scales.view(k_scale.dtype).squeeze(-1))

    def _load_cache(self, *, hip: bool, preshuffle: bool) -> ModuleType:
        provide = {
            "sglang.kernels.ops.quantization.fp8_kernel.is_fp8_fnuz": bool,
            "sglang.srt.utils.is_hip": lambda: hip,
            "sglang.srt.utils.is_xpu": bool,
            f"{_UTILS}.aiter_can_use_preshuffle_paged_mqa": lambda: preshuffle,
        }
        execute = {_CACHE: ("GetKAndS", "SetKAndS"), _UTILS: ("INDEXER_K_CACHE_PRESHUFFLE_TILE",)}
        return Loader(self._project, provide=provide, execute=execute).load(_CACHE)

    def _load_quant(self) -> ModuleType:
        return Loader(self._project, provide={}, execute={_QUANT: ("act_quant",)}).load(_QUANT)


def with_slots(k: Tensor, slot_mapping: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of k [T, D] that have a slot, and their slots; SGLang knows no others, padding goes to a slot, too."""
    k, has_slot = k[: len(slot_mapping)], slot_mapping >= 0
    return (k, slot_mapping) if bool(has_slot.all()) else (k[has_slot], slot_mapping[has_slot])


def _scale_fmt(scale_fmt: str) -> str | None:
    return "ue8m0" if scale_fmt == "ue8m0" else None


def _pool(block_size: int) -> SimpleNamespace:
    return SimpleNamespace(index_page_size=block_size, index_head_dim=HEAD_DIM, quant_block_size=HEAD_DIM)

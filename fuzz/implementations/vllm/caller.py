"""`Indexer.forward` of vLLM's deepseek_v2.py, the real caller, with stand-ins for the layers around it.

What is observed is q as it reaches quantisation and k as it reaches the cache: the stage rope.
"""

import inspect
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from indexfuzz.implementations.loading.loader import Loader
from indexfuzz.implementations.loading.source import Project
from indexfuzz.implementations.vllm.platform import provide_vllm
from indexfuzz.implementations.vllm.rope_layer import RopeLayer

_MODULE = "vllm.model_executor.models.deepseek_v2"
_LAYERS = "vllm.model_executor.layers"
_HIDDEN = 16


class Caller:
    """The Indexer of one vLLM release."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._indexer = cache(self._build)

    def rope(
        self,
        q: Tensor,
        k: Tensor,
        positions: Tensor,
        cos_sin_cache: Tensor,
        *,
        rope_dim: int,
        style: str,
        placement: str,  # noqa: ARG002 - Indexer.forward always rotates the first dims
        mode: str,
    ) -> tuple[Tensor, Tensor]:
        """Return q [T,H,D] and k [T,D] as Indexer.forward hands them on; q itself is changed under mode "inplace"."""
        tokens, heads, head_dim = q.shape
        layer = RopeLayer(cos_sin_cache, style, mode)
        indexer = self._indexer(heads, head_dim, rope_dim, inplace=layer.enabled())
        indexer.wq_b.output = q.view(tokens, heads * head_dim)
        indexer.wk_weights_proj.output = _Fused(k, q.new_zeros(tokens, heads), head_dim)
        hidden = q.new_empty(tokens, _HIDDEN)
        seen_q, seen_k = indexer.forward(hidden, hidden, positions, layer)
        return seen_q.view(tokens, heads, head_dim), seen_k

    def _build(self, heads: int, head_dim: int, rope_dim: int, *, inplace: bool) -> Any:
        """Construct an Indexer as its owner in the same file does: newer releases are told of in-place layers."""
        indexer = self._module.Indexer
        config = SimpleNamespace(index_topk=1, index_n_heads=heads, index_head_dim=head_dim, qk_rope_head_dim=rope_dim)
        vllm_config = SimpleNamespace(model_config=SimpleNamespace(max_model_len=1))
        options = {"is_inplace_rope": inplace} if "is_inplace_rope" in inspect.signature(indexer).parameters else {}
        return indexer(vllm_config, config, _HIDDEN, _HIDDEN, None, SimpleNamespace(), None, **options)

    @property
    def _module(self) -> Any:
        provide = provide_vllm("e4m3fn") | {
            f"{_LAYERS}.linear.ReplicatedLinear": _Layer,
            f"{_LAYERS}.linear.MergedColumnParallelLinear": _Layer,
            f"{_LAYERS}.layernorm.LayerNorm": _DenseCopy,
            f"{_LAYERS}.sparse_attn_indexer.SparseAttnIndexer": _Observer,
            f"{_LAYERS}.quantization.utils.fp8_utils.per_token_group_quant_fp8": _keep_unquantised,
            "vllm.config.get_current_vllm_config": _vllm_config,
            "vllm.v1.attention.backends.mla.indexer.get_max_prefill_buffer_size": lambda _: 1,
        }
        return Loader(self._project, provide=provide, execute={_MODULE: ("Indexer",)}).load(_MODULE)


class _Layer(nn.Module):
    """A linear layer whose output is set beforehand; vLLM's layers return a pair."""

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__()
        self.output: Any = None

    def forward(self, _: Tensor) -> tuple[Any, None]:
        return self.output, None


class _DenseCopy(nn.Module):
    """A normalisation that changes no value: like the real one, it returns a new, dense tensor."""

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x.clone(memory_format=torch.contiguous_format)


class _Observer(nn.Module):
    """The indexer op at the end: returns the q and k that reach it instead of scoring them."""

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__()

    def forward(self, _: Tensor, q: Tensor, k: Tensor, __: Tensor) -> tuple[Tensor, Tensor]:
        return q, k


class _Fused:
    """Output of the projection that computes k and the head weights at once, cut by the caller at column head_dim."""

    def __init__(self, k: Tensor, weights: Tensor, head_dim: int) -> None:
        self._k, self._weights, self._head_dim = k, weights, head_dim

    def __getitem__(self, columns: tuple[slice, slice]) -> Tensor:
        if columns == (slice(None), slice(None, self._head_dim)):
            return self._k
        if columns == (slice(None), slice(self._head_dim, None)):
            return self._weights
        raise IndexError(f"the fused projection is cut at column {self._head_dim}, not at {columns}")


def _keep_unquantised(q: Tensor, group_size: int, **_: object) -> tuple[Tensor, Tensor]:  # noqa: ARG001 - the real signature
    """In place of quantisation: q as it is, and scales of one."""
    return q, q.new_ones(q.shape[0], 1, dtype=torch.float32)


def _vllm_config() -> SimpleNamespace:
    return SimpleNamespace(compilation_config=SimpleNamespace(static_forward_context={}))

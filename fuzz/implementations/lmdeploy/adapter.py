"""LMDeploy's DSA indexer of DeepSeek-V3.2 and GLM-5, from a wheel, an unpacked wheel or a checkout.

Every step of it is in Triton, below `lmdeploy/pytorch/kernels/cuda`. `TritonNSAIndexFP8` of
`backends/cuda/nsa.py` calls the kernels on requests and a packed cache; `requests.py` makes requests of what the stages
are given. Two kernels prepare q and k at once, which is the default; behind a switch are single steps.
"""

from functools import cache
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from indexfuzz.core.guarantees import Promises
from indexfuzz.core.stage_names import FUSED_K, FUSED_Q
from indexfuzz.implementations.base import Implementation, StageFunction
from indexfuzz.implementations.lmdeploy.contract import HEAD_DIM, contract, reach
from indexfuzz.implementations.lmdeploy.gpu import Gpu
from indexfuzz.implementations.lmdeploy.requests import insertions, paged, runs_of_rows, trimmed
from indexfuzz.implementations.loading.loader import Loader
from indexfuzz.implementations.loading.source import Project, open_project

KNOWN_VERSIONS = "0.16.0 and 0.18.0"
AMAX_FLOOR = 1e-6
_FOLDER = "lmdeploy.pytorch.kernels.cuda"
_CALLER = "lmdeploy.pytorch.backends.cuda.nsa"
_CONSTANTS = "lmdeploy.pytorch.consts"
_VIEWS = "_get_dsa_indexer_k_cache_views"
_EXECUTE = {
    f"{_FOLDER}.dsa_indexer_preprocess": (
        "prepare_dsa_indexer_q",
        "prepare_dsa_indexer_k_cache",
        "flatten_dsa_indexer_k_cache",
    ),
    f"{_FOLDER}.ds_index": ("fp8_index",),
    f"{_FOLDER}.bitonic_topk": ("bitonic_topk",),
    f"{_FOLDER}.apply_rotary_pos_emb": ("apply_rotary_pos_emb",),
    f"{_FOLDER}.blocked_gemm_fp8": ("quant_fp8", "fast_round_scale"),
    f"{_FOLDER}.fill_kv_cache": ("fill_kv_cache_blocked_fp8",),
    _CALLER: (_VIEWS,),
    _CONSTANTS: ("DSA_INDEX_SCALE_BYTES",),
}


def load(path: str | Path) -> Implementation:
    """Find LMDeploy's indexer at a path. Raises SourceError where it is absent or its kernels have moved."""
    project = open_project(path, "lmdeploy", known_versions=KNOWN_VERSIONS)
    kernels = Kernels(project)
    for module in _EXECUTE:
        kernels.module(module)
    stages: dict[str, StageFunction] = {
        FUSED_Q: kernels.fused_q,
        FUSED_K: kernels.fused_k,
        "rope": kernels.rope,
        "q_quant": kernels.q_quant,
        "k_quant_cache": kernels.k_quant_cache,
        "gather": kernels.gather,
        "prefill_logits": kernels.mqa_logits,
        "paged_logits": kernels.paged_mqa_logits,
        "topk": kernels.topk,
    }
    return Implementation(
        project.label,
        stages,
        contract(project),
        Promises(gather_padding="undefined", between="bf16", rope_products="bf16", amax_floor=AMAX_FLOOR),
        notes=(f"read from {path}", *reach(project)),
        replaced=project.replaced,
        sources=project.executed,
    )


class Kernels:
    """The launchers of one release, with the signatures of the stages."""

    def __init__(self, project: Project) -> None:
        self._gpu = Gpu()
        provide = {
            f"{_FOLDER}.utils.get_device_props": lambda _: self._gpu.properties,
            **{
                f"{_CONSTANTS}.{name}": None
                for name in ("DSA_INDEXER_K_CACHE_NAME", "dsa_packed_indexer_k_cache_shape")
            },
        }
        self._loader = Loader(project, provide=provide, execute=_EXECUTE)
        self.module = cache(self._loader.load)

    def fused_q(
        self,
        q: Tensor,
        weights: Tensor,
        positions: Tensor,
        cos_sin_cache: Tensor,
        *,
        rope_dim: int,  # noqa: ARG002 - the width of the table
        style: str,
        placement: str,  # noqa: ARG002 - always the first dims
        scale_fmt: str,  # noqa: ARG002 - always ue8m0
        fp8: str,  # noqa: ARG002 - always e4m3fn
    ) -> tuple[Tensor, Tensor]:
        """Return q_fp8 [T,H,D] and q_weights [T,H]."""
        heads, head_dim = q.shape[1:]
        q_fp8, q_weights = self._kernel("dsa_indexer_preprocess").prepare_dsa_indexer_q(
            q,
            weights,
            *_angles(positions, cos_sin_cache),
            score_scale=head_dim**-0.5 * heads**-0.5,
            out_dtype=torch.float8_e4m3fn,
            rope_interleaved=style == "interleaved",
        )
        return q_fp8, q_weights

    def fused_k(
        self,
        k: Tensor,
        k_norm_weight: Tensor,
        k_norm_bias: Tensor,
        positions: Tensor,
        cos_sin_cache: Tensor,
        cache: Tensor,
        slot_mapping: Tensor,
        *,
        eps: float,
        rope_dim: int,  # noqa: ARG002 - the width of the table
        style: str,
        placement: str,  # noqa: ARG002 - always the first dims
        scale_fmt: str,  # noqa: ARG002 - always ue8m0
        fp8: str,  # noqa: ARG002 - always e4m3fn
        quant_group: int,  # noqa: ARG002 - one scale per token
        layout: str,  # noqa: ARG002 - always NORMAL
    ) -> None:
        """Norm, rotate, quantise and insert k."""
        into = insertions(slot_mapping, cache.shape[1])
        values, scales = self._views(cache)
        self._kernel("dsa_indexer_preprocess").prepare_dsa_indexer_k_cache(
            into.of_tokens(k),
            k_norm_weight,
            k_norm_bias,
            *_angles(into.of_tokens(positions), cos_sin_cache),
            values,
            scales[..., 0],
            cu_seqlen_q=into.query_start,
            kv_seqlens=into.lengths,
            block_offsets=into.table,
            max_q_seqlen=into.longest_query,
            eps=eps,
            rope_interleaved=style == "interleaved",
        )

    def rope(
        self,
        q: Tensor,
        k: Tensor,
        positions: Tensor,
        cos_sin_cache: Tensor,
        *,
        rope_dim: int,
        style: str,
        placement: str,  # noqa: ARG002 - always the first dims
        mode: str,  # noqa: ARG002 - never in place
    ) -> tuple[Tensor, Tensor]:
        """Return q [T,H,D] and k [T,D], their first dims rotated."""
        cos, sin = _angles(positions, cos_sin_cache)
        interleaved = style == "interleaved"
        if interleaved:
            cos, sin = cos[..., : rope_dim // 2], sin[..., : rope_dim // 2]
        turned_q, turned_k = q[..., :rope_dim], k[:, None, :rope_dim]
        into_q, into_k = torch.empty_like(turned_q), torch.empty_like(turned_k)
        turn = self._kernel("apply_rotary_pos_emb").apply_rotary_pos_emb
        turned_q, turned_k = turn(turned_q, turned_k, cos, sin, into_q, into_k, complex_mode=interleaved)
        return torch.cat([turned_q, q[..., rope_dim:]], -1), torch.cat([turned_k[:, 0], k[:, rope_dim:]], -1)

    def q_quant(self, q: Tensor, weights: Tensor, *, scale_fmt: str, fp8: str) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Quantise q [T,H,D]; the scales are folded into the weights here, as `TritonNSAIndexFP8.forward` does."""
        tokens, heads, head_dim = q.shape
        quantise = self._kernel("blocked_gemm_fp8").quant_fp8
        q_fp8, scale = quantise(
            q.reshape(tokens * heads, head_dim),
            HEAD_DIM,
            dtype=torch.float8_e4m3fn,
            trans_scale=True,
            scale_fmt=scale_fmt,
        )
        # The model makes the last product itself, and rounds it to its dtype; no kernel does.
        folded = scale.reshape(tokens, heads) * head_dim**-0.5 * (weights.float() * heads**-0.5)
        return q_fp8.reshape(q.shape), folded

    def k_quant_cache(
        self,
        k: Tensor,
        cache: Tensor,
        slot_mapping: Tensor,
        *,
        scale_fmt: str,
        fp8: str,  # noqa: ARG002 - always e4m3fn
        quant_group: int,
        layout: str,  # noqa: ARG002 - always NORMAL
    ) -> None:
        """Quantise k [T,D] and insert it."""
        into = insertions(slot_mapping, cache.shape[1])
        values, scales = self._views(cache)
        self._kernel("fill_kv_cache").fill_kv_cache_blocked_fp8(
            into.of_tokens(k)[:, None],
            None,
            values[..., None, :],
            None,
            scales[..., None, :],
            None,
            cu_seqlen_q=into.query_start,
            kv_seqlens=into.lengths,
            max_q_seqlen=into.longest_query,
            block_offsets=into.table,
            group_size=quant_group,
            scale_fmt=scale_fmt,
        )

    def gather(
        self,
        cache: Tensor,
        block_table: Tensor,
        cu_seqlens: Tensor,
        token_to_seq: Tensor,  # noqa: ARG002 - the kernel takes the lengths alone
        k_fp8: Tensor,
        k_scale: Tensor,
        *,
        quant_group: int,  # noqa: ARG002 - one scale per token
        layout: str,  # noqa: ARG002 - always NORMAL
    ) -> None:
        """Gather keys; LMDeploy returns new tensors, which are copied to k_fp8 [N,D] and k_scale [N]."""
        values, scales = self._views(cache)
        flatten = self._kernel("dsa_indexer_preprocess").flatten_dsa_indexer_k_cache
        lengths = cu_seqlens.diff().int()
        keys, found = flatten(values, scales[..., 0], cu_seqlens, lengths, block_table, out_size=len(k_fp8))
        k_fp8.copy_(keys)
        k_scale.copy_(found)

    def mqa_logits(
        self, q_fp8: Tensor, k_fp8: Tensor, k_scale: Tensor, weights: Tensor, ks: Tensor, ke: Tensor, logits: Tensor
    ) -> None:
        """Fill logits [M,N]: LMDeploy scores pages in prefill, too, so the keys of each request are put into some."""
        runs = runs_of_rows(ks, ke)
        keys = paged(k_fp8, k_scale, runs)
        longest = len(q_fp8) if len(runs) < len(q_fp8) else 1
        query_start = torch.tensor([0, *(run.rows.stop for run in runs)], dtype=torch.int32, device=ks.device)
        scores = self._score(q_fp8, weights, keys.cache, query_start, keys.lengths, keys.table, longest, keys.longest)
        logits.fill_(float("-inf"))
        for run in runs:
            logits[run.rows, run.keys] = scores[run.rows, : run.keys.stop - run.keys.start]

    def paged_mqa_logits(
        self,
        q_fp8: Tensor,
        cache: Tensor,
        weights: Tensor,
        context_lens: Tensor,
        block_table: Tensor,
        logits: Tensor,
        *,
        layout: str,  # noqa: ARG002 - always NORMAL
    ) -> None:
        """Fill logits [B*next_n, max_model_len]; LMDeploy leaves what lies behind a request's length as it is."""
        batch, next_n = q_fp8.shape[:2]
        lengths, columns = context_lens.reshape(batch), logits.shape[1]
        query_start = torch.arange(0, (batch + 1) * next_n, next_n, dtype=torch.int32, device=logits.device)
        scores = self._score(q_fp8.flatten(0, 1), weights, cache, query_start, lengths, block_table, next_n, columns)
        ends = lengths.repeat_interleave(next_n).unsqueeze(1)
        is_scored = torch.arange(columns, device=logits.device) < ends
        logits.copy_(torch.where(is_scored, scores, float("-inf")))

    def topk(self, logits: Tensor, *, index_topk: int) -> Tensor:
        """The best columns of each row of logits [M,N]: int32 [M, index_topk], -1 where there is none."""
        rows = trimmed(logits)
        ones = torch.ones_like(rows.lengths)
        with self._gpu.sorting(len(logits) * -(-rows.logits.shape[1] // index_topk)):
            select = self._kernel("bitonic_topk").bitonic_topk
            chosen = select(rows.logits, ones, rows.lengths, index_topk, fill=-1, descending=True)
        return torch.where(chosen < 0, chosen, chosen + rows.starts.unsqueeze(1)).int()

    def _score(
        self,
        q_fp8: Tensor,
        weights: Tensor,
        cache: Tensor,
        query_start: Tensor,
        lengths: Tensor,
        table: Tensor,
        longest_query: int,
        columns: int,
    ) -> Tensor:
        """Logits [rows, columns] of q_fp8 [rows,H,D] over the pages of each request."""
        values, scales = self._views(cache)
        found: Tensor = self._kernel("ds_index").fp8_index(
            q_fp8,
            weights,
            values,
            scales[..., 0],
            query_start,
            lengths,
            table,
            max_q_seqlen=longest_query,
            max_k_seqlen=columns,
            causal=True,
        )
        return found

    def _kernel(self, name: str) -> ModuleType:
        return self.module(f"{_FOLDER}.{name}")

    def _views(self, cache: Tensor) -> tuple[Tensor, Tensor]:
        """Keys [num_blocks, block_size, D] e4m3fn and scales [num_blocks, block_size, 1] of a cache."""
        values, scales = getattr(self.module(_CALLER), _VIEWS)(cache.unsqueeze(2), cache.shape[2] - 4)
        return values, scales


def _angles(positions: Tensor, cos_sin_cache: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of each token [T, rope_dim], each twice, as the rotary embedding hands them on."""
    cos, sin = cos_sin_cache[positions].chunk(2, dim=-1)
    return cos.repeat(1, 2), sin.repeat(1, 2)

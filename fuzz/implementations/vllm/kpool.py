"""vLLM's key pooling of GLM-5.3-Flash, from a wheel, an unpacked wheel or a checkout.

`sparse_attn_indexer_kpool` of `models/glm5next/{nvidia,amd}/sparse_indexer.py` makes and inserts the pooled keys that
are due, by one kernel for the tokens of prefill and another for those of decode, and keeps tokens in a ring for each
request. It is run as it stands, on sequences short enough that it selects every token and scores none. What it is told
of a step is made as the metadata builders make it: which requests decode, slots of keys, and slots in the rings.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import repeat
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from indexfuzz.core.guarantees import Promises
from indexfuzz.core.stage_names import FUSED_POOL
from indexfuzz.implementations.base import Implementation
from indexfuzz.implementations.loading.loader import Loader
from indexfuzz.implementations.loading.source import Project, module_of, open_project
from indexfuzz.implementations.vllm.jit_kernel import provide_jit_kernels
from indexfuzz.implementations.vllm.kpool_contract import (
    BY_DEFAULT,
    FOLDER,
    Served,
    conditions,
    contract,
    kept,
    most_drafts,
    reach,
)
from indexfuzz.implementations.vllm.platform import provide_vllm
from indexfuzz.implementations.vllm.v4 import METADATA, SLOTS, visible_keys
from indexfuzz.reference import layout as page_layout

KNOWN_VERSIONS = "0.33"
HELPERS = f"{FOLDER}/common/sparse_indexer.py"
SPLIT = "vllm/v1/attention/backends/utils.py"

LARGEST_FNUZ = 240.0
"""What rows of e4m3fnuz are scaled to: FP8_MAX of amd/ops/kpool_compress.py is that of the format."""

SPAN = 256
"""Tokens of a program that says where tokens go in their rings, as the launcher has it."""

UNIFORM = (1, 2, 4)
"""Tokens of a request that the decode logits of SM90 take at once; a batch of decode is uniform then."""


def load(path: str | Path, served: Served = BY_DEFAULT) -> Implementation:
    """Find the pooling at a path. Raises SourceError where it is absent or has moved."""
    project = open_project(path, "vllm", known_versions=KNOWN_VERSIONS)
    pooling = Pooling(project, served)
    pooling.modules("e4m3fn", is_amd=False)
    variant = " without prefix caching" * (not served.chunks_are_aligned)
    variant += " on SM90" * served.is_sm90 + " on SM100" * served.is_sm100
    return Implementation(
        f"{project.label} glm5next{variant}",
        {FUSED_POOL: pooling.fused_pool},
        contract(project, served),
        Promises(between="bf16", fnuz_largest=LARGEST_FNUZ),
        notes=(f"read from {path}", *reach(project), *conditions(project, served)),
        replaced=project.replaced,
        sources=project.executed,
        keeps={FUSED_POOL: kept},
    )


def load_uncached(path: str | Path) -> Implementation:
    """The same without prefix caching, where chunks start anywhere."""
    return load(path, Served(chunks_are_aligned=False))


def load_sm90(path: str | Path) -> Implementation:
    """The same on SM90, where requests that decode have equally many tokens, and all others are prefill."""
    return load(path, Served(is_sm90=True))


def load_sm100(path: str | Path) -> Implementation:
    """The same on SM100, where the scale of a key is four equal exponents."""
    return load(path, Served(is_sm100=True))


class _Modules(NamedTuple):
    """Executed files, and what `get_forward_context` gives them."""

    context: SimpleNamespace
    indexer: ModuleType
    slots: ModuleType
    metadata: ModuleType
    split: ModuleType


class _Rows(NamedTuple):
    """The tokens of a step as vLLM has them: those that decode come first, requests without a token do not come.

    `order` [n] are their rows in the step.
    """

    order: Tensor
    starts: Tensor
    lens: Tensor
    table: Tensor
    rings: Tensor
    positions: Tensor


class Pooling:
    """The pooling of one release, with the signature of the operation."""

    def __init__(self, project: Project, served: Served) -> None:
        self._project, self._served = project, served
        self.modules = cache(self._load)

    def fused_pool(
        self,
        k: Tensor,
        scores: Tensor,
        bias: Tensor,
        query_start: Tensor,
        context_lens: Tensor,
        rings: Tensor,
        block_table: Tensor,
        state: Tensor,
        cache: Tensor,
        slot_mapping: Tensor,
        visible: Tensor,
        *,
        ratio: int,
        pooling: str,  # noqa: ARG002 - always the softmax
        scale_fmt: str,
        fp8: str,
        quant_group: int,
        layout: str,
        scales: str = "fp32",  # noqa: ARG002 - those of the GPU
    ) -> None:
        """Do with a step what the metadata builders and the indexer do with it."""
        is_amd = page_layout.resolve(layout, cache.shape[1]) == "shuffle"
        modules = self.modules(fp8, is_amd=is_amd)
        slot_mapping.fill_(-1)
        visible.zero_()
        drafts = most_drafts(state.shape[1], ratio)
        rows = _in_order(query_start, context_lens, block_table, rings, 1 + drafts)
        tokens = len(rows.order)
        if not tokens:
            return
        slots = slot_mapping.new_full((tokens,), -1)
        own = torch.zeros_like(slots)
        table, size = rows.table, cache.shape[1]
        modules.slots.get_compressed_slot_mapping(tokens, own, rows.starts, rows.lens, table, size, ratio, out=slots)
        slot_mapping[rows.order] = slots
        visible[rows.order] = visible_keys(modules.metadata, rows.starts, rows.lens, table, ratio, tokens)

        blocks, ring, halves, dim = state.shape
        tail = state.flatten(1).view(blocks, halves, ring, dim)
        told = self._metadata(modules, rows, slots, drafts)
        in_rings = replace(told, slot_mapping=_tail_slots(modules, rows, state))
        modules.context.attn_metadata = {"keys": told, "tail": in_rings}
        most = int(rows.lens.max())
        modules.indexer.sparse_attn_indexer_kpool(
            hidden_states=k,
            k_cache_prefix="keys",
            kv_cache=cache,
            q_quant=k,
            q_scale=None,
            k=k[rows.order],
            weights=k,
            quant_block_size=quant_group,
            scale_fmt=scale_fmt,
            topk_tokens=most,
            head_dim=k.shape[1],
            max_pool_len=most // ratio + 1,
            total_seq_lens=most,
            topk_indices_buffer=slot_mapping.new_empty((len(slot_mapping), most), dtype=torch.int32),
            skip_k_cache_insert=False,
            gate_score=scores[rows.order],
            compress_ape=bias,
            index_kpool=ratio,
            positions=rows.positions,
            tail_kv_cache=tail,
            tail_prefix="tail",
        )

    def _metadata(self, modules: _Modules, rows: _Rows, slots: Tensor, drafts: int) -> Any:
        """What the builder of the indexer's metadata says of a step, as far as pooling asks for it."""
        counts = rows.starts.diff()
        common = SimpleNamespace(
            max_query_len=int(counts.max()),
            num_reqs=len(counts),
            num_actual_tokens=len(rows.order),
            query_start_loc_cpu=rows.starts.cpu(),
        )
        uniform = self._served.is_sm90 and 1 + drafts in UNIFORM
        decodes, prefills, decoded, prefilled = modules.split.split_decodes_and_prefills(
            common, decode_threshold=1 + drafts, require_uniform=uniform
        )
        ahead = counts[:decodes]
        decode = SimpleNamespace(
            per_req_decode_lens=ahead,
            decode_is_uniform=bool((ahead == ahead[:1]).all()),
            write_max_decode_len=int(ahead.max()) if decodes else 0,
        )
        prefill = SimpleNamespace(
            max_prefill_seq_len=int(rows.lens[decodes:].max()) if prefills else 0,
            chunks=[],
            row_shard_sizes=None,
        )
        return modules.metadata.DeepseekV32IndexerMetadata(
            seq_lens=rows.lens,
            max_seq_len=int(rows.lens.max()),
            slot_mapping=slots,
            num_decodes=decodes,
            num_decode_tokens=decoded,
            num_prefills=prefills,
            num_prefill_tokens=prefilled,
            decode=decode if decodes else None,
            prefill=prefill if prefills else None,
        )

    def _load(self, fp8: str, *, is_amd: bool) -> _Modules:
        context, folder = SimpleNamespace(), f"{FOLDER}/{'amd' if is_amd else 'nvidia'}"
        workspace = SimpleNamespace(get_simultaneous=lambda *shapes: list(repeat(None, len(shapes))))
        same: Callable[[object], object] = lambda it: it  # noqa: E731 - a stand-in
        provide = (
            provide_vllm(fp8)
            | provide_jit_kernels()
            | {
                "vllm.utils.deep_gemm.mqa_logits_use_mx_scales": lambda: self._served.is_sm100,
                "vllm.forward_context.get_forward_context": lambda: context,
                "vllm.compilation.breakable_cudagraph.eager_break_during_capture": same,
                "vllm.utils.torch_utils._resolve_layer_name": same,
                "vllm.v1.worker.workspace.current_workspace_manager": lambda: workspace,
            }
        )
        execute = {
            module_of(f"{folder}/sparse_indexer.py"): ("sparse_attn_indexer_kpool",),
            module_of(f"{folder}/ops/kpool_compress.py"): (
                "kpool_compress_and_write_cache",
                "kpool_seed_tail_cache",
                "kpool_decode_update_and_maybe_write_cache_batched",
            ),
            module_of(HELPERS): (),
            module_of(SLOTS): ("get_compressed_slot_mapping",),
            module_of(METADATA): (
                "build_prefill_chunk_metadata",
                "DeepseekV32IndexerMetadata",
                "_kpool_tail_slot_mapping_kernel",
            ),
            "vllm.v1.attention.ops.common": ("pack_seq_triton", "pack_ue8m0_x4", "unpack_seq_triton"),
        }
        loader = Loader(self._project, provide=provide, execute=execute)
        # Of this file the others import names that they never use here.
        split = Loader(self._project, provide=provide, execute={module_of(SPLIT): ("split_decodes_and_prefills",)})
        indexer, slots, metadata = (loader.load(module_of(f)) for f in (f"{folder}/sparse_indexer.py", SLOTS, METADATA))
        return _Modules(context, indexer, slots, metadata, split.load(module_of(SPLIT)))


def _in_order(query_start: Tensor, context_lens: Tensor, table: Tensor, rings: Tensor, threshold: int) -> _Rows:
    """The tokens of a step in the order of vLLM's runner: requests of few tokens come first."""
    counts = query_start.diff()
    there = counts > 0
    which = torch.cat([(there & (counts <= threshold)).nonzero(), (counts > threshold).nonzero()]).flatten()
    counts = counts[which]
    starts = torch.nn.functional.pad(counts.cumsum(0), (1, 0)).int()
    rank = torch.arange(int(starts[-1]), device=starts.device)
    owners = torch.repeat_interleave(torch.arange(len(which), device=starts.device), counts)
    within = rank - starts[owners]
    return _Rows(
        order=(query_start[which][owners] + within).long(),
        starts=starts,
        lens=(context_lens[which] + counts).int(),
        table=table[which],
        rings=rings[which].int().unsqueeze(1),
        positions=(context_lens[which][owners] + within).long(),
    )


def _tail_slots(modules: _Modules, rows: _Rows, state: Tensor) -> Tensor:
    """Where tokens go in their rings, int64 [n], by the kernel of the builder of the rings' metadata."""
    tokens, requests = len(rows.order), len(rows.lens)
    slots = torch.empty(tokens, dtype=torch.int64, device=state.device)
    modules.metadata._kpool_tail_slot_mapping_kernel[(requests,)](  # noqa: SLF001 - its launcher asks for a GPU
        slots, rows.rings, rows.rings.stride(0), rows.starts, rows.positions, slots,
        requests, tokens, tokens, state.shape[1], BLOCK=SPAN,
    )  # fmt: skip
    return slots

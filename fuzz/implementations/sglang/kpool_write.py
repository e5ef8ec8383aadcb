"""SGLang's key pooling of GLM-5.3-Flash: the kernels that make pooled keys, insert them, and keep tokens in rings.

SGLang forms batches of prefill, of decode and, with drafts, of verification; a step is given to it as up to three of
them. `IndexerKPool` (dsa_indexer_kpool.py) pools those of prefill and of decode; a verified batch goes to the kernel
that its `_forward_cuda_target_verify` calls. What goes where is planned by kpool_plan.py and kpool_fp8_index.py.
"""

from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.core.guarantees import Promises
from indexfuzz.core.stage_names import FUSED_POOL
from indexfuzz.implementations.base import Implementation
from indexfuzz.implementations.loading.loader import Loader
from indexfuzz.implementations.loading.source import Project
from indexfuzz.implementations.places import fill_places
from indexfuzz.implementations.sglang.adapter import open_sglang
from indexfuzz.implementations.sglang.contract import is_shuffle
from indexfuzz.implementations.sglang.kpool_write_contract import MODEL, contract
from indexfuzz.samples.kept import Kept, kept_by

KERNELS = "sglang.srt.layers.attention.dsa.kpool_fp8_index"
INDEXER = "sglang.srt.layers.attention.dsa.dsa_indexer_kpool"
PLAN = "sglang.srt.layers.attention.dsa.kpool_plan"
_UTILS = "sglang.srt.layers.attention.dsa.utils"
_CONTEXT = "sglang.srt.model_executor.forward_context"
_LAYER = 0


def load(path: str | Path) -> Implementation:
    """Find SGLang at a path. Raises SourceError where it is absent or its kernels have moved."""
    project = open_sglang(path)
    pooling = Pooling(project)
    pooling.modules(preshuffle=False)
    chosen = project.place(MODEL, "IndexerKPool if get_dsa_index_kpool(config) > 1")
    return Implementation(
        f"{project.label} kpool-write",
        {FUSED_POOL: pooling.fused_pool},
        contract(project),
        Promises(between="bf16"),
        notes=(
            f"read from {path}",
            f"reached by GLM-5.3-Flash: chosen at {chosen}",
            "shuffled pages stand for AMD with AITER, pages in token order for NVIDIA",
            "slot_mapping and visible are filled in by the adapter",
        ),
        replaced=project.replaced,
        sources=project.executed,
        keeps={FUSED_POOL: kept},
    )


def kept(case: Case) -> Kept:
    """The ring of a request: a group, and as many rows as a batch of verification has tokens of a request."""
    own, drafts = kept_by(case), case.session.max_drafts
    return Kept(own.width, case.session.ratio + (1 + drafts if drafts else 0), own.dtype, apart=True)


class _Modules(NamedTuple):
    """Executed files, and the pool of caches that they ask for."""

    pool: SimpleNamespace
    kernels: ModuleType
    indexer: ModuleType
    plan: ModuleType


class _Batch(NamedTuple):
    """Requests of one kind: rows in the step, tokens of each, tokens before, rings, and tables of pages of tokens."""

    rows: Tensor
    counts: Tensor
    contexts: Tensor
    rings: Tensor
    table: Tensor

    @property
    def lens(self) -> Tensor:
        """Tokens of each request, those of the step included."""
        return self.contexts + self.counts


class _Unpinned:
    """torch, but that memory is not pinned, which needs a GPU."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def tensor(self, data: object, *, dtype: torch.dtype, pin_memory: bool = False) -> Tensor:  # noqa: ARG002
        """torch.tensor."""
        return torch.tensor(data, dtype=dtype)


class Pooling:
    """The pooling of one release, with the signature of the operation."""

    def __init__(self, project: Project) -> None:
        self._project = project
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
        fp8: str,  # noqa: ARG002 - always e4m3fn
        quant_group: int,  # noqa: ARG002 - always a scale per key
        layout: str,
    ) -> None:
        """Do with a step what the indexer does with its batches."""
        num_blocks, size, _ = cache.shape
        modules = self.modules(preshuffle=is_shuffle(layout, size))
        _, ring, _, dim = state.shape
        tails = state.unbind(2)
        pages = cache.view(num_blocks, -1)
        verified = ring - ratio
        vars(modules.pool).update(
            index_kpool=ratio,
            tail_extra_slots=verified,
            index_page_size=size,
            page_size=size * ratio,
            index_head_dim=dim,
            get_index_k_with_scale_buffer=lambda **_: pages,
            get_compress_tail_buffers=lambda _: tails,
            kpool_decode_update_index_cache=lambda *, layer_id, **given: (  # noqa: ARG005
                modules.kernels.kpool_decode_update_and_maybe_write_cache(
                    pool=modules.pool, buf=pages, tail_k=tails[0], tail_score=tails[1], **given
                )
            ),
        )
        slot_mapping.fill_(-1)
        visible.zero_()
        starts, counts = query_start.tolist(), query_start.diff()
        padding = torch.arange(starts[-1], len(k))
        is_verified = (counts == verified) & (context_lens > 0) & (verified > 0)
        is_decode = (counts == 1) & (context_lens > 0) & (verified == 0)
        tables = _token_pages(block_table, num_blocks, ratio)
        indexer = SimpleNamespace(index_kpool=ratio, index_kpool_compress_ape=bias, scale_fmt=scale_fmt, head_dim=dim)
        for chosen, run in ((is_verified, _verify), (is_decode, _decode), (~is_verified & ~is_decode, _extend)):
            which = (chosen & (counts > 0)).nonzero().flatten()
            if not len(which):
                continue
            rows = torch.cat([torch.arange(starts[i], starts[i + 1]) for i in which.tolist()])
            batch = _Batch(rows, counts[which], context_lens[which], rings[which].long(), tables[which])
            run(modules, indexer, batch, k, scores, padding)
        fill_places(query_start, context_lens, block_table, slot_mapping, visible, ratio=ratio, size=size)

    def _load(self, *, preshuffle: bool) -> _Modules:
        pool = SimpleNamespace()
        provide = {
            "sglang.srt.utils.is_cuda": lambda: not preshuffle,
            "sglang.srt.utils.is_hip": lambda: preshuffle,
            "sglang.srt.utils.is_npu": bool,
            f"{_UTILS}.aiter_can_use_preshuffle_paged_mqa": lambda: preshuffle,
            f"{_UTILS}.dsa_use_prefill_cp": lambda _: False,
            f"{_CONTEXT}.get_token_to_kv_pool": lambda: pool,
            "sglang.srt.layers.attention.dsa.dsa_topk_backend.TopkTransformMethod": SimpleNamespace(PAGED="paged"),
        }
        execute = {
            KERNELS: (
                "kpool_decode_update_and_maybe_write_cache",
                "kpool_assemble_softmax_rotate_write_cache",
                "scatter_kpool_tail_updates",
                "kpool_write_tail_and_maybe_compress",
                "update_kpool_write_plan_cuda_graph",
                "kpool_build_ragged_layout",
                "kpool_max_closed_pools",
                "build_kpool_topk_v2_plan",
                "build_pooled_page_table_64",
                "refresh_kpool_topk_v2_plan",
            ),
            INDEXER: ("IndexerKPool",),
            PLAN: ("_kpool_cpu_plan", "_kpool_plan_to_gpu"),
            _UTILS: ("INDEXER_K_CACHE_PRESHUFFLE_TILE",),
        }
        loader = Loader(self._project, provide=provide, execute=execute)
        modules = _Modules(pool, *(loader.load(module) for module in (KERNELS, INDEXER, PLAN)))
        vars(modules.plan)["torch"] = _Unpinned()
        return modules


def _token_pages(table: Tensor, num_blocks: int, ratio: int) -> Tensor:
    """The pages of 64 tokens that pages of 64 keys stand for: `ratio` for each. What lies behind a table is 0."""
    owned = torch.where((table >= 0) & (table < num_blocks), table, 0)
    return (owned.unsqueeze(-1) * ratio + torch.arange(ratio, device=table.device)).flatten(1).int()


def _extend(modules: _Modules, indexer: SimpleNamespace, batch: _Batch, k: Tensor, scores: Tensor, _: Tensor) -> None:
    """A batch of prefill, by its plan."""
    ratio, size = indexer.index_kpool, modules.pool.index_page_size
    lens = torch.cat(
        [torch.arange(n - c, n) + 1 for n, c in zip(batch.lens.tolist(), batch.counts.tolist(), strict=True)]
    )
    forward = SimpleNamespace(
        batch_size=len(batch.counts),
        extend_seq_lens_cpu=batch.counts.tolist(),
        seq_lens_cpu=batch.lens.cpu(),
        seq_lens=batch.lens,
        req_pool_indices=batch.rings,
    )
    cpu = modules.plan._kpool_cpu_plan(forward, ratio, size)  # noqa: SLF001 - what init_kpool_extend_metadata does
    plan = modules.plan._kpool_plan_to_gpu(  # noqa: SLF001
        cpu, forward, batch.table, batch.table, lens.int(), batch.rings, ratio, size, "ragged"
    )
    modules.indexer.IndexerKPool._compress_write_extend(  # noqa: SLF001 - no model, no layer
        indexer,
        key=k[batch.rows],
        gate_score=scores[batch.rows],
        positions=lens - 1,
        forward_batch=forward,
        layer_id=_LAYER,
        metadata=SimpleNamespace(attn_metadata=SimpleNamespace(kpool_extend_plan=plan)),
    )


def _decode(
    modules: _Modules, indexer: SimpleNamespace, batch: _Batch, k: Tensor, scores: Tensor, padding: Tensor
) -> None:
    """A batch of decode with the padding of a captured graph: request 0, position 0, one token, nowhere to write."""
    rows, more = torch.cat([batch.rows, padding]), len(padding)
    forward = SimpleNamespace(
        req_pool_indices=_padded(batch.rings, more),
        out_cache_loc=_padded(torch.ones_like(batch.rings), more),
    )
    lens = _padded(batch.lens.int(), more, 1)
    modules.indexer.IndexerKPool._compress_write_decode(  # noqa: SLF001 - no model, no layer
        indexer,
        key=k[rows],
        gate_score=scores[rows],
        positions=_padded(batch.contexts.long(), more),
        forward_batch=forward,
        layer_id=_LAYER,
        metadata=SimpleNamespace(get_page_table_64=lambda: _padded(batch.table, more), get_seqlens_int32=lambda: lens),
    )


def _verify(
    modules: _Modules, indexer: SimpleNamespace, batch: _Batch, k: Tensor, scores: Tensor, padding: Tensor
) -> None:
    """A batch of verification with the padding of a captured graph, in whole requests."""
    tokens = int(batch.counts[0])
    more = len(padding) // tokens
    rows = torch.cat([batch.rows, padding[: more * tokens]])
    rings, starts = _padded(batch.rings, more), _padded(batch.contexts.int(), more, 1)
    most = modules.kernels.kpool_max_closed_pools(tokens, indexer.index_kpool)
    plan = {
        "req_out": torch.zeros_like(rings),
        "write_start_out": torch.zeros_like(starts),
        "tail_logical_start_out": torch.zeros_like(starts),
        "write_loc_out": torch.zeros(len(rings), most, dtype=torch.int64, device=k.device),
    }
    modules.kernels.update_kpool_write_plan_cuda_graph(
        write_start=starts,
        req_pool_indices=rings,
        real_page_table=_padded(batch.table, more).repeat_interleave(tokens, 0),
        **plan,
        pool_seqlens_per_q_out=torch.zeros(len(rows), dtype=torch.int32, device=k.device),
        seqlens_per_q_out=torch.zeros(len(rows), dtype=torch.int32, device=k.device),
        kpool=indexer.index_kpool,
        num_draft_tokens=tokens,
        index_page_size=modules.pool.index_page_size,
    )
    tails = modules.pool.get_compress_tail_buffers(_LAYER)
    modules.kernels.kpool_write_tail_and_maybe_compress(
        pool=modules.pool,
        buf=modules.pool.get_index_k_with_scale_buffer(),
        key=k[rows],
        score=scores[rows],
        tail_k=tails[0],
        tail_score=tails[1],
        ape=indexer.index_kpool_compress_ape,
        req_pool_indices=plan["req_out"],
        write_start=plan["write_start_out"],
        tail_logical_start=plan["tail_logical_start_out"],
        write_loc=plan["write_loc_out"],
        out_cache_loc=_padded(torch.ones_like(batch.rings), more).repeat_interleave(tokens),
        num_draft_tokens=tokens,
        round_scale=indexer.scale_fmt is not None,
    )


def _padded(rows: Tensor, more: int, value: int = 0) -> Tensor:
    """Rows [n, ...] with more of them of one value."""
    return torch.cat([rows, rows.new_full((more, *rows.shape[1:]), value)])

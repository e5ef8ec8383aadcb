"""SGLang's pooling of pairs for DeepSeek-V4.1, from a wheel, an unpacked wheel or a checkout.

`c2_decode_pool` of `kernels/ops/attention/dsv4/c2_decode_pool.py` takes a token of each request, pools it with the one
before, which lies in a ring of the state, and keeps it there. NVIDIA GPUs before SM100 decode by it. Longer chunks and
drafts take PyTorch in the attention backend, which is not run: a chunk is given to the kernel token by token.
"""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.core.contract import Clause, Clauses
from indexfuzz.core.stage_names import COMPRESS
from indexfuzz.implementations.base import Implementation
from indexfuzz.implementations.callers import step_is_near
from indexfuzz.implementations.loading.loader import Loader
from indexfuzz.implementations.loading.source import Project, module_of
from indexfuzz.implementations.places import fill_places
from indexfuzz.implementations.sglang.adapter import open_sglang
from indexfuzz.samples.kept import Kept, kept_by

POOL = "sglang/kernels/ops/attention/dsv4/c2_decode_pool.py"
_BACKEND = "sglang/srt/layers/attention/deepseek_v4_backend.py"
_MEMORY = "sglang/srt/mem_cache/deepseek_v4_memory_pool.py"
_LAUNCHER = "c2_decode_pool"

RATIO = 2
ROWS = 2
"""Of a ring, where nothing is drafted."""


def load(path: str | Path) -> Implementation:
    """Find the pooling at a path. Raises SourceError where it is absent or has moved."""
    project = open_sglang(path)
    pool = getattr(
        Loader(project, provide={}, execute={module_of(POOL): (_LAUNCHER,)}).load(module_of(POOL)), _LAUNCHER
    )

    def compress(
        kv: Tensor,
        scores: Tensor,
        bias: Tensor,
        query_start: Tensor,
        context_lens: Tensor,
        rings: Tensor,
        block_table: Tensor,
        state: Tensor,
        keys: Tensor,
        slot_mapping: Tensor,
        visible: Tensor,
        *,
        ratio: int,
        overlap: bool,  # noqa: ARG001 - never
        block_size: int,
    ) -> None:
        """Decode the tokens of a step, one of each request at a time; the first launch has the padding, too."""
        slot_mapping.fill_(-1)
        visible.zero_()
        fill_places(query_start, context_lens, block_table, slot_mapping, visible, ratio=ratio, size=block_size)
        work = state.flatten(0, 1).clone()
        work[:ROWS] = 0  # the spare row is read with the first token of a request
        counts = query_start.diff()
        padding = torch.arange(int(query_start[-1]), len(slot_mapping), device=kv.device)
        for rank in range(max(int(counts.max()) if len(counts) else 0, int(len(padding) > 0))):
            live = (counts > rank).nonzero().flatten()
            own = query_start[live].long() + rank
            rows = torch.cat([own, padding]) if not rank else own
            position = torch.zeros_like(rows)
            position[: len(own)] = context_lens[live].long() + rank
            request = torch.full_like(rows, int(rings.max()) if len(rings) else 0)
            request[: len(own)] = rings[live].long()
            is_live = torch.arange(len(rows), device=kv.device) < len(own)
            pooled, _, _ = pool(
                kv[rows],
                (scores[rows] + bias[position % ratio]).contiguous(),
                position,
                is_live.long() * (rows + 1),
                slot_mapping[rows],
                request,
                work[:, 0],
                work[:, 1],
                0,
                ring_size=ROWS,
            )
            due = is_live & (position % ratio == ratio - 1)
            keys[rows[due]] = pooled[due].bfloat16()
        state.copy_(work.view(state.shape))

    called = project.place(_BACKEND, "pooled, group_pos, slots = c2_decode_pool(")
    return Implementation(
        f"{project.label} dsv41 pairs",
        {COMPRESS: compress},
        contract(project),
        notes=(
            f"read from {path}",
            f"reached by DeepSeek-V4.1 in decode on NVIDIA GPUs without the fused CUDA kernels ({called})",
            "a chunk is given to it token by token: prefill is PyTorch",
            "the model has no position bias: scores come with it",
            "slot_mapping and visible are filled in by the adapter",
        ),
        replaced=project.replaced,
        sources=project.executed,
        keeps={COMPRESS: kept},
    )


def kept(case: Case) -> Kept:
    """A ring of two tokens; the first one is that of nobody."""
    return replace(kept_by(case), rows=ROWS, nobodys=1)


def contract(project: Project) -> Clauses:
    """What the attention backend hands to the pooling in decode."""
    made = (COMPRESS,)
    decode = project.place(_BACKEND, "def _low_ratio_compress_decode(")
    return Clauses(
        (
            Clause(
                made,
                lambda case: case.session.ratio == RATIO,
                f"ratio is {RATIO}",
                project.place(_BACKEND, "def _low_ratio_compress_decode(", "if layer.compress_ratio == 1:"),
            ),
            step_is_near(made, decode),
            Clause(made, lambda case: not case.session.overlap, "pairs do not overlap", decode),
            Clause(
                made,
                lambda case: not case.session.max_drafts,
                "nothing is drafted: verification takes another path",
                project.place(_BACKEND, "forward_batch.forward_mode.is_target_verify()"),
            ),
            Clause(
                made,
                lambda case: not case.cache.page_pad and case.memory.far != "state",
                "rings are rows of one buffer",
                project.place(_MEMORY, "if compress_ratio == 2:"),
            ),
        )
    )

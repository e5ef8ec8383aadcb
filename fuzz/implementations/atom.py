"""ATOM's compressor of DeepSeek-V4's index keys, from a checkout.

`Compressor.forward` (atom/models/deepseek_v4.py) calls `fused_compress_attn`, which makes, norms, rotates, quantises
and inserts the keys that are due, and then `update_compressor_states`, which keeps the tokens of a step in a ring for
each request. Both follow a plan, `make_compress_plans`, in buffers that a captured graph reads. Where AITER's FlyDSL
kernels are installed they take the place of the first one.
"""

from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from indexfuzz.core.contract import Clause, Clauses
from indexfuzz.core.guarantees import Promises
from indexfuzz.core.stage_names import FUSED_COMPRESS
from indexfuzz.implementations.base import Implementation
from indexfuzz.implementations.callers import drafts_follow_one_token, step_is_near
from indexfuzz.implementations.loading.loader import Loader
from indexfuzz.implementations.loading.source import Project, module_of, open_project
from indexfuzz.implementations.places import fill_places
from indexfuzz.reference.fp8 import FORMATS

KNOWN_VERSIONS = "of August 2026"
FOLDER = "atom/model_ops/v4_kernels"
FUSED, STATES, PLAN, INDEX = (
    f"{FOLDER}/{name}.py" for name in ("fused_compress", "state_writes", "compress_plan", "pool_index")
)
_MODEL = "atom/models/deepseek_v4.py"

HEAD_DIM, RATIO, PAGE = 128, 4, 64
"""Of the indexer of DeepSeek-V4: dims of a key, tokens to a key, keys of a page of the cache."""

LARGEST_FNUZ = 240.0
"""What rows of e4m3fnuz are scaled to: the caller says torch.finfo(dtype).max."""


def load(path: str | Path) -> Implementation:
    """Find the compressor at a path. Raises SourceError where it is absent or has moved."""
    project = open_project(path, "atom", known_versions=KNOWN_VERSIONS)
    compressor = Compressor(project)
    compressor.modules()
    called = project.place(_MODEL, "class Compressor(", "fused_compress_attn(")
    return Implementation(
        f"{project.label} deepseek_v4",
        {FUSED_COMPRESS: compressor.fused_compress},
        contract(project),
        Promises(between="fp32", fnuz_largest=LARGEST_FNUZ),
        notes=(
            f"read from {path}",
            f"reached by DeepSeek-V4 on AMD where AITER's FlyDSL kernels are not installed: called at {called}",
            "slot_mapping and visible are filled in by the adapter",
        ),
        replaced=project.replaced,
        sources=project.executed,
    )


class _Modules(NamedTuple):
    fused: ModuleType
    states: ModuleType
    plan: ModuleType


class _PlanBuffer:
    """A buffer of a plan: rows on the host, and so many of them on the device."""

    def __init__(self, rows: int, device: torch.device) -> None:
        self.np, self._device = np.zeros((rows, 4), dtype=np.int32), device

    def copy_to_gpu(self, rows: int) -> Tensor:
        """The first rows."""
        return torch.from_numpy(self.np[:rows]).to(self._device)


class Compressor:
    """The compressor of one release, with the signature of the operation."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self.modules = cache(self._load)

    def fused_compress(
        self,
        kv: Tensor,
        scores: Tensor,
        bias: Tensor,
        norm_weight: Tensor,
        cos_sin_cache: Tensor,
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
        overlap: bool,
        eps: float,
        rope_dim: int,
        style: str,  # noqa: ARG002 - always interleaved
        placement: str,  # noqa: ARG002 - always the last dims
        scale_fmt: str,
        fp8: str,
        quant_group: int,
        layout: str,  # noqa: ARG002 - always shuffled
    ) -> None:
        """Do with a step what the plan and the compressor's forward do with it."""
        modules, counts = self.modules(), query_start.diff()
        slot_mapping.fill_(-1)
        visible.zero_()
        if not len(counts):
            return
        num_blocks, size, _ = cache.shape
        plan = self._plan(modules, counts, context_lens, len(kv), (ratio, overlap))
        cos, sin = (
            half.contiguous() for half in (cos_sin_cache[:, : rope_dim // 2], cos_sin_cache[:, rope_dim // 2 :])
        )
        flat, values = cache.flatten(1), size * quant_group
        shared = {"ratio": ratio, "overlap": overlap}
        kept = {"kv_state": state[:, :, 0], "score_state": state[:, :, 1]}
        modules.fused.fused_compress_attn(
            kv_in=kv,
            score_in=scores,
            **kept,
            plan=plan,
            state_slot_mapping=rings,
            ape=bias,
            rms_weight=norm_weight,
            rms_eps=eps,
            cos_cache=cos,
            sin_cache=sin,
            kv_cache=flat[:, :values].view(FORMATS[fp8].dtype).view(num_blocks, size, quant_group),
            block_tables=block_table,
            k_per_block=size,
            **shared,
            head_dim=quant_group,
            rope_head_dim=rope_dim,
            cache_scale=flat[:, values:].view(torch.float32),
            use_ue8m0=scale_fmt == "ue8m0",
            preshuffle=True,
            quant_mode="per_row_fp8",
            fp8_max=torch.finfo(FORMATS[fp8].dtype).max,
        )
        modules.states.update_compressor_states(
            kv, scores, bias, **kept, write_plan=plan.write_plan_gpu, state_slot_mapping=rings, **shared
        )
        fill_places(query_start, context_lens, block_table, slot_mapping, visible, ratio=ratio, size=size)

    def _plan(
        self, modules: _Modules, counts: Tensor, contexts: Tensor, tokens: int, form: tuple[int, bool]
    ) -> SimpleNamespace:
        """The plan of a step; as of a captured graph, with padding, where all requests decode equally many tokens."""
        own, before = counts.cpu().numpy(), contexts.cpu().numpy()
        spare = tokens - int(own.sum())
        ratio, overlap = form
        window = ratio * (1 + overlap)
        is_decode = 0 < own[0] <= window and bool((own == own[0]).all() and before.all())
        graph = {"graph_bs": len(own) + spare // int(own[0]), "max_q_len": int(own[0])} if is_decode else {}
        buffers = {name: _PlanBuffer(tokens + window, counts.device) for name in ("compress", "write")}
        plans: dict[int, SimpleNamespace] = modules.plan.make_compress_plans(
            own, before + own, [form], plan_buffers={ratio: buffers}, **graph
        )
        return plans[ratio]

    def _load(self) -> _Modules:
        provide: dict[str, object] = {
            "atom.utils.decorators.mark_trace": lambda function: function,
            "atom.utils.envs": SimpleNamespace(ATOM_FUSED_COMPRESS_USE_FLYDSL="never"),
        }
        execute = {
            module_of(FUSED): ("fused_compress_attn",),
            module_of(STATES): ("update_compressor_states",),
            module_of(PLAN): ("CompressPlan", "make_compress_plans"),
            module_of(INDEX): ("row_offset", "window_constexprs", "window_row"),
        }
        loader = Loader(self._project, provide=provide, execute=execute)
        return _Modules(*(loader.load(module_of(file)) for file in (FUSED, STATES, PLAN)))


def contract(project: Project) -> Clauses:
    """What the indexer of DeepSeek-V4 hands to its compressor, and what the kernels assert."""
    fused = (FUSED_COMPRESS,)
    launcher = (FUSED, "def fused_compress_attn(")
    return Clauses(
        (
            Clause(
                fused,
                lambda case: case.model.head_dim == HEAD_DIM,
                f"head_dim is {HEAD_DIM}",
                project.place(FUSED, "(128, 64, 4, True)"),
            ),
            Clause(
                fused,
                lambda case: case.model.quant_group == HEAD_DIM,
                "one scale per key",
                project.place(FUSED, "amax = tl.max(rotated_for_amax, axis=0)"),
            ),
            Clause(
                fused,
                lambda case: case.session.ratio == RATIO,
                f"ratio is {RATIO}",
                project.place(_MODEL, "class Indexer(", "compress_ratio: int = 4"),
            ),
            Clause(
                fused,
                lambda case: case.session.overlap,
                "a key is also made of the group before",
                project.place(FUSED, "(128, 64, 4, True)"),
            ),
            Clause(
                fused,
                lambda case: case.rope.style == "interleaved",
                "pairs are interleaved",
                project.place(FUSED, "GPT-J interleaved"),
            ),
            Clause(
                fused,
                lambda case: case.rope.placement == "last",
                "the last dims are rotated",
                project.place(FUSED, "NOPE_PAIRS = (head_dim - rope_head_dim) // 2"),
            ),
            Clause(
                fused,
                lambda case: case.model.scale_fmt == "ue8m0",
                "scales are powers of two",
                project.place(_MODEL, 'use_ue8m0=(self.scale_fmt == "ue8m0")'),
            ),
            Clause(
                fused,
                lambda case: case.cache.block_size == PAGE,
                f"a page has {PAGE} keys",
                project.place(_MODEL, "k_per_block=_V4_BLOCK_SIZE // ratio"),
            ),
            Clause(
                fused,
                lambda case: case.cache.page_layout == "shuffle",
                "pages are shuffled",
                project.place(_MODEL, "preshuffle=True"),
            ),
            Clause(
                fused,
                lambda case: not case.memory.table_pad,
                "block tables are dense",
                project.place(*launcher, "block_tables.is_contiguous()"),
            ),
            step_is_near(fused, project.place(_MODEL, "class Compressor(", "fused_compress_attn(")),
            Clause(
                fused,
                lambda case: drafts_follow_one_token(case.session),
                "drafts follow one token, when the prompt is there",
                project.place(PLAN, "1 + max_spec_steps"),
            ),
        )
    )

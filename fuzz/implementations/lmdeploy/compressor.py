"""LMDeploy's compressor of DeepSeek-V4's keys, from a wheel, an unpacked wheel or a checkout.

`TritonV4CompressorImpl.score_and_fill_state` of `backends/cuda/v4_compressor.py` makes the keys of a step that are due,
and keeps its last tokens in a ring for each request, all zeros at first. The engine forms batches of decode and of
prefill; a step is given to it as one of each. What comes behind it, from the norm to the cache, is not run.
"""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.core.contract import Clause, Clauses
from indexfuzz.core.stage_names import COMPRESS
from indexfuzz.implementations.base import Implementation
from indexfuzz.implementations.callers import step_is_near
from indexfuzz.implementations.loading.loader import Loader
from indexfuzz.implementations.loading.source import Project, module_of, open_project
from indexfuzz.implementations.places import fill_places
from indexfuzz.samples.kept import Kept, kept_by

KNOWN_VERSIONS = "0.16.0 and 0.18.0"
KERNELS = "lmdeploy/pytorch/kernels/cuda/v4_compressor.py"
BACKEND = "lmdeploy/pytorch/backends/cuda/v4_compressor.py"
_MODEL = "lmdeploy/pytorch/models/deepseek_v4.py"
_CONFIG = "lmdeploy/pytorch/configurations/deepseek_v4.py"
UTILS = "lmdeploy/pytorch/kernels/cuda/utils.py"
_PREFILL = "score_and_fill_state_prefill"
"""Of releases after 0.16.0."""

_CLASS = "TritonV4CompressorImpl"
_HEAD_DIM = 128
_FORMS = ((4, True), (128, False))


def load(path: str | Path) -> Implementation:
    """Find the compressor at a path. Raises SourceError where it is absent or has moved."""
    project = open_project(path, "lmdeploy", known_versions=KNOWN_VERSIONS)
    compressor = Compressor(project)
    chunks = project.place("lmdeploy/pytorch/long_context.py", "end = start + chunk_size")
    return Implementation(
        f"{project.label} deepseek_v4",
        {COMPRESS: compressor.compress},
        contract(project),
        notes=(
            f"read from {path}",
            f"reached by DeepSeek-V4 (called at {project.place(_MODEL, 'self.compressor_impl.score_and_fill_state(')})",
            f"chunks start anywhere: with the second turn of a session, or by max_prefill_token_num ({chunks})",
            "slot_mapping and visible are filled in by the adapter",
        ),
        replaced=project.replaced,
        sources=project.executed,
        keeps={COMPRESS: _kept},
    )


def _kept(case: Case) -> Kept:
    """The tokens of a window, and none for drafts."""
    return replace(kept_by(case), rows=(1 + case.session.overlap) * case.session.ratio)


class Compressor:
    """The compressor of one release, with the signature of the operation."""

    def __init__(self, project: Project) -> None:
        names = ["score_kv", "fill_compress_state", "score_and_fill_state_decode", "fill_compressed_kv"]
        names += [_PREFILL] if project.has(KERNELS) and f"def {_PREFILL}(" in project.read(KERNELS) else []
        execute = {module_of(KERNELS): names, module_of(BACKEND): (_CLASS,)}
        # One launch may begin before another has ended on a GPU alone, and with 4096 tokens or more.
        provide = {f"{module_of(UTILS)}.is_cuda": lambda: False}
        self._backend: Any = Loader(project, provide=provide, execute=execute).load(module_of(BACKEND))

    def compress(
        self,
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
        overlap: bool,
        block_size: int,
    ) -> None:
        """Make the keys of a step by a batch of decode and one of prefill, as far as there are such requests."""
        counts, starts = query_start.diff(), query_start.tolist()
        slot_mapping.fill_(-1)
        visible.zero_()
        work = state.clone()
        work[rings[context_lens == 0].long()] = 0
        is_decode = (counts == 1) & (context_lens > 0)
        impl = getattr(self._backend, _CLASS)(ratio, overlap, keys.shape[1])
        for chosen in (is_decode, (counts > 0) & ~is_decode):
            which = chosen.nonzero().flatten()
            if not len(which):
                continue
            rows = torch.cat([torch.arange(starts[i], starts[i + 1]) for i in which.tolist()])
            ends = counts[which].cumsum(0)
            made = impl.score_and_fill_state(
                kv[rows],
                scores[rows],
                bias,
                work[:, :, 0],
                work[:, :, 1],
                rings[which].long(),
                SimpleNamespace(
                    cu_q_seqlens=torch.nn.functional.pad(ends, (1, 0)).int(),
                    kv_seqlens=(context_lens + counts)[which].int(),
                    max_q_seqlen=int(counts[which].max()),
                ),
            )
            owners = torch.repeat_interleave(which, counts[which])
            position = context_lens[owners] + rows - query_start[owners]
            due = (position + 1) % ratio == 0
            keys[rows[due]] = made[due].to(keys.dtype)
        fill_places(query_start, context_lens, block_table, slot_mapping, visible, ratio=ratio, size=block_size)
        state.copy_(work)


def contract(project: Project) -> Clauses:
    """What the model hands to its compressor."""
    made = (COMPRESS,)
    forms = project.place(_CONFIG, "StateCacheSpec('v4_compress_state_r4_idx'")
    return Clauses(
        (
            Clause(
                made,
                lambda case: case.model.head_dim == _HEAD_DIM,
                f"head_dim is a multiple of {_HEAD_DIM}",
                project.place(KERNELS, "assert head_dim % BLOCK_D == 0"),
            ),
            Clause(
                made,
                lambda case: case.session.ratio in dict(_FORMS),
                "ratio is 4 or 128",
                forms,
            ),
            Clause(
                made,
                lambda case: (case.session.ratio, case.session.overlap) in _FORMS or case.session.ratio not in (4, 128),
                "there is overlap where the ratio is 4, and there alone",
                forms,
            ),
            step_is_near(made, project.place(_MODEL, "self.compressor_impl.score_and_fill_state(")),
            Clause(
                made,
                lambda case: not case.session.max_drafts,
                "nothing is drafted: the layers that would are not loaded",
                project.place(_MODEL, "name.startswith('mtp.')"),
            ),
        )
    )

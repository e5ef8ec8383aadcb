"""AITER's Triton kernels for the indexer's logits, from a wheel, an unpacked wheel or a checkout.

`fp8_mqa_logits` and `deepgemm_fp8_paged_mqa_logits` of aiter/ops/triton/attention, with their wrappers' defaults, run
as on a GPU for which AITER has no Gluon kernels: gfx942 for e4m3fnuz prefill, an RDNA GPU otherwise. On gfx942 the
prefill wrapper converts q and keys in e4m3fn first, which is an implementation of its own. Gluon, HIP and FlyDSL
kernels cannot run outside their GPUs and are left out.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch
from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.core.contract import Clause, Clauses
from indexfuzz.implementations.base import Implementation, StageFunction, fill
from indexfuzz.implementations.callers import as_callers_do
from indexfuzz.implementations.loading.amd_kernel import make_portable
from indexfuzz.implementations.loading.loader import Loader
from indexfuzz.implementations.loading.source import Project, open_project
from indexfuzz.reference.fp8 import FORMATS, format_of
from indexfuzz.reference.layout import resolve

KNOWN_VERSIONS = "of August 2026"
_PREFILL = "aiter.ops.triton.attention.fp8_mqa_logits"
_PAGED = "aiter.ops.triton.attention.pa_mqa_logits"
_PREFILL_KERNEL = "aiter.ops.triton._triton_kernels.attention.fp8_mqa_logits"
_PAGED_KERNEL = "aiter.ops.triton._triton_kernels.attention.pa_mqa_logits"
_PREFILL_FILE, _PAGED_FILE = f"{_PREFILL.replace('.', '/')}.py", f"{_PAGED.replace('.', '/')}.py"
_PAGED_KERNEL_FILE = f"{_PAGED_KERNEL.replace('.', '/')}.py"
_FNUZ_GPU, _PLAIN_TRITON_GPU = "gfx942", "gfx1201"
_COMPUTE_UNITS = 16
"""Of the stand-in GPU: the paged kernel splits every row over so many programs that they fill it."""
_CHUNK_K = 256
"""Default of the paged wrapper: keys that a program scores at a time."""
_SMALLEST_K = 32
"""Of a tl.dot of FP8 operands, where a GPU has an instruction for it."""

_HEADS = frozenset({16, 32, 64, 128})

_ROWS = frozenset({"q_fp8", "q_weights", "logits"})
_STRIDED = {
    "prefill_logits": _ROWS | {"q_fp8_head", "q_weights_head", "k_fp8"},
    "paged_logits": _ROWS | {"q_fp8_head"},
}
"""Stage -> tensors whose strides its wrapper reads and hands to the kernel; logits of prefill it makes itself.

The paged kernels count heads of a row's weights, lengths and tables as if they were adjacent.
"""
_FAR = {"prefill_logits": _ROWS | {"k_fp8"}, "paged_logits": frozenset({"logits"})}
"""Stage -> tensors whose row strides are `tl.int64` in the kernel; others are multiplied in 32 bits."""


def load(path: str | Path) -> Implementation:
    """Find AITER at a path. Raises SourceError where it is absent or its kernels have moved."""
    project = _open(path)
    kernels = Kernels(project)
    kernels.prefill("e4m3fn")
    kernels.paged("e4m3fn")
    stages: dict[str, StageFunction] = {
        "prefill_logits": kernels.mqa_logits,
        "paged_logits": kernels.paged_mqa_logits,
    }
    notes = (f"read from {path}", "only Triton kernels; Gluon, HIP and FlyDSL kernels cannot run outside their GPUs")
    return Implementation(
        project.label, stages, contract(project), notes=notes, replaced=project.replaced, sources=project.executed
    )


def load_stage1(path: str | Path) -> Implementation:
    """Like load, with the paged logits that leave the sum over the heads to the caller, as vLLM does on RDNA GPUs."""
    project = _open(path)
    kernels = Kernels(project)
    kernels.paged("e4m3fn")
    stages: dict[str, StageFunction] = {"paged_logits": kernels.paged_mqa_logits_stage1}
    notes = (f"read from {path}",)
    return Implementation(
        f"{project.label} stage1",
        stages,
        contract(project),
        notes=notes,
        replaced=project.replaced,
        sources=project.executed,
    )


def load_converted(path: str | Path) -> Implementation:
    """Like load, with the prefill logits that get e4m3fn on gfx942, whose matrix units know e4m3fnuz alone.

    SGLang's `dsa_indexer_kpool.py` views its keys as e4m3fn on every GPU.
    """
    project = _open(path)
    kernels = Kernels(project, converts=True)
    kernels.prefill("e4m3fn")
    converted = Clause(
        ("prefill_logits",),
        lambda case: case.model.fp8 == "e4m3fn",
        "q and keys are e4m3fn: the wrapper converts nothing else",
        project.place(_PREFILL_FILE, "convert_q_fn ="),
    )
    dense = _of_callers(project, "prefill_logits", _PREFILL_FILE, "def fp8_mqa_logits(", takes_strides=False)
    return Implementation(
        f"{project.label} converted",
        {"prefill_logits": kernels.mqa_logits},
        Clauses((*contract(project).clauses, *dense, converted)),
        notes=(f"read from {path}", "as on gfx942; strides are read before tensors are converted, which closes gaps"),
        replaced=project.replaced,
        sources=project.executed,
    )


def _open(path: str | Path) -> Project:
    return open_project(path, "aiter", known_versions=KNOWN_VERSIONS, distributions=("amd-aiter",))


class Kernels:
    """The wrappers of one AITER release, with the signatures of the stages."""

    def __init__(self, project: Project, *, converts: bool = False) -> None:
        self._project, self._converts = project, converts
        self.prefill = cache(self._load_prefill)
        self.paged = cache(self._load_paged)

    def mqa_logits(
        self, q_fp8: Tensor, k_fp8: Tensor, k_scale: Tensor, weights: Tensor, ks: Tensor, ke: Tensor, logits: Tensor
    ) -> None:
        """Fill logits [M,N]; AITER returns a tensor of its own."""
        score = self.prefill(format_of(k_fp8)).fp8_mqa_logits
        fill(logits, score(q_fp8, k_fp8, k_scale, weights, ks, ke))

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
        """Fill logits [B*next_n, max_model_len]; AITER's callers fill them with -inf beforehand."""
        score = self.paged(format_of(q_fp8)).deepgemm_fp8_paged_mqa_logits
        block_size = cache.shape[1]
        logits.fill_(float("-inf"))
        score(
            q_fp8,
            cache.unsqueeze(-2),
            weights,
            logits,
            context_lens,
            block_table,
            logits.shape[1],
            Preshuffle=resolve(layout, block_size) == "shuffle",
            KVBlockSize=block_size,
        )

    def paged_mqa_logits_stage1(
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
        """Fill logits [B*next_n, max_model_len] by way of one logit per head, which the caller prepares and sums.

        Raises ValueError for SHUFFLE pages, which no argument can ask for.
        """
        if resolve(layout, cache.shape[1]) == "shuffle":
            raise ValueError("stage 1 reads pages in NORMAL layout only")
        score = self.paged(format_of(q_fp8)).deepgemm_fp8_paged_mqa_logits_stage1
        heads = q_fp8.shape[2]
        per_head = torch.full((heads, *logits.shape), float("-inf"), device=logits.device)
        pages = cache.unsqueeze(-2)
        score(q_fp8, pages, weights, per_head, context_lens, block_table, logits.shape[1], ChunkQ=heads)
        logits.copy_(per_head.sum(dim=0))

    def _load_prefill(self, fp8: str) -> ModuleType:
        gpu = _FNUZ_GPU if self._converts or fp8 == "e4m3fnuz" else _PLAIN_TRITON_GPU
        provide = {"aiter.ops.triton.utils._triton.arch_info": SimpleNamespace(get_arch=lambda: gpu)}
        execute = {_PREFILL: ("fp8_mqa_logits",), _PREFILL_KERNEL: ("_fp8_mqa_logits_kernel",)}
        return make_portable(Loader(self._project, provide=provide, execute=execute).load(_PREFILL))

    def _load_paged(self, fp8: str) -> ModuleType:
        provide = {
            "aiter.dtypes": SimpleNamespace(fp8=FORMATS[fp8].dtype),
            "aiter.jit.utils.chip_info.get_gfx": lambda: _PLAIN_TRITON_GPU,
            "aiter.ops.triton.utils.device_info.get_num_sms": lambda: _COMPUTE_UNITS,
        }
        wanted = ("deepgemm_fp8_paged_mqa_logits", "deepgemm_fp8_paged_mqa_logits_stage1")
        execute = {_PAGED: wanted, _PAGED_KERNEL: ()}
        return make_portable(Loader(self._project, provide=provide, execute=execute).load(_PAGED))


def contract(project: Project) -> Clauses:
    """What AITER's wrappers assert, document or compute from their arguments."""
    kernel = project.place(_PAGED_KERNEL_FILE, "kv_indices + pid_batch * max_blk_len")
    return Clauses(
        (
            Clause(
                ("prefill_logits",),
                lambda case: case.model.num_heads in _HEADS,
                "num_heads is a power of two that fills a tile of tl.dot",
                project.place(_PREFILL_FILE, "assert num_heads"),
            ),
            Clause(
                ("prefill_logits",),
                _fills_a_tile,
                "head_dim is a power of two that fills a tile of tl.dot",
                project.place(_PREFILL_FILE, "assert head_size"),
            ),
            Clause(
                ("paged_logits",),
                lambda case: case.model.num_heads in _HEADS,
                "num_heads is a power of two that fills a tile of tl.dot",
                project.place(_PAGED_KERNEL_FILE, "tl.arange(0, ChunkQ)"),
            ),
            Clause(
                ("paged_logits",),
                _fills_a_tile,
                "head_dim is a power of two that fills a tile of tl.dot",
                project.place(_PAGED_KERNEL_FILE, "tl.arange(0, HiddenDim)"),
            ),
            Clause(
                ("paged_logits",),
                lambda case: case.model.quant_group == case.model.head_dim,
                "every key has one scale",
                project.place(_PAGED_FILE, "assert packed_dim == hidden_dim + 4"),
            ),
            Clause(
                ("paged_logits",),
                lambda case: case.cache.page_layout == "normal",
                "pages are NORMAL: SHUFFLE needs a Gluon kernel",
                project.place(_PAGED_FILE, "assert not Preshuffle"),
            ),
            Clause(
                ("paged_logits",),
                lambda case: _CHUNK_K % case.cache.block_size == 0 or case.cache.block_size % _CHUNK_K == 0,
                f"of ChunkK ({_CHUNK_K}) and block_size one divides the other",
                project.place(_PAGED_FILE, "assert ChunkK % KVBlockSize == 0 or"),
            ),
            Clause(
                ("paged_logits",),
                lambda case: case.batch.lens == "1d" or case.batch.next_n == 1,
                "context_lens is one length per request",
                project.place(_PAGED_KERNEL_FILE, "context_len_ptr + pid_batch"),
            ),
            Clause(("paged_logits",), lambda case: not case.memory.table_pad, "the block table is dense", kernel),
            *_of_callers(project, "prefill_logits", _PREFILL_FILE, "def fp8_mqa_logits("),
            *_of_callers(project, "paged_logits", _PAGED_FILE, "def deepgemm_fp8_paged_mqa_logits("),
        )
    )


def _of_callers(
    project: Project, stage: str, file: str, wrapper: str, *, takes_strides: bool = True
) -> Iterator[Clause]:
    """What every engine's callers keep to, of the stage that a wrapper does, but for strides that the wrapper takes.

    Those of ATOM and SGLang pass whole rows of dense tensors.
    """
    strided, far = (_STRIDED[stage], _FAR[stage]) if takes_strides else ((), ())
    for clause in as_callers_do(project.place(file, wrapper), strided=strided, far=far):
        if stage in clause.stages:
            yield replace(clause, stages=(stage,))


def _fills_a_tile(case: Case) -> bool:
    return case.model.head_dim >= _SMALLEST_K and case.model.head_dim & (case.model.head_dim - 1) == 0

"""vLLM's remap of selected positions to slots on AMD GPUs, from a wheel, an unpacked wheel or a checkout.

`triton_convert_req_index_to_global_index` of `v1/attention/backends/mla/rocm_aiter_mla_sparse.py` writes the slots of
all tokens one behind the other, as many of each as the metadata says that it attends to. Here that is how many are
selected, and the stream is cut into rows again.
"""

from pathlib import Path

import torch
from torch import Tensor

from indexfuzz.core.contract import Clause, Clauses
from indexfuzz.core.guarantees import Promises
from indexfuzz.core.stage_names import SELECT
from indexfuzz.implementations.base import Implementation
from indexfuzz.implementations.loading.loader import Loader
from indexfuzz.implementations.loading.source import Project, module_of, open_project
from indexfuzz.implementations.vllm.jit_kernel import provide_jit_kernels
from indexfuzz.implementations.vllm.platform import provide_vllm

KNOWN_VERSIONS = "0.33"
REMAP = "vllm/v1/attention/backends/mla/rocm_aiter_mla_sparse.py"
_MODULE = module_of(REMAP)
_LAUNCHER = "triton_convert_req_index_to_global_index"
_TILE = 128


def load(path: str | Path) -> Implementation:
    """Find the remap at a path. Raises SourceError where it is absent or has moved."""
    project = open_project(path, "vllm", known_versions=KNOWN_VERSIONS)
    provide = provide_vllm("e4m3fn") | provide_jit_kernels()
    remap = Loader(project, provide=provide, execute={_MODULE: (_LAUNCHER,)}).load(_MODULE)

    def select(columns: Tensor, token_to_req: Tensor, block_table: Tensor, *, block_size: int) -> tuple[Tensor, Tensor]:
        """Remap columns [T, K]; a padded token has request 0, as in vLLM's metadata."""
        selected = columns >= 0
        counts = selected.sum(1).int()
        stream = torch.empty(columns.numel(), dtype=torch.int32, device=columns.device)
        getattr(remap, _LAUNCHER)(
            token_to_req.clamp_min(0),
            block_table,
            columns,
            torch.nn.functional.pad(counts.cumsum(0), (1, 0)).int(),
            stream,
            BLOCK_STRIDE_ROWS=block_size,
            BLOCK_SIZE=block_size,
            NUM_TOPK_TOKENS=columns.shape[1],
        )
        slots = torch.full_like(columns, -1)
        slots[selected] = stream[: int(counts.sum())]
        return slots, counts

    called = project.place(REMAP, "def forward_mqa(", f"{_LAUNCHER}(")
    return Implementation(
        f"{project.label} index remap on AMD",
        {SELECT: select},
        _contract(project),
        Promises(ordered_selection=True),
        notes=(f"read from {path}", f"reached by DeepSeek-V3.2 and GLM-5 on AMD (called at {called})"),
        replaced=project.replaced,
        sources=project.executed,
    )


def _contract(project: Project) -> Clauses:
    launcher = (REMAP, f"def {_LAUNCHER}(")
    stream = project.place(REMAP, "out_ptr_ij = out_ptr + seq_start + indice_id")
    return Clauses(
        (
            Clause(
                (SELECT,),
                lambda case: not case.model.index_topk % _TILE,
                f"index_topk is a multiple of {_TILE}",
                project.place(*launcher, "assert NUM_TOPK_TOKENS % BLOCK_N == 0"),
            ),
            Clause((SELECT,), lambda case: not case.batch.select_holes, "selected positions stand in front", stream),
            Clause(
                (SELECT,),
                lambda case: not case.memory.missing_pages,
                "every selected position has a page: the slot of any other is 0",
                project.place(REMAP, "is_invalid_tok | (~valid_block), 0"),
            ),
        )
    )

"""SGLang's transform of selected positions to slots, from a wheel, an unpacked wheel or a checkout.

`transform_index_page_table_decode` of `kernels/ops/attention/dsa/transform_index.py` stands between top-k and sparse
attention where no fused top-k does both. It looks positions up in a table with a slot for each token of a request, and
leaves every entry where it stood.
"""

from pathlib import Path

import torch
from torch import Tensor

from indexfuzz.core.contract import Clause, Clauses
from indexfuzz.core.guarantees import Promises
from indexfuzz.core.stage_names import SELECT
from indexfuzz.implementations.base import Implementation
from indexfuzz.implementations.loading.loader import Loader
from indexfuzz.implementations.loading.source import Project, module_of
from indexfuzz.implementations.sglang.adapter import open_sglang

TRANSFORM = "sglang/kernels/ops/attention/dsa/transform_index.py"
_MODULE = module_of(TRANSFORM)
_LAUNCHER = "transform_index_page_table_decode"


def load(path: str | Path) -> Implementation:
    """Find the transform at a path. Raises SourceError where it is absent or has moved."""
    project = open_sglang(path)
    transform = Loader(project, provide={}, execute={_MODULE: (_LAUNCHER,)}).load(_MODULE)

    def select(columns: Tensor, token_to_req: Tensor, block_table: Tensor, *, block_size: int) -> tuple[Tensor, Tensor]:
        """Look columns [T, K] up; the table of slots, and the counts, which SGLang does not make, are made here."""
        longest = int(columns.max()) + 1 if columns.numel() else 0
        position = torch.arange(max(longest, 1), device=columns.device)
        pages = block_table[token_to_req.clamp_min(0).long()][:, position // block_size].long()
        slots = (pages * block_size + position % block_size).int()
        selected: Tensor = getattr(transform, _LAUNCHER)(slots, columns)
        return selected, (selected >= 0).sum(1).int()

    return Implementation(
        f"{project.label} index transform",
        {SELECT: select},
        _contract(project),
        Promises(ordered_selection=True),
        (f"read from {path}", "reached on NVIDIA and AMD where top-k and transform are not fused"),
        project.replaced,
        sources=project.executed,
    )


def _contract(project: Project) -> Clauses:
    place = project.place(TRANSFORM, f"def {_LAUNCHER}(")
    return Clauses(
        (
            Clause(
                (SELECT,),
                lambda case: not case.batch.select_holes,
                "selected positions stand in front, as top-k leaves them",
                place,
            ),
            Clause((SELECT,), lambda case: not case.memory.missing_pages, "every selected position has a page", place),
            Clause(
                (SELECT,),
                lambda case: not case.memory.columns_pad and case.memory.far != "columns",
                "selected positions are dense",
                project.place(TRANSFORM, "def transform_index_page_table_decode_kernel(", "req_id * TOPK"),
            ),
        )
    )

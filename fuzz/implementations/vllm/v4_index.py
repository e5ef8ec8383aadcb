"""vLLM's lookup of selected keys in DeepSeek-V4's cache, from a wheel, an unpacked wheel or a checkout.

`compute_global_topk_indices_and_lens` of `models/deepseek_v4/common/ops/cache_utils.py` stands between top-k and sparse
attention on NVIDIA GPUs: slots of the selected keys, and their number, which is 0 for padding.
"""

from pathlib import Path

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
LOOKUP = "vllm/models/deepseek_v4/common/ops/cache_utils.py"
_MODULE = module_of(LOOKUP)
_CALLER = "vllm/models/deepseek_v4/nvidia/flashmla.py"
_LAUNCHER = "compute_global_topk_indices_and_lens"


def load(path: str | Path) -> Implementation:
    """Find the lookup at a path. Raises SourceError where it is absent or has moved."""
    project = open_project(path, "vllm", known_versions=KNOWN_VERSIONS)
    provide = provide_vllm("e4m3fn") | provide_jit_kernels()
    lookup = getattr(Loader(project, provide=provide, execute={_MODULE: (_LAUNCHER,)}).load(_MODULE), _LAUNCHER)

    def select(columns: Tensor, token_to_req: Tensor, block_table: Tensor, *, block_size: int) -> tuple[Tensor, Tensor]:
        """Look columns [T, K] up; a padded token has request 0, and is said to be none."""
        found: tuple[Tensor, Tensor] = lookup(
            columns, token_to_req.clamp_min(0), block_table, block_size, token_to_req >= 0
        )
        return found

    called = project.place(_CALLER, f"{_LAUNCHER}(")
    return Implementation(
        f"{project.label} deepseek_v4 index lookup",
        {SELECT: select},
        _contract(project),
        Promises(ordered_selection=True),
        notes=(f"read from {path}", f"reached by DeepSeek-V4 on NVIDIA (called at {called})"),
        replaced=project.replaced,
        sources=project.executed,
    )


def _contract(project: Project) -> Clauses:
    found = project.place(LOOKUP, "slot_ids = block_numbers * block_size + block_offsets")
    return Clauses(
        (
            Clause(
                (SELECT,),
                lambda case: not case.batch.select_holes,
                "selected positions stand in front, as top-k leaves them",
                project.place(LOOKUP, "slot_ids = tl.where(is_valid, slot_ids, -1)"),
            ),
            Clause((SELECT,), lambda case: not case.memory.missing_pages, "every selected position has a page", found),
            Clause(
                (SELECT,),
                lambda case: case.memory.far not in ("columns", "table"),
                "rows of selections and tables are not 2^31 elements apart",
                project.place(_CALLER, f"{_LAUNCHER}("),
            ),
        )
    )

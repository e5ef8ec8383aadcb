"""vLLM's remap of selected positions to slots, from a wheel, an unpacked wheel or a checkout.

`triton_convert_req_index_to_global_index` of `v1/attention/backends/mla/sparse_utils.py` stands between top-k and
sparse attention on NVIDIA GPUs. Asked for counts, it packs each row in front, in an order that it does not promise.
"""

from pathlib import Path
from types import ModuleType

from torch import Tensor

from indexfuzz.core.contract import Clause, Clauses
from indexfuzz.core.stage_names import SELECT
from indexfuzz.implementations.base import Implementation
from indexfuzz.implementations.loading.loader import Loader
from indexfuzz.implementations.loading.source import Project, module_of, open_project
from indexfuzz.implementations.vllm.jit_kernel import provide_jit_kernels
from indexfuzz.implementations.vllm.platform import provide_vllm

KNOWN_VERSIONS = "0.33"
REMAP = "vllm/v1/attention/backends/mla/sparse_utils.py"
_MODULE = module_of(REMAP)
_CALLER = "vllm/v1/attention/backends/mla/flashmla_sparse.py"
_LAUNCHER = "triton_convert_req_index_to_global_index"
_TILE = 128


def load(path: str | Path) -> Implementation:
    """Find the remap at a path. Raises SourceError where it is absent or has moved."""
    project = open_project(path, "vllm", known_versions=KNOWN_VERSIONS)
    remap = _load(project)

    def select(columns: Tensor, token_to_req: Tensor, block_table: Tensor, *, block_size: int) -> tuple[Tensor, Tensor]:
        """Remap columns [T, K]; a padded token has request 0, as in vLLM's metadata."""
        result: tuple[Tensor, Tensor] = getattr(remap, _LAUNCHER)(
            token_to_req.clamp_min(0),
            block_table,
            columns,
            BLOCK_SIZE=block_size,
            NUM_TOPK_TOKENS=columns.shape[1],
            return_valid_counts=True,
        )
        return result

    called = project.place(_CALLER, f"topk_length = {_LAUNCHER}(")
    return Implementation(
        f"{project.label} index remap",
        {SELECT: select},
        _contract(project),
        notes=(f"read from {path}", f"reached by models with sparse attention on NVIDIA (called at {called})"),
        replaced=project.replaced,
        sources=project.executed,
    )


def _load(project: Project) -> ModuleType:
    provide = provide_vllm("e4m3fn") | provide_jit_kernels()
    return Loader(project, provide=provide, execute={_MODULE: (_LAUNCHER,)}).load(_MODULE)


def _contract(project: Project) -> Clauses:
    return Clauses(
        (
            Clause(
                (SELECT,),
                lambda case: not case.model.index_topk % _TILE,
                f"index_topk is a multiple of {_TILE}",
                project.place(REMAP, f"def {_LAUNCHER}(", "assert NUM_TOPK_TOKENS % BLOCK_N == 0"),
            ),
        )
    )

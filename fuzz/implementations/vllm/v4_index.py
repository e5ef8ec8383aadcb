"""vLLM's lookup of selected keys in the cache of DeepSeek-V4 and V4.1, from a wheel, an unpacked wheel or a checkout.

It stands between top-k and sparse attention. On NVIDIA GPUs `compute_global_topk_indices_and_lens` gives the slots of
the selected keys, and their number, which is 0 for padding; on AMD GPUs `compute_global_topk_ragged_indices_and_indptr`
leaves nothing between the rows. Each model has its own copies.
"""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from indexfuzz.core.contract import Clause, Clauses
from indexfuzz.core.guarantees import Promises
from indexfuzz.core.stage_names import SELECT
from indexfuzz.implementations.base import Implementation, StageFunction
from indexfuzz.implementations.loading.loader import Loader
from indexfuzz.implementations.loading.source import Project, module_of, open_project
from indexfuzz.implementations.vllm.jit_kernel import provide_jit_kernels
from indexfuzz.implementations.vllm.platform import provide_vllm

KNOWN_VERSIONS = "0.33"
MODELS = {"deepseek_v4": "DeepSeek-V4", "deepseek_v41": "DeepSeek-V4.1"}
_LAUNCHER, _RAGGED = "compute_global_topk_indices_and_lens", "compute_global_topk_ragged_indices_and_indptr"


def load(path: str | Path, model: str = "deepseek_v4") -> Implementation:
    """Find the lookup on NVIDIA at a path. Raises SourceError where it is absent or has moved."""
    project = open_project(path, "vllm", known_versions=KNOWN_VERSIONS)
    file, caller = f"vllm/models/{model}/common/ops/cache_utils.py", f"vllm/models/{model}/nvidia/flashmla.py"
    provide = provide_vllm("e4m3fn") | provide_jit_kernels()
    lookup = getattr(
        Loader(project, provide=provide, execute={module_of(file): (_LAUNCHER,)}).load(module_of(file)), _LAUNCHER
    )

    def select(columns: Tensor, token_to_req: Tensor, block_table: Tensor, *, block_size: int) -> tuple[Tensor, Tensor]:
        """Look columns [T, K] up; a padded token has request 0, and is said to be none."""
        found: tuple[Tensor, Tensor] = lookup(
            columns, token_to_req.clamp_min(0), block_table, block_size, token_to_req >= 0
        )
        return found

    called = project.place(caller, f"{_LAUNCHER}(")
    clauses = _contract(
        project.place(file, "slot_ids = tl.where(is_valid, slot_ids, -1)"),
        project.place(file, "slot_ids = block_numbers * block_size + block_offsets"),
        called,
    )
    return _implementation(
        project, path, f"{model} index lookup", select, clauses, f"{MODELS[model]} on NVIDIA", called
    )


def load_amd(path: str | Path, model: str = "deepseek_v4") -> Implementation:
    """Find the lookup on AMD at a path. Raises SourceError where it is absent or has moved."""
    project = open_project(path, "vllm", known_versions=KNOWN_VERSIONS)
    file = f"vllm/models/{model}/amd/rocm.py"
    provide = provide_vllm("e4m3fn") | {f"vllm.models.{model}.amd.ops.topk_pack.pack": lambda *_: None}
    lookup = getattr(
        Loader(project, provide=provide, execute={module_of(file): (_RAGGED,)}).load(module_of(file)), _RAGGED
    )

    def select(columns: Tensor, token_to_req: Tensor, block_table: Tensor, *, block_size: int) -> tuple[Tensor, Tensor]:
        """Look columns [T, K] up, and put the rows, which are as long as they have slots, back into columns."""
        ragged, starts, counts = lookup(columns, token_to_req.clamp_min(0), block_table, block_size, token_to_req >= 0)
        entry = torch.arange(columns.shape[1], device=columns.device)
        at = (starts[:-1].unsqueeze(1) + entry).clamp_max(max(len(ragged) - 1, 0))
        return torch.where(entry < counts.unsqueeze(1), ragged[at], -1), counts

    called = project.place(file, f"= {_RAGGED}(")
    clauses = _contract(
        project.place(file, "mask = (offset < out_len) & (offset < topk)"),
        project.place(file, "slot_ids = tl.where(valid, block_numbers * block_size + block_offsets, -1)"),
        called,
    )
    return _implementation(
        project, path, f"{model} index lookup on AMD", select, clauses, f"{MODELS[model]} on AMD", called
    )


load_v41 = partial(load, model="deepseek_v41")
load_v41_amd = partial(load_amd, model="deepseek_v41")


def _implementation(
    project: Project, path: str | Path, name: str, select: StageFunction, clauses: Clauses, who: str, called: str
) -> Implementation:
    return Implementation(
        f"{project.label} {name}",
        {SELECT: select},
        clauses,
        Promises(ordered_selection=True),
        notes=(f"read from {path}", f"reached by {who} (called at {called})"),
        replaced=project.replaced,
        sources=project.executed,
    )


def _contract(packed: str, paged: str, called: str) -> Clauses:
    """What top-k hands over; the places say where that shows."""
    return Clauses(
        (
            Clause(
                (SELECT,),
                lambda case: not case.batch.select_holes,
                "selected positions stand in front, as top-k leaves them",
                packed,
            ),
            Clause((SELECT,), lambda case: not case.memory.missing_pages, "every selected position has a page", paged),
            Clause(
                (SELECT,),
                lambda case: case.memory.far not in ("columns", "table"),
                "rows of selections and tables are not 2^31 elements apart",
                called,
            ),
        )
    )

"""vLLM's compressor of DeepSeek-V4.1, from a wheel, an unpacked wheel or a checkout.

`fused_save_compress_norm` of `models/deepseek_v41/common/ops/fused_compress_quant_cache.py` sums pairs of tokens, norms
the sums, and saves the last tokens of each request in a ring. What it makes has 512 dims: the attention caches it, and
a linear layer makes the keys of the indexer from it. Where tokens go in their rings comes from the kernel of the
metadata builder. On AMD GPUs the kernel reads the two tokens of a pair one by one. In layers of ratio 1 it norms single
tokens, without scores and rings; rows that have no slot in the cache are left out.
"""

from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.core.contract import Clause, Clauses
from indexfuzz.core.guarantees import Promises
from indexfuzz.core.stage_names import COMPRESS_NORM
from indexfuzz.implementations.base import Implementation
from indexfuzz.implementations.callers import step_is_near
from indexfuzz.implementations.loading.loader import Loader
from indexfuzz.implementations.loading.source import Project, module_of, open_project
from indexfuzz.implementations.places import fill_places
from indexfuzz.implementations.vllm.jit_kernel import provide_jit_kernels
from indexfuzz.implementations.vllm.platform import provide_vllm
from indexfuzz.implementations.vllm.v4 import METADATA, SLOTS, visible_keys
from indexfuzz.samples.kept import Kept, kept_by

KNOWN_VERSIONS = "0.33"
FOLDER = "vllm/models/deepseek_v41"
COMPRESSOR = f"{FOLDER}/compressor.py"
KERNELS = f"{FOLDER}/common/ops/fused_compress_quant_cache.py"
_CALLER, _REGISTRY = f"{FOLDER}/attention.py", f"{FOLDER}/__init__.py"
BUILDER, LAUNCHER = "CompressorMetadataBuilder", "fused_save_compress_norm"

DIMS, RATIOS = 512, (1, 2)
"""Of a latent, and how many tokens it may stand for."""

LEAST_ROWS = 8
"""Of a ring."""

ALIGNED = 64
"""Bytes of which the rows of a ring are multiples."""


def load(path: str | Path) -> Implementation:
    """Find the compressor at a path, as NVIDIA GPUs run it. Raises SourceError where it is absent or has moved."""
    return load_as(path, Compressor)


def load_amd(path: str | Path) -> Implementation:
    """The same as AMD GPUs run it."""
    return load_as(path, Compressor, amd=True)


def load_as(path: str | Path, compressor_type: "type[Compressor]", *, amd: bool = False) -> Implementation:
    """Find the compressor at a path, to be called as a class does it."""
    project = open_project(path, "vllm", known_versions=KNOWN_VERSIONS)
    compressor = compressor_type(project, amd=amd)
    gpu = "AMD" if amd else "NVIDIA"
    model = "from .amd.vl_model import DeepseekV41ForCausalLM" if amd else "from .nvidia.vl_model import DeepseekV41For"
    called = project.place(_CALLER, "lambda: compressor(kv_score, positions)")
    return Implementation(
        f"{project.label} deepseek_v41 {gpu}{compressor.how}",
        {COMPRESS_NORM: compressor.compress_norm},
        compressor.contract(project),
        Promises(between="fp32"),
        notes=(
            f"read from {path}",
            f"reached by DeepSeek-V4.1 on {gpu} ({project.place(_REGISTRY, model)}), called at {called}",
            f"rings have room for drafts ({project.place(COMPRESSOR, 'rows_per_step =')}), and chunks start anywhere",
            f"layers of ratio 1 have no rings ({project.place(COMPRESSOR, 'if compress_ratio > 1')})",
            "slot_mapping of layers of ratio 1 is filled in by the adapter",
            *compressor.notes,
            "the model has no position bias: scores come with it",
        ),
        replaced=project.replaced,
        sources=project.executed,
        keeps={COMPRESS_NORM: kept},
    )


def kept(case: Case) -> Kept:
    """A ring of a power of two of rows, for a token before the step, one that is certain, and drafts.

    Ring 0 is that of nobody.
    """
    rows = case.session.max_drafts + 2
    return replace(kept_by(case), rows=max(LEAST_ROWS, 1 << (rows - 1).bit_length()), nobodys=1)


class Rows(NamedTuple):
    """Rows of a step: values and scores fp32, positions int64, requests int32, where these begin, and their rings."""

    values: Tensor
    positions: Tensor
    owners: Tensor
    query_start: Tensor
    rings: Tensor


class _Modules(NamedTuple):
    """Executed files: of the compressor and its kernels, of slots of keys, and of the indexer's metadata."""

    compressor: ModuleType
    kernels: ModuleType
    slots: ModuleType
    metadata: ModuleType


class Compressor:
    """The compressor of one release, with the signature of the operation."""

    how = ""
    launchers: tuple[str, ...] = (LAUNCHER,)
    notes: tuple[str, ...] = ("context parallelism is not run",)

    def __init__(self, project: Project, *, amd: bool) -> None:
        provide = provide_vllm("e4m3fn") | provide_jit_kernels() | self.provided()
        if not amd:
            provide["vllm.platforms.current_platform"] = SimpleNamespace(is_rocm=bool, is_cuda=bool)
        execute = {
            COMPRESSOR: (BUILDER, "CompressorMetadata"),
            KERNELS: self.launchers,
            SLOTS: ("get_compressed_slot_mapping",),
            METADATA: ("build_prefill_chunk_metadata",),
        }
        loader = Loader(project, provide=provide, execute={module_of(file): names for file, names in execute.items()})
        self._modules = _Modules(*(loader.load(module_of(file)) for file in execute))

    def provided(self) -> dict[str, object]:
        """What else stands for names of the project."""
        return {}

    def contract(self, project: Project) -> Clauses:
        """What a layer of DeepSeek-V4.1 hands to it."""
        return contract(project)

    def compress_norm(
        self,
        kv: Tensor,
        scores: Tensor,
        bias: Tensor,
        norm_weight: Tensor,
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
        eps: float,
        block_size: int,
    ) -> None:
        """Do with a step what the metadata builder and the compressor's forward do with it."""
        modules, tokens = self._modules, len(slot_mapping)
        if not tokens:
            return
        owners, positions = _rows(query_start, context_lens, tokens)
        lens = context_lens + query_start.diff()
        if ratio == 1:
            slots = torch.full_like(slot_mapping, -1)
            fill_places(query_start, context_lens, block_table, slots, visible, ratio=ratio, size=block_size)
            slot_mapping.copy_(slots)
            getattr(modules.kernels, LAUNCHER)(kv, positions, None, slots, None, None, norm_weight, eps, ratio, keys)
        else:
            step = Rows(torch.cat([kv, scores + bias[positions % ratio]], 1), positions, owners, query_start, rings)
            own = self.places_in_rings(step, state.shape[1])
            self.pool(step, own, state.flatten(2), norm_weight, eps, keys)
            modules.slots.get_compressed_slot_mapping(
                tokens, own.slot_mapping, query_start, lens, block_table, block_size, ratio, out=slot_mapping
            )
        visible.copy_(visible_keys(modules.metadata, query_start, lens, block_table, ratio, tokens))

    def pool(self, step: Rows, own: Any, state: Tensor, weight: Tensor, eps: float, keys: Tensor) -> None:
        """Sum and norm the pairs of a step, with what the metadata builder says of it, and save its last tokens."""
        ring = (state, own.slot_mapping, own.query_start_loc, own.token_to_req_indices)
        getattr(self._modules.kernels, LAUNCHER)(step.values, step.positions, *ring, weight, eps, 2, keys)

    def places_in_rings(self, step: Rows, capacity: int, **builder: Any) -> Any:
        """What the metadata builder says of a step, for rings of so many rows; it has more attributes, if given."""
        made = getattr(self._modules.compressor, BUILDER)
        of = {
            "pcp_size": 1,
            "capacity": capacity,
            "token_to_req_indices": step.owners,
            "slot_mapping_buffer": torch.empty_like(step.positions),
        }
        asked = SimpleNamespace(
            slot_mapping=step.positions.repeat(builder.get("pcp_size", 1)),  # of which it asks the number alone
            positions=step.positions,
            token_to_req_indices=lambda known: known,
            block_table_tensor=step.rings.unsqueeze(1),
            num_actual_tokens=int(step.query_start[-1]),
            num_reqs=len(step.rings),
            query_start_loc=step.query_start,
        )
        return made.build(SimpleNamespace(**of | builder), 0, asked)


def _rows(query_start: Tensor, context_lens: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    """The request, int32, and the position, int64, of each row of a step; 0 both for padding."""
    counts = query_start.diff()
    requests = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    owners = torch.zeros(tokens, dtype=torch.int32, device=counts.device)
    positions = torch.zeros(tokens, dtype=torch.int64, device=counts.device)
    rank = torch.arange(len(requests), device=counts.device) - query_start[requests]
    owners[: len(requests)], positions[: len(requests)] = requests.int(), (context_lens[requests] + rank).long()
    return owners, positions


def contract(project: Project) -> Clauses:
    """What a layer of DeepSeek-V4.1 hands to its compressor."""
    made = (COMPRESS_NORM,)
    return Clauses(
        (
            Clause(
                made,
                lambda case: case.model.head_dim == DIMS,
                f"a latent has {DIMS} dims",
                project.place(COMPRESSOR, "assert self.head_dim == 512 and self.rope_head_dim == 64"),
            ),
            Clause(
                made,
                lambda case: case.session.ratio in RATIOS,
                "ratio is 1 or 2, others are refused",
                project.place(COMPRESSOR, "if compress_ratio not in (1, 2):"),
            ),
            Clause(
                made,
                lambda case: not case.memory.k_pad,
                "latents are dense",
                project.place(KERNELS, "assert latent_out.is_contiguous()"),
            ),
            step_is_near(made, project.place(_CALLER, "lambda: compressor(kv_score, positions)")),
            Clause(
                made,
                lambda case: case.cache.page_pad % ALIGNED == 0,
                f"rings start at multiples of {ALIGNED} bytes, as blocks of a pool do",
                project.place(KERNELS, "# Rows stay 64-byte aligned"),
            ),
        )
    )

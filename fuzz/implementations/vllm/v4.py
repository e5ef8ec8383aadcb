"""vLLM's compressor of DeepSeek-V4's index keys, from a wheel, an unpacked wheel or a checkout.

`DeepseekCompressor.forward` of `models/deepseek_v4/compressor.py` saves the tokens of a step in the pages of its state,
and makes, norms, rotates, quantises and inserts the keys that are due: the same Triton kernels on NVIDIA and AMD GPUs.
Where keys go and how many of them a token sees comes from the metadata of the indexer's backend.
"""

from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import torch
from torch import Tensor

from indexfuzz.core.contract import Clause, Clauses
from indexfuzz.core.guarantees import Promises
from indexfuzz.core.stage_names import FUSED_COMPRESS
from indexfuzz.implementations.base import Implementation
from indexfuzz.implementations.callers import step_is_near
from indexfuzz.implementations.loading.loader import Loader
from indexfuzz.implementations.loading.source import Project, module_of, open_project
from indexfuzz.implementations.vllm.jit_kernel import provide_jit_kernels
from indexfuzz.implementations.vllm.platform import provide_vllm
from indexfuzz.samples.kept import kept_by

KNOWN_VERSIONS = "0.33"
FOLDER = "vllm/models/deepseek_v4"
COMPRESSOR = f"{FOLDER}/compressor.py"
KERNELS = f"{FOLDER}/common/ops/fused_compress_quant_cache.py"
SAVE = f"{FOLDER}/common/ops/save_partial_states.py"
PACKING = f"{FOLDER}/common/ops/fused_indexer_q.py"
SLOTS = "vllm/v1/attention/backends/mla/compressor_utils.py"
METADATA = "vllm/v1/attention/backends/mla/indexer.py"
_CALLER, _REGISTRY = f"{FOLDER}/attention.py", f"{FOLDER}/__init__.py"
_MANAGER = "vllm/v1/core/single_type_kv_cache_manager.py"

HEAD_DIM, RATIO, PAGE, WINDOW = 128, 4, 4, 8
"""Of the indexer of DeepSeek-V4: dims of a key, tokens to a key, tokens of a page of the state, tokens of a key."""

ROWS = 64
"""Keys in a page of the cache."""


FLOOR_OF_MXFP4 = 6 * 2.0**-126
"""The least amax of a key in MXFP4."""


def load(path: str | Path) -> Implementation:
    """Find the compressor at a path. Raises SourceError where it is absent or has moved."""
    return _load(path, "fp32", "", "scales are fp32, as on all GPUs but SM100")


def load_sm100(path: str | Path) -> Implementation:
    """The same as SM100 runs it: a key's scale is four equal exponents."""
    return _load(path, "ue8m0", " sm100", "scales are four UE8M0 bytes, as on SM100")


def load_mxfp4(path: str | Path) -> Implementation:
    """The same with keys in MXFP4, which SM100 has behind a switch."""
    return _load(path, "mxfp4", " mxfp4", "keys are in MXFP4, as with indexer_kv_dtype=mxfp4 on SM100")


def _load(path: str | Path, scales: str, name: str, note: str) -> Implementation:
    project = open_project(path, "vllm", known_versions=KNOWN_VERSIONS)
    compressor = Compressor(project, scales)
    compressor.modules("e4m3fn")
    promises = Promises(between="fp32", rotated="bf16")
    if scales == "mxfp4":
        promises = replace(promises, amax_floor=FLOOR_OF_MXFP4)
    return Implementation(
        f"{project.label} deepseek_v4{name}",
        {FUSED_COMPRESS: compressor.fused_compress},
        contract(project, scales),
        promises,
        notes=(f"read from {path}", *reach(project, scales), note),
        replaced=project.replaced,
        sources=project.executed,
        keeps={FUSED_COMPRESS: lambda case: replace(kept_by(case), rows=WINDOW - 1, page=PAGE)},
    )


def reach(project: Project, scales: str = "fp32") -> tuple[str, ...]:
    """By which lines of a release a model comes to these kernels, and on which hardware."""
    cuda = project.place(_REGISTRY, "from .nvidia.model", "DeepseekV4ForCausalLM")
    rocm = project.place(_REGISTRY, "is_rocm()", "from .amd.model import DeepseekV4ForCausalLM")
    called = project.place(_CALLER, "class DeepseekV4Indexer", "compressor(compressed_kv_score, positions, rotary_emb)")
    chosen = project.place(COMPRESSOR, "compress_norm_rope_store_fn = compress_norm_rope_store_triton")
    if scales != "fp32":
        return (f"reached by DeepSeek-V4 on NVIDIA ({cuda}): called at {called}, chosen at {chosen}",)
    return (
        f"reached by DeepSeek-V4 on NVIDIA ({cuda}) and AMD ({rocm}): called at {called}, chosen at {chosen}",
        "with an index cache in MXFP4 other kernels take their place",
        "e4m3fnuz stands for gfx942, e4m3fn for all other GPUs",
    )


class _Modules(NamedTuple):
    """Executed files, for a GPU that has one FP8 format, and what `get_forward_context` gives them."""

    context: SimpleNamespace
    compressor: ModuleType
    slots: ModuleType
    metadata: ModuleType


class Compressor:
    """The compressor of one release, with the signature of the operation."""

    def __init__(self, project: Project, scales: str) -> None:
        self._project = project
        self._scales = scales
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
        state_table: Tensor,
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
        scale_fmt: str,  # noqa: ARG002 - always ue8m0
        fp8: str,
        quant_group: int,
        layout: str,  # noqa: ARG002 - always token order
        scales: str = "fp32",
    ) -> None:
        """Do with a step what the backend's metadata and the compressor's forward do with it."""
        modules, tokens = self.modules(fp8), len(slot_mapping)
        if not tokens:
            return
        owners, positions, own_slots = _rows(query_start, context_lens, state_table, tokens)
        lens = context_lens + query_start.diff()
        slots = torch.empty_like(slot_mapping)
        modules.slots.get_compressed_slot_mapping(
            tokens, own_slots, query_start, lens, block_table, cache.shape[1], ratio, out=slots
        )
        slot_mapping.copy_(slots)
        visible.copy_(visible_keys(modules.metadata, query_start, lens, block_table, ratio, tokens))

        kept = SimpleNamespace(prefix="state", kv_cache=state.flatten(2))
        layer = SimpleNamespace(kv_cache=cache)
        metadata = modules.compressor.CompressorMetadata(state_table.clamp(min=0), own_slots, PAGE, owners)
        modules.context.attn_metadata = {"state": metadata, "keys": SimpleNamespace(slot_mapping=slots)}
        compressor = modules.compressor.DeepseekCompressor
        this = SimpleNamespace(
            compress_ratio=ratio,
            overlap=overlap,
            coff=1 + overlap,
            head_dim=len(norm_weight),
            rope_head_dim=rope_dim,
            ape=bias,
            norm=SimpleNamespace(weight=norm_weight),
            rms_norm_eps=eps,
            state_cache=kept,
            k_cache_prefix="keys",
            use_fp4_cache=scales == "mxfp4",
            _static_forward_context={"keys": layer},
            _use_two_stage_fused_compressor=False,
            _quant_block=quant_group,
            _token_stride=cache.shape[2] - 4,
            _scale_dim=4,
        )
        this._compress_norm_rope_store = compressor._compress_norm_rope_store.__get__(this)  # noqa: SLF001 - its own
        compressor.forward(this, torch.cat([kv, scores], 1), positions, SimpleNamespace(cos_sin_cache=cos_sin_cache))

    def _load(self, fp8: str) -> _Modules:
        context = SimpleNamespace()
        provide = (
            provide_vllm(fp8)
            | provide_jit_kernels()
            | {
                "vllm.utils.deep_gemm.mqa_logits_use_mx_scales": lambda: self._scales == "ue8m0",
                "vllm.utils.math_utils.next_power_of_2": lambda n: 1 << (n - 1).bit_length(),
                "vllm.forward_context.get_forward_context": lambda: context,
            }
        )
        execute = {
            module_of(COMPRESSOR): ("DeepseekCompressor", "CompressorMetadata"),
            module_of(KERNELS): ("compress_norm_rope_store_triton", "compress_norm_rope_store_two_stage_triton"),
            module_of(SAVE): ("_SAVE_PARTIAL_STATES_KERNEL",),
            module_of(SLOTS): ("get_compressed_slot_mapping",),
            module_of(METADATA): ("build_prefill_chunk_metadata",),
            "vllm.v1.attention.ops.common": ("pack_ue8m0_x4",),
        }
        if self._scales == "mxfp4":
            execute[module_of(PACKING)] = ("MXFP4_BLOCK_SIZE", "_fp32x2_to_fp4x2")
        loader = Loader(self._project, provide=provide, execute=execute)
        return _Modules(context, *(loader.load(module_of(file)) for file in (COMPRESSOR, SLOTS, METADATA)))


def _rows(query_start: Tensor, context_lens: Tensor, state_table: Tensor, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """What vLLM's runner says of the rows of a step: request int32, position int64, slot in the state int64 [T].

    A padded row is one of request 0 at position 0 without a slot.
    """
    counts = query_start.diff()
    device, owned = counts.device, int(counts.sum())
    requests = torch.repeat_interleave(torch.arange(len(counts), device=device), counts)
    rank = torch.arange(owned, device=device) - query_start[requests]
    own = context_lens[requests] + rank
    owners = torch.zeros(tokens, dtype=torch.int32, device=device)
    positions = torch.zeros(tokens, dtype=torch.int64, device=device)
    slots = torch.full((tokens,), -1, dtype=torch.int64, device=device)
    owners[:owned], positions[:owned] = requests.int(), own.long()
    slots[:owned] = state_table[requests, own // PAGE].long() * PAGE + own % PAGE
    return owners, positions, slots


def visible_keys(
    metadata: ModuleType, query_start: Tensor, lens: Tensor, block_table: Tensor, ratio: int, tokens: int
) -> Tensor:
    """How many keys each row of a step sees, as the metadata of a prefill of all its requests says: int32 [T]."""
    seen, keys = torch.zeros(tokens, dtype=torch.int32, device=lens.device), lens // ratio
    chunk = metadata.build_prefill_chunk_metadata(
        0, len(lens), query_start, query_start.cpu(), lens, keys, keys.cpu(), block_table, ratio
    )
    if chunk is not None:
        seen[: chunk.token_end] = chunk.cu_seqlen_ke - chunk.cu_seqlen_ks
    return seen


def contract(project: Project, scales: str = "fp32") -> Clauses:
    """What the indexer of DeepSeek-V4 hands to its compressor, and what the kernels compute from it."""
    fused = (FUSED_COMPRESS,)
    nvidia = project.place("vllm/utils/deep_gemm.py", "def mqa_logits_use_mx_scales(")
    rope = project.place(COMPRESSOR, "is_neox_style=False")
    called = project.place(_CALLER, "class DeepseekV4Indexer", "compressor(compressed_kv_score, positions, rotary_emb)")
    return Clauses(
        (
            Clause(
                fused,
                lambda case: case.model.head_dim == HEAD_DIM,
                f"head_dim is {HEAD_DIM}; keys of 512 dims are no index keys",
                project.place(COMPRESSOR, "elif self.head_dim == 128:"),
            ),
            Clause(
                fused,
                lambda case: case.model.head_dim == case.model.quant_group * (4 if scales == "mxfp4" else 1),
                "32 values have a scale" if scales == "mxfp4" else "one scale per key",
                project.place(COMPRESSOR, f"self._quant_block = {'MXFP4_BLOCK_SIZE' if scales == 'mxfp4' else 128}"),
            ),
            Clause(
                fused,
                lambda case: scales == "fp32" or case.model.fp8 == "e4m3fn",
                "the format of SM100 is e4m3fn",
                nvidia,
            ),
            Clause(
                fused,
                lambda case: case.session.ratio == RATIO,
                f"ratio is {RATIO}: layers of other ratios have no indexer",
                project.place(_CALLER, "self.indexer = None", "if self.compress_ratio == 4:"),
            ),
            Clause(
                fused,
                lambda case: case.session.overlap,
                "a key is also made of the group before",
                project.place(COMPRESSOR, "self.overlap = compress_ratio == 4"),
            ),
            Clause(fused, lambda case: case.rope.style == "interleaved", "pairs are interleaved", rope),
            Clause(
                fused,
                lambda case: case.rope.placement == "last",
                "the last dims are rotated",
                project.place(COMPRESSOR, "applied to LAST rope_head_dim"),
            ),
            Clause(
                fused,
                lambda case: case.rope.table == "fp32",
                "the table of angles is fp32",
                project.place(KERNELS, "def warmup_inputs", "cos_sin_cache=fp32_ptr"),
            ),
            Clause(
                fused,
                lambda case: case.model.scale_fmt == "ue8m0",
                "scales are powers of two",
                project.place(KERNELS, "def _fused_kv_compress_norm_rope_insert_indexer_attn(", "tl.ceil(tl.log2("),
            ),
            Clause(
                fused,
                lambda case: case.cache.block_size == ROWS,
                f"a page has {ROWS} keys",
                project.place(METADATA, "class DeepseekV4IndexerBackend", "return [256]"),
            ),
            step_is_near(fused, called),
            Clause(
                fused,
                lambda case: case.cache.page_layout == "normal",
                "keys lie in token order",
                project.place(KERNELS, "def _fused_kv_compress_norm_rope_insert_indexer_attn(", "FP8 data"),
            ),
        ),
        scales=(scales,),
    )

"""vLLM's insertion of DeepSeek-V4.1's index keys, from a wheel, an unpacked wheel or a checkout.

`indexer_k_norm_rope_store` of `models/deepseek_v41/common/ops/indexer_k_store.py` norms (RMSNorm), rotates, quantises
and inserts the key of a group of tokens, on NVIDIA and AMD GPUs alike. The form of a key is chosen by the GPU and a
switch: an fp32 scale, four equal UE8M0 bytes on SM100, or MXFP4.

What a case calls a token is a group here: its number of tokens, two or one, stands in the release. With two, the last
token of group p has position 2 p + 1 and is turned by the angles of its first, 2 p.
"""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch
from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.core.contract import Clause, Clauses
from indexfuzz.core.guarantees import Promises
from indexfuzz.core.stage_names import FUSED_K
from indexfuzz.implementations.base import Implementation
from indexfuzz.implementations.loading.loader import Loader
from indexfuzz.implementations.loading.source import Project, module_of, open_project
from indexfuzz.implementations.vllm.platform import provide_vllm
from indexfuzz.reference.fp8 import AMAX_FLOOR
from indexfuzz.reference.layout import resolve

KNOWN_VERSIONS = "0.33"
KERNELS = "vllm/models/deepseek_v41/common/ops/indexer_k_store.py"
_OF_V4 = "vllm/models/deepseek_v4/common/ops/fused_indexer_q.py"
_CALLER = "vllm/models/deepseek_v41/attention.py"
_PACK = "vllm.v1.attention.ops.common"
_LAUNCHER = "indexer_k_norm_rope_store"
_PACKAGE = "vllm.models.deepseek_v41.common.ops"
_PAIRS = ("MXFP4_BLOCK_SIZE", "_fp32x2_to_fp4x2")
_HEAD_DIM, _ROPE_DIM, _TILE = 128, 64, 16

MXFP4_FLOOR = 6.0 * 2.0**-126
"""The smallest amax that the scale of an MXFP4 group is made of."""

FORMS = {
    "fp32": "scales are fp32, as on all GPUs but SM100",
    "ue8m0": "scales are four UE8M0 bytes, as on SM100",
    "mxfp4": "keys are in MXFP4, as with indexer_kv_dtype mxfp4 on SM100",
}


def load(path: str | Path, scales: str = "fp32") -> Implementation:
    """Find the insertion at a path. Raises SourceError where it is absent or has moved."""
    project = open_project(path, "vllm", known_versions=KNOWN_VERSIONS)
    module = cache(lambda layout: _load(project, scales, layout))
    module("normal")

    def fused_k(
        k: Tensor,
        k_norm_weight: Tensor,
        k_norm_bias: Tensor,  # noqa: ARG001 - RMSNorm has none
        positions: Tensor,
        cos_sin_cache: Tensor,
        cache: Tensor,
        slot_mapping: Tensor,
        *,
        eps: float,
        layout: str,
        **_: object,  # always the same
    ) -> None:
        """Norm, rotate, quantise and insert k; groups of one token and of two take turns with the number of tokens."""
        ratio = 1 + len(k) % 2
        angles = cos_sin_cache.new_full((len(cos_sin_cache) * ratio, cos_sin_cache.shape[1]), torch.nan)
        angles[::ratio] = cos_sin_cache
        launch = getattr(module(resolve(layout, cache.shape[1])), _LAUNCHER)
        last = positions * ratio + ratio - 1
        launch(k, last, angles, k_norm_weight, eps, cache, slot_mapping, ratio, scales == "mxfp4")

    called = project.place(_CALLER, "def _produce_k(", f"{_LAUNCHER}(")
    return Implementation(
        f"{project.label} deepseek_v41 k" + ("" if scales == "fp32" else f" {scales}"),
        {FUSED_K: fused_k},
        _contract(project, scales),
        Promises(between="bf16", amax_floor=MXFP4_FLOOR if scales == "mxfp4" else AMAX_FLOOR),
        notes=(f"read from {path}", f"reached by DeepSeek-V4.1 on NVIDIA and AMD (called at {called})", FORMS[scales]),
        replaced=project.replaced,
        sources=project.executed,
    )


load_sm100 = partial(load, scales="ue8m0")
load_mxfp4 = partial(load, scales="mxfp4")


def _load(project: Project, scales: str, layout: str) -> ModuleType:
    """The executed file, on AMD, which has SHUFFLE pages, or elsewhere."""
    of_v4 = module_of(_OF_V4)
    pairs = Loader(project, provide=provide_vllm("e4m3fn"), execute={of_v4: _PAIRS}).load(of_v4)
    platform = SimpleNamespace(is_rocm=lambda: layout == "shuffle", is_cuda=lambda: False)
    provide = provide_vllm("e4m3fn") | {
        "vllm.platforms.current_platform": platform,
        "vllm.utils.deep_gemm.mqa_logits_use_mx_scales": lambda: scales == "ue8m0",
        **{f"{_PACKAGE}.{name}": getattr(pairs, name) for name in _PAIRS},
    }
    execute = {module_of(KERNELS): (_LAUNCHER,), _PACK: ("pack_ue8m0_x4",)}
    return Loader(project, provide=provide, execute=execute).load(module_of(KERNELS))


def _contract(project: Project, scales: str) -> Clauses:
    """What the launcher asserts, the kernel computes from its arguments, and the caller hands over."""
    called = project.place(_CALLER, "def _produce_k(", f"{_LAUNCHER}(")
    turned = project.place(KERNELS, "NUM_PAIRS: tl.constexpr = HEAD_SIZE // 2")
    fp8 = project.place(KERNELS, "x_uint8 = x_clamped.to(tl.float8e4nv)")

    def clause(holds: Callable[[Case], bool], sentence: str, place: str) -> Clause:
        return Clause((FUSED_K,), holds, sentence, place)

    shape = project.place(KERNELS, f"assert k_pre.ndim == 2 and k_pre.shape[1] == {_HEAD_DIM}")
    tiles = project.place(KERNELS, "if block_size % _BLOCK_TILE_SIZE != 0")
    shuffled = project.place(KERNELS, "shuffle = current_platform.is_rocm() and block_size > 1")
    clauses = [
        clause(lambda case: case.model.head_dim == _HEAD_DIM, f"head_dim is {_HEAD_DIM}", shape),
        clause(
            lambda case: case.model.rope_dim == _ROPE_DIM,
            f"rope_dim is {_ROPE_DIM}",
            project.place(KERNELS, f"ROPE_HEAD_DIM={_ROPE_DIM}"),
        ),
        clause(lambda case: case.rope.placement == "last", "the last dims are rotated", turned),
        clause(lambda case: case.rope.style == "interleaved", "pairs are interleaved", turned),
        clause(lambda case: case.model.fp8 == "e4m3fn", "keys are e4m3fn", fp8),
        clause(_is_tiled, f"SHUFFLE pages hold a multiple of {_TILE} tokens, more than one", tiles),
        clause(lambda case: not case.memory.shift, "tensors start at multiples of 16 bytes", called),
        clause(lambda case: not case.memory.fused, "q and k are no views of one", called),
        clause(lambda case: case.memory.far != "k", "the rows of k are not 2^31 elements apart", called),
        clause(
            lambda case: case.memory.slots == "int64",
            "slot_mapping is int64",
            project.place("vllm/v1/worker/block_table.py", "torch.int64"),
        ),
    ]
    if scales != "fp32":
        clauses.append(clause(lambda case: case.cache.page_layout == "normal", "pages are NORMAL", shuffled))
    if scales == "ue8m0":
        one = project.place("vllm/v1/attention/ops/common.py", "def pack_ue8m0_x4(")
        clauses.append(
            clause(lambda case: case.model.quant_group == case.model.head_dim, "a key has one scale, four times", one)
        )
    return Clauses(tuple(clauses), scales=(scales,), norms=("rms",))


def _is_tiled(case: Case) -> bool:
    return case.cache.page_layout == "normal" or (case.cache.block_size > 1 and not case.cache.block_size % _TILE)

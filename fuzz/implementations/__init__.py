"""Everything that can be put under test, by name: `load("builtin")`, `load("vllm:PATH")`, `load("module:NAME")`."""

import importlib

from indexfuzz.core.words import suggestion
from indexfuzz.implementations.base import Implementation, ImplementationError

AVAILABLE = {
    "builtin": ("indexfuzz.implementations.builtin", "builtin", "the kernels of this package"),
    "vllm": ("indexfuzz.implementations.vllm.adapter", "load", "vllm:PATH, wheel or checkout of vLLM: Triton, RoPE"),
    "vllm-v32": ("indexfuzz.implementations.vllm.v32", "load", "vllm-v32:PATH, its fused kernels of V3.2 and GLM-5"),
    "vllm-v32-sm100": (
        "indexfuzz.implementations.vllm.v32_sm100",
        "load",
        "vllm-v32-sm100:PATH, the same for k on SM100",
    ),
    "vllm-v4-logits": (
        "indexfuzz.implementations.vllm.adapter",
        "load_v4_logits",
        "vllm-v4-logits:PATH, its paged logits",
    ),
    "vllm-v4-index": (
        "indexfuzz.implementations.vllm.v4_index",
        "load",
        "vllm-v4-index:PATH, its selected keys to slots",
    ),
    "vllm-v41-index": (
        "indexfuzz.implementations.vllm.v4_index",
        "load_v41",
        "vllm-v41-index:PATH, the same for V4.1",
    ),
    "vllm-v4-index-amd": (
        "indexfuzz.implementations.vllm.v4_index",
        "load_amd",
        "vllm-v4-index-amd:PATH, the same for V4 on AMD GPUs",
    ),
    "vllm-v41-index-amd": (
        "indexfuzz.implementations.vllm.v4_index",
        "load_v41_amd",
        "vllm-v41-index-amd:PATH, the same for V4.1 on AMD GPUs",
    ),
    "vllm-v4-q": ("indexfuzz.implementations.vllm.v4_q", "load", "vllm-v4-q:PATH, its fused q of V4's indexer"),
    "vllm-v41-k": ("indexfuzz.implementations.vllm.v41_k", "load", "vllm-v41-k:PATH, its fused k of V4.1's indexer"),
    "vllm-v41-k-sm100": (
        "indexfuzz.implementations.vllm.v41_k",
        "load_sm100",
        "vllm-v41-k-sm100:PATH, the same on SM100",
    ),
    "vllm-v41-k-mxfp4": (
        "indexfuzz.implementations.vllm.v41_k",
        "load_mxfp4",
        "vllm-v41-k-mxfp4:PATH, the same with keys in MXFP4",
    ),
    "vllm-v4": ("indexfuzz.implementations.vllm.v4", "load", "vllm-v4:PATH, its compressor of V4's index keys"),
    "vllm-v4-sm100": (
        "indexfuzz.implementations.vllm.v4",
        "load_sm100",
        "vllm-v4-sm100:PATH, the same with UE8M0 scales",
    ),
    "vllm-v4-mxfp4": ("indexfuzz.implementations.vllm.v4", "load_mxfp4", "vllm-v4-mxfp4:PATH, the same in MXFP4"),
    "vllm-v41": ("indexfuzz.implementations.vllm.v41", "load", "vllm-v41:PATH, its compressor of V4.1"),
    "vllm-v41-amd": ("indexfuzz.implementations.vllm.v41", "load_amd", "vllm-v41-amd:PATH, the same on AMD GPUs"),
    "vllm-v41-pcp": (
        "indexfuzz.implementations.vllm.v41_pcp",
        "load",
        "vllm-v41-pcp:PATH, its compressor of V4.1 on two ranks that share prefills",
    ),
    "vllm-kpool": (
        "indexfuzz.implementations.vllm.kpool",
        "load",
        "vllm-kpool:PATH, its key pooling of GLM-5.3-Flash",
    ),
    "vllm-kpool-sm100": (
        "indexfuzz.implementations.vllm.kpool",
        "load_sm100",
        "vllm-kpool-sm100:PATH, the same on SM100",
    ),
    "vllm-kpool-sm90": (
        "indexfuzz.implementations.vllm.kpool",
        "load_sm90",
        "vllm-kpool-sm90:PATH, the same as batches are split on SM90",
    ),
    "vllm-kpool-uncached": (
        "indexfuzz.implementations.vllm.kpool",
        "load_uncached",
        "vllm-kpool-uncached:PATH, the same without prefix caching",
    ),
    "vllm-index": (
        "indexfuzz.implementations.vllm.index_remap",
        "load",
        "vllm-index:PATH, top-k to slots",
    ),
    "vllm-index-amd": (
        "indexfuzz.implementations.vllm.index_remap_amd",
        "load",
        "vllm-index-amd:PATH, the same on AMD GPUs",
    ),
    "vllm-torch": ("indexfuzz.implementations.vllm.adapter", "load_torch", "vllm-torch:PATH, its fallbacks in PyTorch"),
    "sglang": (
        "indexfuzz.implementations.sglang.adapter",
        "load",
        "sglang:PATH, the same of SGLang: its index K cache",
    ),
    "sglang-kpool": ("indexfuzz.implementations.sglang.kpool", "load", "sglang-kpool:PATH, its gather of pooled keys"),
    "sglang-kpool-write": (
        "indexfuzz.implementations.sglang.kpool_write",
        "load",
        "sglang-kpool-write:PATH, its key pooling of GLM-5.3-Flash",
    ),
    "sglang-c2": ("indexfuzz.implementations.sglang.c2_pool", "load", "sglang-c2:PATH, its pairs of V4.1 in decode"),
    "sglang-fp4-cache": (
        "indexfuzz.implementations.sglang.fp4_cache",
        "load",
        "sglang-fp4-cache:PATH, its MXFP4 cache of V4.1's index keys",
    ),
    "sglang-v4-store": (
        "indexfuzz.implementations.sglang.v4_store",
        "load",
        "sglang-v4-store:PATH, its fused store of V4's index keys",
    ),
    "sglang-index": (
        "indexfuzz.implementations.sglang.index_transform",
        "load",
        "sglang-index:PATH, top-k to slots",
    ),
    "lmdeploy": (
        "indexfuzz.implementations.lmdeploy.adapter",
        "load",
        "lmdeploy:PATH, the whole DSA indexer of LMDeploy",
    ),
    "lmdeploy-v4": (
        "indexfuzz.implementations.lmdeploy.compressor",
        "load",
        "lmdeploy-v4:PATH, its compressor of V4's keys",
    ),
    "atom-v4": (
        "indexfuzz.implementations.atom",
        "load",
        "atom-v4:PATH, a checkout of ATOM: its compressor of V4's keys",
    ),
    "aiter": ("indexfuzz.implementations.aiter", "load", "aiter:PATH, a checkout of AITER: prefill and paged logits"),
    "aiter-converted": (
        "indexfuzz.implementations.aiter",
        "load_converted",
        "aiter-converted:PATH, its prefill logits of e4m3fn on gfx942",
    ),
    "aiter-stage1": ("indexfuzz.implementations.aiter", "load_stage1", "aiter-stage1:PATH, its two-stage paged logits"),
    "deep_gemm": ("indexfuzz.implementations.deep_gemm", "load", "DeepGEMM's logits, as installed; needs a GPU"),
    "module": ("indexfuzz.implementations.module", "load", "module:NAME, your own Python module"),
}
"""Scheme -> module, function, and what it is. A function takes what stands behind the colon, if anything may."""

WITHOUT_PATH = frozenset({"builtin", "deep_gemm"})


def available() -> list[tuple[str, str]]:
    """(scheme, description) of everything that `load` knows."""
    return [(scheme, description) for scheme, (_, _, description) in AVAILABLE.items()]


def load(spec: str) -> Implementation:
    """The implementation that a specification names; imported only now.

    Raises ImplementationError in one sentence when there is none, or its files are not what they should be.
    """
    scheme, colon, rest = spec.partition(":")
    if scheme not in AVAILABLE:
        raise ImplementationError(f"no implementation {scheme!r}; {suggestion(scheme, AVAILABLE, 'indexfuzz impls')}")
    module, function, description = AVAILABLE[scheme]
    if scheme in WITHOUT_PATH:
        if colon:
            raise ImplementationError(f"{scheme} takes no path, but {spec!r} has one")
    elif not rest:
        raise ImplementationError(f"{scheme} needs more: {description}")
    make = getattr(importlib.import_module(module), function)
    implementation: Implementation = make(rest) if rest else make()
    return implementation

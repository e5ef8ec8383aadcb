"""SGLang's indexer that pools keys: the Triton kernel that gathers them from the index K cache.

`gather_index_k_scale_prefix_into` (sglang/srt/layers/attention/dsa/kpool_fp8_index.py) takes one list of pages; its
caller concatenates those of all requests, whose lengths are multiples of a page but for the last.
"""

from functools import cache
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch
from torch import Tensor

from indexfuzz.implementations.base import Implementation
from indexfuzz.implementations.loading.loader import Loader
from indexfuzz.implementations.loading.source import Project
from indexfuzz.implementations.sglang.adapter import open_sglang
from indexfuzz.implementations.sglang.contract import is_shuffle, kpool_contract

_MODULE = "sglang.srt.layers.attention.dsa.kpool_fp8_index"
_UTILS = "sglang.srt.layers.attention.dsa.utils"


def load(path: str | Path) -> Implementation:
    """Find SGLang at a path. Raises SourceError where it is absent or its kernel has moved."""
    project = open_sglang(path)
    gather = Gather(project)
    gather.module(preshuffle=False)
    notes = (f"read from {path}", "every request is gathered by a launch of its own")
    return Implementation(
        f"{project.label} kpool",
        {"gather": gather},
        kpool_contract(project),
        notes=notes,
        replaced=project.replaced,
        sources=project.executed,
    )


class Gather:
    """The launcher, with the signature of the stage."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self.module = cache(self._load)

    def __call__(
        self,
        cache: Tensor,
        block_table: Tensor,
        cu_seqlens: Tensor,
        token_to_seq: Tensor,  # noqa: ARG002 - one request at a time
        k_fp8: Tensor,
        k_scale: Tensor,
        *,
        quant_group: int,  # noqa: ARG002 - one scale per token
        layout: str,
    ) -> None:
        """Gather keys into k_fp8 [N,D] and k_scale [N]."""
        num_blocks, block_size, bytes_per_token = cache.shape
        launch = self.module(preshuffle=is_shuffle(layout, block_size)).gather_index_k_scale_prefix_into
        pages = cache.view(num_blocks, block_size * bytes_per_token)
        pool = SimpleNamespace(index_page_size=block_size)
        ends = cu_seqlens.tolist()
        for row, (start, end) in enumerate(pairwise(ends)):
            keys = k_fp8[start:end].view(torch.uint8)
            launch(pool, pages, block_table[row], end - start, keys, k_scale[start:end])

    def _load(self, *, preshuffle: bool) -> ModuleType:
        provide = {
            "sglang.srt.utils.is_cuda": lambda: not preshuffle,
            f"{_UTILS}.aiter_can_use_preshuffle_paged_mqa": lambda: preshuffle,
        }
        execute = {_MODULE: ("gather_index_k_scale_prefix_into",), _UTILS: ("INDEXER_K_CACHE_PRESHUFFLE_TILE",)}
        return Loader(self._project, provide=provide, execute=execute).load(_MODULE)

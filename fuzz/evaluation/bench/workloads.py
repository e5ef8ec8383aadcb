"""What the lockstep benchmark runs: one stage of an implementation, on tensors of a size, as often as is wanted."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from indexfuzz.implementations.base import Implementation

HEAD_DIM = 128
HEADS = {"q_quant": 8, "prefill_logits": 64}
"""num_heads by stage: 64 as in DeepSeek-V3.2, fewer where every head of a token is a row of its own."""

BLOCK_SIZE = 64


@dataclass(frozen=True)
class Workload:
    """A launch of one stage.

    `arguments` are passed by name; `defined` says of each tensor among them which of its bytes hold something: all,
    none, or a bool for each.
    """

    launch: Callable[[], object]
    arguments: Mapping[str, Tensor]
    defined: Mapping[str, bool | Tensor]


def prepare(implementation: Implementation, stage: str, size: tuple[int, ...]) -> Workload:
    """A stage of an implementation on (tokens,), or on (rows, keys) for prefill_logits.

    head_dim is 128, scales are UE8M0, pages hold 64 tokens. The tensors are the same in every process.
    """
    arguments, options = _MAKERS[stage](*size)
    function = implementation.stages[stage]
    defined: dict[str, bool | Tensor] = {name: name not in _FILLED[stage] for name in arguments}
    if stage == "gather":
        defined["cache"] = torch.ones(arguments["cache"].shape, dtype=torch.bool)
    return Workload(lambda: function(**arguments, **options), arguments, defined)


_FILLED: dict[str, set[str]] = {
    "q_quant": set(),
    "k_quant_cache": {"cache"},
    "gather": {"k_fp8", "k_scale"},
    "prefill_logits": {"logits"},
}
"""The arguments that a stage fills, and that hold nothing before."""

_QUANTISED = {"scale_fmt": "ue8m0", "fp8": "e4m3fn"}
_PAGED = {"quant_group": HEAD_DIM, "layout": "auto"}
_Arguments = tuple[dict[str, Tensor], dict[str, object]]


def _normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def _pages(tokens: int) -> int:
    return 2 * -(-tokens // BLOCK_SIZE)


def _q_quant(tokens: int) -> _Arguments:
    heads = HEADS["q_quant"]
    tensors = {"q": _normal(tokens, heads, HEAD_DIM).bfloat16(), "weights": _normal(tokens, heads)}
    return tensors, {**_QUANTISED}


def _k_quant_cache(tokens: int) -> _Arguments:
    cache = torch.zeros(_pages(tokens), BLOCK_SIZE, HEAD_DIM + 4, dtype=torch.uint8)
    slots = torch.randperm(len(cache) * BLOCK_SIZE, generator=torch.Generator().manual_seed(tokens))[:tokens]
    tensors = {"k": _normal(tokens, HEAD_DIM).bfloat16(), "cache": cache, "slot_mapping": slots}
    return tensors, {**_QUANTISED, **_PAGED}


def _gather(tokens: int) -> _Arguments:
    """Two sequences, the first half as long as the second."""
    first, pages = tokens // 3, _pages(tokens)
    table = torch.randperm(pages, generator=torch.Generator().manual_seed(tokens)).int()
    tensors = {
        "cache": torch.arange(pages * BLOCK_SIZE * (HEAD_DIM + 4)).remainder(100).to(torch.uint8),
        "block_table": torch.stack([table, table.flip(0)]),
        "cu_seqlens": torch.tensor([0, first, tokens], dtype=torch.int32),
        "token_to_seq": (torch.arange(tokens) >= first).int(),
        "k_fp8": torch.zeros(tokens, HEAD_DIM).to(torch.float8_e4m3fn),
        "k_scale": torch.zeros(tokens),
    }
    tensors["cache"] = tensors["cache"].view(pages, BLOCK_SIZE, HEAD_DIM + 4)
    return tensors, {**_PAGED}


def _prefill_logits(rows: int, keys: int) -> _Arguments:
    """Causal windows that reach the last key in the last row."""
    heads = HEADS["prefill_logits"]
    tensors = {
        "q_fp8": _normal(rows, heads, HEAD_DIM).to(torch.float8_e4m3fn),
        "k_fp8": _normal(keys, HEAD_DIM).to(torch.float8_e4m3fn),
        "k_scale": _normal(keys).abs(),
        "weights": _normal(rows, heads),
        "ks": torch.zeros(rows, dtype=torch.int32),
        "ke": torch.arange(keys - rows + 1, keys + 1, dtype=torch.int32),
        "logits": torch.empty(rows, keys),
    }
    return tensors, {}


_MAKERS: dict[str, Callable[..., _Arguments]] = {
    "q_quant": _q_quant,
    "k_quant_cache": _k_quant_cache,
    "gather": _gather,
    "prefill_logits": _prefill_logits,
}

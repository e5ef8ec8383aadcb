"""The stages of the indexer: what each reads, what it fills or returns, its reference, and how it is judged.

A sample flows through STAGES from top to bottom. Every stage function, ours or a stranger's, takes the tensors and
options that `prepare` lists, by keyword.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from indexfuzz.checks import memory
from indexfuzz.core.case import Case
from indexfuzz.core.terms import Terms
from indexfuzz.implementations.base import MalformedResultError
from indexfuzz.reference import cache, gather, indexer, mqa_logits, paged_mqa_logits, quant, rope
from indexfuzz.reference.fp8 import FORMATS
from indexfuzz.samples.step import Step
from indexfuzz.stages import judges
from indexfuzz.stages.judges import Verdict


@dataclass(frozen=True)
class Call:
    """The arguments of one stage. `fills` maps arguments that the stage may write to the buffers they lie in."""

    tensors: dict[str, Tensor]
    options: dict[str, Any] = field(default_factory=dict)
    fills: dict[str, str] = field(default_factory=dict)
    returns: tuple[str, ...] = ()
    undefined: frozenset[str] = frozenset()

    def run(self, function: Callable[..., Any]) -> dict[str, Tensor]:
        """Call a stage function; its outputs by name.

        Raises MalformedResultError when it does not return as many tensors as the stage has results.
        """
        result = function(**self.tensors, **self.options)
        outputs = {name: self.tensors[name] for name in self.fills}
        if not self.returns:
            return outputs
        results: Sequence[Any] = result if isinstance(result, tuple | list) else (result,)
        if len(results) != len(self.returns) or not all(isinstance(r, Tensor) for r in results):
            kinds = ", ".join(type(r).__name__ for r in results)
            raise MalformedResultError(f"returned ({kinds}) instead of the tensors ({', '.join(self.returns)})")
        return outputs | dict(zip(self.returns, results, strict=True))

    def left_behind(self, outputs: Mapping[str, Tensor]) -> list[str]:
        """The returned tensors that the arguments of their names, to be changed in place, do not hold."""
        both = [name for name in self.returns if name in self.fills]
        return [name for name in both if not memory.same(self.tensors[name], outputs[name])]

    def copy(self) -> "Call":
        """The same call on copies of what the stage may write, dense."""
        tensors = {name: t.clone() if name in self.fills else t for name, t in self.tensors.items()}
        return Call(tensors, self.options, self.fills, self.returns, self.undefined)


@dataclass(frozen=True)
class Stage:
    """One step of the indexer."""

    name: str
    applies: Callable[[Case], bool]
    prepare: Callable[[Step], Call]
    reference: Callable[..., Any]
    judge: Callable[[Case, Mapping[str, Tensor], Mapping[str, Tensor], Terms], Verdict]


def _rope(step: Step) -> Call:
    t, rope_case = step.tensors, step.case.rope
    inplace = rope_case.mode == "inplace"
    return Call(
        {name: t[name] for name in ("q", "k", "positions", "cos_sin_cache")},
        {
            "rope_dim": step.case.model.rope_dim,
            "style": rope_case.style,
            "placement": rope_case.placement,
            "mode": rope_case.mode,
        },
        fills={"q": "q", "k": "k"} if inplace else {},
        returns=("q", "k"),
    )


def _q_quant(step: Step) -> Call:
    model = step.case.model
    return Call(
        {"q": step.tensors["q"], "weights": step.tensors["weights"]},
        {"scale_fmt": model.scale_fmt, "fp8": model.fp8},
        returns=("q_fp8", "q_weights"),
    )


def _k_quant_cache(step: Step) -> Call:
    model = step.case.model
    return Call(
        {name: step.tensors[name] for name in ("k", "cache", "slot_mapping")},
        {
            "scale_fmt": model.scale_fmt,
            "fp8": model.fp8,
            "quant_group": model.quant_group,
            "layout": step.case.cache.layout,
        },
        fills={"cache": "cache"},
    )


def _gather(step: Step) -> Call:
    model, keys = step.case.model, step.case.batch.keys
    pad = step.case.row_pad("k_fp8", keys, model.head_dim)
    k_fp8 = step.output("k_fp8", (keys, model.head_dim), FORMATS[model.fp8].dtype, row_pad=pad)
    k_scale = step.output("k_scale", (keys,), torch.float32)
    return Call(
        {
            "cache": step.tensors["cache"],
            "block_table": step.tensors["prefill_table"],
            "cu_seqlens": step.tensors["cu_seqlens"],
            "token_to_seq": step.tensors["token_to_seq"],
            "k_fp8": k_fp8,
            "k_scale": k_scale,
        },
        {"quant_group": model.quant_group, "layout": step.case.cache.layout},
        fills={"k_fp8": "k_fp8", "k_scale": "k_scale"},
        undefined=frozenset({"k_fp8", "k_scale"}),
    )


def _logits(step: Step, name: str, rows: int, columns: int) -> Tensor:
    return step.output(name, (rows, columns), torch.float32, row_pad=step.case.row_pad("logits", rows, columns))


def _prefill_logits(step: Step) -> Call:
    batch, t, rows = step.case.batch, step.tensors, step.prefill_rows
    logits = _logits(step, "prefill_logits", batch.prefill_rows, batch.keys)
    q_fp8, q_weights = step.spread("q_fp8"), step.spread("q_weights")
    return Call(
        {
            "q_fp8": q_fp8[rows],
            "k_fp8": t["k_fp8"],
            "k_scale": t["k_scale"],
            "weights": q_weights[rows],
            "ks": t["ks"],
            "ke": t["ke"],
            "logits": logits,
        },
        fills={"logits": "prefill_logits"},
        undefined=frozenset({"logits"}),
    )


def _paged_logits(step: Step) -> Call:
    batch, t, rows = step.case.batch, step.tensors, step.decode_rows
    logits = _logits(step, "paged_logits", batch.decode_rows, batch.max_model_len)
    q_fp8, q_weights = step.spread("q_fp8"), step.spread("q_weights")
    q_fp8 = q_fp8[rows].view(len(batch.decode), batch.next_n, *q_fp8.shape[1:])
    return Call(
        {
            "q_fp8": q_fp8,
            "cache": t["cache"],
            "weights": q_weights[rows],
            "context_lens": t["context_lens"],
            "block_table": t["decode_table"],
            "logits": logits,
        },
        {"layout": step.case.cache.layout},
        fills={"logits": "paged_logits"},
        undefined=frozenset({"logits"}),
    )


def _prefill_topk(step: Step) -> Call:
    logits = step.tensors["prefill_logits"]
    return Call({"logits": logits}, {"index_topk": step.case.model.index_topk}, returns=("prefill_topk",))


def _paged_topk(step: Step) -> Call:
    logits = step.tensors["paged_logits"]
    return Call({"logits": logits}, {"index_topk": step.case.model.index_topk}, returns=("paged_topk",))


def _has_tokens(case: Case) -> bool:
    return case.batch.tokens > 0


def _has_keys(case: Case) -> bool:
    return case.batch.keys > 0


def _has_prefill_rows(case: Case) -> bool:
    return case.batch.prefill_rows > 0 and case.batch.keys > 0


def _has_decode(case: Case) -> bool:
    return len(case.batch.decode) > 0


STAGES = (
    Stage("rope", _has_tokens, _rope, rope.rope, judges.rope),
    Stage("q_quant", _has_tokens, _q_quant, quant.q_quant, judges.q_quant),
    Stage("k_quant_cache", _has_tokens, _k_quant_cache, cache.k_quant_cache, judges.k_quant_cache),
    Stage("gather", _has_keys, _gather, gather.gather, judges.gather),
    Stage("prefill_logits", _has_prefill_rows, _prefill_logits, mqa_logits.mqa_logits, judges.prefill_logits),
    Stage("paged_logits", _has_decode, _paged_logits, paged_mqa_logits.paged_mqa_logits, judges.paged_logits),
    Stage("topk", _has_prefill_rows, _prefill_topk, indexer.topk, judges.topk),
    Stage("topk", _has_decode, _paged_topk, indexer.topk, judges.topk),
)

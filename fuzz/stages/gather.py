"""Gathering of the keys that prefill reads, out of the paged cache."""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from indexfuzz.checks import describe
from indexfuzz.checks.exact import check_bits
from indexfuzz.core import stage_names
from indexfuzz.core.case import Case
from indexfuzz.core.guarantees import Guarantees, Promises
from indexfuzz.reference import fp8, layout
from indexfuzz.reference import gather as gather_reference
from indexfuzz.reference.scales import dtype_of
from indexfuzz.samples.poison import POISON, POISON_BYTE
from indexfuzz.samples.step import Step
from indexfuzz.stages.base import Call, Output, Reach, Stage, Tensors, Workload
from indexfuzz.stages.quantised import scales_of, values_per_byte
from indexfuzz.stages.verdict import Verdict
from indexfuzz.stages.workloads import TOKENS, prefill

POISONS = {POISON_BYTE, *POISON.values()}


class Gather(Stage):
    """Fills k_fp8 [N,D] and k_scale [N], fp32 or words of exponents, with the tokens of all sequences in turn.

    k_fp8 is uint8 [N,D/2] where keys are in MXFP4.
    """

    name = stage_names.GATHER
    outputs = (Output("k_fp8", ("token", "dim")), Output("k_scale", ("token",)))
    row_inputs = ()
    sources = ("gather", "layout", "scales")
    reference = staticmethod(gather_reference.gather)
    workload = Workload(TOKENS, lambda tokens: prefill((tokens // 3, 0), (tokens - tokens // 3, 0)))

    def applies(self, case: Case) -> bool:
        return case.batch.keys > 0

    def tensors(self, step: Step) -> dict[str, Tensor]:
        case, keys = step.case, step.case.batch.keys
        dtype = torch.uint8 if case.cache.scales == "mxfp4" else fp8.FORMATS[case.model.fp8].dtype
        pad = case.row_pad("k_fp8", keys, case.key_bytes)
        k_fp8 = step.output("k_fp8", (keys, case.key_bytes), dtype, row_pad=pad)
        return {
            "cache": step.tensors["cache"],
            "block_table": step.tensors["prefill_table"],
            "cu_seqlens": step.tensors["cu_seqlens"],
            "token_to_seq": step.tensors["token_to_seq"],
            "k_fp8": k_fp8,
            "k_scale": step.output("k_scale", (keys,), dtype_of(case.cache.scales)),
        }

    def call(self, case: Case, tensors: dict[str, Tensor]) -> Call:
        return Call(
            tensors,
            {"quant_group": case.model.quant_group, "layout": case.cache.layout, **scales_of(case)},
            fills={"k_fp8": "k_fp8", "k_scale": "k_scale"},
            undefined=frozenset({"k_fp8", "k_scale"}),
        )

    def judge_finite(self, given: Call, got: Tensors, guarantees: Guarantees) -> Verdict:
        """Keys and scales are the bytes of the cache; padding holds what is promised."""
        want = _wanted(given, got, guarantees)
        cache = given.tensors["cache"]
        block_size, key_bytes = layout.page_shape(cache)
        promised = layout.resolve(given.options["layout"], block_size)
        others = dict(layout.arrangements(block_size, key_bytes, cache.device))
        del others[promised]
        found = []
        for name, axes in self.axes.items():
            as_read = {other: partial(_read_as, given, got, want, name, others[other]) for other in others}
            before = given.tensors[name]
            found.append(check_bits(name, got[name], want[name], axes=axes, before=before, layouts=as_read))
        return Verdict.of(*found)

    def determined(self, given: Call, promises: Promises) -> dict[str, Tensor]:
        if promises.gather_padding == "zeros":
            return {}
        _, is_token = _slots(given)
        return {"k_fp8": is_token.unsqueeze(1).expand(given.tensors["k_fp8"].shape), "k_scale": is_token}

    def nonfinite_reach(self, given: Call, *, hides_nan: bool = False) -> Reach:
        """Nothing: bytes are copied, whatever they stand for."""
        return Reach({}, {})


def _slots(call: Call) -> tuple[Tensor, Tensor]:
    """The slot of every gathered token, int64 [N], and whether it has one."""
    names = ("cache", "block_table", "cu_seqlens", "token_to_seq")
    return gather_reference.gathered_slots(*(call.tensors[name] for name in names))


def _wanted(given: Call, got: Tensors, guarantees: Guarantees) -> dict[str, Tensor]:
    """The one right result; where a project promises nothing about padding, it is what was made of it."""
    _, key_bytes = layout.page_shape(given.tensors["cache"])
    quarter_or_whole = key_bytes // values_per_byte(given)
    want = replace(given.copy(), options=given.options | {"quant_group": quarter_or_whole})
    want.run(gather_reference.gather)
    _, is_token = _slots(given)
    padding = guarantees.promises.gather_padding
    if padding != "zeros":
        source = given.tensors if padding == "untouched" else got
        for name in want.fills:
            _bytes(want.tensors[name])[~is_token] = _bytes(source[name])[~is_token]
    return {name: want.tensors[name] for name in want.fills}


def _read_as(given: Call, got: Tensors, want: Tensors, name: str, offsets: tuple[Tensor, Tensor]) -> Tensor:
    """An output if the cache were arranged otherwise; what it is where that reaches beyond the cache's end.

    The right output where all that would be wrong is poison: each arrangement has it somewhere, so it tells of none.
    """
    out = want[name].clone()
    slots, is_token = _slots(given)
    codes, scales, inside = layout.read_arranged(given.tensors["cache"], slots[is_token], *offsets)
    if name == "k_scale":
        out[is_token] = scales.view(out.dtype)
    else:
        _bytes(out)[is_token] = torch.where(inside, codes, _bytes(got[name])[is_token])
    wrong = describe.bits(out) != describe.bits(want[name])
    taken = torch.unique(describe.bits(out)[wrong].view(torch.uint8))
    return want[name] if len(taken) == 1 and int(taken) in POISONS else out


def _bytes(tensor: Tensor) -> Tensor:
    """FP8 as its codes, which can be indexed; anything else as it is."""
    return fp8.codes(tensor) if tensor.element_size() == 1 else tensor

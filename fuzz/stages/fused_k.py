"""LayerNorm and RoPE of k, its quantisation and its insertion into the paged cache in one operation."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from indexfuzz.checks.cache import Tokens, check_insertion
from indexfuzz.checks.quant import LegalRows
from indexfuzz.core import stage_names
from indexfuzz.core.case import Case
from indexfuzz.core.guarantees import Guarantees
from indexfuzz.core.stage_names import K_NORM
from indexfuzz.reference import fp8, fused, intervals, layout
from indexfuzz.samples.step import Step
from indexfuzz.stages.base import Call, Output, Reach, Tensors
from indexfuzz.stages.k_quant_cache import locate_in_cache, mark_written, reach_of_tokens, written, written_slots
from indexfuzz.stages.operation import Mistakes, Operation, kept, norm_tensors, rope_options
from indexfuzz.stages.verdict import Verdict, width

EPS = 1e-6
"""Of the LayerNorm in DeepSeek-V3.2 and GLM-5."""


class FusedK(Operation):
    """Fills cache uint8 [num_blocks, block_size, D + 4] at the slots of its tokens with k that is not normed yet."""

    name = stage_names.FUSED_K
    outputs = (Output("cache_values", ("token", "dim")), Output("cache_scales", ("token",)))
    row_inputs = ()
    reference = staticmethod(fused.fused_k)

    def tensors(self, step: Step) -> dict[str, Tensor]:
        names = ("k", "positions", "cos_sin_cache", "cache", "slot_mapping")
        return {name: step.tensors[name] for name in names} | norm_tensors(step)

    def call(self, case: Case, tensors: dict[str, Tensor]) -> Call:
        own = {"eps": EPS, "quant_group": case.model.quant_group, "layout": case.cache.layout}
        return Call(tensors, super().call(case, tensors).options | own, fills={"cache": "cache"})

    def define(self, step: Step, call: Call) -> None:
        step.define_slots(written_slots(call))

    def check(self, given: Call, got: Tensors, guarantees: Guarantees, **instead: Any) -> Verdict:
        t, form = given.tensors, given.options["fp8"]
        block_size, head_dim = layout.page_shape(t["cache"])
        promised = layout.resolve(given.options["layout"], block_size)
        layout.check_defined(promised, block_size, head_dim)
        has_slot, _ = written(given)
        rows, slots = has_slot.nonzero().flatten(), written_slots(given)
        x = self._legal_values(given, rows, guarantees, instead)
        known = torch.isfinite(x.low).all(1) & torch.isfinite(x.high).all(1)
        after = got["cache"].clone()
        free = slots[~known]
        layout.write_tokens(after, free, *layout.read_tokens(t["cache"], free, promised), promised)
        x, rows, slots = x.rows(known), rows[known], slots[known]
        scales = intervals.scales_between(x, fp8=form, arithmetic=guarantees.arithmetic)
        codes = partial(intervals.codes_between, x, fp8=form, arithmetic=guarantees.arithmetic)
        found = check_insertion(
            layout.pages(t["cache"]),
            layout.pages(after),
            Tokens.at(slots, block_size, rows),
            LegalRows(scales, codes, fp8.FORMATS[form].dtype),
            layout=promised,
            arrangements=layout.arrangements(block_size, head_dim, after.device),
        )
        return Verdict((found,) if found else (), width=width(*codes(scales[..., 0])))

    def _legal_values(
        self, given: Call, rows: Tensor, guarantees: Guarantees, instead: dict[str, Any]
    ) -> intervals.Interval:
        """What may be quantised of some rows of k [n, D]."""
        t, options = given.tensors, rope_options(given, instead)
        k, positions = t["k"][rows], t["positions"][rows]
        if instead.get("normed", True):
            weight, bias = instead.get("weight", t["k_norm_weight"]), instead.get("bias", t["k_norm_bias"])
            x = kept(intervals.normalised(k, weight, bias, instead.get("eps", given.options["eps"])), guarantees)
        else:
            x = intervals.Interval.exact(k)
        if not options["style"]:
            return x
        return kept(intervals.rotated(x, positions, t["cos_sin_cache"], **options), guarantees)

    def mistakes(self, given: Call) -> Mistakes:
        """What LayerNorm is known for."""
        weight, bias = given.tensors["k_norm_weight"], given.tensors["k_norm_bias"]
        return {
            "k is not normalised": (K_NORM, {"normed": False}),
            "the bias is left out": (K_NORM, {"bias": torch.zeros_like(bias)}),
            "the weight is left out": (K_NORM, {"weight": torch.ones_like(weight)}),
            "eps is 1e-5": (K_NORM, {"eps": 1e-5}),
        }

    def locate(self, call: Call, got: Tensors, output: str, index: tuple[int, ...]) -> tuple[Tensor, int] | None:
        """Where a token's value or scale belongs in the cache."""
        return locate_in_cache(call, output, index)

    def footprint(self, call: Call) -> Tensor | None:
        """The bytes of the tokens that have a slot."""
        return mark_written(call)

    def nonfinite_reach(self, given: Call, *, hides_nan: bool = False) -> Reach:
        """The bytes of a token."""
        return reach_of_tokens(given)

"""LayerNorm and RoPE of k, its quantisation and its insertion into the paged cache in one operation."""

from typing import Any

import torch
from torch import Tensor

from indexfuzz.checks.cache import Tokens, check_insertion
from indexfuzz.core import stage_names
from indexfuzz.core.case import Case
from indexfuzz.core.guarantees import Guarantees
from indexfuzz.core.stage_names import K_NORM, K_QUANT_CACHE
from indexfuzz.reference import fused, intervals, layout
from indexfuzz.samples.step import Step
from indexfuzz.stages.base import Call, Output, Reach, Tensors
from indexfuzz.stages.k_norm import EPS, mistakes_of_norm, norm_tensors, normalise
from indexfuzz.stages.k_quant_cache import (
    keys_with_slots,
    locate_in_cache,
    mark_written,
    reach_of_tokens,
    written_slots,
)
from indexfuzz.stages.operation import (
    Mistakes,
    Operation,
    angles,
    fewest_wrong,
    legal_rows,
    mistakes_of_rope,
    rope_options,
    rope_or,
    rotated_as,
)
from indexfuzz.stages.verdict import Verdict, width


class FusedK(Operation):
    """Fills cache uint8 [num_blocks, block_size, D + 4] at the slots of its tokens with k that is not normed yet."""

    name = stage_names.FUSED_K
    outputs = (Output("cache_values", ("token", "dim")), Output("cache_scales", ("token",)))
    row_inputs = ()
    sources = ("fused", "layout", "norm", "quant")
    shown = "cache"
    reference = staticmethod(fused.fused_k)

    def tensors(self, step: Step) -> dict[str, Tensor]:
        names = ("positions", "cos_sin_cache", "cache", "slot_mapping")
        return norm_tensors(step) | {name: step.tensors[name] for name in names}

    def call(self, case: Case, tensors: dict[str, Tensor]) -> Call:
        own = {"eps": EPS, "quant_group": case.model.quant_group, "layout": case.cache.layout}
        return Call(tensors, super().call(case, tensors).options | own, fills={"cache": "cache"})

    def define(self, step: Step, call: Call) -> None:
        step.define_slots(written_slots(call))

    def check(self, given: Call, got: Tensors, guarantees: Guarantees, **instead: Any) -> Verdict:
        t = given.tensors
        block_size, head_dim = layout.page_shape(t["cache"])
        promised = layout.resolve(given.options["layout"], block_size)
        layout.check_defined(promised, block_size, head_dim)
        has_slot, _ = keys_with_slots(given)
        rows, slots = has_slot.nonzero().flatten(), written_slots(given)
        x = self._legal_values(given, rows, guarantees, instead)
        known = torch.isfinite(x.low).all(1) & torch.isfinite(x.high).all(1)
        after = got["cache"].clone()
        free = slots[~known]
        layout.write_tokens(after, free, *layout.read_tokens(t["cache"], free, promised), promised)
        x, rows, slots = x.rows(known), rows[known], slots[known]
        legal = legal_rows(x, given, guarantees)
        found = check_insertion(
            layout.pages(t["cache"]),
            layout.pages(after),
            Tokens.at(slots, block_size, rows),
            legal,
            layout=promised,
            arrangements=layout.arrangements(block_size, head_dim, after.device),
        )
        return Verdict((found,) if found else (), width=width(*legal.codes_under(legal.scales[..., 0])))

    def _legal_values(
        self, given: Call, rows: Tensor, guarantees: Guarantees, instead: dict[str, Any]
    ) -> intervals.Interval:
        """What may be quantised of some rows of k [n, D]."""
        options, (positions, table) = rope_options(given, guarantees, instead), angles(given, instead)
        x = normalise(given, given.tensors["k"][rows], instead)
        if instead.get("normed", True):
            x = intervals.rounded(x, guarantees.promises.between)
        if not options["style"]:
            return x
        return rotated_as(intervals.rotated(x, positions[rows], table, **options), guarantees, instead)

    def mistakes(self, given: Call, guarantees: Guarantees) -> Mistakes:
        """What RoPE and LayerNorm are known for."""
        return mistakes_of_rope(given, guarantees) | dict(mistakes_of_norm(given))

    def blame(self, given: Call, got: Tensors, guarantees: Guarantees) -> str:
        """The insertion where other bytes changed, or the scale alone is wrong; RoPE where its dims alone are."""
        cache, slots, (has_slot, _) = given.tensors["cache"], written_slots(given), keys_with_slots(given)
        promised = layout.resolve(given.options["layout"], cache.shape[1])
        rest = got["cache"].clone()
        layout.write_tokens(rest, slots, *layout.read_tokens(cache, slots, promised), promised)
        codes, used = layout.read_tokens(got["cache"], slots, promised)
        x = self._legal_values(given, has_slot.nonzero().flatten(), guarantees, {})
        legal = legal_rows(x, given, guarantees)
        used = torch.where(torch.isfinite(used) & (used > 0), used, legal.scales[..., 0])
        wrong = fewest_wrong(codes, torch.cat([legal.scales, used.unsqueeze(-1)], -1), legal)
        if not torch.equal(rest, cache) or not bool(wrong.any()):
            return K_QUANT_CACHE
        return rope_or(K_NORM, wrong, given)

    def locate(self, call: Call, got: Tensors, output: str, index: tuple[int, ...]) -> tuple[Tensor, int] | None:
        """Where a token's value or scale belongs in the cache."""
        return locate_in_cache(call, output, index)

    def footprint(self, call: Call) -> Tensor | None:
        """The bytes of the tokens that have a slot."""
        return mark_written(call)

    def nonfinite_reach(self, given: Call, *, hides_nan: bool = False) -> Reach:
        """The bytes of a token."""
        return reach_of_tokens(given)

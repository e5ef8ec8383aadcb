"""LayerNorm or RMSNorm and RoPE of k, its quantisation and its insertion into the paged cache in one operation."""

from typing import Any

from torch import Tensor

from indexfuzz.core import stage_names
from indexfuzz.core.case import Case
from indexfuzz.core.guarantees import Guarantees
from indexfuzz.core.stage_names import K_NORM, K_QUANT_CACHE
from indexfuzz.reference import fused, intervals
from indexfuzz.samples.step import Step
from indexfuzz.stages.base import Call, Output, Reach, Tensors
from indexfuzz.stages.insertion import EITHER, Keys, blame_by_place, check_keys, mistakes_of_quantisation
from indexfuzz.stages.k_norm import EPS, mistakes_of_norm, norm_of, norm_tensors, normalise
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
    mistakes_of_rope,
    rope_options,
    rotated_as,
)
from indexfuzz.stages.quantised import scales_of
from indexfuzz.stages.verdict import Verdict


class FusedK(Operation):
    """Fills cache uint8 [num_blocks, block_size, D + 4] at the slots of its tokens with k that is not normed yet."""

    name = stage_names.FUSED_K
    outputs = (Output("cache_values", ("token", "dim")), Output("cache_scales", ("token",)))
    row_inputs = ()
    sources = ("fused", "layout", "nibbles", "norm", "quant", "scales")
    shown = "cache"
    reference = staticmethod(fused.fused_k)

    def tensors(self, step: Step) -> dict[str, Tensor]:
        names = ("positions", "cos_sin_cache", "cache", "slot_mapping")
        return norm_tensors(step) | {name: step.tensors[name] for name in names}

    def call(self, case: Case, tensors: dict[str, Tensor]) -> Call:
        own = {"eps": EPS, "quant_group": case.model.quant_group, "layout": case.cache.layout, **scales_of(case)}
        return Call(tensors, super().call(case, tensors).options | own | norm_of(case), fills={"cache": "cache"})

    def define(self, step: Step, call: Call) -> None:
        step.define_slots(written_slots(call))

    def check(self, given: Call, got: Tensors, guarantees: Guarantees, **instead: Any) -> Verdict:
        of_codes = {name: instead[name] for name in ("nudges", "swapped") if name in instead}
        return check_keys(self._keys(given, guarantees, instead), given, got["cache"], guarantees, **of_codes)

    def _keys(self, given: Call, guarantees: Guarantees, instead: dict[str, Any]) -> Keys:
        has_slot, _ = keys_with_slots(given)
        rows = has_slot.nonzero().flatten()
        return Keys(self._legal_values(given, rows, guarantees, instead), rows, written_slots(given))

    def _legal_values(
        self, given: Call, rows: Tensor, guarantees: Guarantees, instead: dict[str, Any]
    ) -> intervals.Interval:
        """What may be quantised of some rows of k [n, D]."""
        options, (positions, table) = rope_options(given, guarantees, instead), angles(given, instead)
        k = given.tensors["k"]
        x = normalise(given, k[rows], instead)
        if instead.get("normed", True):
            x = intervals.rounded(x, guarantees.promises.between, k.dtype)
        if not options["style"]:
            return x
        return rotated_as(intervals.rotated(x, positions[rows], table, **options), given, guarantees, instead)

    def mistakes(self, given: Call, guarantees: Guarantees) -> Mistakes:
        """What RoPE, LayerNorm and conversions are known for."""
        return {**mistakes_of_rope(given, guarantees), **mistakes_of_norm(given), **mistakes_of_quantisation(given)}

    def blame(self, given: Call, got: Tensors, guarantees: Guarantees) -> str:
        if not self.check(given, got, guarantees, nudges=EITHER).findings:
            return f"{K_QUANT_CACHE}: ties are not all rounded to even"
        return blame_by_place(self._keys(given, guarantees, {}), given, got["cache"], guarantees, K_NORM)

    def locate(self, call: Call, got: Tensors, output: str, index: tuple[int, ...]) -> tuple[Tensor, int] | None:
        """Where a token's value or scale belongs in the cache."""
        return locate_in_cache(call, output, index)

    def footprint(self, call: Call) -> Tensor | None:
        """The bytes of the tokens that have a slot."""
        return mark_written(call)

    def nonfinite_reach(self, given: Call, *, hides_nan: bool = False) -> Reach:
        """The bytes of a token."""
        return reach_of_tokens(given)

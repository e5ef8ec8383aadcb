"""Compression, RMSNorm and RoPE of keys, their quantisation and their insertion into the cache in one operation."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from indexfuzz.core import stage_names
from indexfuzz.core.case import Case
from indexfuzz.core.guarantees import Guarantees
from indexfuzz.core.stage_names import COMPRESS, RMS_NORM
from indexfuzz.reference import compress, fused_compress, intervals
from indexfuzz.reference.cache import k_quant_cache
from indexfuzz.reference.intervals import Interval
from indexfuzz.samples.step import Step
from indexfuzz.stages.base import Call, Output, Tensors
from indexfuzz.stages.insertion import Keys, blame_by_place, check_keys
from indexfuzz.stages.k_norm import EPS
from indexfuzz.stages.k_quant_cache import blank_tokens, locate_in_cache, mark_written, read_in_cache, written_slots
from indexfuzz.stages.operation import Mistakes, Operation, angles, mistakes_of_rope, rope_options, rotated_as
from indexfuzz.stages.stateful import (
    HALVES,
    PLACES,
    WEIGHTS,
    Stateful,
    check_places,
    due_keys,
    own_halves,
    places_of_keys,
    tell_token,
    weighed,
)
from indexfuzz.stages.verdict import Verdict

MADE = ("ratio", "overlap", "eps", "rope_dim", "style", "placement")
"""The options that say how a key is made."""


class FusedCompress(Stateful, Operation):
    """Fills cache uint8 [num_blocks, block_size, D + 4] at the slots of keys that are due, and says which these are."""

    name = stage_names.FUSED_COMPRESS
    outputs = (Output("cache_values", ("token", "dim")), Output("cache_scales", ("token",)), *PLACES)
    sources = ("compress", "fused_compress", "groups")

    def tensors(self, step: Step) -> dict[str, Tensor]:
        names = ("norm_weight", "cos_sin_cache", "cache")
        return self.tokens(step) | {name: step.tensors[name] for name in names}

    def call(self, case: Case, tensors: dict[str, Tensor]) -> Call:
        own = {"ratio": case.session.ratio, "overlap": case.session.overlap, "eps": EPS}
        cached = {"quant_group": case.model.quant_group, "layout": case.cache.layout}
        filled = tuple(output.name for output in PLACES)
        return Call(
            tensors,
            own | Operation.call(self, case, tensors).options | cached,
            fills={name: name for name in ("cache", *filled, "state")},
            undefined=frozenset(filled),
        )

    def reference(self, **arguments: Any) -> None:
        """Fill the outputs from the tokens of the requests; the state stays.

        Raises ValueError unless scale_fmt is "ue8m0", and as `k_quant_cache` does.
        """
        given = Call(arguments, arguments)
        made = [self._made(given, request)[groups] for request, (_, groups) in enumerate(self._due(given))]
        cached = {name: arguments[name] for name in ("scale_fmt", "fp8", "quant_group", "layout")}
        if cached["scale_fmt"] != "ue8m0":
            raise ValueError(f'scales are powers of two: scale_fmt is "ue8m0", not "{cached["scale_fmt"]}"')
        keys = torch.cat(made) if made else arguments["norm_weight"].new_empty((0, len(arguments["norm_weight"])))
        k_quant_cache(keys.bfloat16(), arguments["cache"], self._slots(given), **cached)
        for name, value in self._places(given).items():
            arguments[name].copy_(value)

    def define(self, step: Step, call: Call) -> None:
        step.define_slots(written_slots(call))

    def blank(self, call: Call) -> None:
        """Places as they should be, and keys of zeros there, where the layout is defined."""
        for name, value in self._places(call).items():
            call.tensors[name].copy_(value)
        blank_tokens(call)

    def judge_finite(self, given: Call, got: Tensors, guarantees: Guarantees) -> Verdict:
        """Places are exact; the bytes of keys are within what the covered nodes may make of their tokens."""
        ratio, block_size = given.options["ratio"], given.tensors["cache"].shape[1]
        found = check_places(given, got, ratio=ratio, block_size=block_size)
        if found:
            return Verdict.of(found)
        verdict = Operation.judge_finite(self, given, got, guarantees)
        told = (tell_token(f, given) if f.output != "cache" else f for f in verdict.findings)
        return replace(verdict, findings=tuple(told))

    def check(self, given: Call, got: Tensors, guarantees: Guarantees, **instead: Any) -> Verdict:
        given = replace(given, options=given.options | {"fp8": instead.get("fp8", given.options["fp8"])})
        return check_keys(self._keys(given, guarantees, instead), given, got["cache"], guarantees)

    def mistakes(self, given: Call, guarantees: Guarantees) -> Mistakes:
        """What weighted sums, RMSNorm and RoPE are known for, and the FP8 format of another GPU."""
        sums = WEIGHTS | (HALVES if given.options["overlap"] else {})
        starts, ratio = self._positions(given), given.options["ratio"]
        weight, form = given.tensors["norm_weight"], given.options["fp8"]
        other = "e4m3fn" if form == "e4m3fnuz" else "e4m3fnuz"
        last = len(given.tensors["cos_sin_cache"]) - 1
        rope = mistakes_of_rope(given.with_tensors({"positions": starts}), guarantees)
        return {
            **{words: (COMPRESS, dict(instead)) for words, instead in sums.items()},
            "keys are not normalised": (RMS_NORM, {"normed": False}),
            "the weight is left out": (RMS_NORM, {"weight": torch.ones_like(weight)}),
            "eps is 1e-5": (RMS_NORM, {"eps": 1e-5}),
            "angles are those of the last token of a group": (
                stage_names.ROPE,
                {"positions": (starts + ratio - 1).clamp_max(last)},
            ),
            "angles are those of the number of a key": (stage_names.ROPE, {"positions": starts // ratio}),
            **rope,
            f"codes and scales are those of {other}, {form} is asked for": (stage_names.K_QUANT_CACHE, {"fp8": other}),
        }

    def blame(self, given: Call, got: Tensors, guarantees: Guarantees) -> str:
        keys = self._keys(given, guarantees, {})
        return blame_by_place(keys, given, got["cache"], guarantees, f"{COMPRESS} or {RMS_NORM}")

    def locate(self, call: Call, got: Tensors, output: str, index: tuple[int, ...]) -> tuple[Tensor, int] | None:
        """Where a token's value or scale belongs in the cache."""
        if output in ("slot_mapping", "visible"):
            return super().locate(call, got, output, index)
        return locate_in_cache(self._placed(call), output, index)

    def elements(self, call: Call, tensors: Tensors, output: str) -> Tensor | None:
        """Codes and scales as they lie in the cache, poison for tokens without a key; None without a layout."""
        if output not in ("cache_values", "cache_scales"):
            return super().elements(call, tensors, output)
        return read_in_cache(self._placed(call), tensors, output)

    def footprint(self, call: Call) -> Tensor | None:
        """The bytes of the keys that are due."""
        return mark_written(self._placed(call))

    def _placed(self, call: Call) -> Call:
        """A call with the slots that it should say."""
        return call.with_tensors({"slot_mapping": self._places(call)["slot_mapping"]})

    def _due(self, given: Call) -> list[tuple[Tensor, Tensor]]:
        return due_keys(given, given.options["ratio"])

    def _places(self, given: Call) -> dict[str, Tensor]:
        return places_of_keys(given, ratio=given.options["ratio"], block_size=given.tensors["cache"].shape[1])

    def _slots(self, given: Call) -> Tensor:
        """The slots of the keys that are due, request by request."""
        return self._places(given)["slot_mapping"][self._rows(given)]

    def _rows(self, given: Call) -> Tensor:
        """The tokens with which these keys are due."""
        rows = [rows for rows, _ in self._due(given)]
        return torch.cat(rows) if rows else torch.zeros(0, dtype=torch.int64)

    def _positions(self, given: Call) -> Tensor:
        """The first position of the group of each key that is due."""
        groups = [groups for _, groups in self._due(given)]
        positions = torch.cat(groups) if groups else torch.zeros(0, dtype=torch.int64)
        ratio: int = given.options["ratio"]
        return positions.to(given.tensors["cos_sin_cache"].device) * ratio

    def _made(self, given: Call, request: int) -> Tensor:
        t, options = given.tensors, {name: given.options[name] for name in MADE}
        return fused_compress.keys(self.requests[request], t["bias"], t["norm_weight"], t["cos_sin_cache"], **options)

    def _keys(self, given: Call, guarantees: Guarantees, instead: dict[str, Any]) -> Keys:
        """The keys that are due, as they may be before they are quantised."""
        t, between = given.tensors, guarantees.promises.between
        summed = [self._summed(given, request, groups, instead) for request, (_, groups) in enumerate(self._due(given))]
        none = t["cos_sin_cache"].new_empty((0, len(t["norm_weight"])), dtype=torch.float64)
        x = Interval(*(torch.cat([none, *ends]) for ends in (zip(*summed, strict=True) if summed else ((), ()))))
        x = intervals.rounded(x, between)
        if instead.get("normed", True):
            weight, eps = instead.get("weight", t["norm_weight"]), instead.get("eps", given.options["eps"])
            x = intervals.rounded(intervals.rms_normalised(x, weight, eps), between)
        options = rope_options(given, guarantees, instead)
        if options["style"]:
            placed = given.with_tensors({"positions": self._positions(given)})
            x = rotated_as(intervals.rotated(x, *angles(placed, instead), **options), guarantees, instead)
        return Keys(x, self._rows(given).to(x.low.device), self._slots(given))

    def _summed(self, given: Call, request: int, groups: Tensor, instead: dict[str, Any]) -> Interval:
        tokens, bias = weighed(self.requests[request], given.tensors["bias"], instead)
        overlap = given.options["overlap"]
        if instead.get("halves") == "own":
            (tokens, bias), overlap = own_halves(tokens, bias), False
        return compress.legal_keys(tokens, bias, ratio=given.options["ratio"], overlap=overlap).rows(groups)

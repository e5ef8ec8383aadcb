"""Stateful operations that insert their keys into the cache themselves: several nodes at once, judged by their sets."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.core.guarantees import Guarantees
from indexfuzz.core.stage_names import K_QUANT_CACHE
from indexfuzz.reference import layout
from indexfuzz.reference.cache import k_quant_cache
from indexfuzz.reference.compress import Tokens
from indexfuzz.reference.intervals import Interval
from indexfuzz.samples.step import Step
from indexfuzz.stages.base import Call, Output, Tensors
from indexfuzz.stages.insertion import Keys, check_keys
from indexfuzz.stages.k_quant_cache import blank_tokens, locate_in_cache, mark_written, read_in_cache, written_slots
from indexfuzz.stages.operation import Operation
from indexfuzz.stages.quantised import scales_of, values_per_byte
from indexfuzz.stages.stateful import PLACES, Instead, Stateful, check_places, due_keys, places_of_keys, tell_token
from indexfuzz.stages.verdict import Verdict


@dataclass(frozen=True)
class InsertedKeys(Stateful, Operation):
    """Fills cache uint8 [num_blocks, block_size, D + 4] at the slots of keys that are due, and says which these are."""

    outputs = (Output("cache_values", ("token", "dim")), Output("cache_scales", ("token",)), *PLACES)
    touched_by: ClassVar[dict[str, str]] = {"cache": K_QUANT_CACHE}
    takes: ClassVar[tuple[str, ...]] = ()
    """The tensors that keys are made with, besides tokens."""

    @abstractmethod
    def options(self, case: Case) -> dict[str, Any]:
        """What the function is told of how keys are made, but for the ratio."""

    @abstractmethod
    def make(self, tokens: Tokens, arguments: Mapping[str, Any]) -> Tensor:
        """The keys of a request before they are quantised, bf16 [L // ratio, D]."""

    @abstractmethod
    def legal(self, given: Call, guarantees: Guarantees, instead: Instead) -> Interval:
        """The keys that are due, request by request, as they may be before they are quantised, [n, D]."""

    def tensors(self, step: Step) -> dict[str, Tensor]:
        return self.tokens(step) | {name: step.tensors[name] for name in (*self.takes, "cache")}

    def call(self, case: Case, tensors: dict[str, Tensor]) -> Call:
        model, filled = case.model, tuple(output.name for output in PLACES)
        cached = {"fp8": model.fp8, "quant_group": model.quant_group, "layout": case.cache.layout} | scales_of(case)
        return Call(
            tensors,
            {"ratio": case.session.ratio} | self.options(case) | {"scale_fmt": model.scale_fmt} | cached,
            fills={name: name for name in ("cache", *filled, "state")},
            undefined=frozenset(filled),
        )

    def reference(self, **arguments: Any) -> None:
        """Fill the outputs from the tokens of the requests; the state stays.

        Raises ValueError unless scale_fmt is "ue8m0", and as `k_quant_cache` does.
        """
        given = Call(arguments, arguments)
        due = zip(self.requests, due_keys(given, arguments["ratio"]), strict=True)
        made = [self.make(tokens, arguments)[groups] for tokens, (_, groups) in due]
        names = ("scale_fmt", "fp8", "quant_group", "layout", "scales")
        cached = {name: arguments[name] for name in names if name in arguments}
        if cached["scale_fmt"] != "ue8m0":
            raise ValueError(f'scales are powers of two: scale_fmt is "ue8m0", not "{cached["scale_fmt"]}"')
        cache = arguments["cache"]
        dims = layout.page_shape(cache)[1] * values_per_byte(given)
        keys = torch.cat([cache.new_empty((0, dims), dtype=torch.bfloat16), *made])
        k_quant_cache(keys.bfloat16(), cache, self._slots(given), **cached)
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
        return check_keys(self.keys(given, guarantees, instead), given, got["cache"], guarantees)

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

    def keys(self, given: Call, guarantees: Guarantees, instead: Instead) -> Keys:
        """The keys that are due, as they may be before they are quantised, and where they belong."""
        x = self.legal(given, guarantees, instead)
        return Keys(x, self._rows(given).to(x.low.device), self._slots(given))

    def _placed(self, call: Call) -> Call:
        """A call with the slots that it should say."""
        return call.with_tensors({"slot_mapping": self._places(call)["slot_mapping"]})

    def _places(self, given: Call) -> dict[str, Tensor]:
        return places_of_keys(given, ratio=given.options["ratio"], block_size=given.tensors["cache"].shape[1])

    def _slots(self, given: Call) -> Tensor:
        """The slots of the keys that are due, request by request."""
        return self._places(given)["slot_mapping"][self._rows(given)]

    def _rows(self, given: Call) -> Tensor:
        """The tokens with which these keys are due."""
        rows = [rows for rows, _ in due_keys(given, given.options["ratio"])]
        return torch.cat(rows) if rows else torch.zeros(0, dtype=torch.int64)


def mistake_of_format(given: Call) -> dict[str, tuple[str, dict[str, Any]]]:
    """Codes and scales of the FP8 format of another GPU."""
    form = given.options["fp8"]
    other = "e4m3fn" if form == "e4m3fnuz" else "e4m3fnuz"
    return {f"codes and scales are those of {other}, {form} is asked for": (K_QUANT_CACHE, {"fp8": other})}

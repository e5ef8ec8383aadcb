"""Quantisation of k and its insertion into the paged cache."""

import torch
from torch import Tensor

from indexfuzz.checks.cache import Tokens, check_insertion
from indexfuzz.checks.nonfinite import check_nonfinite_codes
from indexfuzz.core import stage_names
from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.guarantees import Guarantees
from indexfuzz.reference import cache as cache_reference
from indexfuzz.reference import layout
from indexfuzz.reference.nibbles import widen
from indexfuzz.samples.poison import poison_like
from indexfuzz.samples.step import Step
from indexfuzz.stages.base import Call, Output, Reach, Stage, Tensors, Workload
from indexfuzz.stages.nonfinite import has_nonfinite, numbers
from indexfuzz.stages.quantised import format_of, legal_rows, scales_of, values_per_byte
from indexfuzz.stages.verdict import Verdict
from indexfuzz.stages.workloads import TOKENS, prefill


class KQuantCache(Stage):
    """Fills cache uint8 [num_blocks, block_size, D + 4] at the slots of its tokens, and leaves all else as it is."""

    name = stage_names.K_QUANT_CACHE
    outputs = (Output("cache_values", ("token", "dim")), Output("cache_scales", ("token",)))
    row_inputs = ()
    sources = ("cache", "layout", "nibbles", "quant", "scales")
    shown = "cache"
    reference = staticmethod(cache_reference.k_quant_cache)
    workload = Workload(TOKENS, lambda tokens: prefill((tokens, tokens)))

    def applies(self, case: Case) -> bool:
        return case.batch.tokens > 0

    def tensors(self, step: Step) -> dict[str, Tensor]:
        return {name: step.tensors[name] for name in ("k", "cache", "slot_mapping")}

    def call(self, case: Case, tensors: dict[str, Tensor]) -> Call:
        model = case.model
        options = {
            "scale_fmt": model.scale_fmt,
            "fp8": model.fp8,
            "quant_group": model.quant_group,
            "layout": case.cache.layout,
            **scales_of(case),
        }
        return Call(tensors, options, fills={"cache": "cache"})

    def define(self, step: Step, call: Call) -> None:
        step.define_slots(written_slots(call))

    def blank(self, call: Call) -> None:
        """Keys of zeros, where the layout is defined: `define` says that there are tokens."""
        blank_tokens(call)

    def judge_finite(self, given: Call, got: Tensors, guarantees: Guarantees) -> Verdict:
        """Every token with a slot is at its place under a legal scale, and no other byte of a page has changed."""
        cache = given.tensors["cache"]
        block_size, key_bytes = layout.page_shape(cache)
        promised = layout.resolve(given.options["layout"], block_size)
        layout.check_defined(promised, block_size, key_bytes)
        kept, k = keys_with_slots(given)
        form = format_of(given, k.shape[1])
        return Verdict.of(
            check_insertion(
                layout.pages(cache),
                layout.pages(got["cache"]),
                Tokens.at(written_slots(given), block_size, kept.nonzero().flatten()),
                legal_rows(form.grouped(k), given, guarantees),
                layout=promised,
                arrangements=layout.arrangements(block_size, key_bytes, k.device),
                form=form,
            )
        )

    def locate(self, call: Call, got: Tensors, output: str, index: tuple[int, ...]) -> tuple[Tensor, int] | None:
        """Where a token's value or scale belongs in the cache."""
        return locate_in_cache(call, output, index)

    def elements(self, call: Call, tensors: Tensors, output: str) -> Tensor | None:
        """Codes and scales as they lie in the cache, poison for tokens without a slot; None without a layout."""
        return read_in_cache(call, tensors, output) if output in self.axes else super().elements(call, tensors, output)

    def footprint(self, call: Call) -> Tensor | None:
        """The bytes of the tokens that have a slot."""
        return mark_written(call)

    def nonfinite_reach(self, given: Call, *, hides_nan: bool = False) -> Reach:
        """The bytes of a token."""
        return reach_of_tokens(given)

    def check_nonfinite(self, given: Call, got: Tensors, guarantees: Guarantees) -> Finding | None:
        """FP8 keeps what is no number. E2M1 has nothing for it: there any number is right."""
        _, k = keys_with_slots(given)
        form = format_of(given, k.shape[1])
        if form.per_byte > 1:
            return None
        concrete = layout.resolve(given.options["layout"], got["cache"].shape[1])
        codes, _ = layout.read_tokens(got["cache"], written_slots(given), concrete)
        rows, axes = form.grouped(k), self.axes["cache_values"] if form.groups == 1 else ("group", "dim")
        legal = legal_rows(rows, given, guarantees)
        return check_nonfinite_codes("cache_values", form.grouped(codes), rows, legal, axes=axes)


def keys_with_slots(call: Call) -> tuple[Tensor, Tensor]:
    """Which tokens have a slot, bool of slot_mapping's shape, and their rows of k."""
    slots = call.tensors["slot_mapping"]
    kept = slots >= 0
    return kept, call.tensors["k"][: len(slots)][kept]


def written_slots(call: Call) -> Tensor:
    """The slots that a call writes, int64 [n], in order of the tokens."""
    slots = call.tensors["slot_mapping"].long()
    return slots[slots >= 0]


def blank_tokens(call: Call) -> None:
    """Write zeros at the slots of a call, where the layout is defined."""
    cache, slots = call.tensors["cache"], written_slots(call)
    block_size, key_bytes = layout.page_shape(cache)
    concrete = layout.resolve(call.options["layout"], block_size)
    if layout.is_defined(concrete, block_size, key_bytes):
        codes = torch.zeros((len(slots), key_bytes), dtype=torch.uint8, device=cache.device)
        layout.write_tokens(cache, slots, codes, torch.zeros(len(slots), device=cache.device), concrete)


def mark_written(call: Call) -> Tensor | None:
    """The bytes of the cache that belong to tokens with a slot, bool of its shape; None where there is no layout."""
    cache = call.tensors["cache"]
    block_size, key_bytes = layout.page_shape(cache)
    concrete = layout.resolve(call.options["layout"], block_size)
    if not layout.is_defined(concrete, block_size, key_bytes):
        return None
    marks = torch.zeros(cache.shape, dtype=torch.uint8, device=cache.device)
    layout.mark_tokens(marks, written_slots(call), concrete)
    return marks.bool()


def locate_in_cache(call: Call, output: str, index: tuple[int, ...]) -> tuple[Tensor, int] | None:
    """The cache, and the byte in it of a value (token, dim), a scale (token,) or (token, group), or any (block, byte).

    A scale of a group is one byte, and "cache" is the output of which a byte is told by its block.
    """
    cache = call.tensors["cache"]
    if output == "cache" and len(index) == 2:
        return cache, index[0] * cache.stride(0) + index[1]
    block_size, key_bytes = layout.page_shape(cache)
    slots, arranged = call.tensors["slot_mapping"], layout.arrangements(block_size, key_bytes, cache.device)
    slot = int(slots[index[0]]) if index and index[0] < len(slots) else -1
    if slot < 0:
        return None
    values, scales = arranged[layout.resolve(call.options["layout"], block_size)]
    offset, part = slot % block_size, index[1] if len(index) == 2 else 0
    if output == "cache_scales" or len(index) == 1:
        place = scales[offset, part]
    else:
        place = values[offset, part // values_per_byte(call)]
    return cache, slot // block_size * cache.stride(0) + int(place)


def read_in_cache(call: Call, tensors: Tensors, output: str) -> Tensor | None:
    """The codes [T, D] or scales [T] of tokens as they lie in a cache among some tensors, poison where one has no slot.

    None where there is no cache among them, or it has no layout.
    """
    cache, slots = tensors.get("cache"), call.tensors["slot_mapping"].long()
    if cache is None:
        return None
    block_size, key_bytes = layout.page_shape(cache)
    concrete = layout.resolve(call.options["layout"], block_size)
    if not layout.is_defined(concrete, block_size, key_bytes):
        return None
    codes, scales = layout.read_tokens(cache, slots[slots >= 0], concrete)
    found = scales if output == "cache_scales" else widen(codes) if values_per_byte(call) > 1 else codes
    every = poison_like(found.new_empty((len(slots), *found.shape[1:])))
    every[slots >= 0] = found
    return every


def reach_of_tokens(call: Call) -> Reach:
    """Where a NaN or an infinity in k may show in the cache: in the bytes of its own token."""
    cache, (_, k) = call.tensors["cache"], keys_with_slots(call)
    slots = written_slots(call)[has_nonfinite(k)]
    mask = torch.zeros(cache.shape, dtype=torch.uint8, device=cache.device)
    layout.mark_tokens(mask, slots, layout.resolve(call.options["layout"], cache.shape[1]))
    return Reach({"cache": mask.bool()}, {"k": numbers(call.tensors["k"])})

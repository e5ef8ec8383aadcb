"""The cache before a step: what earlier steps wrote, in the layout that the case asks for; all else is poison."""

import torch
from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.core.rng import below, bits, bits_at
from indexfuzz.reference import layout, nibbles
from indexfuzz.reference.fp8 import FORMATS
from indexfuzz.reference.scales import QUARTERS, pack
from indexfuzz.samples import regimes
from indexfuzz.samples.allocation import allocate_pages
from indexfuzz.samples.buffers import Buffer
from indexfuzz.samples.requests import Requests, slot_holes, slots_of, token_places, tokens_of
from indexfuzz.samples.step import Step

OTHERS = 64
"""Bytes of another cache are less: whatever they are taken for, FP8 numbers, fp32 or exponents, it is finite."""


def place_cache(step: Step, pages: Tensor) -> None:
    """The pages: what earlier steps have written, where they have an arrangement; all else is poison, or others'."""
    buffer = allocate_cache(step.case, step.device)
    step.defined = torch.zeros(buffer.view.shape, dtype=torch.uint8, device=step.device)
    if step.case.cache.others:
        buffer.view.copy_(below(bits(step.key("others"), tuple(buffer.view.shape)), OTHERS))
        step.defined.fill_(1)
    slots = _fill_cache(step, buffer.view, pages)
    step.add(buffer)
    step.define_slots(slots.to(step.device))


def allocate_cache(case: Case, device: str) -> Buffer:
    """The pages of a case, all of them poison."""
    shape = (case.num_blocks, case.cache.block_size, case.token_bytes)
    pad, shift = case.cache.page_pad, layout.SCALE_BYTES * case.shift_of("cache")
    fp8 = FORMATS[case.model.fp8].dtype
    return allocate_pages("cache", shape, device, page_pad=pad, fp8=fp8, shift=shift)


def _fill_cache(step: Step, cache: Tensor, pages: Tensor) -> Tensor:
    """Write the tokens of earlier steps; their slots."""
    case = step.case
    owner, rank = tokens_of(Requests.of(case).contexts)
    if case.batch.slot_holes:
        positions, requests = token_places(case)
        holes = slot_holes(case, step.key("slot holes"))
        owner, rank = torch.cat([owner, requests[holes]]), torch.cat([rank, positions[holes]])
    slots = slots_of(pages, owner, rank, case.cache.block_size)
    codes = _cached_codes(step, slots)
    scales = _cached_scales(step, slots)
    concrete = case.cache.page_layout
    if case.has_layout(concrete):
        there = step.device
        layout.write_tokens(cache, slots.to(there), codes.to(there), scales.to(there), concrete)
    return slots


def _cached_codes(step: Step, slots: Tensor) -> Tensor:
    """The bytes of values of the keys in slots int64 [n]: uint8 [n, key_bytes]."""
    case, dims = step.case, step.case.model.head_dim
    random = bits_at(step.key("cache"), slots.unsqueeze(1) * dims + torch.arange(dims))
    codes = regimes.cached_codes(case.values.cache, random, format_of_keys(case))
    return nibbles.pack(codes) if case.cache.scales == "mxfp4" else codes


def _cached_scales(step: Step, slots: Tensor) -> Tensor:
    """Scales of the keys in slots int64 [n], as the cache has them: fp32 or int32 [n]."""
    case, regime = step.case, step.case.values.cache
    if case.cache.scales == "fp32":
        return regimes.cached_scales(regime, bits_at(step.key("scales"), slots), case.model.scale_fmt)
    groups = QUARTERS if case.model.quant_group < case.model.head_dim else 1
    element = slots.unsqueeze(1) * groups + torch.arange(groups)
    return pack(regimes.cached_powers(regime, bits_at(step.key("scales"), element)))


def format_of_keys(case: Case) -> str:
    """The format of the numbers that keys are quantised to."""
    return nibbles.NAME if case.cache.scales == "mxfp4" else case.model.fp8

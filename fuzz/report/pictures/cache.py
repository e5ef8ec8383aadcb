"""The pages of the cache: which token each byte should belong to, and whose the kernel puts there."""

import string

import numpy as np
import torch
from torch import Tensor

from indexfuzz.lockstep.values.arrays import Array
from indexfuzz.reference import layout
from indexfuzz.reference.nibbles import widen
from indexfuzz.report.pictures.grid import Panel, Picture, Shade, Tone, first_of
from indexfuzz.report.pictures.owners import MOST_TOKENS, NOBODY, SCALE, Owners, find_owners
from indexfuzz.stages.k_quant_cache import keys_with_slots, written_slots
from indexfuzz.stages.quantised import values_per_byte
from indexfuzz.triage.look import Look, numbers_of

TONES: tuple[Tone, ...] = ("one", "two", "three", "four")
BEHIND = 512
"""Bytes behind the last page that are drawn where something is stored there."""

LARGEST = 1 << 16
"""Bytes of pages that are drawn."""


def draw_cache(look: Look) -> Picture | None:
    """The pages that the tokens of a call belong to; None where they have no layout."""
    cache = look.given.tensors["cache"]
    block_size, head_dim = layout.page_shape(cache)
    size, stride = block_size * (head_dim + layout.SCALE_BYTES), cache.stride(0)
    concrete = layout.resolve(look.given.options["layout"], block_size)
    slots = written_slots(look.given)
    if not layout.is_defined(concrete, block_size, head_dim) or not len(slots):
        return None
    page = _first_page(look, slots, block_size, stride)
    span = (len(cache) - 1) * stride + size
    start = page * stride
    stop = start + size + (BEHIND if start + size >= span else 0)
    if stop - start > LARGEST:
        return None
    should = _expected(look, cache, slots, concrete, start, stop)
    does = find_owners(look, start, stop)
    if does is None:
        return None
    wrong = _wrong_values(look, should.dim >= 0, start, stop)
    inside = np.arange(start, stop) < start + size
    last = max([size, *(np.flatnonzero(does.token != NOBODY) + 1)])
    width = head_dim
    expected = _letters(should, should, np.zeros_like(wrong), inside)
    actual = _letters(does, should, wrong, inside)
    labels = tuple(f"page {page} +{at}" if at < size else f"behind +{at}" for at in range(0, int(last), width))
    panels = tuple(
        Panel(
            title, labels, tuple("".join(letters[at : min(at + width, int(last))]) for at in range(0, int(last), width))
        )
        for title, letters in ((f"should be ({concrete.upper()})", expected), ("is", actual))
    )
    differs = [
        "".join("X" if a != b else "." for a, b in zip(*rows, strict=True))
        for rows in zip(panels[0].cells, panels[1].cells, strict=True)
    ]
    mark = first_of(differs, "X")
    title = f"cache: page {page}, {width} bytes a row, then the scales"
    notes = (*numbers_of(look.finding), *_describe_first(mark, width, should, does))
    return Picture(title, panels, _legend(int(should.token.max(initial=0)) + 1), mark, notes) if mark else None


def _first_page(look: Look, slots: Tensor, block_size: int, stride: int) -> int:
    """The page of the first wrong element, or of the first token."""
    place = look.stage.locate(look.given, look.got, look.finding.output, look.finding.index)
    return place[1] // stride if place else int(slots[0]) // block_size


def _expected(look: Look, cache: Tensor, slots: Tensor, concrete: str, start: int, stop: int) -> Owners:
    """The owners that the layout asks for."""
    block_size, head_dim = layout.page_shape(cache)
    values, scales = layout.arrangements(block_size, head_dim, torch.device("cpu"))[concrete]
    token, dim = (np.full(stop - start, NOBODY, np.int64) for _ in range(2))
    kept, _ = keys_with_slots(look.given)
    for row, slot in zip(kept.nonzero().flatten().tolist(), slots.tolist(), strict=True):
        base = slot // block_size * cache.stride(0) - start
        for offsets, what in ((values[slot % block_size], range(head_dim)), (scales[slot % block_size], [SCALE] * 4)):
            at = offsets.numpy() + base
            inside = (at >= 0) & (at < stop - start)
            token[at[inside]] = row
            dim[at[inside]] = np.array(what)[inside]
    return Owners(start, token, dim)


def _wrong_values(look: Look, of_values: Array, start: int, stop: int) -> Array:
    """Which bytes differ from what the reference writes in this case; zeros that share a byte may have any sign."""
    found = np.zeros(stop - start, np.bool_)
    want = look.wanted().get("cache")
    got = look.got.get("cache")
    if want is None or got is None:
        return found
    one, other = (layout.flat_bytes(x)[start:stop].numpy() for x in (got, want))
    count = min(len(one), len(other))
    found[:count] = one[:count] != other[:count]
    if values_per_byte(look.given) > 1:
        one, other = (widen(torch.from_numpy(x[:count].copy())).view(count, -1).numpy() for x in (one, other))
        found[:count] &= ~of_values[:count] | (one != other).any(1)
    return found


def _letters(does: Owners, should: Owners, wrong: Array, inside: Array) -> list[str]:
    """A letter for each byte: lower case at its place, upper case of a token that does not belong there."""
    letters = []
    for token, dim, wanted, wanted_dim, bad, within in zip(
        does.token, does.dim, should.token, should.dim, wrong, inside, strict=True
    ):
        letter = string.ascii_lowercase[token % MOST_TOKENS] if token != NOBODY else ""
        if token == NOBODY:
            letters.append(("-" if wanted != NOBODY and wanted < MOST_TOKENS else ".") if within else ",")
        elif token != wanted or (dim != wanted_dim and NOBODY not in (dim, wanted_dim)):
            letters.append(letter.upper())
        else:
            letters.append("!" if bad else letter)
    return letters


def _describe_first(mark: tuple[int, int] | None, width: int, should: Owners, does: Owners) -> list[str]:
    if mark is None:
        return []
    at = mark[0] * width + mark[1]
    words = [_owner(owners, at) for owners in (should, does)]
    return [f"byte {at} of the page: should be {words[0]}, is {words[1]}"]


def _owner(owners: Owners, at: int) -> str:
    token, dim = int(owners.token[at]), int(owners.dim[at])
    if token == NOBODY:
        return "nobody's"
    return f"the scale of token {token}" if dim == SCALE else f"token {token}" + (f", dim {dim}" if dim >= 0 else "")


def _legend(tokens: int) -> tuple[Shade, ...]:
    count = min(tokens, MOST_TOKENS)
    letters = string.ascii_lowercase[:count]
    return (
        *(Shade(letter.upper(), f"token {i}, where it does not belong", "wrong") for i, letter in enumerate(letters)),
        Shade("-", "never written", "missing"),
        Shade("!", "at its place, with a wrong value", "extra"),
        *(Shade(letter, f"token {i}", TONES[i % len(TONES)]) for i, letter in enumerate(letters)),
        Shade(".", "nobody's", "quiet"),
        Shade(",", "behind the cache", "ground"),
    )

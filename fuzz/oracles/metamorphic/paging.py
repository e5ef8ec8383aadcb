"""The cache arranged otherwise: pages, their size, stride and layout, and the block table's width."""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.core.part import CaseError
from indexfuzz.oracles.metamorphic.relation import (
    Pairs,
    Twin,
    alter,
    in_form_of,
    paired,
    shuffled,
    stored,
    unchanged,
)
from indexfuzz.reference import layout
from indexfuzz.reference.fp8 import FORMATS
from indexfuzz.samples.allocation import allocate_pages
from indexfuzz.stages.base import Call, Tensors
from indexfuzz.stages.k_quant_cache import written_slots

BLOCK_SIZES = (1, 16, 64)
PADDING = 132
"""Bytes between pages where there were none: no multiple of 16."""

GARBAGE = (-1, 1 << 30, 7)
"""Ids in columns that nobody looks at; the last of them may be a page."""


def _pages(case: Case, like: Tensor, blocks: int, block_size: int, *, pad: int = 0) -> Tensor:
    """An empty cache uint8 [blocks, block_size, D + 4]: NaN codes and NaN scales."""
    shape, fp8 = (blocks, block_size, like.shape[2]), FORMATS[case.model.fp8].dtype
    return allocate_pages("twin", shape, str(like.device), page_pad=pad, fp8=fp8).view


def _permuted_pages(case: Case, cache: Tensor) -> tuple[Tensor, Tensor]:
    """The pages in another order, and where each page went, int64 [num_blocks]."""
    order = shuffled(case, "pages", len(cache)).to(cache.device)
    moved = _pages(case, cache, len(cache), cache.shape[1], pad=case.cache.page_pad)
    moved.copy_(cache[order])
    return moved, torch.argsort(order)


def pages_permuted_reader(case: Case, call: Call) -> Iterator[Twin]:
    """The pages lie elsewhere, and the block table says so."""
    table = call.tensors["block_table"]
    moved, place = _permuted_pages(case, call.tensors["cache"])
    known = (table >= 0) & (table < len(place))
    renamed = torch.where(known, place[torch.where(known, table, 0).long()].int(), table)
    yield Twin(case, (alter(call, cache=moved, block_table=in_form_of(table, renamed)),), unchanged)


def pages_permuted_writer(case: Case, call: Call) -> Iterator[Twin]:
    """Every token goes to a slot of another page."""
    slots, block_size = call.tensors["slot_mapping"], call.tensors["cache"].shape[1]
    moved, place = _permuted_pages(case, call.tensors["cache"])
    block = place[torch.where(slots >= 0, slots // block_size, 0).long()]
    renamed = torch.where(slots >= 0, block * block_size + slots % block_size, slots).to(slots.dtype)
    twin = alter(call, cache=moved, slot_mapping=in_form_of(slots, renamed))
    before, after = written_slots(call), written_slots(twin)
    yield Twin(
        case,
        (twin,),
        lambda first, others: paired(stored(case, others[0]["cache"], after), stored(case, first["cache"], before)),
    )


def _other_block_sizes(case: Case) -> Iterator[tuple[int, Case]]:
    for size in BLOCK_SIZES:
        if size != case.cache.block_size:
            try:
                other = case.replace(cache={"block_size": size})
            except CaseError:
                continue
            if other.has_layout(other.cache.layout):
                yield size, other


def block_size_reader(case: Case, call: Call) -> Iterator[Twin]:
    """Every sequence's tokens moved to pages of another size; nothing is said where some are missing."""
    if case.memory.missing_pages:
        return
    cache, table = call.tensors["cache"], call.tensors["block_table"]
    block_size, sequences = cache.shape[1], len(table)
    position = torch.arange(table.shape[1] * block_size, device=table.device)
    block = table[:, position // block_size].long()
    exists = (block >= 0) & (block < len(cache))
    slots = block * block_size + position % block_size
    tokens = layout.read_tokens(cache, slots[exists], layout.resolve(case.cache.layout, block_size))
    for size, other in _other_block_sizes(case):
        columns = -(-len(position) // size)
        ids = torch.arange(sequences * columns, device=table.device).view(sequences, columns)
        repaged = _pages(case, cache, max(ids.numel(), 1), size)
        places = ids[:, position // size] * size + position % size
        layout.write_tokens(repaged, places[exists], *tokens, layout.resolve(case.cache.layout, size))
        used = torch.zeros_like(ids, dtype=torch.bool)
        row = torch.arange(sequences, device=table.device).unsqueeze(1).expand_as(exists)
        used[row[exists], (position // size).expand_as(exists)[exists]] = True
        retabled = torch.where(used, ids, -1).int()
        yield Twin(other, (alter(call, cache=repaged, block_table=retabled),), unchanged)


def block_size_writer(case: Case, call: Call) -> Iterator[Twin]:
    """The same slots in pages of another size."""
    cache, slots = call.tensors["cache"], written_slots(call)
    for size, other in _other_block_sizes(case):
        repaged = _pages(case, cache, -(-len(cache) * cache.shape[1] // size), size)
        yield Twin(other, (alter(call, cache=repaged),), partial(_same_tokens, case, other, slots))


def _other_stride(case: Case, cache: Tensor) -> tuple[Case, Tensor]:
    """The same pages, tight if they were padded and padded if they were tight."""
    pad = 0 if case.cache.page_pad else PADDING
    moved = _pages(case, cache, len(cache), cache.shape[1], pad=pad)
    moved.copy_(cache)
    return case.replace(cache={"page_pad": pad}), moved


def page_stride_reader(case: Case, call: Call) -> Iterator[Twin]:
    """Padded pages are made tight, tight ones padded."""
    other, moved = _other_stride(case, call.tensors["cache"])
    yield Twin(other, (alter(call, cache=moved),), unchanged)


def page_stride_writer(case: Case, call: Call) -> Iterator[Twin]:
    """Padded pages are made tight, tight ones padded."""
    other, moved = _other_stride(case, call.tensors["cache"])
    slots = written_slots(call)
    yield Twin(other, (alter(call, cache=moved),), partial(_same_tokens, case, other, slots))


def _other_layout(case: Case, cache: Tensor) -> Iterator[tuple[Case, Tensor]]:
    """The same tokens in the other layout, where it exists."""
    now = layout.resolve(case.cache.layout, cache.shape[1])
    other = "shuffle" if now == "normal" else "normal"
    if not case.has_layout(other):
        return
    slots = torch.arange(len(cache) * cache.shape[1], device=cache.device)
    moved = _pages(case, cache, len(cache), cache.shape[1], pad=case.cache.page_pad)
    layout.write_tokens(moved, slots, *layout.read_tokens(cache, slots, now), other)
    yield case.replace(cache={"layout": other}), moved


def layout_reader(case: Case, call: Call) -> Iterator[Twin]:
    """NORMAL pages read as NORMAL, SHUFFLE pages as SHUFFLE."""
    for other, moved in _other_layout(case, call.tensors["cache"]):
        yield Twin(other, (alter(call, {"layout": other.cache.layout}, cache=moved),), unchanged)


def layout_writer(case: Case, call: Call) -> Iterator[Twin]:
    """The same tokens are stored, in the other order."""
    slots = written_slots(call)
    for other, moved in _other_layout(case, call.tensors["cache"]):
        twin = alter(call, {"layout": other.cache.layout}, cache=moved)
        yield Twin(other, (twin,), partial(_same_tokens, case, other, slots))


def _same_tokens(case: Case, other: Case, slots: Tensor, first: Tensors, others: Sequence[Tensors]) -> Pairs:
    """What lies at slots, read by the layout of each case."""
    return paired(stored(other, others[0]["cache"], slots), stored(case, first["cache"], slots))


def table_width(case: Case, call: Call) -> Iterator[Twin]:
    """The block table with columns of garbage behind the last page, and without any column that no row uses."""
    table, blocks = call.tensors["block_table"], len(call.tensors["cache"])
    garbage = torch.tensor((*GARBAGE, blocks), dtype=table.dtype, device=table.device).expand(len(table), -1)
    wide = case.replace(memory={"table_extra": case.memory.table_extra + garbage.shape[1], "table_pad": 0})
    yield Twin(wide, (alter(call, block_table=torch.cat([table, garbage], 1)),), unchanged)
    if case.memory.missing_pages:
        return  # a column without pages is not one that no row uses
    used = ((table >= 0) & (table < blocks)).any(0).nonzero().flatten().tolist()
    width = max(used, default=0) + 1
    if width < table.shape[1]:
        exact = case.replace(memory={"table_extra": 0, "table_pad": 0})
        yield Twin(exact, (alter(call, block_table=table[:, :width].clone()),), unchanged)

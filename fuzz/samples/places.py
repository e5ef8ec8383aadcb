"""What says where something is: block tables, slots, which keys prefill gathers and each row sees, and lengths."""

from collections.abc import Callable, Mapping

import torch

from indexfuzz.core.case import Case
from indexfuzz.core.rng import below, bits
from indexfuzz.samples.requests import rectangle, slot_holes, slots_of, token_places, tokens_of
from indexfuzz.samples.step import Step

TABLE_TAIL = {"minus-one": -1, "huge": 1 << 30, "spare": -1}


def place_indices(step: Step, tables: list[list[int]]) -> None:
    """Make every input that says where something is; `tables` has the pages of each request, in order."""
    for place in OF_PAGES.values():
        place(step, tables)
    for place_those in OF_REQUESTS.values():
        place_those(step)


def index_dtype(case: Case) -> torch.dtype:
    """The dtype of tables, lengths, windows and owners."""
    return torch.int64 if case.memory.indices == "int64" else torch.int32


def tail_of(case: Case, tables: list[list[int]]) -> int:
    """What the unused columns of block tables hold, where requests have the pages in `tables`."""
    if case.memory.table_tail == "spare":
        owned = {page for table in tables for page in table}
        return next((page for page in range(case.num_blocks) if page not in owned), -1)
    return TABLE_TAIL.get(case.memory.table_tail, case.num_blocks)


def _place_tables(step: Step, tables: list[list[int]]) -> None:
    case, memory, split = step.case, step.case.memory, len(step.case.batch.decode)
    tail, none = tail_of(case, tables), TABLE_TAIL.get(memory.table_tail, case.num_blocks)
    for name, part in (("decode_table", tables[:split]), ("prefill_table", tables[split:])):
        table = rectangle(part, tail, extra=memory.table_extra)
        if memory.missing_pages:
            missing = below(bits(step.key(f"missing {name}"), tuple(table.shape)), 8) < memory.missing_pages
            table = torch.where(missing, none, table)
        step.place(name, table.to(index_dtype(case)), row_pad=case.row_pad("table", *table.shape))


def _place_slots(step: Step, tables: list[list[int]]) -> None:
    """Where this step's keys go."""
    batch, pages = step.case.batch, rectangle(tables, -1)
    positions, requests = token_places(step.case)
    slots, owned = torch.full_like(positions, -1), requests >= 0
    if batch.slot_holes:
        owned &= ~slot_holes(step.case, step.key("slot holes"))
    slots[owned] = slots_of(pages, requests[owned], positions[owned], step.case.cache.block_size)
    if batch.short_slots:
        slots = slots[: len(slots) - batch.pad_tokens]
    step.place("slot_mapping", slots.to(torch.int32 if step.case.memory.slots == "int32" else torch.int64))


def _place_gathered(step: Step) -> None:
    """Which keys prefill gathers: the sequence of each, and where each sequence starts."""
    batch = step.case.batch
    lengths = torch.tensor([p.length for p in batch.prefill], dtype=torch.int64)
    owners, _ = tokens_of(lengths)
    none = torch.tensor((-1, len(lengths), 1 << 30))
    if batch.gather_holes:
        is_hole = below(bits(step.key("holes"), (len(owners),)), 8) < batch.gather_holes
        owners = torch.where(is_hole, none[below(bits(step.key("hole owners"), (len(owners),)), len(none))], owners)
    claimed = {"minus-one": -1, "batch": len(lengths), "huge": 1 << 30, "first": 0, "last": len(lengths) - 1}
    padding = torch.full((batch.gather_pad,), claimed[batch.pad_seq])
    step.place("cu_seqlens", torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(index_dtype(step.case)))
    step.place("token_to_seq", torch.cat([owners, padding])[: batch.keys].to(index_dtype(step.case)))


def _place_windows(step: Step) -> None:
    """Which of the gathered keys each row of prefill sees."""
    batch, prefill = step.case.batch, step.case.batch.prefill
    lengths = torch.tensor([p.length for p in prefill], dtype=torch.int64)
    new = torch.tensor([p.new for p in prefill], dtype=torch.int64)
    rows, rank = tokens_of(new)
    ks = (lengths.cumsum(0) - lengths)[rows]
    ke = ks + (lengths[rows] - (new[rows] - 1 - rank) * batch.row_step).clamp_min(1)
    if batch.empty_windows:
        kind = below(bits(step.key("windows"), (len(rows),)), 6)
        ke = torch.where(kind == 0, ks, torch.where(kind == 1, ks - 1, ke)).clamp_min(0)
    if batch.long_windows:
        ends = torch.tensor((batch.keys + 1, batch.keys + 64, 1 << 30))
        kind = below(bits(step.key("long windows"), (len(rows),)), 2 * len(ends))
        ke = torch.where(kind < len(ends), ends[kind % len(ends)], ke)
    step.place("ks", ks.to(index_dtype(step.case)))
    step.place("ke", ke.to(index_dtype(step.case)))


def _place_decode(step: Step) -> None:
    batch = step.case.batch
    lens = torch.tensor(batch.decode, dtype=torch.int32)
    if batch.lens != "1d":
        ahead = torch.arange(batch.next_n, dtype=torch.int32) - batch.next_n + 1
        lens = (lens.unsqueeze(1) + ahead).clamp_min(0)
    if batch.lens == "ragged":
        lens = below(bits(step.key("lens"), tuple(lens.shape)), 1 << 31).int() % (lens + 1)
    memory = step.case.memory
    step.place("context_lens", lens.to(index_dtype(step.case)), row_pad=memory.lens_pad, step=memory.lens_step)


OF_PAGES: Mapping[tuple[str, ...], Callable[[Step, list[list[int]]], None]] = {
    ("decode_table", "prefill_table"): _place_tables,
    ("slot_mapping",): _place_slots,
}
"""Inputs that say where something is, and what makes them of the pages of each request."""

OF_REQUESTS: Mapping[tuple[str, ...], Callable[[Step], None]] = {
    ("cu_seqlens", "token_to_seq"): _place_gathered,
    ("ks", "ke"): _place_windows,
    ("context_lens",): _place_decode,
}
"""Those that have nothing to do with pages."""

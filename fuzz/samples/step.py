"""Step: the tensors of one case, as an inference engine would hand them to its indexer.

Order of tokens: next_n rows for each decode request, then the new tokens of each prefill request, then padding.
Requests own pages of the cache through block tables; what earlier steps wrote (the context) is already there, in the
layout that the case asks for. Everything else in the cache is poison.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.core.rng import below, bits, bits_at, derive
from indexfuzz.reference import layout, nibbles
from indexfuzz.reference.fp8 import FORMATS
from indexfuzz.reference.scales import QUARTERS, pack
from indexfuzz.samples import buffers, regimes
from indexfuzz.samples.buffers import Buffer, Sealed
from indexfuzz.samples.requests import (
    Requests,
    page_tables,
    positions_of,
    rectangle,
    slot_holes,
    slots_of,
    token_places,
    tokens_of,
)

TABLE_TAIL = {"minus-one": -1, "huge": 1 << 30, "spare": -1}

ACTIVATIONS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

OTHERS = 64
"""Bytes of another cache are less: whatever they are taken for, FP8 numbers, fp32 or exponents, it is finite."""

LARGEST_FP16 = 2.0**15
"""Magnitude up to which q and k are drawn in fp16, so that RoPE turns none to an infinity."""


@dataclass
class Step:
    """The inputs of a case, each in a guarded buffer, and what the stages have produced so far.

    `tensors` maps names to the tensor that the next stage reads: it starts with the inputs and is updated as stages
    run. Names: q [T,H,D] and k [T,D] bf16; weights [T,H] fp32; positions [T] int64; cos_sin_cache [max_pos,R];
    slot_mapping [<=T]; cache uint8 [num_blocks,BS,D+4]; decode_table and prefill_table [B,W] int32; context_lens
    [B] or [B,next_n] int32; cu_seqlens [Bp+1], token_to_seq [N], ks and ke [M] int32. Memory may say of some
    that they have another dtype.
    """

    case: Case
    device: str
    buffers: dict[str, Buffer] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    defined: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.uint8))
    """Non-zero where a byte of the cache has been written: uint8 like the cache, but dense."""
    written: dict[str, Tensor] = field(default_factory=dict)
    """Which bytes hold something of other tensors that earlier steps have filled: bool, a row of bytes for each row."""
    copied: tuple[tuple[int, int], ...] = ()
    """Rings or pages of the state that forks had copied before the step: which, and where to."""

    def place(self, name: str, value: Tensor, *, row_pad: int = 0, step: int = 1) -> None:
        """Put a value into a guarded buffer of its own."""
        shape, shift = tuple(value.shape), self.case.shift_of(name)
        buffer = buffers.allocate(name, shape, value.dtype, self.device, row_pad=row_pad, step=step, shift=shift)
        buffer.view.copy_(value)
        self.add(buffer)

    def add(self, buffer: Buffer) -> None:
        """Take a filled buffer as an input."""
        buffer.seal()
        self.buffers[buffer.name] = buffer
        self.tensors[buffer.name] = buffer.view

    def output(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, *, row_pad: int = 0) -> Tensor:
        """A poisoned buffer for a stage to fill."""
        shift = self.case.shift_of(name)
        self.add(buffers.allocate(name, shape, dtype, self.device, row_pad=row_pad, shift=shift))
        return self.tensors[name]

    def spread(self, name: str) -> Tensor:
        """What a stage returned, q_fp8 [T,H,D] or q_weights [T,H], where in memory the case wants it."""
        value = self.tensors[name]
        head_pad = self.case.memory.q_fp8_head_pad if name == "q_fp8" else 0
        tokens, heads, dim = (*value.shape, 1)[:3]
        pad, shift = self.case.row_pad(name, tokens, heads * (dim + head_pad)), self.case.shift_of(name)
        if (pad or head_pad or shift) and name not in self.buffers:
            shape = (tokens, heads, dim)
            buffer = buffers.allocate_tokens(
                name, shape, value.dtype, self.device, pad=pad, head_pad=head_pad, shift=shift
            )
            buffer.view = buffer.view if value.dim() > 2 else buffer.view.squeeze(2)
            buffer.view.copy_(value)
            self.add(buffer)
        return self.tensors[name]

    def define_slots(self, slots: Tensor) -> None:
        """Note that slots int64 [n] >= 0 of the cache hold tokens now, where their layout exists at all."""
        concrete = layout.resolve(self.case.cache.layout, self.case.cache.block_size)
        if self.case.has_layout(concrete):
            layout.mark_tokens(self.defined, slots, concrete)

    @property
    def decode_rows(self) -> slice:
        """The tokens that decode requests own."""
        return slice(0, self.case.batch.decode_rows)

    @property
    def prefill_rows(self) -> slice:
        """The tokens that prefill requests own."""
        start = self.case.batch.decode_rows
        return slice(start, start + self.case.batch.prefill_rows)

    def key(self, purpose: str) -> int:
        """The random key for one purpose."""
        return derive(self.case.values.seed, purpose)


def materialise(case: Case, device: str = "cpu") -> Step:
    """Make every input of a case on a device; of the same case once more from what was made of it."""
    known = _LAST.get(device)
    if known is not None and known.case is case:
        return known.remake()
    step = Step(case, device)
    tables = page_tables(case, step.key("pages"))
    _place_cache(step, rectangle(tables, -1))
    _place_all_but_cache(step, tables)
    made = tuple(buffer.sealed for buffer in step.buffers.values())
    _LAST[device] = _Made(case, device, made, frozenset(step.tensors), step.defined.clone())
    return step


@dataclass(frozen=True)
class _Made:
    """What was made of a case: its buffers without their memory, and what they held.

    `inputs` are the buffers that are tensors of the step; guards around several are none.
    """

    case: Case
    device: str
    buffers: tuple[Sealed, ...]
    inputs: frozenset[str]
    defined: Tensor

    def remake(self) -> Step:
        """The step as it was."""
        step, storages = Step(self.case, self.device, defined=self.defined.clone()), dict[int, Tensor]()
        for buffer in self.buffers:
            step.buffers[buffer.name] = again = buffer.make(storages)
            if buffer.name in self.inputs:
                step.tensors[buffer.name] = again.view
        return step


_LAST: dict[str, _Made] = {}
"""By device: several oracles ask about one case, one after the other."""


def materialise_on_cache(case: Case, cache: Buffer, defined: Tensor, tables: list[list[int]], device: str) -> Step:
    """Make every input of a case but its cache, which other steps have filled; so many pages must the case have.

    `defined` is as in Step, and follows what the stages write; `tables` has the pages of each request, in order.
    """
    step = Step(case, device, defined=defined)
    step.add(cache)
    _place_all_but_cache(step, tables)
    return step


def _place_all_but_cache(step: Step, tables: list[list[int]]) -> None:
    _place_activations(step)
    place_indices(step, tables)


def place_indices(step: Step, tables: list[list[int]]) -> None:
    """Make every input that says where something is; `tables` has the pages of each request, in order."""
    for place in OF_PAGES.values():
        place(step, tables)
    for place_those in OF_REQUESTS.values():
        place_those(step)


def _place_activations(step: Step) -> None:
    case, model, values = step.case, step.case.model, step.case.values
    tokens, heads, dim = case.batch.tokens, model.num_heads, model.head_dim
    q = regimes.dense(values.q, step.key("q"), (tokens * heads, dim), model.fp8).view(tokens, heads, dim)
    k = regimes.dense(values.k, step.key("k"), (tokens, dim), _format_of_keys(case))
    weights = regimes.dense(values.weights, step.key("weights"), (tokens, heads), model.fp8)
    for name, tensor in (("q", q), ("k", k), ("weights", weights)):
        _override(tensor, values.set.get(name, ()))
    positions = positions_of(case, step.key("positions"))
    table = regimes.rope_table(values.rope, step.key("rope"), angles_for(positions), model.rope_dim)
    place_activations(step, q, k, weights, positions, table)


def _format_of_keys(case: Case) -> str:
    """The format of the numbers that keys are quantised to."""
    return nibbles.NAME if case.cache.scales == "mxfp4" else case.model.fp8


def angles_for(positions: Tensor) -> int:
    """Rows that the table of angles needs for some positions."""
    return max(int(positions.max()) + 1, 1) if len(positions) else 1


def place_activations(step: Step, q: Tensor, k: Tensor, weights: Tensor, positions: Tensor, table: Tensor) -> None:
    """Put what a model computes where the case wants it: q [T, H, D], k [T, D], weights [T, H], angles [max_pos, R]."""
    place_q_and_k(step, q, k)
    place_weights(step, weights)
    place_positions(step, positions)
    place_angles(step, table)


def place_weights(step: Step, weights: Tensor) -> None:
    """Weights of heads [T, H] fp32, in the dtype that the case says."""
    weights = weights if step.case.memory.head_weights == "fp32" else weights.bfloat16()
    step.place("weights", weights, row_pad=step.case.row_pad("weights", *weights.shape))


def place_positions(step: Step, positions: Tensor) -> None:
    """Positions of tokens [T] int64, in the dtype that the case says."""
    step.place("positions", positions if step.case.memory.positions == "int64" else positions.int())


def place_angles(step: Step, table: Tensor) -> None:
    """Cosines and sines [max_pos, R] fp32, in the dtype that the case says."""
    table = table if step.case.rope.table == "fp32" else table.bfloat16()
    step.place("cos_sin_cache", table, row_pad=step.case.memory.angles_pad)


def place_q_and_k(step: Step, q: Tensor, k: Tensor) -> None:
    """q [T, H, D] and k [T, D]: in buffers of their own, or as columns of one."""
    case, memory, (tokens, heads, dim) = step.case, step.case.memory, q.shape
    dtype, width = ACTIVATIONS[memory.activations], heads * (dim + memory.q_head_pad)
    pads, shift = (case.row_pad("q", tokens, width), case.row_pad("k", tokens, dim)), case.shift_of("q")
    if memory.fused and tokens and memory.far not in ("q", "k"):
        widths = (width + pads[0], dim + pads[1])
        for_q, for_k, around = buffers.allocate_fused(("q", "k"), widths, tokens, dtype, step.device, shift=shift)
        for_q.view = for_q.view.as_strided(q.shape, (sum(widths), dim + memory.q_head_pad, 1))
        for_k.view = for_k.view[:, :dim]
        around.seal()
        step.buffers[around.name] = around
    else:
        head_pad, there = memory.q_head_pad, step.device
        for_q = buffers.allocate_tokens(
            "q", (tokens, heads, dim), dtype, there, pad=pads[0], head_pad=head_pad, shift=shift
        )
        for_k = buffers.allocate("k", (tokens, dim), dtype, there, row_pad=pads[1], shift=case.shift_of("k"))
    for buffer, value in ((for_q, q), (for_k, k)):
        buffer.view.copy_(_within_fp16(value) if dtype == torch.float16 else value)
        step.add(buffer)


def _within_fp16(x: Tensor) -> Tensor:
    """Finite numbers that are too large for fp16 cut down; all others as they are."""
    return torch.where(torch.isfinite(x), x.clamp(-LARGEST_FP16, LARGEST_FP16), x)


def _override(tensor: Tensor, entries: tuple[tuple[int | str, ...], ...]) -> None:
    """Write the sparse overrides of a case that still lie inside the tensor."""
    for *index, value in entries:
        if all(int(i) < size for i, size in zip(index, tensor.shape, strict=True)):
            tensor[tuple(int(i) for i in index)] = float.fromhex(str(value))


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


def _place_cache(step: Step, pages: Tensor) -> None:
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
    return buffers.allocate_pages("cache", shape, device, page_pad=pad, fp8=fp8, shift=shift)


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
    codes = regimes.cached_codes(case.values.cache, random, _format_of_keys(case))
    return nibbles.pack(codes) if case.cache.scales == "mxfp4" else codes


def _cached_scales(step: Step, slots: Tensor) -> Tensor:
    """Scales of the keys in slots int64 [n], as the cache has them: fp32 or int32 [n]."""
    case, regime = step.case, step.case.values.cache
    if case.cache.scales == "fp32":
        return regimes.cached_scales(regime, bits_at(step.key("scales"), slots), case.model.scale_fmt)
    groups = QUARTERS if case.model.quant_group < case.model.head_dim else 1
    element = slots.unsqueeze(1) * groups + torch.arange(groups)
    return pack(regimes.cached_powers(regime, bits_at(step.key("scales"), element)))


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

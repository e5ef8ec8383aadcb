"""Step: the tensors of one case, as an inference engine would hand them to its indexer.

Order of tokens: next_n rows for each decode request, then the new tokens of each prefill request, then padding.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.core.rng import derive
from indexfuzz.reference import layout
from indexfuzz.samples.allocation import allocate, allocate_tokens
from indexfuzz.samples.buffers import Buffer


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
        buffer = allocate(name, shape, value.dtype, self.device, row_pad=row_pad, step=step, shift=shift)
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
        self.add(allocate(name, shape, dtype, self.device, row_pad=row_pad, shift=shift))
        return self.tensors[name]

    def spread(self, name: str) -> Tensor:
        """What a stage returned, q_fp8 [T,H,D] or q_weights [T,H], where in memory the case wants it."""
        if name not in self.buffers and any(self._gaps_of_heads(name, self.tensors[name])):
            self.place_heads(name, self.tensors[name])
        return self.tensors[name]

    def place_heads(self, name: str, value: Tensor) -> None:
        """Put a value for each token and head, [T,H,D] or [T,H], into a guarded buffer of its own, with its gaps."""
        pad, head_pad, shift = self._gaps_of_heads(name, value)
        tokens, heads, dim = (*value.shape, 1)[:3]
        shape = (tokens, heads, dim)
        buffer = allocate_tokens(name, shape, value.dtype, self.device, pad=pad, head_pad=head_pad, shift=shift)
        buffer.view = buffer.view if value.dim() > 2 else buffer.view.squeeze(2)
        buffer.view.copy_(value)
        self.add(buffer)

    def _gaps_of_heads(self, name: str, value: Tensor) -> tuple[int, int, int]:
        """Elements between tokens, between heads and before the first of them, as the case wants them."""
        tokens, heads, dim = (*value.shape, 1)[:3]
        head_pad = getattr(self.case.memory, f"{name}_head_pad")
        return self.case.row_pad(name, tokens, heads * (dim + head_pad)), head_pad, self.case.shift_of(name)

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

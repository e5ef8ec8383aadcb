"""A paged cache in use: sequences come, grow, are cut back and go, and pages are used again.

Kernels under test write and read the cache; a dictionary {slot: (codes, scale)} says what must be in it. After every
operation the result is judged against the dictionary, and the cache is compared with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.rng import bits, derive
from indexfuzz.devices.base import Device
from indexfuzz.implementations.base import Implementation
from indexfuzz.oracles.causes import without_consequences
from indexfuzz.oracles.launching import launch
from indexfuzz.reference import layout
from indexfuzz.reference.fp8 import FORMATS
from indexfuzz.samples import buffers, regimes
from indexfuzz.stages.base import Call, Stage
from indexfuzz.stages.table import GATHER, K_QUANT_CACHE, PAGED_LOGITS


@dataclass
class Tokens:
    """The cached tokens of one sequence: its pages in order, and how many tokens they hold."""

    pages: list[int] = field(default_factory=list)
    length: int = 0


class PagedCache:
    """One pool of pages and the sequences in it, by number.

    The case gives the model, the block_size, layout and page padding, the pool's size (cache.spare_blocks pages) and
    the longest sequence (batch.max_model_len). Operations return findings; after one the cache holds what it should.
    Raises UnsupportedKernelError when the device cannot execute a kernel.
    """

    def __init__(self, case: Case, implementation: Implementation, device: Device) -> None:
        self.case = case
        self.sequences: dict[int, Tokens] = {}
        self.free = list(range(case.cache.spare_blocks))
        self.expected: dict[int, tuple[Tensor, Tensor]] = {}
        """Slot -> codes uint8 [D] and scale fp32 [] of the token in it."""
        self.history: list[str] = []
        self._implementation = implementation
        self._device = device
        self._layout = layout.resolve(case.cache.layout, case.cache.block_size)
        self._cache = self._empty()

    def _empty(self) -> Tensor:
        model, cache = self.case.model, self.case.cache
        shape = (cache.spare_blocks, cache.block_size, model.head_dim + layout.SCALE_BYTES)
        here, fp8 = self._device.torch_device, FORMATS[model.fp8].dtype
        return buffers.allocate_pages("cache", shape, here, page_pad=cache.page_pad, fp8=fp8).view

    def append(self, sequence: int, count: int, seed: int) -> list[Finding]:
        """Write new tokens at the end of a sequence, as many as pages and max_model_len allow."""
        tokens = self.sequences.setdefault(sequence, Tokens())
        block_size = self.case.cache.block_size
        room = (len(tokens.pages) + len(self.free)) * block_size
        length = min(tokens.length + count, room, self.case.batch.max_model_len)
        while len(tokens.pages) * block_size < length:
            tokens.pages.append(self.free.pop())
        positions = range(tokens.length, length)
        tokens.length = length
        self.history.append(f"append({sequence}, {len(positions)})")
        return self._write(tokens, positions, seed)

    def overwrite(self, sequence: int, first: int, count: int, seed: int) -> list[Finding]:
        """Write tokens of a sequence again, as far as it has them."""
        tokens = self.sequences.get(sequence, Tokens())
        positions = range(min(first, tokens.length), min(first + count, tokens.length))
        self.history.append(f"overwrite({sequence}, {positions.start} to {positions.stop})")
        return self._write(tokens, positions, seed)

    def truncate(self, sequence: int, length: int) -> None:
        """Forget the last tokens of a sequence, and give back pages that it no longer needs."""
        tokens = self.sequences.get(sequence, Tokens())
        kept = min(length, tokens.length)
        for slot in self._slots(tokens, range(kept, tokens.length)):
            del self.expected[slot]
        tokens.length = kept
        needed = -(-kept // self.case.cache.block_size)
        self.free += tokens.pages[needed:]
        del tokens.pages[needed:]
        self.history.append(f"truncate({sequence}, {kept})")

    def gather(self, chosen: Sequence[int]) -> list[Finding]:
        """Gather whole sequences."""
        present = [self.sequences[s] for s in chosen if s in self.sequences]
        lengths = torch.tensor([tokens.length for tokens in present], dtype=torch.int32)
        total = int(lengths.sum())
        if not total:
            return []
        dtype = FORMATS[self.case.model.fp8].dtype
        cu_seqlens = torch.cat([torch.zeros(1, dtype=torch.int32), lengths.cumsum(0, dtype=torch.int32)])
        owners = torch.arange(len(present), dtype=torch.int32).repeat_interleave(lengths.long())
        tensors = {
            "cache": self._cache,
            "block_table": self._table(present),
            "cu_seqlens": self._here(cu_seqlens),
            "token_to_seq": self._here(owners),
            "k_fp8": self._output((total, self.case.model.head_dim), dtype),
            "k_scale": self._output((total,), torch.float32),
        }
        self.history.append(f"gather({', '.join(map(str, chosen))})")
        return self._read(GATHER, tensors)

    def score(self, chosen: Sequence[int], seed: int) -> list[Finding]:
        """Score one query row for each sequence against its tokens."""
        present = [self.sequences[s] for s in chosen if s in self.sequences]
        if not present:
            return []
        model, batch = self.case.model, len(present)
        code = regimes.cached_codes(
            "normal", bits(derive(seed, "q"), (batch, 1, model.num_heads, model.head_dim)), model.fp8
        )
        columns = self.case.batch.max_model_len
        tensors = {
            "q_fp8": self._here(code).view(FORMATS[model.fp8].dtype),
            "cache": self._cache,
            "weights": self._here(regimes.dense("normal", derive(seed, "w"), (batch, model.num_heads), model.fp8)),
            "context_lens": self._here(torch.tensor([tokens.length for tokens in present], dtype=torch.int32)),
            "block_table": self._table(present),
            "logits": self._output((batch, columns), torch.float32),
        }
        self.history.append(f"score({', '.join(map(str, chosen))})")
        return self._read(PAGED_LOGITS, tensors)

    def _here(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._device.torch_device)

    def _output(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return buffers.allocate("output", shape, dtype, self._device.torch_device).view

    def _table(self, present: Sequence[Tokens]) -> Tensor:
        width = max(1, *(len(tokens.pages) for tokens in present))
        return self._here(torch.tensor([t.pages + [-1] * (width - len(t.pages)) for t in present], dtype=torch.int32))

    def _slots(self, tokens: Tokens, positions: range) -> list[int]:
        block_size = self.case.cache.block_size
        return [tokens.pages[p // block_size] * block_size + p % block_size for p in positions]

    def _write(self, tokens: Tokens, positions: range, seed: int) -> list[Finding]:
        slots = self._slots(tokens, positions)
        if not slots:
            return []
        model = self.case.model
        k = regimes.dense("normal", derive(seed, "k"), (len(slots), model.head_dim), model.fp8).bfloat16()
        tensors = {"k": self._here(k), "cache": self._cache, "slot_mapping": self._here(torch.tensor(slots))}
        call = K_QUANT_CACHE.call(self.case, tensors)
        findings = self._launch(K_QUANT_CACHE, call, call.copy())
        if findings:
            call.run(K_QUANT_CACHE.reference)
        index = self._here(torch.tensor(slots))
        written = layout.read_tokens(self._cache, index, self._layout)
        self.expected |= {slot: (code, scale) for slot, code, scale in zip(slots, *written, strict=True)}
        return findings + self._compare(K_QUANT_CACHE)

    def _read(self, stage: Stage, tensors: dict[str, Tensor]) -> list[Finding]:
        """Run a reader, and judge it as if the cache held what the dictionary says and nothing else."""
        call = stage.call(self.case, tensors)
        findings = self._launch(stage, call, call.copy().with_tensors({"cache": self._filled()}))
        return findings + self._compare(stage)

    def _filled(self) -> Tensor:
        """A fresh cache made from the dictionary."""
        fresh = self._empty()
        if self.expected:
            layout.write_tokens(fresh, *self._dictionary(), self._layout)
        return fresh

    def _dictionary(self) -> tuple[Tensor, Tensor, Tensor]:
        """Slots int64 [n], codes uint8 [n, D], scales fp32 [n]."""
        codes, scales = (torch.stack(part) for part in zip(*self.expected.values(), strict=True))
        return self._here(torch.tensor(list(self.expected))), codes, scales

    def _defined(self) -> Tensor:
        """Which bytes of the cache hold tokens."""
        defined = torch.zeros(self._cache.shape, dtype=torch.uint8, device=self._cache.device)
        if self.expected:
            slots, _, _ = self._dictionary()
            layout.mark_tokens(defined, slots, self._layout)
        return defined.bool()

    def _launch(self, stage: Stage, call: Call, given: Call) -> list[Finding]:
        """Launch a stage and judge what it made as if it had been given `given`."""
        initialised = {
            name: self._defined() if name == "cache" else name not in call.undefined for name in call.tensors
        }
        launched = launch(
            stage.name, call, self._implementation.stages[stage.name], self._device, initialised=initialised
        )
        found = launched.findings()
        if launched.outputs:
            terms = launched.terms(self._implementation.promises)
            verdict = stage.judge(self.case, given, launched.outputs, terms)
            found += [finding.at(stage.name) for finding in verdict.findings]
        return [self._told(finding) for finding in without_consequences(found)]

    def _told(self, finding: Finding) -> Finding:
        """A finding that says how it came to it."""
        return replace(finding, detail=f"{finding.detail}; after {', '.join(self.history)}")

    def _compare(self, stage: Stage) -> list[Finding]:
        """Whether the cache holds what the dictionary says; it does afterwards."""
        if not self.expected:
            return []
        slots, codes, scales = self._dictionary()
        now_codes, now_scales = layout.read_tokens(self._cache, slots, self._layout)
        wrong = (now_codes != codes).any(1) | (now_scales.view(torch.int32) != scales.view(torch.int32))
        if not bool(wrong.any()):
            return []
        slot = int(slots[wrong][0])
        count, total = int(wrong.sum()), len(slots)
        detail = f"slot {slot} holds other bytes than were written to it; {count} of {total} slots wrong"
        lost = Finding(stage.name, "guard-write", "cache", detail, "lost-token", (slot,))
        layout.write_tokens(self._cache, slots, codes, scales, self._layout)
        return [self._told(lost)]

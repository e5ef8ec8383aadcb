"""A paged cache in use: sequences come, grow, are cut back and go, and pages are used again.

Every operation is a step of an engine on the same cache: new tokens are prefilled, sequences gathered or scored. A
kernel under test does one stage of it and is judged as in any case, guards and inputs included; what it got wrong is
put right, so that the cache always holds what it should.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.outcome import Outcome
from indexfuzz.devices.base import Device
from indexfuzz.implementations.base import Implementation
from indexfuzz.oracles.differential import put_under_test
from indexfuzz.oracles.walk import accept, fill_in
from indexfuzz.reference import layout
from indexfuzz.samples.step import Step, allocate_cache, materialise_on_cache
from indexfuzz.stages.base import Stage
from indexfuzz.stages.table import GATHER, K_QUANT_CACHE, PAGED_LOGITS, Q_QUANT


@dataclass
class Tokens:
    """The cached tokens of one sequence: its pages in order, and how many tokens they hold."""

    pages: list[int] = field(default_factory=list)
    length: int = 0


class PagedCache:
    """One pool of pages and the sequences in it, by number.

    The case gives the model, the block_size, layout and page padding, the pool's size (cache.spare_blocks pages) and
    the longest sequence (batch.max_model_len). Operations return findings. Raises UnsupportedKernelError when the
    device cannot execute a kernel.
    """

    def __init__(self, case: Case, implementation: Implementation, device: Device) -> None:
        self.case = case.replace(batch={"decode": (), "prefill": ()})
        self.sequences: dict[int, Tokens] = {}
        self.free = list(range(case.cache.spare_blocks))
        self.history: list[str] = []
        self._implementation = implementation
        self._device = device
        self._cache = allocate_cache(self.case, device.torch_device)
        self._defined = torch.zeros(self._cache.view.shape, dtype=torch.uint8, device=device.torch_device)

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
        self._undefine(tokens, range(kept, tokens.length))
        tokens.length = kept
        needed = -(-kept // self.case.cache.block_size)
        self.free += tokens.pages[needed:]
        del tokens.pages[needed:]
        self.history.append(f"truncate({sequence}, {kept})")

    def gather(self, chosen: Sequence[int]) -> list[Finding]:
        """Gather whole sequences."""
        present = self._present(chosen)
        if not any(tokens.length for tokens in present):
            return []
        self.history.append(f"gather({', '.join(map(str, chosen))})")
        prefill = tuple({"length": tokens.length, "new": 0} for tokens in present)
        return self._run(GATHER, self._step({"prefill": prefill}, present, seed=0))

    def score(self, chosen: Sequence[int], seed: int) -> list[Finding]:
        """Score one query row for each sequence against its tokens."""
        present = self._present(chosen)
        if not present:
            return []
        self.history.append(f"score({', '.join(map(str, chosen))})")
        step = self._step({"decode": tuple(tokens.length for tokens in present)}, present, seed)
        quantise = Q_QUANT.prepare(step)
        accept(Q_QUANT, step, quantise, fill_in(Q_QUANT, quantise))
        return self._run(PAGED_LOGITS, step)

    def _present(self, chosen: Sequence[int]) -> list[Tokens]:
        return [self.sequences[sequence] for sequence in chosen if sequence in self.sequences]

    def _write(self, tokens: Tokens, positions: range, seed: int) -> list[Finding]:
        if not positions:
            return []
        prefill = ({"length": positions.stop, "new": len(positions)},)
        needed = -(-positions.stop // self.case.cache.block_size)
        written = Tokens(tokens.pages[:needed], positions.stop)
        return self._run(K_QUANT_CACHE, self._step({"prefill": prefill}, [written], seed))

    def _step(self, batch: dict[str, object], owners: Sequence[Tokens], seed: int) -> Step:
        """A step of an engine for some requests, whose tokens lie in these pages."""
        spare = self.case.cache.spare_blocks - sum(len(tokens.pages) for tokens in owners)
        case = self.case.replace(batch=batch, cache={"spare_blocks": spare}, values={"seed": seed})
        tables = [tokens.pages for tokens in owners]
        return materialise_on_cache(case, self._cache, self._defined, tables, self._device.torch_device)

    def _run(self, stage: Stage, step: Step) -> list[Finding]:
        """Put one stage of a step under test; each finding says how it came to it."""
        call, outcome = stage.prepare(step), Outcome(step.case)
        function = self._implementation.stages[stage.name]
        outputs = put_under_test(stage, step, call, function, self._implementation, self._device, outcome)
        accept(stage, step, call, outputs)
        story = f"after {', '.join(self.history)}"
        return [replace(finding, detail=f"{finding.detail}; {story}") for finding in outcome.findings]

    def _undefine(self, tokens: Tokens, positions: range) -> None:
        """Note that nothing is at these positions any more."""
        block_size, head_dim = self.case.cache.block_size, self.case.model.head_dim
        slots = [tokens.pages[p // block_size] * block_size + p % block_size for p in positions]
        device, concrete = self._defined.device, layout.resolve(self.case.cache.layout, block_size)
        index = torch.tensor(slots, dtype=torch.int64, device=device)
        codes = torch.zeros((len(slots), head_dim), dtype=torch.uint8, device=device)
        layout.write_tokens(self._defined, index, codes, torch.zeros(len(slots), device=device), concrete)

"""vLLM's compressor of DeepSeek-V4.1 under context parallelism of prefill, one rank after the other.

`PCPManager` cuts the tokens of every prefill into two chunks for each rank. A rank sums the pairs of its own chunks.
The last rows of all chunks are gathered: they close pairs that were cut apart, and the token that has no partner yet
goes into the rings from there. `CompressorMetadataBuilder._link_pcp_chunks` says which rows these are. All ranks have
the same rings, so there is one of each here: whatever a rank reads there, it reads before anything is saved.
"""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from indexfuzz.core.contract import Clause, Clauses
from indexfuzz.core.stage_names import COMPRESS_NORM
from indexfuzz.implementations.base import Implementation
from indexfuzz.implementations.loading.loader import Loader
from indexfuzz.implementations.loading.source import Project, module_of
from indexfuzz.implementations.vllm import v41
from indexfuzz.implementations.vllm.platform import provide_vllm
from indexfuzz.implementations.vllm.v41 import BUILDER, COMPRESSOR, LAUNCHER, Compressor, Rows

MANAGER = "vllm/v1/worker/gpu/pcp_manager.py"
RANKS = 2
MOST_REQUESTS = 256
"""Of a step: twice as many rows of each rank are gathered, or all that it has."""


def load(path: str | Path) -> Implementation:
    """Find the compressor at a path, as NVIDIA GPUs run it. Raises SourceError where it is absent or has moved."""
    return v41.load_as(path, ParallelCompressor)


class _WaitsError(Exception):
    """A rank waits for what the others give."""


class _Group:
    """All ranks: keeps what each gives until there is something of all of them."""

    def __init__(self) -> None:
        self.given: list[Tensor] = []
        self.gathered: Tensor | None = None

    def all_gather(self, own: Tensor, dim: int) -> Tensor:
        """What all ranks have given, in their order."""
        if dim:
            raise ValueError(f"rows are gathered, not dim {dim}")
        if self.gathered is None:
            self.given.append(own.clone())
            raise _WaitsError
        return self.gathered


class _Local(NamedTuple):
    """The rows of one rank, those of nobody included, and which rows of the step the others are."""

    step: Rows
    tokens: Tensor


class ParallelCompressor(Compressor):
    """The compressor of one release on several ranks."""

    how = f", {RANKS} ranks"
    launchers = (LAUNCHER, "save_ring_rows")
    notes = (
        f"prefills are cut in chunks for {RANKS} ranks; a row of one token with others before it is one of decode",
    )

    def __init__(self, project: Project, *, amd: bool) -> None:
        self._group = _Group()
        super().__init__(project, amd=amd)
        execute, provide = {module_of(MANAGER): ("PCPManager",)}, {"vllm.v1.attention.backends.utils.PAD_SLOT_ID": -1}
        manager = Loader(project, provide=provide_vllm("e4m3fn") | provide, execute=execute).load(module_of(MANAGER))
        make = partial(manager.PCPManager, RANKS, device=torch.device("cpu"), shard_decode_requests=True)
        self._managers = [make(pcp_rank=rank) for rank in range(RANKS)]

    def provided(self) -> dict[str, object]:
        """The group of ranks."""
        return {"vllm.distributed.get_pcp_group": lambda: self._group}

    def contract(self, project: Project) -> Clauses:
        """That of one rank, but that nothing is drafted."""
        place = project.place(COMPRESSOR, "# The ring keeps only the open row under PCP, too few for spec decoding.")
        nothing = Clause((COMPRESS_NORM,), lambda case: not case.session.max_drafts, "nothing is drafted", place)
        return Clauses((*super().contract(project).clauses, nothing))

    def pool(self, step: Rows, _own: Any, state: Tensor, weight: Tensor, eps: float, keys: Tensor) -> None:
        """Sum and norm the pairs of each rank's rows, then save those rows that have no partner yet."""
        ranks = self._ranks(step)
        linked = self._linked([rank.step for rank in ranks], state.shape[1])
        last = [rank.step.values[links.gather_tokens] for rank, links in zip(ranks, linked, strict=True)]
        rows = torch.cat(last)
        for rank, links in zip(ranks, linked, strict=True):
            ring = (state, links.slot_mapping, links.query_start_loc, links.token_to_req_indices)
            made = keys.new_full((len(rank.step.values), keys.shape[1]), float("nan"))
            getattr(self._modules.kernels, LAUNCHER)(
                rank.step.values,
                rank.step.positions,
                *ring,
                weight,
                eps,
                2,
                made,
                prev_rows=rows,
                prev_row_indices=links.prev_row_indices,
            )
            made = made[: len(rank.tokens)]
            is_made = ~made.isnan().all(1)
            keys[rank.tokens[is_made]] = made[is_made]
        for links in linked:
            self._modules.kernels.save_ring_rows(rows, links.ring_write_slots, state)

    def _ranks(self, step: Rows) -> list[_Local]:
        """The rows of each rank, as many for all of them."""
        starts, counts = step.query_start.cpu().numpy(), step.query_start.diff().cpu().numpy()
        first = step.positions[step.query_start[:-1].long().clamp(max=len(step.positions) - 1)].cpu().numpy()
        is_prefilling = (counts != 1) | (first == 0)
        cut = [m._get_rank_segments(m.pcp_rank, counts, is_prefilling, starts) for m in self._managers]  # noqa: SLF001
        size = max(sum(part.num_tokens for part in parts) for parts in cut)
        return [self._local(step, parts, max(size, 1)) for parts in cut]

    def _local(self, step: Rows, parts: Any, size: int) -> _Local:
        device = step.positions.device
        ranges = [torch.arange(part.global_batch_slice.start, part.global_batch_slice.stop) for part in parts]
        tokens = torch.cat([torch.zeros(0, dtype=torch.int64), *ranges]).to(device)
        counts = torch.tensor([0, *(part.num_tokens for part in parts)], device=device)
        owners = torch.repeat_interleave(torch.arange(len(parts), device=device), counts[1:])
        requests = torch.tensor([part.global_batch_req_idx for part in parts], dtype=torch.int64, device=device)

        def padded(values: Tensor) -> Tensor:
            made = values.new_zeros((size, *values.shape[1:]))
            made[: len(values)] = values
            return made

        local = Rows(
            padded(step.values[tokens]),
            padded(step.positions[tokens]),
            padded(owners.int()),
            counts.cumsum(0).int(),
            step.rings[requests],
        )
        return _Local(local, tokens)

    def _linked(self, ranks: list[Rows], capacity: int) -> list[Any]:
        """What the metadata builder of each rank says, with the last tokens of all of them."""
        config = SimpleNamespace(scheduler_config=SimpleNamespace(max_num_seqs=MOST_REQUESTS))
        builder = getattr(self._modules.compressor, BUILDER)

        def build(rank: Rows) -> Any:
            of = SimpleNamespace(vllm_config=config, capacity=capacity, device=rank.positions.device)
            link = partial(builder._link_pcp_chunks, of)  # noqa: SLF001
            return self.places_in_rings(rank, capacity, pcp_size=RANKS, _link_pcp_chunks=link)

        self._group.given, self._group.gathered = [], None
        for rank in ranks:
            try:
                build(rank)
            except _WaitsError:
                continue
        self._group.gathered = torch.cat(self._group.given)
        return [build(rank) for rank in ranks]

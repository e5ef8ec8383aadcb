"""The requests of a step as index arithmetic: which tokens are whose, and in which pages of the cache they lie."""

from typing import NamedTuple

import torch
from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.core.rng import below, bits, permutation

MOST_SHIFTED = 1000
"""By how many positions a request starts later, at most."""


class Requests(NamedTuple):
    """Every request of a step, decode first: int64 [B] each."""

    lengths: Tensor
    """Tokens of each request once this step is in the cache."""
    new: Tensor
    """Tokens of each request in this step; of a decode request next_n, be it longer than that or not."""

    @classmethod
    def of(cls, case: Case) -> "Requests":
        """The requests of a case."""
        batch = case.batch
        new = [batch.next_n] * len(batch.decode) + [p.new for p in batch.prefill]
        return cls(torch.tensor(case.lengths, dtype=torch.int64), torch.tensor(new, dtype=torch.int64))

    @property
    def contexts(self) -> Tensor:
        """Tokens of each request that are in the cache before this step."""
        return (self.lengths - self.new).clamp_min(0)


def tokens_of(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Owner and rank of each token where owner i has counts[i] of them, one owner after the other: int64 [sum] each."""
    owner = torch.repeat_interleave(counts)
    return owner, torch.arange(len(owner)) - (counts.cumsum(0) - counts)[owner]


def token_places(case: Case) -> tuple[Tensor, Tensor]:
    """Position and request of each token of the step, int64 [T] each; -1 for padding."""
    lengths, new = Requests.of(case)
    requests, rank = tokens_of(new)
    positions = (lengths - new)[requests] + rank
    requests = torch.where(positions < 0, -1, requests)
    padding = torch.full((case.batch.pad_tokens,), -1)
    return torch.cat([positions.clamp_min(-1), padding]), torch.cat([requests, padding])


def positions_of(case: Case, key: int) -> Tensor:
    """The position of each token that turns its q and k, int64 [T]; 0 for padding."""
    ranks, requests = token_places(case)
    ranks = ranks.clamp_min(0)
    if case.batch.positions == "repeated":
        return ranks // 2
    if case.batch.positions == "gapped":
        return ranks * 3
    if case.batch.positions == "shifted":
        starts = 1 + below(bits(key, (max(len(case.lengths), 1),)), MOST_SHIFTED)
        return torch.where(requests >= 0, ranks + starts[requests.clamp_min(0)], 0)
    return ranks


def slot_holes(case: Case, key: int) -> Tensor:
    """Which tokens of requests have no slot, because their keys are in the cache already: bool [T]."""
    _, requests = token_places(case)
    return (below(bits(key, (len(requests),)), 8) < case.batch.slot_holes) & (requests >= 0)


def page_tables(case: Case, key: int) -> list[list[int]]:
    """The physical pages of each request, in order."""
    requests, block_size = Requests.of(case), case.cache.block_size
    free = page_pool(case, key)
    contexts = requests.contexts.tolist()
    tables = list[list[int]]()
    start = 0
    for length, context in zip(case.lengths, contexts, strict=True):
        pages = -(-length // block_size)
        table = free[start : start + pages]
        start += pages
        if tables and case.cache.shared_prefix:
            shared = min(context, contexts[0]) // block_size
            table[:shared] = tables[0][:shared]
        tables.append(table)
    return tables


def page_pool(case: Case, key: int) -> list[int]:
    """All pages, in the order in which requests take them."""
    pool = torch.arange(case.num_blocks)
    if case.cache.pages == "reversed":
        pool = pool.flip(0)
    elif case.cache.pages == "permuted":
        pool = permutation(key, case.num_blocks)
    elif case.cache.pages == "highest":
        pool = pool.roll(-case.cache.spare_blocks)
    pages: list[int] = pool.tolist()
    return pages


def rectangle(tables: list[list[int]], tail: int, *, extra: int = 0) -> Tensor:
    """Tables as rows, filled up with `tail` to the longest and `extra` columns: int64 [tables, at least 1]."""
    width = max(max((len(table) for table in tables), default=0) + extra, 1)
    rows = [table + [tail] * (width - len(table)) for table in tables]
    return torch.tensor(rows, dtype=torch.int64).view(len(tables), width)


def slots_of(pages: Tensor, requests: Tensor, positions: Tensor, block_size: int) -> Tensor:
    """The slot of each position of a request, int64 [n]; `pages` has a row for each request."""
    return pages[requests, positions // block_size] * block_size + positions % block_size

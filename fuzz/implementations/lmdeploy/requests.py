"""Requests, as LMDeploy's kernels take them, made of what the stages are given.

Its kernels find the place of a key through the length of its request and a block table, and the keys of a row of
logits in pages; the stages have slots, windows and gathered keys. What a request holds before its first page in use is
somebody else's affair, so its table starts with an entry that nobody may look at.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from indexfuzz.reference import fp8, layout

NOT_READ = 1 << 30
"""The page in front of those that a step touches: no cache has it."""

PAGE = 64
"""LMDeploy's default block_size."""


class Insertions(NamedTuple):
    """Where the tokens of a step go: R requests, int32."""

    query_start: Tensor
    """[R + 1]: the first token of each request, and the end."""
    lengths: Tensor
    """[R]: keys of each request once its tokens are in the cache."""
    table: Tensor
    """[R, pages]."""
    longest_query: int
    """What the caller says of the longest: 1 where all are of one token, else the number of tokens."""
    tokens: Tensor
    """int64: the tokens of the step that belong to requests. Others have no slot, which no request knows."""

    def of_tokens(self, rows: Tensor) -> Tensor:
        """The rows of these tokens, as they lie in memory where there are no others in between."""
        count = len(self.tokens)
        return rows[:count] if not count or int(self.tokens[-1]) == count - 1 else rows[self.tokens]


def insertions(slot_mapping: Tensor, block_size: int) -> Insertions:
    """Requests that have tokens in these slots, in order.

    A request goes on where the next token has the next slot of a page, or the first slot of any after a full page.
    """
    tokens = (slot_mapping >= 0).nonzero().flatten()
    slots = slot_mapping[tokens].tolist()
    starts, lengths, tables = [0], list[int](), list[list[int]]()
    for token, slot in enumerate(slots):
        page, offset = divmod(slot, block_size)
        goes_on = token > 0 and lengths[-1] % block_size == offset
        if goes_on and (offset == 0 or page == tables[-1][-1]):
            starts[-1] += 1
            lengths[-1] += 1
            tables[-1] += [page] if offset == 0 else []
        else:
            starts.append(token + 1)
            lengths.append(block_size + offset + 1)
            tables.append([NOT_READ, page])
    width = max(map(len, tables), default=1)
    rows = [table + [NOT_READ] * (width - len(table)) for table in tables]
    there = slot_mapping.device
    start, length = (torch.tensor(values, dtype=torch.int32, device=there) for values in (starts, lengths))
    table = torch.tensor(rows, dtype=torch.int32, device=there).view(len(rows), width)
    return Insertions(start, length, table, 1 if len(rows) == len(slots) else len(slots), tokens)


class Run(NamedTuple):
    """Rows of logits of one request, and its keys among those that were gathered."""

    rows: slice
    keys: slice


def runs_of_rows(ks: Tensor, ke: Tensor) -> list[Run]:
    """The requests of rows with windows [ks, ke): each row sees one key more than the row before."""
    runs = list[Run]()
    for row, (start, end) in enumerate(zip(ks.tolist(), ke.tolist(), strict=True)):
        if runs and runs[-1].keys == slice(start, end - 1):
            runs[-1] = Run(slice(runs[-1].rows.start, row + 1), slice(start, end))
        else:
            runs.append(Run(slice(row, row + 1), slice(start, end)))
    return runs


class Pages(NamedTuple):
    """The keys of requests in pages: cache uint8 [pages, PAGE, D + 4], lengths [R] and table [R, pages] int32."""

    cache: Tensor
    lengths: Tensor
    table: Tensor
    longest: int


def paged(k_fp8: Tensor, k_scale: Tensor, runs: list[Run]) -> Pages:
    """Put the keys of each request, of k_fp8 [N, D] and k_scale [N], into pages of their own, the last page first."""
    counts = [run.keys.stop - run.keys.start for run in runs]
    needed = [-(-count // PAGE) for count in counts]
    total = sum(needed)
    pages = torch.zeros((total, PAGE, k_fp8.shape[1] + layout.SCALE_BYTES), dtype=torch.uint8, device=k_fp8.device)
    table = torch.full((len(runs), max(needed, default=1)), NOT_READ, dtype=torch.int32, device=k_fp8.device)
    taken = 0
    for number, (run, count) in enumerate(zip(runs, needed, strict=True)):
        own = torch.arange(total - 1 - taken, total - 1 - taken - count, -1, device=k_fp8.device)
        place = torch.arange(counts[number], device=k_fp8.device)
        slots = own[place // PAGE] * PAGE + place % PAGE
        layout.write_tokens(pages, slots, fp8.codes(k_fp8[run.keys]), k_scale[run.keys], "normal")
        table[number, :count] = own.int()
        taken += count
    lengths = torch.tensor(counts, dtype=torch.int32, device=k_fp8.device)
    return Pages(pages, lengths, table, max(counts, default=0))


class Trimmed(NamedTuple):
    """Rows of logits without what they do not see: logits [M, W], starts int64 [M] and lengths int32 [M]."""

    logits: Tensor
    starts: Tensor
    lengths: Tensor


def trimmed(logits: Tensor) -> Trimmed:
    """Rows that begin at their first column that is not -inf and end at the last, as those of a request do.

    They are as wide as the pages of the longest, not as the keys of all requests: LMDeploy's have no more columns.
    """
    seen = logits != float("-inf")
    column = torch.arange(logits.shape[1], device=logits.device)
    any_seen = seen.any(1)
    starts = torch.where(any_seen, torch.where(seen, column, logits.shape[1]).amin(1), 0)
    ends = torch.where(any_seen, torch.where(seen, column, -1).amax(1) + 1, 0)
    lengths = (ends - starts).int()
    pages = -(-max(lengths.tolist(), default=0) // PAGE)
    at = (starts.unsqueeze(1) + column[: max(pages, 1) * PAGE]).clamp_max(logits.shape[1] - 1)
    return Trimmed(logits.gather(1, at), starts, lengths)

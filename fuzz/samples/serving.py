"""Serving: what lives through the steps of a session, and what each step hands to its kernels.

Requests own pages of keys through block tables, a ring or pages of the state each, and a history of tokens, which
follow from the case's seed. Pages are given out again as soon as nobody has them; nothing is cleared when they are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import torch
from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.core.case_parts import Regime
from indexfuzz.core.rng import derive, permutation
from indexfuzz.core.session import Row, Session, SessionStep
from indexfuzz.core.stage_names import RMS_NORM, ROPE, STATEFUL_COVERS, inserts
from indexfuzz.reference.compress import Tokens
from indexfuzz.samples import regimes
from indexfuzz.samples.allocation import allocate
from indexfuzz.samples.buffers import Buffer
from indexfuzz.samples.cached import allocate_cache
from indexfuzz.samples.kept import Kept, kept_by
from indexfuzz.samples.materialise import materialise_on_cache
from indexfuzz.samples.pages import Pages
from indexfuzz.samples.places import TABLE_TAIL
from indexfuzz.samples.poison import poison_like
from indexfuzz.samples.requests import page_pool, rectangle
from indexfuzz.samples.step import Step

MakeTokens = Callable[[int, int], Tokens]
"""Number and life of a request -> all tokens that it may ever have."""

WORD = torch.int32
"""The state is looked at in words: one that is still poison has not been written."""

MOST_BETWEEN_RINGS = 1 << 10
"""Bytes between the rings of the state at most."""

ALIGNED = 64
"""Elements of which a multiple lies between rings that are far apart, as engines have it."""

RINGS_BEFORE_FAR_ONES = 2
"""Rings of nobody, so that there are enough for the last ones to be far away."""

NO_PAGE = 0
"""The page of a state that belongs to nobody, as engines have one."""

DECODE = 8
"""Tokens of a turn up to which it may be a row of decode."""


@dataclass
class Request:
    """A request that is there: its tokens, drafts included, how many of them are certain, and its pages in order.

    `kept` are its pages of the state where that has pages, NO_PAGE in the place of those that it needs no more.
    """

    tokens: Tokens
    length: int = 0
    pages: list[int] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)


class Serving:
    """The requests of a session, their pages and rings.

    `cache` is the pool of pages, `state` has a ring for each request number, or pages: `kept` says so, where an
    implementation has its own way. `make_tokens` gives other histories than those of the case.
    """

    def __init__(
        self, case: Case, device: str, make_tokens: MakeTokens | None = None, kept: Kept | None = None
    ) -> None:
        self.case, self.device = case, device
        self.requests: dict[int, Request] = {}
        self.cache = allocate_cache(case, device)
        self.defined = torch.zeros(self.cache.view.shape, dtype=torch.uint8, device=device)
        session = case.session
        self.kept = kept or kept_by(case)
        if case.memory.far == "state" and not self.kept.page:
            self.kept = replace(self.kept, nobodys=self.kept.nobodys + RINGS_BEFORE_FAR_ONES)
        kept_pages = 1 + self.kept.pages(session) if self.kept.page else 0
        self.state = self._allocate_state(kept_pages or self.kept.nobodys + 1 + max(session.requests, default=0))
        self.state.seal()
        self.bias = self._dense("position bias", session.ratio, case.values.weights)
        self._make_tokens = make_tokens or cache(self._drawn_tokens)
        self._pages = Pages(page_pool(case, derive(case.values.seed, "pages")))
        order = permutation(derive(case.values.seed, "pages of the state"), kept_pages)
        self._kept_pages = Pages([page for page in order.tolist() if page != NO_PAGE])
        self._copied: list[tuple[int, int]] = []

    def begin(self, number: int, step: SessionStep, rows: Sequence[Row]) -> None:
        """Let requests come and fork, append their tokens in this step, drafts included, and give them pages."""
        self._copied = []
        for fork in step.forks:
            self._fork(fork.parent, fork.child)
        for row in rows:
            own = self._make_tokens(row.request, row.life)
            request = self.requests.setdefault(row.request, Request(own.until(0)))
            certain = _joined(request.tokens.until(row.start), own.between(row.start, row.length))
            drafts = self._drawn(f"drafts {number} {row.request}", row.end - row.length)
            request.tokens = _joined(certain, drafts)
            self._forget(request, row.start)
            self._reserve(request, row.end)

    def end(self, step: SessionStep, rows: Sequence[Row]) -> None:
        """Take rejected drafts back, and let requests go."""
        for row in rows:
            request = self.requests[row.request]
            request.length, request.tokens = row.length, request.tokens.until(row.length)
        for number in step.free:
            request = self.requests.pop(number)
            self._pages.release(request.pages)
            self._kept_pages.release([page for page in request.kept if page != NO_PAGE])

    def keys_of(self, length: int) -> int:
        """Keys that so many tokens make."""
        return length // self.case.session.ratio

    @property
    def has_keys(self) -> bool:
        """Whether any request has a key."""
        return any(self.keys_of(request.length) for request in self.requests.values())

    def slots(self, request: Request) -> Tensor:
        """Where the keys of a request lie, int64."""
        block_size = self.case.cache.block_size
        key = torch.arange(self.keys_of(request.length))
        return torch.tensor(request.pages, dtype=torch.int64)[key // block_size] * block_size + key % block_size

    def making_step(self, number: int, step: SessionStep, rows: Sequence[Row]) -> Step:
        """The tensors of the operation that makes keys, and the cache that they go into."""
        case, memory = self.case, self.case.memory
        made = Step(case, self.device, defined=self.defined, copied=tuple(self._copied))
        parts = [self.requests[row.request].tokens.between(row.start, row.end) for row in rows]
        parts.append(self._drawn(f"padding {number}", step.pad_tokens))
        kv, scores = torch.cat([part.kv for part in parts]), torch.cat([part.scores for part in parts])
        made.place("kv", kv, row_pad=case.row_pad("k", *kv.shape))
        made.place("scores", scores, row_pad=case.row_pad("weights", *scores.shape))
        made.place("bias", self.bias)
        made.place("query_start", torch.tensor([0, *(row.tokens for row in rows)]).cumsum(0).int())
        made.place("context_lens", torch.tensor([row.start for row in rows], dtype=torch.int32))
        if self.kept.page:
            kept = rectangle([self.requests[row.request].kept for row in rows], NO_PAGE, extra=memory.table_extra)
            made.place("state_table", kept.int(), row_pad=case.row_pad("table", *kept.shape))
        else:
            rings = [self.kept.nobodys + row.request for row in rows]
            made.place("rings", torch.tensor(rings, dtype=torch.int32))
        tail = TABLE_TAIL.get(memory.table_tail, case.num_blocks)
        table = rectangle([self.requests[row.request].pages for row in rows], tail, extra=memory.table_extra)
        made.place("block_table", table.int(), row_pad=case.row_pad("table", *table.shape))
        nodes = STATEFUL_COVERS[case.session.node]
        if RMS_NORM in nodes:
            made.place("norm_weight", self._norm_weight())
        if ROPE in nodes:
            made.place("cos_sin_cache", self._angles(), row_pad=memory.angles_pad)
        if not inserts(case.session.node):
            shape = (step.tokens, case.model.head_dim)
            made.output("keys", shape, torch.bfloat16, row_pad=case.row_pad("k", *shape))
        made.output("slot_mapping", (step.tokens,), torch.int64)
        made.output("visible", (step.tokens,), torch.int32)
        made.add(self.state)
        made.add(self.cache)
        word = WORD if self.state.view[0, 0, 0].nbytes % WORD.itemsize == 0 else torch.int16
        untouched = poison_like(self.state.view[0, 0, 0]).view(word)[0]
        made.written["state"] = (self.state.view.view(word) != untouched).repeat_interleave(word.itemsize, -1)
        return made

    def plain_step(self, step: SessionStep, rows: Sequence[Row]) -> Step:
        """The tensors of a step of the indexer in which every token is a key.

        The first rows that have the same few tokens are decode requests, as an engine sorts them; all others prefill.
        """
        first = rows[0].tokens if rows else 0
        is_decode = 0 < first <= DECODE
        ahead = next((i for i, row in enumerate(rows) if row.tokens != first), len(rows)) if is_decode else 0
        batch: dict[str, object] = {
            "decode": tuple(row.end for row in rows[:ahead]),
            "prefill": tuple({"length": row.end, "new": row.tokens} for row in rows[ahead:]),
            "next_n": first if ahead else 1,
            "pad_tokens": step.pad_tokens,
        }
        owners = [self.requests[row.request] for row in rows]
        made = self._step(batch, owners, [row.end for row in rows])
        tokens = [self.requests[row.request].tokens.between(row.start, row.end) for row in rows]
        own = torch.cat([part.kv for part in tokens]) if tokens else self.bias[:0]
        made.tensors["k"][: len(own)].copy_(own)
        for name in made.buffers:
            made.buffers[name].seal()
        return made

    def reading_step(self) -> Step:
        """The tensors of a step that reads all keys of all requests and writes none."""
        owners = list(self.requests.values())
        lengths = [self.keys_of(request.length) for request in owners]
        prefill = tuple({"length": length, "new": 0} for length in lengths)
        return self._step({"prefill": prefill}, owners, lengths)

    def _step(self, batch: dict[str, object], owners: Sequence[Request], lengths: Sequence[int]) -> Step:
        block_size = self.case.cache.block_size
        tables = [request.pages[: -(-n // block_size)] for request, n in zip(owners, lengths, strict=True)]
        spare = self.case.num_blocks - sum(map(len, tables))
        case = self.case.replace(batch=batch, session=dict(Session()), cache={"spare_blocks": spare})
        return materialise_on_cache(case, self.cache, self.defined, tables, self.device)

    def _norm_weight(self) -> Tensor:
        """bf16 [D], as weights of a model are."""
        model = self.case.model
        drawn = regimes.dense("normal", derive(self.case.values.seed, "norm weight"), (1, model.head_dim), model.fp8)
        return (1.0 + drawn[0].float() / 4).bfloat16()

    def _angles(self) -> Tensor:
        case = self.case
        longest = max(case.session.length, 1)
        table = regimes.rope_table(case.values.rope, derive(case.values.seed, "rope"), longest, case.model.rope_dim)
        return table if case.rope.table == "fp32" else table.bfloat16()

    def _allocate_state(self, count: int) -> Buffer:
        """So many rings or pages, as far apart as pages of keys are: engines keep both in one pool."""
        kept = self.kept
        rows, width, halves = kept.page or kept.rows, kept.width, 1 + kept.apart
        form = (count * halves, rows * 2 * width // halves)
        gap = min(self.case.cache.page_pad, MOST_BETWEEN_RINGS) // kept.dtype.itemsize
        if far := self.case.far_pad("state", *form):
            gap = far + -(form[1] + far) % ALIGNED
        state = allocate("state", form, kept.dtype, self.device, row_pad=gap)
        ring = state.view.stride(0)
        steps = (ring, width, count * ring, 1) if kept.apart else (ring, 2 * width, width, 1)
        state.view = state.view.as_strided((count, rows, 2, width), steps)
        return state

    def _fork(self, parent: int, child: int) -> None:
        """The child shares full pages, of keys and of the state, and has copies of the last ones or of the ring."""
        from_, block_size = self.requests[parent], self.case.cache.block_size
        shared = from_.pages[: self.keys_of(from_.length) // block_size]
        self._pages.share(shared)
        full = from_.kept[: from_.length // self.kept.page] if self.kept.page else []
        self._kept_pages.share(page for page in full if page != NO_PAGE)
        request = self.requests[child] = Request(from_.tokens, from_.length, list(shared), list(full))
        self._reserve(request, from_.length)
        for old, new in zip(from_.pages[len(shared) :], request.pages[len(shared) :], strict=False):
            self.cache.view[new] = self.cache.view[old]
            self.defined[new] = self.defined[old]
        self.cache.seal()
        copies = zip(from_.kept[len(full) :], request.kept[len(full) :], strict=False)
        rings = (self.kept.nobodys + parent, self.kept.nobodys + child)
        for old, new in copies if self.kept.page else (rings,):
            self.state.view[new] = self.state.view[old]
            self._copied.append((old, new))
        self.state.seal()

    def _reserve(self, request: Request, length: int) -> None:
        while len(request.pages) * self.case.cache.block_size < self.keys_of(length):
            request.pages.append(self._pages.take())
        while self.kept.page and len(request.kept) * self.kept.page < length:
            request.kept.append(self._kept_pages.take())

    def _forget(self, request: Request, start: int) -> None:
        """Give back the pages of the state that no key needs any more which is due after so many tokens."""
        for at in range(self.kept.gone(start) if self.kept.page else 0):
            if request.kept[at] != NO_PAGE:
                self._kept_pages.release([request.kept[at]])
                request.kept[at] = NO_PAGE

    def _drawn_tokens(self, request: int, life: int) -> Tokens:
        return self._drawn(f"tokens {request} {life}", self.case.session.length)

    def _drawn(self, purpose: str, count: int) -> Tokens:
        values = self.case.values
        return Tokens(
            self._dense(f"kv {purpose}", count, values.k).to(self.kept.dtype),
            self._dense(f"scores {purpose}", count, values.weights).to(self.kept.dtype),
        )

    def _dense(self, purpose: str, count: int, regime: Regime) -> Tensor:
        key = derive(self.case.values.seed, purpose)
        return regimes.dense(regime, key, (count, self.kept.width), self.case.model.fp8).to(self.device)


def _joined(*parts: Tokens) -> Tokens:
    return Tokens(torch.cat([part.kv for part in parts]), torch.cat([part.scores for part in parts]))

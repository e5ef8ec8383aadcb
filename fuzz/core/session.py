"""Sessions: requests that live through several steps of a serving engine, as small integers.

What a step does to a request is a `Turn`: tokens are appended, then drafts, of which the first few turn out right and
the others are rejected. Requests come with their first turn, are forked, and go; one that comes again under the same
number is another one, with other tokens. `follow` says what that makes of each of them, step by step.
"""

from collections.abc import Iterator
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from indexfuzz.core.part import Part

MAX_STEPS = 64
MAX_REQUESTS = 16
MAX_TURN = 1 << 12
MAX_DRAFTS = 7
MAX_SESSION_TOKENS = 1 << 14
"""Tokens of all requests of a session that ever lived, drafts included."""

Number = Annotated[int, Field(ge=0, lt=MAX_REQUESTS)]
"""Which request."""


class Turn(Part):
    """What one request does in a step: `new` tokens, then `drafts`, the first `accepted` of which are right."""

    added = frozenset({"drafts", "accepted"})

    request: Number
    new: int = Field(ge=0, le=MAX_TURN)
    drafts: int = Field(default=0, ge=0, le=MAX_DRAFTS)
    accepted: int = Field(default=0, ge=0, le=MAX_DRAFTS)

    @model_validator(mode="after")
    def _accepts_what_was_drafted(self) -> Self:
        if self.accepted > self.drafts:
            raise ValueError(f"accepted {self.accepted} exceeds drafts {self.drafts}")
        return self


class Fork(Part):
    """A request that begins with all tokens of another one, whose full pages it shares."""

    parent: Number
    child: Number


class SessionStep(Part):
    """One step: forks, then a turn of each request that has one, in the order of its rows; then requests go.

    `free` names those that go, and whose pages are used again. `pad_tokens` rows of the step belong to nobody.
    """

    added = frozenset({"forks", "free", "pad_tokens"})

    forks: tuple[Fork, ...] = Field(default=(), max_length=MAX_REQUESTS)
    turns: tuple[Turn, ...] = Field(default=(), max_length=MAX_REQUESTS)
    free: tuple[Number, ...] = Field(default=(), max_length=MAX_REQUESTS)
    pad_tokens: int = Field(default=0, ge=0, le=64)

    @property
    def tokens(self) -> int:
        """Rows of the step, padding included."""
        return sum(turn.new + turn.drafts for turn in self.turns) + self.pad_tokens


class Session(Part):
    """The steps of a session, none in a case that is a single step.

    `node` is what makes keys of tokens: "none" where every token is a key, else the stateful operation that makes one
    key of `ratio` tokens: "compress", with `overlap` of those before them, too, "compress_norm", without
    overlap, which also norms it, "fused_compress", which norms, rotates and inserts it, "pool", by a softmax or the
    maximum, or "fused_pool", which also inserts it.
    """

    added = frozenset({"pooling"})

    node: Literal["none", "compress", "pool", "fused_compress", "fused_pool", "compress_norm"] = "none"
    ratio: int = Field(default=1, ge=1, le=256)
    overlap: bool = False
    pooling: Literal["softmax", "max"] = "softmax"
    steps: tuple[SessionStep, ...] = Field(default=(), max_length=MAX_STEPS)

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.node == "none" and self.ratio > 1:
            raise ValueError('without a node every token is a key: ratio must be 1 for node "none"')
        if self.overlap and self.node not in ("compress", "fused_compress"):
            raise ValueError(f'overlap must be false for node "{self.node}"; "compress" and "fused_compress" have it')
        if self.pooling != "softmax" and self.node not in ("pool", "fused_pool"):
            raise ValueError(f'pooling must be "softmax" for node "{self.node}"; "pool" and "fused_pool" have another')
        if self.node not in ("none", "compress_norm") and self.ratio == 1:
            raise ValueError(
                f'ratio must be at least 2 for node "{self.node}"; "compress_norm" norms single tokens, too'
            )
        longest = dict[tuple[int, int], int]()
        for rows in follow(self):
            for row in rows:
                longest[row.request, row.life] = max(longest.get((row.request, row.life), 0), row.end)
        if sum(longest.values()) > MAX_SESSION_TOKENS:
            raise ValueError(
                f"its requests have {sum(longest.values())} tokens; at most {MAX_SESSION_TOKENS} are allowed"
            )
        return self

    @property
    def max_drafts(self) -> int:
        """The most drafts of a turn: so many tokens may have to be taken back."""
        return max((turn.drafts for step in self.steps for turn in step.turns), default=0)

    @property
    def requests(self) -> set[int]:
        """The numbers of all requests that ever are there."""
        turns = {turn.request for step in self.steps for turn in step.turns}
        return turns | {fork.child for step in self.steps for fork in step.forks}

    @property
    def tokens(self) -> int:
        """Rows of the largest step."""
        return max((step.tokens for step in self.steps), default=0)

    @property
    def length(self) -> int:
        """Tokens that the longest request ever has, drafts included."""
        return max((row.end for rows in follow(self) for row in rows), default=0)

    def pages(self, block_size: int) -> int:
        """Pages of keys that the requests need in the step that needs most, if none were shared."""
        needed, most = dict[int, int](), 0
        for step, rows in zip(self.steps, follow(self), strict=True):
            for fork in step.forks:
                needed[fork.child] = needed[fork.parent]
            for row in rows:
                needed[row.request] = max(needed.get(row.request, 0), -(-(row.end // self.ratio) // block_size))
            most = max(most, sum(needed.values()))
            for request in step.free:
                del needed[request]
        return most


class Row(NamedTuple):
    """A turn in its session: the request, which of those of this number it is, and how many tokens it had before."""

    request: int
    life: int
    start: int
    turn: Turn

    @property
    def tokens(self) -> int:
        """Tokens of the step, drafts included."""
        return self.turn.new + self.turn.drafts

    @property
    def end(self) -> int:
        """Tokens while the step runs, drafts included."""
        return self.start + self.tokens

    @property
    def length(self) -> int:
        """Tokens once drafts have been rejected."""
        return self.start + self.turn.new + self.turn.accepted


def follow(session: Session) -> Iterator[list[Row]]:
    """The turns of each step.

    Raises ValueError, as a session says it, where a step asks for what cannot be.
    """
    lengths, lives = dict[int, int](), dict[int, int]()
    for number, step in enumerate(session.steps):
        for fork in step.forks:
            if fork.parent not in lengths or fork.child in lengths:
                raise ValueError(
                    f"step {number} forks request {fork.parent} into {fork.child}: "
                    "the first must be there, the second must not"
                )
            lengths[fork.child] = lengths[fork.parent]
            lives[fork.child] = lives.get(fork.child, -1) + 1
        rows = list[Row]()
        for turn in step.turns:
            if turn.request in {row.request for row in rows}:
                raise ValueError(f"step {number} has two turns of request {turn.request}")
            if turn.request not in lengths:
                lengths[turn.request] = 0
                lives[turn.request] = lives.get(turn.request, -1) + 1
            rows.append(Row(turn.request, lives[turn.request], lengths[turn.request], turn))
        lengths |= {row.request: row.length for row in rows}
        yield rows
        for request in step.free:
            if lengths.pop(request, None) is None:
                raise ValueError(f"step {number} frees request {request}, which is not there")


def lengths_at_end(session: Session) -> dict[int, int]:
    """The tokens of each request that is there after the last step."""
    lengths = dict[int, int]()
    for step, rows in zip(session.steps, follow(session), strict=True):
        lengths |= {fork.child: lengths[fork.parent] for fork in step.forks}
        lengths |= {row.request: row.length for row in rows}
        for request in step.free:
            del lengths[request]
    return lengths

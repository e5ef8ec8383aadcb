"""Case: everything that defines one sample, as small integers and enums.

A case describes one whole step of the indexer, or a session of several; `case_parts.py` has its fields. No tensor is
stored in it: the arena makes every value from the case, bit for bit the same on every machine. A case is identified by
the SHA-256 of its canonical JSON, so two workers that find the same case name it alike.
"""

import hashlib
import json
from functools import cached_property
from typing import Self

from pydantic import Field, ValidationError, model_validator

from indexfuzz.core.case_parts import QUARTERS, TILE, Batch, Cache, Memory, Model, Rope, Values
from indexfuzz.core.part import CaseError, Part, first_error
from indexfuzz.core.session import Session

MAX_ELEMENTS = 1 << 28
MAX_CACHE_SPAN = 1 << 35
"""Bytes from the first to the last page of a cache; only its pages take memory."""

FAR = 1 << 20
MAX_FAR_PAGES = 64
"""Pages more than FAR bytes apart cost megabytes each, so a pool has few of them."""

FAR_ELEMENTS = 1 << 31
"""Elements at which 32 bits end."""

FEW = 8
"""Times FAR_ELEMENTS that a tensor may span."""


class Case(Part):
    """One sample: a whole indexer step, or a session of several."""

    added = frozenset({"session"})

    model: Model = Field(default_factory=Model)
    cache: Cache = Field(default_factory=Cache)
    batch: Batch = Field(default_factory=Batch)
    rope: Rope = Field(default_factory=Rope)
    memory: Memory = Field(default_factory=Memory)
    values: Values = Field(default_factory=Values)
    session: Session = Session()

    @model_validator(mode="after")
    def _is_a_step_or_a_session(self) -> Self:
        session, values = self.session, self.values
        if not session.steps:
            if session != Session():
                raise ValueError("session has no steps, so nothing else may be said of it")
            return self
        if self.batch.decode or self.batch.prefill or self.batch.pad_tokens or self.batch.gather_pad:
            raise ValueError("a case has a batch or a session, not both: batch must have no requests and no padding")
        if session.node in ("pool", "fused_pool") and self.model.head_dim.bit_count() != 1:
            raise ValueError(
                f'node "{session.node}" turns keys by a Hadamard matrix: '
                f"model.head_dim must be a power of two, not {self.model.head_dim}"
            )
        if self.cache.others:
            raise ValueError("the cache of a session has its storage to itself: cache.others must be false")
        if self.memory.activations != "bf16":
            raise ValueError(f"the q and k of a session are bf16, not {self.memory.activations}")
        if values.set or "nonfinite" in (values.q, values.k, values.weights, values.cache, values.rope):
            raise ValueError("the values of a session are finite, and none is overridden")
        if session.length > self.batch.max_model_len:
            raise ValueError(
                f"session has a request of {session.length} tokens beyond max_model_len {self.batch.max_model_len}"
            )
        return self

    @model_validator(mode="after")
    def _has_a_scale_for_each_dim(self) -> Self:
        whole = {"fp32": 1, "ue8m0": QUARTERS, "mxfp4": 2 * QUARTERS}[self.cache.scales]
        if self.model.head_dim % whole:
            raise ValueError(
                f"cache.scales {self.cache.scales} are {QUARTERS} exponents, one for each quarter of the dims: "
                f"model.head_dim must be a multiple of {whole}, not {self.model.head_dim}"
            )
        return self

    @model_validator(mode="after")
    def _fits_in_memory(self) -> Self:
        batch, heads, dim = self.batch, self.model.num_heads, self.model.head_dim
        longest = max(batch.decode, default=0)
        if longest > batch.max_model_len:
            raise ValueError(f"batch.decode has length {longest} beyond max_model_len {batch.max_model_len}")
        memory = self.memory
        q_columns = heads * (dim + max(memory.q_head_pad, memory.q_fp8_head_pad)) + max(memory.q_pad, memory.q_fp8_pad)
        weights_columns = heads * (1 + max(memory.weights_head_pad, memory.q_weights_head_pad))
        cached = sum(batch.decode) + batch.keys
        tokens, keys = max(batch.tokens, self.session.tokens), self.num_blocks * self.cache.block_size
        sizes = {
            "q": tokens * q_columns,
            "k": tokens * (dim + self.memory.k_pad),
            "weights": tokens * weights_columns,
            "pages": keys * self.token_bytes if self.session.steps else 0,
            "logits": tokens * max(keys, batch.max_model_len) if self.session.steps else 0,
            "gathered keys": batch.keys * (dim + self.memory.k_fp8_pad),
            "keys": (cached + self.cache.block_size * (len(batch.decode) + len(batch.prefill))) * self.token_bytes,
            "spare pages": self.cache.spare_blocks * self.cache.block_size * self.token_bytes,
            "prefill logits": batch.prefill_rows * (batch.keys + self.memory.logits_pad),
            "paged logits": batch.decode_rows * (batch.max_model_len + self.memory.logits_pad),
        }
        page = self.cache.block_size * self.token_bytes
        if self.num_blocks * (page + self.cache.page_pad) > MAX_CACHE_SPAN:
            raise ValueError(
                f"{self.num_blocks} pages of {page} + {self.cache.page_pad} bytes span more than "
                f"{MAX_CACHE_SPAN} bytes; lower cache.page_pad"
            )
        if self.cache.page_pad > FAR and self.num_blocks > MAX_FAR_PAGES:
            raise ValueError(
                f"{self.num_blocks} pages lie {self.cache.page_pad} bytes apart; at most {MAX_FAR_PAGES} "
                "pages may be so far from each other: lower cache.page_pad"
            )
        for what, elements in sizes.items():
            if elements > MAX_ELEMENTS:
                raise ValueError(f"{what} would take {elements} elements; at most {MAX_ELEMENTS} are allowed")
        return self

    @property
    def lengths(self) -> tuple[int, ...]:
        """Context length of every request, decode requests first."""
        return (*self.batch.decode, *(p.length for p in self.batch.prefill))

    @property
    def num_blocks(self) -> int:
        """Pages in the pool: what the requests need, and the spare ones; at least one."""
        needed = sum(-(-length // self.cache.block_size) for length in self.lengths)
        needed += self.session.pages(self.cache.block_size)
        return max(needed + self.cache.spare_blocks, 1)

    def has_layout(self, layout: str) -> bool:
        """Whether such pages can be arranged so: SHUFFLE, which "auto" means above one token, takes whole tiles.

        Exponents are interleaved in MXFP4 alone.
        """
        if layout == "normal" or (layout == "auto" and self.cache.block_size == 1):
            return True
        has_tiles = not (self.cache.block_size % TILE or self.key_bytes % TILE)
        return has_tiles and (layout != "shuffle-scales" or self.cache.scales == "mxfp4")

    @property
    def key_bytes(self) -> int:
        """Bytes that the values of a key take in the cache."""
        return self.model.head_dim // (2 if self.cache.scales == "mxfp4" else 1)

    @property
    def token_bytes(self) -> int:
        """Bytes that a key takes in the cache, its scale or scales among them."""
        return self.key_bytes + 4

    @property
    def has_groups(self) -> bool:
        """Whether the keys may have so many scales: one each, or UE8M0 exponents, of a quarter each."""
        groups = self.model.head_dim / self.model.quant_group
        return groups in {"fp32": (1,), "ue8m0": (1, QUARTERS), "mxfp4": (QUARTERS,)}[self.cache.scales]

    @property
    def has_scales(self) -> bool:
        """Whether the keys may have such scales: so many, and UE8M0 exponents are those of powers of two."""
        return self.has_groups and (self.model.scale_fmt == "ue8m0" or self.cache.scales == "fp32")

    def row_pad(self, name: str, rows: int, columns: int) -> int:
        """Elements between the rows of a tensor: its pad, or so many that the last row is far away."""
        return self.far_pad(name, rows, columns) or int(getattr(self.memory, f"{name}_pad"))

    def far_pad(self, name: str, rows: int, columns: int) -> int:
        """Elements between the rows of a tensor whose last row shall be far away; 0 where it shall not.

        Two rows are never far apart: a stride beyond 2^31 would itself have 64 bits. Nor are many: each takes memory.
        Of a few quantised q, the last row of every decode request is far from its first.
        """
        if self.memory.far == name and 2 < rows <= MAX_FAR_PAGES:
            ahead = self.batch.next_n - 1
            steps = ahead if name == "q_fp8" and ahead > 1 and rows <= FEW * ahead else rows - 1
            return -(-FAR_ELEMENTS // steps) - columns
        return 0

    def shift_of(self, name: str) -> int:
        """How many elements later than at an aligned address a tensor starts."""
        named = "logits" if name.endswith("_logits") else name
        return self.memory.shift if self.memory.shifted in ("all", named) else 0

    def canonical_json(self) -> str:
        """The one spelling that is hashed: sorted keys, no spaces, every field but younger ones with their default."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    @cached_property
    def id(self) -> str:
        """First 16 hex digits of the SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()[:16]

    @classmethod
    def parse(cls, data: object) -> Self:
        """Build a case from decoded JSON.

        Raises CaseError that names the first wrong field.
        """
        try:
            return cls.model_validate_json(json.dumps(data))
        except ValidationError as error:
            raise CaseError(first_error(error)) from None

    def replace(self, **parts: dict[str, object]) -> "Case":
        """A copy with fields of parts changed and validated again: `case.replace(cache={"block_size": 16})`.

        Raises CaseError when the changed case contradicts itself.
        """
        data: dict[str, object] = {name: getattr(self, name) for name in type(self).model_fields}
        for part, fields in parts.items():
            data[part] = getattr(self, part).model_dump() | fields if part in data else fields
        try:
            return type(self).model_validate(data)
        except ValidationError as error:
            raise CaseError(first_error(error)) from None

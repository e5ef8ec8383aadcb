"""Case: everything that defines one sample, as small integers and enums.

A case describes one whole step of the indexer. No tensor is stored in it: the arena makes every value from the case,
bit for bit the same on every machine. A case is identified by the SHA-256 of its canonical JSON, so two workers that
find the same case name it alike.
"""

import hashlib
import json
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from indexfuzz.core.part import CaseError, Part, first_error
from indexfuzz.core.session import Session

MAX_TOKENS = 1 << 16
MAX_ELEMENTS = 1 << 28
MAX_CACHE_SPAN = 1 << 34
"""Bytes from the first to the last page of a cache; only its pages take memory."""

FAR = 1 << 20
MAX_FAR_PAGES = 64
"""Pages more than FAR bytes apart cost megabytes each, so a pool has few of them."""

TILE = 16
"""Tokens, and bytes of a token, of one tile of the SHUFFLE layout."""

QUARTERS = 4
"""Groups of a key's dims that may have scales of their own."""

FAR_ELEMENTS = 1 << 31
"""Elements at which 32 bits end."""

FEW = 8
"""Times FAR_ELEMENTS that a tensor may span."""

Regime = Literal[
    "normal",
    "exact",
    "ties",
    "saturation",
    "subnormal",
    "clamp",
    "outlier",
    "large",
    "tied",
    "zeros",
    "wide",
    "cancelling",
    "nonfinite",
]
"""How the values of one tensor are drawn; fuzz/samples/regimes.py defines each."""

TableTail = Literal["minus-one", "num-blocks", "huge"]
"""What the unused columns of a block table hold: -1, num_blocks or 2^30. A correct kernel never looks at them."""

PadSeq = Literal["minus-one", "batch", "huge", "first", "last"]
"""The sequence that gathered padding claims to belong to: -1, B, 2^30, 0 or B - 1, for B sequences."""

Positions = Literal["rank", "shifted", "repeated", "gapped"]
"""What the positions of a request count: its tokens; from a later start; every token twice; three for each token."""

Far = Literal["none", "q", "k", "weights", "table", "k_fp8", "q_fp8", "q_weights", "logits", "columns"]
"""A tensor whose last row starts beyond 2^31 elements."""


Shifted = Literal[
    "all",
    "q",
    "k",
    "weights",
    "positions",
    "cos_sin_cache",
    "cache",
    "slot_mapping",
    "decode_table",
    "prefill_table",
    "cu_seqlens",
    "token_to_seq",
    "ks",
    "ke",
    "context_lens",
    "k_fp8",
    "k_scale",
    "q_fp8",
    "q_weights",
    "logits",
]
"""Tensors that start `shift` elements later than at an aligned address."""


class Model(Part):
    """The shape of the model's indexer."""

    num_heads: int = Field(default=1, ge=1, le=256)
    head_dim: int = Field(default=32, ge=16, le=512)
    rope_dim: int = Field(default=16, ge=2, le=512)
    quant_group: int = Field(default=32, ge=1, le=512)
    scale_fmt: Literal["ue8m0", "fp32"] = "ue8m0"
    fp8: Literal["e4m3fn", "e4m3fnuz"] = "e4m3fn"
    index_topk: int = Field(default=4, ge=1, le=4096)

    @model_validator(mode="after")
    def _rope_fits(self) -> Self:
        if self.rope_dim % 2 or self.rope_dim > self.head_dim:
            raise ValueError(f"rope_dim {self.rope_dim} must be even and at most head_dim {self.head_dim}")
        return self


class Cache(Part):
    """The paged cache of quantised keys: uint8 [num_blocks, block_size, head_dim + 4], pages possibly padded.

    The scale of a key is an fp32, or `scales` "ue8m0": four exponents of a byte each, one for each quarter of its dims.
    """

    added = frozenset({"scales"})

    block_size: int = Field(default=1, ge=1, le=4096)
    layout: Literal["auto", "normal", "shuffle"] = "auto"
    spare_blocks: int = Field(default=0, ge=0, le=4096)
    pages: Literal["ordered", "reversed", "permuted", "highest"] = "ordered"
    shared_prefix: bool = False
    page_pad: int = Field(default=0, ge=0, le=1 << 33)
    scales: Literal["fp32", "ue8m0"] = "fp32"

    @property
    def page_layout(self) -> Literal["normal", "shuffle"]:
        """What the layout comes to: "auto" is NORMAL for pages of one token, SHUFFLE for all others."""
        if self.layout == "auto":
            return "normal" if self.block_size == 1 else "shuffle"
        return self.layout

    @field_validator("page_pad")
    @classmethod
    def _pad_keeps_scales_aligned(cls, page_pad: int) -> int:
        if page_pad % 4:
            raise ValueError(f"page_pad {page_pad} must be a multiple of 4, the size of a scale")
        return page_pad


class Prefill(Part):
    """One request in prefill: `new` tokens in this step, `length` tokens in all once they are in the cache."""

    length: int = Field(ge=0, le=MAX_TOKENS)
    new: int = Field(ge=0, le=MAX_TOKENS)

    @model_validator(mode="after")
    def _new_within_length(self) -> Self:
        if self.new > self.length:
            raise ValueError(f"new {self.new} exceeds length {self.length}")
        return self


class Batch(Part):
    """The requests of the step. Tokens come in this order: decode rows (next_n each), prefill rows, padding.

    `decode` holds each request's visible context length, this step's tokens included. A length below next_n makes the
    first rows padding. `lens` chooses the shape of context_lens: [B], [B, next_n] consecutive, or [B, next_n] ragged.

    Of eight keys that prefill gathers, `gather_holes` are padding in the middle: their sequence is none of the batch.
    `select_holes` of eight entries of a selection are empty, wherever they stand. `slot_holes` of eight tokens have no
    slot, because an earlier step has written their keys. `positions` turn q and k, and say nothing about the cache.
    The window of a row of prefill ends `row_step` keys after that of the row before, up to the request's end.
    The last `gather_cut` of the gathered keys have no room, padding before others.
    `empty_windows` and `long_windows` draw rows that see nothing, and rows whose window ends beyond the last key.
    """

    added = frozenset(
        {
            "pad_seq",
            "gather_holes",
            "long_windows",
            "select_holes",
            "slot_holes",
            "positions",
            "row_step",
            "gather_cut",
        }
    )

    decode: tuple[Annotated[int, Field(ge=0, le=MAX_TOKENS)], ...] = ()
    prefill: tuple[Prefill, ...] = ()
    next_n: int = Field(default=1, ge=1, le=8)
    lens: Literal["1d", "2d", "ragged"] = "1d"
    max_model_len: int = Field(default=1, ge=1, le=MAX_TOKENS)
    pad_tokens: int = Field(default=0, ge=0, le=4096)
    short_slots: bool = False
    gather_pad: int = Field(default=0, ge=0, le=4096)
    empty_windows: bool = False
    pad_seq: PadSeq = "minus-one"
    gather_holes: int = Field(default=0, ge=0, le=8)
    long_windows: bool = False
    select_holes: int = Field(default=0, ge=0, le=8)
    slot_holes: int = Field(default=0, ge=0, le=8)
    positions: Positions = "rank"
    row_step: int = Field(default=1, ge=1, le=64)
    gather_cut: int = Field(default=0, ge=0, le=MAX_TOKENS)

    @property
    def decode_rows(self) -> int:
        """Rows of the paged logits."""
        return len(self.decode) * self.next_n

    @property
    def prefill_rows(self) -> int:
        """Rows of the prefill logits."""
        return sum(p.new for p in self.prefill)

    @property
    def keys(self) -> int:
        """Keys that prefill gathers, padding included, as far as there is room for them."""
        return max(sum(p.length for p in self.prefill) + self.gather_pad - self.gather_cut, 0)

    @property
    def tokens(self) -> int:
        """Tokens of the step, padding included."""
        return self.decode_rows + self.prefill_rows + self.pad_tokens


class Rope(Part):
    """How positions are rotated into q and k."""

    style: Literal["neox", "interleaved"] = "neox"
    placement: Literal["first", "last"] = "first"
    mode: Literal["inplace", "functional", "compiled"] = "functional"
    table: Literal["fp32", "bf16"] = "fp32"


class Memory(Part):
    """How tensors lie in memory. Pads count elements between rows that belong to nobody.

    Of eight entries of a block table that name a page, `missing_pages` name none: what `table_tail` says.
    `q_head_pad` and `q_fp8_head_pad` lie between the heads of a token, `lens_pad` between the rows of context_lens, and
    its entries `lens_step` elements apart. Tensors start at addresses that are a multiple of 16 bytes, and those that
    `shifted` names `shift` elements later, the cache `shift` scales. With `fused`, q and k are columns of one tensor,
    as a linear layer for both makes them.
    """

    added = frozenset(
        {
            "k_fp8_pad",
            "q_fp8_pad",
            "q_weights_pad",
            "logits_pad",
            "angles_pad",
            "missing_pages",
            "far",
            "q_head_pad",
            "q_fp8_head_pad",
            "lens_pad",
            "lens_step",
            "shift",
            "shifted",
            "fused",
            "columns_pad",
        }
    )

    k_pad: int = Field(default=0, ge=0, le=4096)
    q_pad: int = Field(default=0, ge=0, le=4096)
    weights_pad: int = Field(default=0, ge=0, le=4096)
    table_pad: int = Field(default=0, ge=0, le=4096)
    table_extra: int = Field(default=0, ge=0, le=4096)
    table_tail: TableTail = "minus-one"
    slots: Literal["int64", "int32"] = "int64"
    k_fp8_pad: int = Field(default=0, ge=0, le=4096)
    q_fp8_pad: int = Field(default=0, ge=0, le=4096)
    q_weights_pad: int = Field(default=0, ge=0, le=4096)
    logits_pad: int = Field(default=0, ge=0, le=4096)
    angles_pad: int = Field(default=0, ge=0, le=4096)
    missing_pages: int = Field(default=0, ge=0, le=8)
    far: Far = "none"
    q_head_pad: int = Field(default=0, ge=0, le=4096)
    q_fp8_head_pad: int = Field(default=0, ge=0, le=4096)
    lens_pad: int = Field(default=0, ge=0, le=4096)
    lens_step: int = Field(default=1, ge=1, le=64)
    shift: int = Field(default=0, ge=0, le=255)
    shifted: Shifted = "all"
    fused: bool = False
    columns_pad: int = Field(default=0, ge=0, le=4096)


OVERRIDABLE = {"q": 3, "k": 2, "weights": 2}
"""Tensors that may carry sparse overrides, and their number of dimensions."""


class Values(Part):
    """One regime per tensor, a seed, and sparse overrides `{tensor: ((i, j, ..., hex float), ...)}`."""

    rng: Literal["splitmix64-v1"] = "splitmix64-v1"
    seed: int = Field(default=0, ge=0, lt=1 << 63)
    q: Regime = "normal"
    k: Regime = "normal"
    weights: Regime = "normal"
    cache: Regime = "normal"
    rope: Regime = "normal"
    set: dict[str, tuple[tuple[int | str, ...], ...]] = Field(default_factory=dict)

    @field_validator("set")
    @classmethod
    def _overrides_are_well_formed(cls, overrides: dict[str, Any]) -> dict[str, Any]:
        for name, entries in overrides.items():
            if name not in OVERRIDABLE:
                raise ValueError(f"{name!r} is no tensor that can be overridden; use one of {', '.join(OVERRIDABLE)}")
            for entry in entries:
                *index, value = entry
                if len(index) != OVERRIDABLE[name] or not all(isinstance(i, int) and i >= 0 for i in index):
                    raise ValueError(f"{name}: {list(entry)} must be {OVERRIDABLE[name]} indices and a hex float")
                if not isinstance(value, str):
                    raise ValueError(f"{name}: {value!r} must be a C99 hex float in quotes")  # noqa: TRY004 - pydantic
                float.fromhex(value)
        return overrides


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
        if self.cache.scales != "fp32":
            raise ValueError("the keys of a session have fp32 scales: cache.scales must be fp32")
        if session.node in ("pool", "fused_pool") and self.model.head_dim.bit_count() != 1:
            raise ValueError(
                f'node "{session.node}" turns keys by a Hadamard matrix: '
                f"model.head_dim must be a power of two, not {self.model.head_dim}"
            )
        if values.set or "nonfinite" in (values.q, values.k, values.weights, values.cache, values.rope):
            raise ValueError("the values of a session are finite, and none is overridden")
        if session.length > self.batch.max_model_len:
            raise ValueError(
                f"session has a request of {session.length} tokens beyond max_model_len {self.batch.max_model_len}"
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
        cached = sum(batch.decode) + batch.keys
        tokens, keys = max(batch.tokens, self.session.tokens), self.num_blocks * self.cache.block_size
        sizes = {
            "q": tokens * q_columns,
            "k": tokens * (dim + self.memory.k_pad),
            "pages": keys * (dim + 4) if self.session.steps else 0,
            "logits": tokens * max(keys, batch.max_model_len) if self.session.steps else 0,
            "gathered keys": batch.keys * (dim + self.memory.k_fp8_pad),
            "keys": (cached + self.cache.block_size * (len(batch.decode) + len(batch.prefill))) * (dim + 4),
            "spare pages": self.cache.spare_blocks * self.cache.block_size * (dim + 4),
            "prefill logits": batch.prefill_rows * (batch.keys + self.memory.logits_pad),
            "paged logits": batch.decode_rows * (batch.max_model_len + self.memory.logits_pad),
        }
        page = self.cache.block_size * (dim + 4)
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
        """Whether such pages can be arranged so: SHUFFLE, which "auto" means above one token, takes whole tiles."""
        shuffled = layout == "shuffle" or (layout == "auto" and self.cache.block_size > 1)
        return not shuffled or not (self.cache.block_size % TILE or self.model.head_dim % TILE)

    @property
    def has_groups(self) -> bool:
        """Whether the keys may have so many scales: one each, or UE8M0 exponents, of a quarter each."""
        groups = self.model.head_dim / self.model.quant_group
        return groups in ((1, QUARTERS) if self.cache.scales == "ue8m0" else (1,))

    @property
    def has_scales(self) -> bool:
        """Whether the keys may have such scales: so many, and UE8M0 exponents are those of powers of two."""
        return self.has_groups and (self.model.scale_fmt == "ue8m0" or self.cache.scales != "ue8m0")

    def row_pad(self, name: str, rows: int, columns: int) -> int:
        """Elements between the rows of a tensor: its pad, or so many that the last row is far away.

        Two rows are never far apart: a stride beyond 2^31 would itself have 64 bits. Nor are many: each takes memory.
        Of a few quantised q, the last row of every decode request is far from its first.
        """
        if self.memory.far == name and 2 < rows <= MAX_FAR_PAGES:
            ahead = self.batch.next_n - 1
            steps = ahead if name == "q_fp8" and ahead > 1 and rows <= FEW * ahead else rows - 1
            return -(-FAR_ELEMENTS // steps) - columns
        return int(getattr(self.memory, f"{name}_pad"))

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
        data = self.model_dump()
        for part, fields in parts.items():
            data[part] = data.get(part, {}) | fields
        try:
            return type(self).model_validate(data)
        except ValidationError as error:
            raise CaseError(first_error(error)) from None

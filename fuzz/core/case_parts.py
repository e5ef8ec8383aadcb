"""The parts of a case, a frozen piece of data each, with what every field means and may be."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from indexfuzz.core.part import Part

MAX_TOKENS = 1 << 16

TILE = 16
"""Tokens, and bytes of a token, of one tile of the SHUFFLE layout."""

QUARTERS = 4
"""Groups of a key's dims that may have scales of their own."""

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
    "faint",
    "full",
    "nonfinite",
]
"""How the values of one tensor are drawn; fuzz/samples/regimes.py defines each."""

TableTail = Literal["minus-one", "num-blocks", "huge", "spare"]
"""What the unused columns of a block table hold: -1, num_blocks, 2^30, or a page of nobody as if it was left over, -1
where there is none. A correct kernel never looks at them."""

PadSeq = Literal["minus-one", "batch", "huge", "first", "last"]
"""The sequence that gathered padding claims to belong to: -1, B, 2^30, 0 or B - 1, for B sequences."""

Positions = Literal["rank", "shifted", "repeated", "gapped"]
"""What the positions of a request count: its tokens; from a later start; every token twice; three for each token."""

Far = Literal["none", "q", "k", "weights", "table", "k_fp8", "q_fp8", "q_weights", "logits", "columns", "state"]
"""A tensor whose last row starts beyond 2^31 elements; of a session "k" are values of tokens and keys that are made of
them, "weights" the scores beside the values, "table" all tables, and "state" what is kept of requests."""


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
    """The shape of the model's indexer, and how it norms keys: by LayerNorm, or by RMSNorm, which has no bias."""

    added = frozenset({"k_norm"})

    num_heads: int = Field(default=1, ge=1, le=256)
    head_dim: int = Field(default=32, ge=16, le=512)
    rope_dim: int = Field(default=16, ge=2, le=512)
    quant_group: int = Field(default=32, ge=1, le=512)
    scale_fmt: Literal["ue8m0", "fp32"] = "ue8m0"
    fp8: Literal["e4m3fn", "e4m3fnuz"] = "e4m3fn"
    index_topk: int = Field(default=4, ge=1, le=4096)
    k_norm: Literal["layer", "rms"] = "layer"

    @model_validator(mode="after")
    def _rope_fits(self) -> Self:
        if self.rope_dim % 2 or self.rope_dim > self.head_dim:
            raise ValueError(f"rope_dim {self.rope_dim} must be even and at most head_dim {self.head_dim}")
        return self


class Cache(Part):
    """The paged cache of quantised keys: uint8 [num_blocks, block_size, head_dim + 4], pages possibly padded.

    The scale of a key is an fp32, or `scales` "ue8m0": four exponents of a byte each, one for each quarter of its dims.
    With "mxfp4" two values take a byte, head_dim / 2 of them, beside four exponents. Those of a tile of tokens may be
    interleaved, in the layout "shuffle-scales".

    `others` says that a cache of another kind has the same storage: the spare pages are its own, and pages had been
    before they became ours. What is not written yet then holds numbers, where it is poison otherwise.
    """

    added = frozenset({"scales", "others"})

    block_size: int = Field(default=1, ge=1, le=4096)
    layout: Literal["auto", "normal", "shuffle", "shuffle-scales"] = "auto"
    spare_blocks: int = Field(default=0, ge=0, le=4096)
    pages: Literal["ordered", "reversed", "permuted", "highest"] = "ordered"
    shared_prefix: bool = False
    page_pad: int = Field(default=0, ge=0, le=1 << 33)
    scales: Literal["fp32", "ue8m0", "mxfp4"] = "fp32"
    others: bool = False

    @property
    def page_layout(self) -> Literal["normal", "shuffle", "shuffle-scales"]:
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
    def scores(self) -> int:
        """Products of a row and a key, of one head."""
        return sum(self.decode) * self.next_n + self.prefill_rows * self.keys

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

    Of eight entries of a block table that name a page, `missing_pages` name none: what `table_tail` says, or -1 where
    that is a page.
    `q_head_pad`, `q_fp8_head_pad`, `weights_head_pad` and `q_weights_head_pad` lie between the heads of a token,
    `lens_pad` between the rows of context_lens, and its entries `lens_step` elements apart. Tensors start at addresses
    that are a multiple of 16 bytes, and those that `shifted` names `shift` elements later, the cache `shift` scales.
    With `fused`, q and k are columns of one tensor, as a linear layer for both makes them. `indices` are tables,
    lengths, windows, and what says whose a token is, `activations` q and k.
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
            "indices",
            "positions",
            "head_weights",
            "norm_weights",
            "activations",
            "weights_head_pad",
            "q_weights_head_pad",
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
    indices: Literal["int32", "int64"] = "int32"
    positions: Literal["int64", "int32"] = "int64"
    head_weights: Literal["fp32", "bf16"] = "fp32"
    norm_weights: Literal["fp32", "bf16"] = "fp32"
    activations: Literal["bf16", "fp16", "fp32"] = "bf16"
    weights_head_pad: int = Field(default=0, ge=0, le=4096)
    q_weights_head_pad: int = Field(default=0, ge=0, le=4096)


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

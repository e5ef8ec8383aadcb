from functools import partial

import pytest
import torch
from torch import Tensor

from indexfuzz.checks.cache import Tokens, check_insertion
from indexfuzz.checks.quant import LegalRows
from indexfuzz.core.finding import Finding
from indexfuzz.reference import fp8, layout, legal
from indexfuzz.reference.quant import quantise, row_scale
from indexfuzz.reference.scales import FP32, ScaleFormat

HEAD_DIM, BLOCKS, TOKENS = 32, 24, 9


class Insertion:
    """Random tokens to insert, and ways to insert them."""

    BYTES = HEAD_DIM
    """Of a token's values."""

    def __init__(self, block_size: int, promised: str, *, seed: int = 0, pad: int = 8, tokens: int = TOKENS) -> None:
        torch.manual_seed(seed)
        width = self.BYTES + 4
        stride = block_size * width + pad
        memory = torch.full((BLOCKS * stride,), 0x7F, dtype=torch.uint8)
        self.cache = memory.as_strided((BLOCKS, block_size, width), (stride, width, 1))
        self.before = layout.pages(self.cache).clone()
        self.promised = promised
        self.k = torch.randn(tokens, HEAD_DIM).bfloat16()
        self.slots = torch.randperm(BLOCKS * block_size)[:tokens]
        self.scale = row_scale(self.k, scale_fmt="ue8m0", fp8="e4m3fn")
        self.codes = fp8.codes(quantise(self.k, self.scale, fp8="e4m3fn")).clone()

    def write(self, values_as: str, scales_as: str) -> None:
        """Insert, with values and scales where some arrangement has them; what lies beyond the cache is dropped."""
        block_size = self.cache.shape[1]
        found = layout.arrangements(block_size, self.BYTES, self.k.device)
        flat = layout.flat_bytes(self.cache)
        for i, slot in enumerate(self.slots.tolist()):
            page, t = slot // block_size * self.cache.stride(0), slot % block_size
            value_at, scale_at = page + found[values_as][0][t], page + found[scales_as][1][t]
            inside = value_at < len(flat)
            flat[value_at[inside]] = self.codes[i][inside]
            if int(scale_at[-1]) < len(flat):
                flat[scale_at] = self.scale[i : i + 1].view(torch.uint8)

    def judge(self, rows: list[int] | None = None) -> Finding | None:
        block_size = self.cache.shape[1]
        legal_rows = LegalRows(
            legal.legal_scales(self.k, scale_fmt="ue8m0", fp8="e4m3fn"),
            partial(legal.legal_codes, self.k, fp8="e4m3fn"),
            torch.float8_e4m3fn,
        )
        return check_insertion(
            self.before,
            layout.pages(self.cache),
            Tokens.at(self.slots, block_size, None if rows is None else torch.tensor(rows)),
            legal_rows,
            layout=self.promised,
            arrangements=layout.arrangements(block_size, HEAD_DIM, self.k.device),
            form=FP32,
        )


CORRECT = [(1, "normal"), (8, "normal"), (16, "normal"), (16, "shuffle"), (48, "shuffle"), (48, "shuffle-scales")]


@pytest.mark.parametrize(("block_size", "promised"), CORRECT)
def test_a_correct_insertion_passes(block_size: int, promised: str) -> None:
    for seed in range(5):
        case = Insertion(block_size, promised, seed=seed, pad=8 * seed)
        case.write(promised, promised)
        assert case.judge() is None


@pytest.mark.parametrize(
    ("block_size", "promised", "values_as", "scales_as", "words"),
    [
        (1, "normal", "shuffle", "normal", "the values lie as in the SHUFFLE layout, but NORMAL is promised"),
        (16, "normal", "shuffle", "normal", "the values lie as in the SHUFFLE layout, but NORMAL is promised"),
        (16, "shuffle", "normal", "normal", "the values lie as in the NORMAL layout, but SHUFFLE is promised"),
        (16, "normal", "interleaved", "interleaved", "the values lie as in the INTERLEAVED layout, the scales as in"),
        (32, "shuffle-scales", "shuffle", "normal", "the scales lie as in the NORMAL layout, but SHUFFLE-SCALES is"),
        (32, "shuffle", "shuffle", "shuffle-scales", "the scales lie as in the SHUFFLE-SCALES layout, but SHUFFLE is"),
        (
            32,
            "shuffle",
            "shuffle",
            "interleaved",
            "the scales lie as in the INTERLEAVED layout, but SHUFFLE is promised",
        ),
    ],
)
@pytest.mark.parametrize("tokens", [1, 9])
def test_another_arrangement_is_named(
    block_size: int, promised: str, values_as: str, scales_as: str, words: str, tokens: int
) -> None:
    case = Insertion(block_size, promised, tokens=tokens)
    case.slots[0] = block_size * 3 + 5 % block_size
    case.write(values_as, scales_as)
    found = case.judge()
    assert found is not None
    assert (found.kind, found.output) == (
        "layout-mismatch",
        "cache_scales" if values_as == "shuffle" and promised.startswith("shuffle") else "cache_values",
    )
    assert found.detail.startswith(words)


def test_an_arrangement_that_leaves_written_bytes_unexplained_is_not_named() -> None:
    """The end of the last token's values is missing, and all of them would be in SHUFFLE, beyond the cache."""
    case = Insertion(1, "normal", pad=0, tokens=1)
    case.slots[0] = BLOCKS - 1
    case.write("normal", "normal")
    case.cache[-1, 0, HEAD_DIM - 4 : HEAD_DIM] = 0x7F
    found = case.judge()
    assert found is not None
    assert (found.kind, found.index) == ("code-mismatch", (0, HEAD_DIM - 4))


def test_a_single_wrong_code_is_located() -> None:
    case = Insertion(16, "shuffle")
    case.codes[4, 17] ^= 0x80
    case.write("shuffle", "shuffle")
    found = case.judge(rows=[0, 1, 2, 3, 40, 5, 6, 7, 8])
    assert found is not None
    assert (found.kind, found.output, found.index) == ("code-mismatch", "cache_values", (40, 17))
    assert "1 of " in found.detail
    block, offset = divmod(int(case.slots[4]), 16)
    assert found.detail.endswith(f"(block {block}, offset {offset}, SHUFFLE layout)")


def test_the_neighbour_s_scale_is_recognised() -> None:
    case = Insertion(16, "shuffle", seed=3)
    case.k *= torch.exp2(torch.arange(TOKENS)).unsqueeze(1)
    case.scale = row_scale(case.k, scale_fmt="ue8m0", fp8="e4m3fn")
    case.codes = fp8.codes(quantise(case.k, case.scale, fp8="e4m3fn")).clone()
    case.scale = case.scale.roll(1)
    case.write("shuffle", "shuffle")
    found = case.judge()
    assert found is not None
    assert found.output == "cache_scales"
    assert "each but token 0 holds what belongs to the token before it" in found.detail


def test_a_token_that_was_not_written() -> None:
    case = Insertion(16, "normal")
    everything = case.slots
    case.slots = everything[:-1]
    case.write("normal", "normal")
    case.slots = everything
    found = case.judge()
    assert found is not None
    assert (found.kind, found.output, found.index) == ("unwritten", "cache_scales", (TOKENS - 1,))


def test_unwritten_tokens_do_not_explain_others_that_are_wrong() -> None:
    case = Insertion(16, "normal")
    everything = case.slots
    case.slots = everything[1:]
    case.codes, case.scale = case.codes[1:], case.scale[1:]
    case.codes[4, 17] ^= 0x80
    case.write("normal", "normal")
    case.slots = everything
    found = case.judge()
    assert found is not None
    assert (found.kind, found.output, found.index) == ("code-mismatch", "cache_scales", (0,))


def test_a_byte_that_belongs_to_nobody() -> None:
    case = Insertion(16, "shuffle")
    case.write("shuffle", "shuffle")
    free = next(s for s in range(BLOCKS * 16) if s not in case.slots.tolist())
    layout.write_tokens(
        case.cache, torch.tensor([free]), torch.zeros((1, HEAD_DIM), dtype=torch.uint8), torch.ones(1), "shuffle"
    )
    found = case.judge()
    assert found is not None
    assert (found.kind, found.output) == ("guard-write", "cache")
    assert f"{HEAD_DIM + 4} such bytes" in found.detail
    assert f"block {free // 16}" in found.detail
    assert f"the value at offset {free % 16}, dim 0 in the SHUFFLE layout" in found.detail


def test_nothing_to_insert() -> None:
    case = Insertion(16, "shuffle", tokens=0)
    assert case.judge() is None
    layout.pages(case.cache)[2, 16 * HEAD_DIM + 5] = 3
    found = case.judge()
    assert found is not None
    assert "the scale at offset 1" in found.detail


def test_the_tensor_may_be_a_dense_copy() -> None:
    case = Insertion(16, "shuffle", pad=0)
    case.write("shuffle", "shuffle")
    copy: Tensor = case.cache.clone()
    case.cache = copy
    assert case.judge() is None


class Packed(Insertion):
    """Tokens whose quarters have scales of their own, as exponents in a word."""

    FORM, NUMBERS = ScaleFormat("ue8m0", 4), "e4m3fn"

    def __init__(self, **options: int) -> None:
        super().__init__(16, "shuffle", **options)
        self.k *= torch.tensor([1.0, 2.0**9, 1.0, 2.0**-9]).repeat_interleave(HEAD_DIM // 4).bfloat16()
        self.scales = row_scale(self.FORM.grouped(self.k), scale_fmt="ue8m0", fp8=self.NUMBERS)
        groups = quantise(self.FORM.grouped(self.k), self.scales, fp8=self.NUMBERS)
        self.codes = self.FORM.write(fp8.codes(groups).view(self.k.shape)).clone()

    def insert(self) -> None:
        self.scale = self.FORM.store(self.scales)
        self.write("shuffle", "shuffle")

    def judge(self, rows: list[int] | None = None) -> Finding | None:
        groups = self.FORM.grouped(self.k)
        return check_insertion(
            self.before,
            layout.pages(self.cache),
            Tokens.at(self.slots, 16, None if rows is None else torch.tensor(rows)),
            LegalRows(
                legal.legal_scales(groups, scale_fmt="ue8m0", fp8=self.NUMBERS),
                partial(legal.legal_codes, groups, fp8=self.NUMBERS),
                torch.float8_e4m3fn,
            ),
            layout="shuffle",
            arrangements=layout.arrangements(16, self.BYTES, self.k.device),
            form=self.FORM,
        )


class Pairs(Packed):
    """The same in MXFP4: two values to a byte."""

    BYTES, FORM, NUMBERS = HEAD_DIM // 2, ScaleFormat("mxfp4", 4), "e2m1"


FORMS = pytest.mark.parametrize("form", [Packed, Pairs])


@FORMS
def test_quarters_with_scales_of_their_own_pass(form: type[Packed]) -> None:
    for seed in range(5):
        case = form(seed=seed)
        case.insert()
        assert case.judge() is None


@FORMS
def test_a_wrong_exponent_is_told_by_its_token_and_dims(form: type[Packed]) -> None:
    case = form()
    case.scales[4 * 2 + 1] *= 2
    case.insert()
    found = case.judge([10 * i for i in range(TOKENS)])
    assert found is not None
    assert (found.kind, found.output, found.index) == ("code-mismatch", "cache_scales", (20, 1))
    assert "token 20, dims 8 to 15" in found.detail


def test_a_wrong_value_of_a_quarter_is_told_by_its_token_and_dim() -> None:
    case = Packed()
    case.codes[3, 25] ^= 1
    case.insert()
    found = case.judge()
    assert found is not None
    assert (found.kind, found.output, found.index) == ("code-mismatch", "cache_values", (3, 25))


@FORMS
def test_bytes_in_another_order_are_wrong(form: type[Packed]) -> None:
    case = form()
    case.scales = case.scales.view(-1, 4).flip(1).flatten()
    case.insert()
    assert case.judge() is not None


def test_keys_with_scales_of_their_quarters_in_another_layout_are_named() -> None:
    case = Packed()
    case.scale = case.FORM.store(case.scales)
    case.write("normal", "normal")
    found = case.judge()
    assert found is not None
    assert (found.kind, found.layout) == ("layout-mismatch", "normal")


@FORMS
def test_keys_with_scales_of_their_quarters_that_were_never_written(form: type[Packed]) -> None:
    found = form().judge()
    assert found is not None
    assert found.kind == "unwritten"


def test_a_wrong_half_of_a_byte_is_told_by_its_dim() -> None:
    case = Pairs()
    case.codes[3, 12] ^= 0x10
    case.insert()
    found = case.judge()
    assert found is not None
    assert (found.kind, found.output, found.index) == ("code-mismatch", "cache_values", (3, 25))


def test_a_zero_of_either_sign_is_right() -> None:
    case = Pairs()
    case.k[3, :2] = 0.0
    case.codes[3, 0] = 0x88
    case.insert()
    assert case.judge() is None


def test_values_that_share_a_byte_of_nobody_are_told_by_the_first() -> None:
    case = Pairs()
    case.insert()
    empty = next(slot for slot in range(BLOCKS * 16) if slot not in case.slots.tolist())
    values, _ = layout.arrangements(16, Pairs.BYTES, case.k.device)["shuffle"]
    layout.pages(case.cache)[empty // 16, values[empty % 16, 3]] = 0
    found = case.judge()
    assert found is not None
    assert "dim 6 in the SHUFFLE layout) belongs to no token" in found.detail

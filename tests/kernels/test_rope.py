import pytest
import torch

from indexfuzz.kernels import rope as ours
from indexfuzz.kernels.rope import rope
from indexfuzz.reference.rope import rope as reference

STYLES = ["neox", "interleaved"]
PLACEMENTS = ["first", "last"]


def draw(rng, *, tokens=5, heads=6, head_dim=64, rope_dim=32, table=torch.float32, max_pos=40):
    q = torch.randn(tokens, heads, head_dim, generator=rng).bfloat16()
    k = torch.randn(tokens, head_dim, generator=rng).bfloat16()
    positions = torch.randint(0, max_pos, (tokens,), generator=rng)
    angles = torch.randn(max_pos, rope_dim, generator=rng).to(table)
    return q, k, positions, angles


def assert_rotated(inputs, got, **options):
    q, k, positions, table = inputs
    want_q, want_k = reference(q, k, positions, table, **options)
    assert torch.equal(got[0], want_q)
    assert torch.equal(got[1], want_k)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("mode", ["inplace", "functional"])
@pytest.mark.parametrize("table", [torch.float32, torch.bfloat16])
def test_equals_the_reference(rng, style, placement, mode, table):
    inputs = draw(rng, table=table)
    options = {"rope_dim": 32, "style": style, "placement": placement}
    got = rope(*(t.clone() for t in inputs), **options, mode=mode)
    assert_rotated(inputs, got, **options)


@pytest.mark.parametrize(
    "shape",
    [
        {"tokens": 1, "heads": 1},
        {"tokens": 65, "heads": 1},
        {"tokens": 17, "heads": 64},
        {"heads": 24},
        {"head_dim": 32, "rope_dim": 2},
        {"head_dim": 128, "rope_dim": 48},
        {"head_dim": 128, "rope_dim": 128},
    ],
)
@pytest.mark.parametrize("style", STYLES)
def test_shapes_around_the_tile(rng, shape, style):
    inputs = draw(rng, **shape)
    options = {"rope_dim": shape.get("rope_dim", 32), "style": style, "placement": "last"}
    assert_rotated(inputs, rope(*inputs, **options, mode="functional"), **options)


@pytest.mark.parametrize("mode", ["inplace", "functional"])
def test_column_slices(machine, rng, widen, mode):
    q, k, positions, table = inputs = draw(rng)
    wide_q, wide_k, wide_table = widen(q), widen(k), widen(table)
    for name, tensor in (("q", wide_q), ("k", wide_k), ("cos_sin_cache", wide_table)):
        machine.declare(name, tensor, initialised=True)
    options = {"rope_dim": 32, "style": "neox", "placement": "first"}
    got = rope(wide_q, wide_k, positions, wide_table, **options, mode=mode)
    assert_rotated(inputs, got, **options)


def test_in_place_returns_the_inputs_themselves(rng):
    q, k, positions, table = draw(rng)
    got_q, got_k = rope(q, k, positions, table, rope_dim=32, style="neox", placement="first", mode="inplace")
    assert got_q is q
    assert got_k is k


def test_functional_leaves_the_inputs_alone(rng):
    inputs = draw(rng)
    before = [t.clone() for t in inputs]
    got = rope(*inputs, rope_dim=32, style="neox", placement="first", mode="functional")
    assert all(torch.equal(t, b) for t, b in zip(inputs, before, strict=True))
    storages = {t.untyped_storage().data_ptr() for t in inputs}
    assert all(t.untyped_storage().data_ptr() not in storages for t in got)


@pytest.mark.parametrize("mode", ours.MODES)
def test_zero_tokens(rng, mode):
    q, k = rope(*draw(rng, tokens=0), rope_dim=32, style="neox", placement="first", mode=mode)
    assert q.shape == (0, 6, 64)
    assert k.shape == (0, 64)


@pytest.mark.parametrize(
    ("style", "formula"), [("neox", ours._neox_rotation), ("interleaved", ours._interleaved_rotation)]
)
def test_formula_that_is_compiled(rng, style, formula):
    q, k, positions, table = inputs = draw(rng)
    cos_sin = table[positions]
    got = formula(q[..., :32], cos_sin), formula(k[:, None, :32], cos_sin).squeeze(1)
    want = reference(*inputs, rope_dim=32, style=style, placement="first")
    assert torch.equal(got[0], want[0][..., :32])
    assert torch.equal(got[1], want[1][..., :32])


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # by torch itself, when it loads Inductor
def test_compiled_equals_the_reference_for_every_batch(integers):
    for tokens, heads in ((5, 6), (1, 6), (3, 1)):
        q, k = integers(tokens, heads, 64).bfloat16(), integers(tokens, 64).bfloat16()
        inputs = q, k, torch.arange(tokens), integers(tokens, 32)
        options = {"rope_dim": 32, "style": "neox", "placement": "last"}
        assert_rotated(inputs, rope(*inputs, **options, mode="compiled"), **options)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"style": "gptj"}, 'style must be one of neox, interleaved, got "gptj"'),
        ({"placement": "middle"}, 'placement must be one of first, last, got "middle"'),
        ({"mode": "eager"}, 'mode must be one of inplace, functional, compiled, got "eager"'),
        ({"rope_dim": 31}, "rope_dim must be even and 2 to head_dim 64, got 31"),
        ({"rope_dim": 66}, "rope_dim must be even and 2 to head_dim 64, got 66"),
        ({"rope_dim": 16}, r"cos_sin_cache must have shape \[any, 16\], got \[40, 32\]"),
    ],
)
def test_contract(rng, change, sentence):
    options = {"rope_dim": 32, "style": "neox", "placement": "first", "mode": "inplace"} | change
    with pytest.raises(ValueError, match=sentence):
        rope(*draw(rng), **options)


def test_contract_on_tensors(rng):
    q, k, positions, table = draw(rng)
    options = {"rope_dim": 32, "style": "neox", "placement": "first", "mode": "inplace"}
    with pytest.raises(ValueError, match="q must be bfloat16 or float16 or float32, got float64"):
        rope(q.double(), k, positions, table, **options)
    with pytest.raises(ValueError, match=r"k must have shape \[5, 64\], got \[4, 64\]"):
        rope(q, k[:4], positions, table, **options)
    with pytest.raises(ValueError, match="positions must be int64 or int32, got int16"):
        rope(q, k, positions.short(), table, **options)
    with pytest.raises(ValueError, match="k must be dense in its last dim"):
        rope(q, k.t().contiguous().t(), positions, table, **options)

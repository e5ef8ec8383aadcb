"""The fused kernels make the very bytes of the kernels of single steps."""

import pytest
import torch

from indexfuzz.kernels.cache import k_quant_cache
from indexfuzz.kernels.fused import fused_k, fused_q
from indexfuzz.kernels.norm import k_norm
from indexfuzz.kernels.quant import q_quant
from indexfuzz.kernels.rope import rope

QUANT = {"scale_fmt": "ue8m0", "fp8": "e4m3fn"}
ROPES = [
    {"rope_dim": rope_dim, "style": style, "placement": placement}
    for rope_dim in (2, 24, 64)
    for style in ("neox", "interleaved")
    for placement in ("first", "last")
]


def angles(rng, tokens, rope_dim, dtype=torch.float32):
    turns = torch.rand(40, rope_dim // 2, generator=rng) * 7
    return torch.randint(0, 40, (tokens,), generator=rng), torch.cat([turns.cos(), turns.sin()], 1).to(dtype)


def stepwise_q(q, weights, positions, table, options, quant=QUANT):
    none = torch.zeros(len(q), q.shape[2], dtype=torch.bfloat16)
    return q_quant(rope(q, none, positions, table, mode="functional", **options)[0], weights, **quant)


def stepwise_k(k, weight, bias, positions, table, cache, slots, options, rest):
    normed = k_norm(k, weight, bias, eps=1e-6)
    none = torch.zeros(len(k), 1, k.shape[1], dtype=torch.bfloat16)
    turned = rope(none, normed, positions, table, mode="functional", **options)[1]
    k_quant_cache(turned, cache, slots, **rest)


@pytest.mark.parametrize("options", ROPES, ids=lambda o: "-".join(map(str, o.values())))
def test_q_is_as_by_single_steps(machine, rng, widen, options):
    q, weights = torch.randn(7, 5, 64, generator=rng).bfloat16(), torch.randn(7, 5, generator=rng)
    positions, table = angles(rng, 7, options["rope_dim"])
    wide = widen(q)
    machine.declare("q", wide, initialised=True)
    got = fused_q(wide, widen(weights, 3), positions, table, **options, **QUANT)
    want = stepwise_q(q, weights, positions, table, options)
    assert torch.equal(got[0].view(torch.uint8), want[0].view(torch.uint8))
    assert torch.equal(got[1], want[1])


@pytest.mark.parametrize("fp8", ["e4m3fn", "e4m3fnuz"])
def test_q_of_small_rows_keeps_the_floor_of_its_scale(rng, fp8):
    q, options = torch.randn(5, 2, 32, generator=rng).bfloat16() * 1e-6, ROPES[5]
    positions, table = angles(rng, 5, options["rope_dim"], torch.bfloat16)
    quant = QUANT | {"fp8": fp8}
    got = fused_q(q, torch.ones(5, 2), positions, table, **options, **quant)
    want = stepwise_q(q, torch.ones(5, 2), positions, table, options, quant)
    assert torch.equal(got[0].view(torch.uint8), want[0].view(torch.uint8))
    assert torch.equal(got[1], want[1])


@pytest.mark.parametrize("options", ROPES, ids=lambda o: "-".join(map(str, o.values())))
@pytest.mark.parametrize(("layout", "block_size"), [("normal", 3), ("shuffle", 16)])
def test_k_is_as_by_single_steps(machine, rng, widen, make_cache, options, layout, block_size):
    k, positions_and_table = torch.randn(19, 64, generator=rng).bfloat16(), angles(rng, 19, options["rope_dim"])
    weight, bias = 1 + torch.randn(64, generator=rng) / 4, torch.randn(64, generator=rng)
    slots = torch.randperm(12 * block_size, generator=rng)[:18].int()
    slots[4] = -1
    rest = QUANT | {"quant_group": 64, "layout": layout}
    got, want = (make_cache(12, block_size, 64, pad=20) for _ in range(2))
    wide = widen(k)
    machine.declare("k", wide, initialised=True)
    fused_k(wide, weight, bias, *positions_and_table, got, slots, eps=1e-6, **options, **rest)
    stepwise_k(k, weight, bias, *positions_and_table, want, slots, options, rest)
    assert torch.equal(got, want)


def test_no_tokens(make_cache):
    none, options = torch.zeros(0, 32, dtype=torch.bfloat16), ROPES[0]
    positions, table = torch.zeros(0, dtype=torch.int64), torch.ones(1, 2)
    q_fp8, q_weights = fused_q(none.view(0, 1, 32), torch.zeros(0, 1), positions, table, **options, **QUANT)
    assert (q_fp8.shape, q_weights.shape) == ((0, 1, 32), (0, 1))
    cache, before = make_cache(1, 1, 32), make_cache(1, 1, 32)
    rest = QUANT | {"quant_group": 32, "layout": "auto"}
    fused_k(none, torch.ones(32), torch.ones(32), positions, table, cache, positions, eps=1e-6, **options, **rest)
    assert torch.equal(cache, before)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"scale_fmt": "fp32"}, 'scale_fmt must be one of ue8m0, got "fp32"'),
        ({"style": "gptj"}, 'style must be one of neox, interleaved, got "gptj"'),
        ({"placement": "middle"}, 'placement must be one of first, last, got "middle"'),
        ({"rope_dim": 3}, "rope_dim must be even and 2 to head_dim 32, got 3"),
        ({"positions": torch.zeros(2, dtype=torch.int16)}, "positions must be int64 or int32, got int16"),
        ({"cos_sin_cache": torch.ones(1, 4)}, r"cos_sin_cache must have shape \[any, 2\], got \[1, 4\]"),
    ],
)
def test_contract(make_cache, change, sentence):
    shared = {"positions": torch.zeros(2, dtype=torch.int64), "cos_sin_cache": torch.ones(1, 2), **ROPES[0], **QUANT}
    k = {"k": torch.zeros(2, 32, dtype=torch.bfloat16), "k_norm_weight": torch.ones(32), "k_norm_bias": torch.ones(32)}
    k |= {"cache": make_cache(1, 2, 32), "slot_mapping": torch.arange(2), "eps": 1e-6}
    with pytest.raises(ValueError, match=sentence):
        fused_q(torch.zeros(2, 1, 32, dtype=torch.bfloat16), torch.ones(2, 1), **(shared | change))
    with pytest.raises(ValueError, match=sentence):
        fused_k(**k, quant_group=32, layout="normal", **(shared | change))


def test_k_has_a_slot_for_no_more_tokens_than_there_are(make_cache):
    k, positions, table = torch.zeros(1, 32, dtype=torch.bfloat16), torch.zeros(1, dtype=torch.int64), torch.ones(1, 2)
    rest = ROPES[0] | QUANT | {"eps": 1e-6, "quant_group": 32, "layout": "normal"}
    with pytest.raises(ValueError, match="slot_mapping has 2 slots for 1 tokens"):
        fused_k(k, torch.ones(32), torch.ones(32), positions, table, make_cache(1, 2, 32), torch.arange(2), **rest)

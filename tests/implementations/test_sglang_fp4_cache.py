"""SGLang's cache of index keys in MXFP4: stand-ins of our own, and the real kernels."""

import pytest

from indexfuzz.core.case import Case
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.implementations import load
from indexfuzz.implementations.loading.source import SourceError
from indexfuzz.implementations.sglang.fp4_cache import CACHE, QUANT
from indexfuzz.oracles.differential import run

QUANT_TEXT = """\
    import torch
    from sglang.srt.runtime_context import get_platform

    NUMBERS = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])

    def quantize_fp4_indexer_tensor(x, rne=False):
        assert get_platform().is_blackwell
        groups = x.float().view(-1, 4, 32)
        scale = (groups.abs().amax(-1) / 6).clamp_min(1e-4)
        mantissa, exponent = torch.frexp(scale)
        exponent = exponent - (mantissa == 0.5).int() + 127
        value = groups / torch.ldexp(torch.ones(scale.shape), exponent - 127).unsqueeze(-1)
        away = (value.abs().unsqueeze(-1) - NUMBERS).abs()
        nearest = away.min(-1, keepdim=True).values == away
        even = nearest & (torch.arange(8) % 2 == 0) if rne else nearest
        code = torch.where(even.any(-1), even.int().argmax(-1), nearest.int().argmax(-1))
        code = (code + 8 * (value < 0)).flatten(1)
        packed = code[:, ::2] | code[:, 1::2] << 4
        return packed.to(torch.uint8).view(torch.int8), exponent.to(torch.uint8).view(torch.int32).squeeze(1)
"""
CACHE_TEXT = """\
    import torch
    from sglang.kernels.ops.attention.dsv4.fp4_indexer import INDEX_K_SLOT_BYTES
    from sglang.kernels.ops.quantization.fp4_indexer_quant import quantize_fp4_indexer_tensor

    def parts(cache, page_size):
        assert cache.shape[1] == page_size * INDEX_K_SLOT_BYTES
        keys = cache[:, : page_size * 64].unflatten(1, (page_size, 64))
        return keys, cache[:, page_size * 64 :].unflatten(1, (page_size, 4))

    def store_fp4_index_k_cache(input, cache, loc, *, page_size, rne=False):
        keys, scales = parts(cache, page_size)
        packed, words = quantize_fp4_indexer_tensor(input, rne=rne)
        keys[loc // page_size, loc % page_size] = packed.view(torch.uint8)
        scales[loc // page_size, loc % page_size] = words.view(torch.uint8).view(-1, 4)

    def gather_fp4_index_k(cache, slots, *, page_size):
        keys, scales = parts(cache, page_size)
        at = slots // page_size, slots % page_size
        return keys[at].view(torch.int8), scales[at].contiguous().view(torch.int32).squeeze(1)
"""
TREE = {QUANT: QUANT_TEXT, CACHE: CACHE_TEXT}
CASE = Case().replace(
    model={"head_dim": 128, "quant_group": 32},
    cache={"block_size": 64, "layout": "normal", "pages": "permuted", "scales": "mxfp4"},
    batch={"decode": (20, 5), "prefill": ({"length": 70, "new": 30},), "max_model_len": 32, "gather_pad": 3},
    values={"seed": 4},
)
CASES = (CASE, CASE.replace(values={"k": "ties"}), CASE.replace(values={"k": "clamp"}, batch={"slot_holes": 3}))


LONG = CASE.replace(batch={"decode": (), "prefill": ({"length": 4101, "new": 4101},), "max_model_len": 1})
"""From 4,096 tokens on that have a slot, rows share programs on Blackwell."""


def found_in(implementation):
    return {
        f"{finding.signature}" for case in CASES for finding in run(case, implementation, LockstepDevice()).findings
    }


def test_a_right_stand_in_passes(tree):
    implementation = load(f"sglang-fp4-cache:{tree.wheel('sglang', '0.5.23', TREE)}")
    assert implementation.name == "sglang 0.5.23 dsv41 fp4 cache"
    assert any("DeepSeek-V4.1 on NVIDIA" in note for note in implementation.notes)
    for case in CASES:
        outcome = run(case, implementation, LockstepDevice())
        assert (outcome.stages, outcome.findings) == (["k_quant_cache", "gather"], [])


@pytest.mark.parametrize(
    ("file", "old", "new", "stage"),
    [
        (QUANT, "torch.arange(8) % 2 == 0", "torch.arange(8) % 2 == 1", "k_quant_cache"),
        (QUANT, "code[:, ::2] | code[:, 1::2] << 4", "code[:, 1::2] | code[:, ::2] << 4", "k_quant_cache"),
        (QUANT, "clamp_min(1e-4)", "clamp_min(1e-6)", "k_quant_cache"),
        (QUANT, "/ 6)", "/ 7)", "k_quant_cache"),
        (CACHE, "view(torch.uint8).view(-1, 4)", "view(torch.uint8).view(-1, 4).flip(1)", "k_quant_cache"),
        (CACHE, "at = slots // page_size,", "at = slots // page_size * 0,", "gather"),
        (CACHE, "scales[at].contiguous()", "scales[at].flip(1).contiguous()", "gather"),
    ],
)
def test_a_mistake_in_a_copy_is_found_and_put_down_to_its_stage(tree, file, old, new, stage):
    assert TREE[file].count(old) == 1
    found = found_in(load(f"sglang-fp4-cache:{tree.folder(TREE | {file: TREE[file].replace(old, new)})}"))
    assert found
    assert all(signature.startswith(stage) for signature in found)


def found_in_a_long_chunk(implementation):
    found = run(LONG, implementation, LockstepDevice(), frozenset({"k_quant_cache"})).findings
    return {f"{finding.signature}" for finding in found}


def test_a_mistake_in_what_long_chunks_take_shows_in_one_alone(tree):
    assert QUANT_TEXT.count("amax(-1) / 6)") == 1
    wrong = QUANT_TEXT.replace("amax(-1) / 6)", "amax(-1) / (6 if len(x) < 4096 else 12))")
    right = load(f"sglang-fp4-cache:{tree.wheel('sglang', '0.5.23', TREE)}")
    implementation = load(f"sglang-fp4-cache:{tree.folder(TREE | {QUANT: wrong})}")
    assert found_in_a_long_chunk(right) == set()
    assert found_in(implementation) == set()
    assert found_in_a_long_chunk(implementation) == {"k_quant_cache/code-mismatch/cache_scales"}


def test_keys_of_other_forms_are_none_of_its(tree):
    implementation = load(f"sglang-fp4-cache:{tree.folder(TREE)}")
    plain = CASE.replace(cache={"scales": "fp32"}, model={"quant_group": 128})
    assert run(plain, implementation, LockstepDevice()).stages == []


def test_a_release_without_it_is_refused(tree):
    with pytest.raises(SourceError):
        load(f"sglang-fp4-cache:{tree.wheel('sglang', '0.5.23', {'sglang/other.py': ''})}")


@pytest.mark.wheel
@pytest.mark.parametrize("third_party", ["INDEXFUZZ_SGLANG"], indirect=True)
def test_0_5_23_passes(third_party):
    implementation = load(f"sglang-fp4-cache:{third_party}")
    assert found_in(implementation) | found_in_a_long_chunk(implementation) == set()

import pytest
import torch

from indexfuzz.core.case import Case
from indexfuzz.implementations.loading.source import SourceError
from indexfuzz.implementations.sglang import adapter
from indexfuzz.lockstep import Lockstep
from indexfuzz.reference import cache as reference

CACHE = "sglang/kernels/ops/kvcache/dsa_index_k_cache.py"
QUANT = "sglang/kernels/ops/quantization/act_quant_triton.py"
UTILS = "sglang/srt/layers/attention/dsa/utils.py"

CACHE_TEXT = """\
    import torch
    from sglang.kernels.ops.quantization.fp8_kernel import is_fp8_fnuz
    from sglang.srt.layers.attention.dsa.utils import (
        INDEXER_K_CACHE_PRESHUFFLE_TILE,
        aiter_can_use_preshuffle_paged_mqa,
    )
    from sglang.srt.utils import is_hip, is_xpu

    PLATFORM = (is_hip(), aiter_can_use_preshuffle_paged_mqa())
    SEEN = []
    assert not is_fp8_fnuz() and not is_xpu()

    class SetKAndS:
        @classmethod
        def execute(cls, pool, buf, loc, index_k, index_k_scale):
            tile = INDEXER_K_CACHE_PRESHUFFLE_TILE
            SEEN.append((PLATFORM, pool.index_page_size, tuple(buf.shape), loc.tolist(), tile))
            assert tuple(index_k.shape) == (2, 128) and tuple(index_k_scale.shape) == (2, 1)

    class GetKAndS:
        @classmethod
        def execute(cls, pool, buf, page_indices, seq_len_tensor, seq_len_sum, max_seq_len):
            SEEN.append((PLATFORM, seq_len_tensor.tolist(), seq_len_sum, max_seq_len))
            scale = torch.full((seq_len_sum,), 0.5).view(torch.uint8).view(seq_len_sum, 4)
            return torch.full((seq_len_sum, 128), 0x38, dtype=torch.uint8), scale
"""
QUANT_TEXT = """\
    import torch
    SEEN = []
    def act_quant(x, block_size=128, scale_fmt=None):
        SEEN.append((tuple(x.shape), block_size, scale_fmt))
        return x.to(torch.float8_e4m3fn), torch.full((*x.shape[:-1], 1), 2.0)
"""
UTILS_TEXT = """\
    from sglang.srt.runtime_context import process_model_config
    LIMIT = 1 // process_model_config.number
    INDEXER_K_CACHE_PRESHUFFLE_TILE = 16
    def aiter_can_use_preshuffle_paged_mqa():
        raise RuntimeError("asks the GPU")
"""
FILES = {CACHE: CACHE_TEXT, QUANT: QUANT_TEXT, UTILS: UTILS_TEXT}


@pytest.fixture
def implementation(tree):
    return adapter.load(tree.wheel("sglang", "0.5.23", FILES))


def pages(block_size):
    return torch.zeros(3, block_size, 132, dtype=torch.uint8)


class TestKernels:
    def test_is_found_in_a_checkout(self, tree):
        checkout = tree.folder({f"python/{name}": text for name, text in FILES.items()})
        assert adapter.load(checkout).name == "sglang unknown"

    @pytest.mark.parametrize(
        ("layout", "block_size", "platform"),
        [
            ("normal", 64, (False, False)),
            ("auto", 1, (True, False)),
            ("shuffle", 16, (True, True)),
            ("auto", 64, (True, True)),
        ],
    )
    def test_layout_chooses_the_platform(self, implementation, layout, block_size, platform):
        write = implementation.stages["k_quant_cache"]
        k = torch.zeros(5, 128, dtype=torch.bfloat16)
        options = {"scale_fmt": "ue8m0", "fp8": "e4m3fn", "quant_group": 128, "layout": layout}
        write(k, pages(block_size), torch.tensor([4, 7]), **options)
        kernels = write.__self__
        assert kernels.quant_module().SEEN == [((2, 128), 128, "ue8m0")]
        seen = kernels.cache_module(layout, block_size).SEEN
        assert seen == [(platform, block_size, (3, block_size * 132), [4, 7], 16)]

    def test_tokens_without_a_slot_are_left_out(self, implementation):
        k = torch.zeros(5, 128, dtype=torch.bfloat16)
        options = {"scale_fmt": "ue8m0", "fp8": "e4m3fn", "quant_group": 128, "layout": "normal"}
        write = implementation.stages["k_quant_cache"]
        write(k, pages(64), torch.tensor([-1, 4, -1, 7]), **options)
        ((_, _, _, loc, _),) = write.__self__.cache_module("normal", 64).SEEN
        assert loc == [4, 7]

    def test_gather_copies_what_is_returned(self, implementation):
        k_fp8, k_scale = torch.zeros(5, 128).to(torch.float8_e4m3fn), torch.zeros(5)
        read = implementation.stages["gather"]
        read(pages(64), None, torch.tensor([0, 3, 5]), None, k_fp8, k_scale, quant_group=128, layout="normal")
        assert k_fp8.float().eq(1.0).all()
        assert k_scale.tolist() == [0.5] * 5
        assert read.__self__.cache_module("normal", 64).SEEN == [((False, False), [3, 2], 5, 3)]

    def test_shuffled_pages_cannot_be_gathered(self, implementation):
        k_fp8, k_scale = torch.zeros(5, 128).to(torch.float8_e4m3fn), torch.zeros(5)
        with pytest.raises(ValueError, match=r"SHUFFLE pages with a C\+\+ op of AITER"):
            implementation.stages["gather"](
                pages(64), None, torch.tensor([0, 5]), None, k_fp8, k_scale, quant_group=128, layout="auto"
            )

    def test_scales_are_folded_into_the_weights(self, implementation):
        q, weights = torch.ones(1, 4, 128, dtype=torch.bfloat16), torch.full((1, 4), 3.0)
        q_fp8, folded = implementation.stages["q_quant"](q, weights, scale_fmt="fp32", fp8="e4m3fn")
        assert q_fp8.shape == q.shape
        assert folded.tolist() == [pytest.approx([3.0 * 2.0 * 128**-0.5 / 2] * 4)]
        assert implementation.stages["q_quant"].__self__.quant_module().SEEN == [((1, 4, 128), 128, None)]

    def test_says_that_logits_are_somebody_elses(self, implementation):
        assert not any(stage.endswith("logits") for stage in implementation.stages)
        assert any("DeepGEMM, CuTe DSL or AITER" in note for note in implementation.notes)

    def test_a_release_without_the_file(self, tree):
        with pytest.raises(SourceError, match=rf"has no {CACHE}: .* versions 0\.5\.23 are known"):
            adapter.load(tree.folder({QUANT: QUANT_TEXT}))


def case(**parts):
    model = {"num_heads": 4, "head_dim": 128, "quant_group": 128, **parts.pop("model", {})}
    cache = {"block_size": 64, "layout": "normal", **parts.pop("cache", {})}
    batch = {"decode": (3,), "prefill": ({"length": 4, "new": 2},), "max_model_len": 8, **parts.pop("batch", {})}
    return Case().replace(model=model, cache=cache, batch=batch, **parts)


class TestContract:
    @pytest.mark.parametrize(
        ("stage", "parts", "reason"),
        [
            ("q_quant", {"model": {"fp8": "e4m3fnuz"}}, "writes e4m3fn"),
            ("q_quant", {"model": {"scale_fmt": "fp32"}}, "scale_fmt is ue8m0"),
            ("q_quant", {"memory": {"q_pad": 8}}, "q is dense"),
            ("k_quant_cache", {"model": {"head_dim": 64, "quant_group": 64}}, "head_dim is 128"),
            ("k_quant_cache", {"model": {"quant_group": 64}}, "one scale"),
            ("k_quant_cache", {"memory": {"k_pad": 8}}, "k is dense"),
            ("k_quant_cache", {"cache": {"page_pad": 16}}, "the cache is dense"),
            ("gather", {"cache": {"block_size": 16}}, "NORMAL pages hold 1"),
            ("gather", {"cache": {"block_size": 24, "layout": "auto"}}, "a multiple of 16"),
            ("gather", {"cache": {"layout": "auto"}}, "C++ op of AITER"),
            ("gather", {"batch": {"prefill": ()}}, "a request in prefill"),
            ("gather", {"batch": {"gather_pad": 1}}, "exactly the sum"),
            ("gather", {"memory": {"table_pad": 1}}, "page table is dense"),
        ],
    )
    def test_outside(self, implementation, stage, parts, reason):
        assert reason in implementation.contract.outside(stage, case(**parts))
        assert not implementation.contract.must_reject(stage, case(**parts))

    @pytest.mark.parametrize(
        ("stage", "parts"),
        [
            ("q_quant", {}),
            ("k_quant_cache", {}),
            ("k_quant_cache", {"cache": {"block_size": 48, "layout": "shuffle"}}),
            ("k_quant_cache", {"batch": {"pad_tokens": 1, "short_slots": True}}),
            ("gather", {"cache": {"block_size": 1, "layout": "auto"}}),
            ("gather", {"model": {"fp8": "e4m3fnuz"}}),
            ("topk", {}),
        ],
    )
    def test_inside(self, implementation, stage, parts):
        assert implementation.contract.outside(stage, case(**parts)) is None


@pytest.mark.wheel
@pytest.mark.parametrize("third_party", ["INDEXFUZZ_SGLANG"], indirect=True)
@pytest.mark.parametrize(("layout", "block_size"), [("normal", 64), ("auto", 1), ("shuffle", 32)])
def test_the_real_writer(third_party, layout, block_size):
    k = torch.arange(-128, 128).view(2, 128).bfloat16()
    slots = torch.tensor([2 * block_size, block_size + block_size // 2])
    options = {"scale_fmt": "ue8m0", "fp8": "e4m3fn", "quant_group": 128, "layout": layout}
    got, want = pages(block_size), pages(block_size)
    with Lockstep() as machine:
        adapter.load(third_party).stages["k_quant_cache"](k, got, slots, **options)
    reference.k_quant_cache(k, want, slots, **options)
    assert machine.violations == []
    assert torch.equal(got, want)

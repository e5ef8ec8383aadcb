import re
import sys
from pathlib import Path

import pytest
import torch

from indexfuzz.core.case import Case
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.implementations import load
from indexfuzz.implementations.base import MalformedResultError
from indexfuzz.implementations.loading.source import SourceError
from indexfuzz.lockstep import Lockstep
from indexfuzz.oracles.differential import run
from indexfuzz.reference import cache as reference

OPS = "vllm/v1/attention/ops/rocm_aiter_mla_sparse.py"

OLD_OPS = """\
    import torch
    from vllm.platforms import current_platform
    from vllm.triton_utils import tl, triton

    SEEN = []

    @triton.jit
    def _unused_kernel(ptr):
        tl.store(ptr, 1)

    def indexer_k_quant_and_cache_triton(k, kv_cache, slot_mapping, quant_block_size, scale_fmt):
        SEEN.append((tuple(k.shape), quant_block_size, scale_fmt, current_platform.fp8_dtype()))

    def cp_gather_indexer_k_quant_cache_triton(
        k_cache, k_fp8, k_fp8_scale, block_table, cu_seqlen, token_to_seq, block_tile_size=16, head_tile_size=16
    ):
        SEEN.append((k_fp8.dtype, k_fp8_scale.dtype, tuple(k_fp8_scale.shape)))
        k_fp8_scale.view(torch.float32).fill_(0.5)

    def fp8_mqa_logits_torch(q, kv, weights, cu_seqlen_ks, cu_seqlen_ke):
        SEEN.append(tuple(kv[1].shape))
        return torch.full((q.shape[0], kv[0].shape[0]), 2.0, device="cuda")

    def fp8_paged_mqa_logits_torch(q, kv_cache, weights, context_lens, block_tables, max_model_len):
        from vllm.utils.math_utils import cdiv

        SEEN.append((tuple(kv_cache.shape), max_model_len, cdiv(max_model_len, 4)))
        return torch.full((context_lens.shape[0], max_model_len), 3.0, device="cuda")

    def _topk_indices_torch(logits, topk_tokens):
        return torch.topk(logits, topk_tokens).indices.int()

    def dispatch(k):
        ops.indexer_k_quant_and_cache(k)
"""

NEW_OPS = """\
    import torch
    from vllm.logger import init_logger
    from vllm.platforms import current_platform
    from vllm.v1.worker.workspace import current_workspace_manager

    if current_platform.is_rocm():
        from vllm.platforms.rocm import _ON_GFX942, _ON_GFX950
    logger = init_logger(__name__)
    FP8_DTYPE = current_platform.fp8_dtype()
    SEEN = []

    def indexer_k_quant_and_cache_triton(k, kv_cache, slot_mapping, quant_block_size, scale_fmt):
        SEEN.append((FP8_DTYPE, _ON_GFX942, _ON_GFX950))
        logger.info_once("inserting %s", k)

    def cp_gather_indexer_k_quant_cache_triton(
        k_cache, k_fp8, k_fp8_scale, block_table, cu_seqlen, token_to_seq, cache_layout=None
    ):
        SEEN.append(cache_layout)

    def fp8_mqa_logits_torch(q, kv, weights, cu_seqlen_ks, cu_seqlen_ke):
        return torch.full((q.shape[0], 1), 2.0)

    def fp8_paged_mqa_logits_torch(q, kv_cache, weights, context_lens, block_tables, max_model_len):
        return torch.full((context_lens.shape[0], max_model_len), 3.0)

    def rocm_fp8_paged_mqa_logits_triton(): ...

    def rocm_fp8_paged_mqa_logits(
        q_fp8, kv_cache_fp8, weights, context_lens, block_tables, schedule_metadata, max_model_len, *, compress_ratio=1
    ):
        SEEN.append(compress_ratio)
        (out,) = current_workspace_manager().get_simultaneous(((1, max_model_len), torch.float32))
        out[0, 0] = 7.0
        return out
"""

INDEXER = """\
    import torch
    from torch import nn
    from transformers_of_another_age import DeepseekV2Config
    import vllm._custom_ops as ops
    from vllm.compilation.decorators import support_torch_compile
    from vllm.config import CacheConfig, VllmConfig, get_current_vllm_config
    from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase
    from vllm.model_executor.layers.layernorm import LayerNorm
    from vllm.model_executor.layers.linear import ReplicatedLinear, MergedColumnParallelLinear
    from vllm.model_executor.layers.quantization.utils.fp8_utils import per_token_group_quant_fp8
    from vllm.model_executor.layers.sparse_attn_indexer import SparseAttnIndexer
    from vllm.platforms import current_platform
    from .interfaces import SupportsPP

    UNRELATED = 1 // ops.number_of_devices()

    class IndexerCache(nn.Module, AttentionLayerBase):
        def __init__(self, prefix: str, cache_config: CacheConfig | None):
            super().__init__()
            get_current_vllm_config().compilation_config.static_forward_context[prefix] = self

    class Indexer(nn.Module):
        def __init__(self, vllm_config: VllmConfig, config: DeepseekV2Config | None, hidden_size, q_lora_rank,
                     quant_config, cache_config, topk_indices_buffer, prefix=""{inplace_parameter}):
            super().__init__()
            self.n_head, self.head_dim = config.index_n_heads, config.index_head_dim
            self.rope_dim = config.qk_rope_head_dim
            self.wq_b = ReplicatedLinear(q_lora_rank, self.n_head * self.head_dim)
            self.wk_weights_proj = MergedColumnParallelLinear(hidden_size, [self.head_dim, self.n_head])
            self.k_norm = LayerNorm(self.head_dim)
            self.k_cache = IndexerCache(f"{{prefix}}.k_cache", cache_config)
            self.indexer_op = SparseAttnIndexer(self.k_cache)
            self.fast = current_platform.is_rocm(){inplace_condition}

        def forward(self, hidden_states, qr, positions, rotary_emb):
            q, _ = self.wq_b(qr)
            q = q.view(-1, self.n_head, self.head_dim)
            kw, _ = self.wk_weights_proj(hidden_states)
            k, weights = self.k_norm(kw[:, : self.head_dim]), kw[:, self.head_dim :]
            q_pe, k_pe = q[..., : self.rope_dim], k[..., : self.rope_dim].unsqueeze(1)
            if self.fast:
                rotary_emb(positions, q_pe, k_pe)
            else:
                q_pe, k_pe = rotary_emb(positions, q_pe, k_pe)
                q = torch.cat([q_pe, q[..., self.rope_dim :]], dim=-1)
                k = torch.cat([k_pe.squeeze(1), k[..., self.rope_dim :]], dim=-1)
            q_fp8, scale = per_token_group_quant_fp8(q.view(-1, self.head_dim), 128, use_ue8m0=True)
            weights = weights * scale.view(-1, self.n_head)
            return self.indexer_op(hidden_states, q_fp8, k, weights)

    @support_torch_compile
    class Model(nn.Module, SupportsPP): ...
"""
OLD_INDEXER = INDEXER.format(inplace_parameter="", inplace_condition="")
NEW_INDEXER = INDEXER.format(inplace_parameter=", is_inplace_rope=False", inplace_condition=" and is_inplace_rope")

BACKEND = """\
    from vllm.platforms import current_platform
    from vllm.v1.attention.backend import AttentionBackend, MultipleOf
    class DeepseekV32IndexerBackend(AttentionBackend):
        @staticmethod
        def get_supported_kernel_block_sizes():
            return [1, MultipleOf(16)] if current_platform.is_rocm() else [64]
        @classmethod
        def get_supported_head_sizes(cls):
            return [32, 128]
"""
DISPATCH = "class SparseAttnIndexer:\n    def forward_hip(self):\n        return on_gfx950()\n"
MODEL = "vllm/model_executor/models/deepseek_v2.py"
NEW = {
    OPS: NEW_OPS,
    MODEL: NEW_INDEXER,
    "vllm/v1/attention/backends/mla/indexer.py": BACKEND,
    "vllm/model_executor/layers/sparse_attn_indexer.py": DISPATCH,
}
OLD = {OPS: OLD_OPS, MODEL: OLD_INDEXER}


@pytest.fixture
def old(tree):
    return load(f"vllm:{tree.wheel('vllm', '0.22.0', OLD)}")


@pytest.fixture
def new(tree):
    return load(f"vllm:{tree.folder(NEW)}")


@pytest.fixture
def new_logits(tree):
    return load(f"vllm-v4-logits:{tree.folder(NEW)}")


@pytest.fixture
def old_torch(tree):
    return load(f"vllm-torch:{tree.wheel('vllm', '0.22.0', OLD)}")


@pytest.fixture
def new_torch(tree):
    return load(f"vllm-torch:{tree.folder(NEW)}")


def seen(implementation, stage="gather", fp8="e4m3fn"):
    return implementation.stages[stage].__self__.module(fp8).SEEN


def page(block_size=4, dim=32):
    return torch.zeros(3, block_size, dim + 4, dtype=torch.uint8)


class TestKernels:
    def test_is_named_after_the_release(self, old, new):
        assert (old.name, new.name) == ("vllm 0.22.0", "vllm unknown")

    @pytest.mark.usefixtures("old", "new")
    def test_leaves_no_vllm_behind(self):
        assert not [name for name in sys.modules if name.partition(".")[0] == "vllm"]

    def test_k_is_cut_to_the_slots(self, old):
        k = torch.zeros(5, 32, dtype=torch.bfloat16)
        options = {"scale_fmt": "ue8m0", "fp8": "e4m3fn", "quant_group": 32, "layout": "auto"}
        old.stages["k_quant_cache"](k, page(), torch.zeros(3, dtype=torch.int64), **options)
        assert seen(old) == [((3, 32), 32, "ue8m0", torch.float8_e4m3fn)]

    @pytest.mark.parametrize(("fp8", "gfx942"), [("e4m3fn", False), ("e4m3fnuz", True)])
    def test_every_format_has_its_own_platform(self, new, fp8, gfx942):
        k = torch.zeros(1, 32, dtype=torch.bfloat16)
        options = {"scale_fmt": "fp32", "fp8": fp8, "quant_group": 32, "layout": "auto"}
        new.stages["k_quant_cache"](k, page(), torch.zeros(1, dtype=torch.int64), **options)
        assert seen(new, fp8=fp8) == [(getattr(torch, f"float8_{fp8}"), gfx942, not gfx942)]

    def test_gathered_scales_are_bytes_of_the_output(self, old):
        k_fp8, k_scale = torch.zeros(6, 32).to(torch.float8_e4m3fnuz), torch.zeros(6)
        old.stages["gather"](page(), None, None, None, k_fp8, k_scale, quant_group=32, layout="auto")
        assert seen(old, fp8="e4m3fnuz") == [(torch.float8_e4m3fnuz, torch.uint8, (6, 4))]
        assert k_scale.tolist() == [0.5] * 6

    @pytest.mark.parametrize(
        ("layout", "block_size", "passed"), [("auto", 4, None), ("normal", 4, "NORMAL"), ("normal", 1, None)]
    )
    def test_gather_is_told_of_normal_pages_of_several_tokens(self, new, layout, block_size, passed):
        k_fp8 = torch.zeros(1, 32).to(torch.float8_e4m3fn)
        new.stages["gather"](page(block_size), None, None, None, k_fp8, torch.zeros(1), quant_group=32, layout=layout)
        assert seen(new) == [passed]

    def test_paged_logits_are_taken_from_the_workspace(self, new_logits):
        q, logits = torch.zeros(1, 1, 1, 32).to(torch.float8_e4m3fn), torch.full((1, 3), 5.0)
        new_logits.stages["paged_logits"](q, page(), None, torch.ones(1), None, logits, layout="normal")
        assert seen(new_logits, "paged_logits") == [4]
        assert logits.tolist() == [[7.0, float("-inf"), float("-inf")]]

    def test_a_layout_that_no_argument_asks_for_is_refused(self, old, new, new_logits):
        k = torch.zeros(1, 32, dtype=torch.bfloat16)
        options = {"scale_fmt": "ue8m0", "fp8": "e4m3fn", "quant_group": 32, "layout": "normal"}
        with pytest.raises(ValueError, match="several tokens are SHUFFLE"):
            new.stages["k_quant_cache"](k, page(), torch.zeros(1, dtype=torch.int64), **options)
        k_fp8 = torch.zeros(1, 32).to(torch.float8_e4m3fn)
        with pytest.raises(ValueError, match="several tokens are SHUFFLE"):
            old.stages["gather"](page(), None, None, None, k_fp8, torch.zeros(1), quant_group=32, layout="normal")
        with pytest.raises(ValueError, match="in NORMAL layout only"):
            new_logits.stages["paged_logits"](None, page(), None, None, None, None, layout="auto")

    def test_only_newer_releases_score_with_triton(self, tree, old, new, new_logits):
        assert all("paged_logits" not in release.stages for release in (old, new))
        assert list(new_logits.stages) == ["paged_logits"]
        assert any("vllm-torch:PATH" in note for note in old.notes)
        assert [any("vllm-v4-logits:PATH" in note for note in release.notes) for release in (old, new)] == [False, True]
        with pytest.raises(SourceError, match="no Triton kernel that scores NORMAL pages"):
            load(f"vllm-v4-logits:{tree.wheel('vllm', '0.22.0', OLD)}")

    def test_says_what_it_replaced(self, new):
        assert {"vllm.platforms.current_platform", "vllm.logger.init_logger"} <= set(new.replaced)

    def test_a_release_without_the_file(self, tree):
        with pytest.raises(SourceError, match=rf"has no {OPS}: .* versions 0\.21 to 0\.33 are known"):
            load(f"vllm:{tree.folder({MODEL: OLD_INDEXER})}")

    def test_a_release_that_renamed_a_launcher(self, tree):
        text = OLD_OPS.replace("fp8_mqa_logits_torch", "renamed").replace("cp_gather_indexer", "other")
        path = tree.folder({OPS: text})
        with pytest.raises(SourceError, match=f"{OPS} of vllm unknown has no cp_gather_indexer_k_quant_cache_triton;"):
            load(f"vllm:{path}")
        with pytest.raises(SourceError, match=f"{OPS} of vllm unknown has no fp8_mqa_logits_torch; versions"):
            load(f"vllm-torch:{path}")


class TestFallbacks:
    def test_prefill_scales_are_a_column_as_the_caller_has_them(self, old_torch):
        q, k, logits = torch.zeros(2, 1, 32), torch.zeros(3, 32).to(torch.float8_e4m3fn), torch.zeros(2, 3)
        old_torch.stages["prefill_logits"](q, k, torch.ones(3), None, None, None, logits)
        assert seen(old_torch, "prefill_logits") == [(3, 1)]
        assert logits.eq(2.0).all()

    def test_a_result_of_another_shape(self, new_torch):
        q, k, logits = torch.zeros(2, 1, 32), torch.zeros(3, 32).to(torch.float8_e4m3fn), torch.zeros(2, 3)
        with pytest.raises(MalformedResultError, match=r"returned \[2, 1\] instead of \[2, 3\]"):
            new_torch.stages["prefill_logits"](q, k, torch.ones(3), None, None, None, logits)

    def test_paged_logits(self, old_torch):
        q, logits = torch.zeros(2, 1, 1, 32).to(torch.float8_e4m3fn), torch.zeros(2, 9)
        old_torch.stages["paged_logits"](q, page(), None, torch.ones(2), None, logits, layout="normal")
        assert seen(old_torch, "paged_logits") == [((3, 4, 1, 36), 9, 3)]
        assert logits.eq(3.0).all()

    def test_top_k_where_a_release_has_one(self, old_torch, new_torch):
        assert old_torch.stages["topk"](torch.tensor([[1.0, 3.0, 2.0]]), index_topk=2).tolist() == [[1, 2]]
        assert "topk" not in new_torch.stages

    def test_scores_may_be_rounded_to_bf16(self, old_torch):
        assert old_torch.promises.score_rounding == 2**-8


@pytest.fixture
def quarter_turn(monkeypatch):
    """Layers that turn every pair by 90 degrees: their kernels have tests of their own."""

    def rotate(x, *_):
        a, b = x.chunk(2, dim=-1)
        return torch.cat([-b, a], dim=-1)

    layer = "indexfuzz.implementations.vllm.rope_layer"
    monkeypatch.setattr(f"{layer}.rotate", rotate)
    monkeypatch.setattr(f"{layer}.rotate_compiled", rotate)
    monkeypatch.setattr(f"{layer}.rotate_", lambda x, *_: x.copy_(rotate(x)))


@pytest.mark.usefixtures("quarter_turn")
class TestCaller:
    def step(self, implementation, mode):
        q = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]], dtype=torch.bfloat16)
        k = torch.tensor([[5.0, 6.0, 7.0, 8.0, 9.0]], dtype=torch.bfloat16)[:, :4]
        options = {"rope_dim": 2, "style": "neox", "placement": "first", "mode": mode}
        q_out, k_out = implementation.stages["rope"](q, k, torch.zeros(1), None, **options)
        return q_out.flatten().tolist(), k_out.flatten().tolist(), q.flatten().tolist()

    @pytest.mark.parametrize("mode", ["functional", "compiled"])
    def test_a_discarded_result_is_observed(self, old, mode):
        assert self.step(old, mode)[:2] == ([1, 2, 3, 4], [5, 6, 7, 8])

    @pytest.mark.parametrize("mode", ["functional", "compiled"])
    def test_a_result_that_is_used_is_observed(self, new, mode):
        assert self.step(new, mode) == ([-2, 1, 3, 4], [-6, 5, 7, 8], [1, 2, 3, 4])

    def test_in_place(self, old, new):
        assert self.step(old, "inplace") == self.step(new, "inplace") == ([-2, 1, 3, 4], [-6, 5, 7, 8], [-2, 1, 3, 4])

    def test_modes_of_one_shape_do_not_share_an_indexer(self, new):
        assert self.step(new, "inplace")[0] == self.step(new, "functional")[0] == self.step(new, "inplace")[0]

    def test_no_tokens(self, new):
        q, k = torch.zeros(0, 2, 4, dtype=torch.bfloat16), torch.zeros(0, 4, dtype=torch.bfloat16)
        options = {"rope_dim": 2, "style": "neox", "placement": "first", "mode": "functional"}
        q_out, k_out = new.stages["rope"](q, k, torch.zeros(0, dtype=torch.int64), torch.zeros(1, 2), **options)
        assert (q_out.shape, k_out.shape) == (q.shape, k.shape)


def case(**parts):
    dim = parts.pop("head_dim", 32)
    model = {"num_heads": 16, "head_dim": dim, "quant_group": dim, **parts.pop("model", {})}
    batch = {"decode": (3,), "max_model_len": 8, **parts.pop("batch", {})}
    return Case().replace(model=model, batch=batch, **parts)


FLAT = {"block_size": 64, "layout": "normal"}


class TestContract:
    def test_is_read_from_the_release(self, new):
        clauses = [str(clause) for clause in new.contract.clauses]
        backend = "vllm/v1/attention/backends/mla/indexer.py"
        assert f"block_size is 1 or a multiple of 16 ({backend}:5)" in clauses
        assert f"head_dim is one of 32, 128 ({backend}:8)" in clauses

    def test_of_a_partial_copy_are_the_sizes_of_0_21(self, old):
        clauses = [clause.sentence for clause in old.contract.clauses]
        assert {"block_size is 1 or 64", "head_dim is one of 32, 64, 128"} <= set(clauses)

    @pytest.mark.parametrize(
        ("stage", "parts", "reason"),
        [
            ("rope", {"rope": {"placement": "last"}}, "rotates the first dims"),
            ("rope", {"memory": {"q_pad": 8}}, "q is the dense output"),
            ("gather", {"cache": {"block_size": 24}}, "block_size is 1 or a multiple of 16"),
            ("gather", {"head_dim": 64}, "head_dim is one of 32, 128"),
            ("gather", {"model": {"quant_group": 16}}, "one scale"),
            ("gather", {"cache": {"block_size": 1, "layout": "shuffle"}}, "pages of one token are NORMAL"),
            ("gather", {"cache": {"block_size": 16, "layout": "normal"}}, "NORMAL pages of several tokens hold 64"),
            ("gather", {"batch": {"gather_pad": 1}}, "exactly total_seq_lens"),
            ("k_quant_cache", {"cache": {"block_size": 64, "layout": "normal"}}, "another kernel writes NORMAL"),
            ("k_quant_cache", {"memory": {"k_pad": 4}}, "k is the dense output"),
            ("k_quant_cache", {"memory": {"slots": "int32"}}, "slot_mapping is int64"),
            ("k_quant_cache", {"model": {"scale_fmt": "fp32"}}, "scale_fmt is ue8m0"),
            ("paged_logits", {"cache": {"block_size": 16}}, "NORMAL layout come here"),
            ("paged_logits", {"cache": FLAT, "model": {"num_heads": 6}}, "fills a tile"),
        ],
    )
    def test_outside(self, new, stage, parts, reason):
        assert reason in new.contract.outside(stage, case(**parts))
        assert not new.contract.must_reject(stage, case(**parts))

    @pytest.mark.parametrize(
        ("stage", "parts"),
        [
            ("rope", {}),
            ("k_quant_cache", {"cache": {"block_size": 48}}),
            ("k_quant_cache", {"model": {"fp8": "e4m3fnuz"}}),
            ("gather", {"cache": {"block_size": 64, "layout": "normal"}, "memory": {"k_pad": 4}}),
            ("paged_logits", {"cache": FLAT, "model": {"fp8": "e4m3fnuz"}}),
            ("topk", {}),
        ],
    )
    def test_inside(self, new, stage, parts):
        assert new.contract.outside(stage, case(**parts)) is None

    @pytest.mark.parametrize(
        ("stage", "parts", "reason"),
        [
            ("k_quant_cache", {"cache": {"block_size": 16}}, "block_size is 1 or 64"),
            ("k_quant_cache", {"model": {"fp8": "e4m3fnuz"}}, "C++ ops"),
            ("gather", {"cache": FLAT}, "are SHUFFLE"),
            ("k_quant_cache", {"cache": {"page_pad": 16}}, "no pool is packed yet"),
        ],
    )
    def test_outside_an_old_release(self, old, stage, parts, reason):
        assert reason in old.contract.outside(stage, case(**parts))

    @pytest.mark.parametrize(
        ("fp8", "layout", "inside"),
        [
            ("e4m3fn", "auto", True),
            ("e4m3fn", "normal", False),
            ("e4m3fnuz", "auto", False),
            ("e4m3fnuz", "normal", True),
        ],
    )
    def test_fallbacks_read_what_the_writer_of_the_gpu_wrote(self, old_torch, fp8, layout, inside):
        step = case(model={"fp8": fp8}, cache={"block_size": 64, "layout": layout})
        assert (old_torch.contract.outside("paged_logits", step) is None) == inside

    def test_pages_lie_apart_where_pools_are_packed(self, tree):
        packed = NEW_OPS + "    # a packed KV layout\n"
        contract = load(f"vllm:{tree.folder(NEW | {OPS: packed})}").contract
        assert contract.outside("gather", case(cache={"page_pad": 16})) is None

    def test_a_top_k_that_nobody_calls_promises_nothing(self, old_torch, tree):
        assert "calls its top-k" in old_torch.contract.outside("topk", case())
        called = OLD_OPS + "\n    def caller(logits):\n        return _topk_indices_torch(logits, 2)\n"
        path = tree.folder({OPS: called})
        assert load(f"vllm-torch:{path}").contract.outside("topk", case()) is None


@pytest.mark.wheel
@pytest.mark.usefixtures("quarter_turn")
class TestRealWheels:
    def rotated(self, path, mode):
        """Whether q and k come out rotated by 90 degrees."""
        q = torch.arange(2 * 2 * 32).view(2, 2, 32).bfloat16()
        k = torch.arange(2 * 32).view(2, 32).bfloat16()
        want_q, want_k = (torch.cat([-x[..., 8:16], x[..., :8], x[..., 16:]], dim=-1) for x in (q, k))
        options = {"rope_dim": 16, "style": "neox", "placement": "first", "mode": mode}
        got_q, got_k = load(f"vllm:{path}").stages["rope"](q, k, torch.zeros(2), None, **options)
        return torch.equal(got_q, want_q) and torch.equal(got_k, want_k)

    @pytest.mark.parametrize("third_party", ["INDEXFUZZ_VLLM_RELEASES"], indirect=True)
    def test_every_release_has_its_stages(self, third_party):
        releases = [path for path in Path(third_party).glob("vllm-*") if path.is_dir() or path.suffix == ".whl"]
        assert releases
        for path in releases:
            kernels, fallbacks = load(f"vllm:{path}"), load(f"vllm-torch:{path}")
            assert {"rope", "k_quant_cache", "gather"} <= set(kernels.stages)
            assert {"prefill_logits", "paged_logits"} <= set(fallbacks.stages)
            version = tuple(int(part) for part in kernels.name.split()[1].split(".")[:2])
            assert any("vllm-v4-logits:PATH" in note for note in kernels.notes) == (version >= (0, 31))
            assert ("topk" in fallbacks.stages) == (version < (0, 27))

    @pytest.mark.parametrize("third_party", ["INDEXFUZZ_VLLM_WHEEL_0_22"], indirect=True)
    def test_0_22_discards_the_result_of_functional_rope(self, third_party):
        assert self.rotated(third_party, "inplace")
        assert not self.rotated(third_party, "functional")
        assert not self.rotated(third_party, "compiled")

    @pytest.mark.parametrize("third_party", ["INDEXFUZZ_VLLM_WHEEL_0_33"], indirect=True)
    def test_0_33_uses_the_result(self, third_party):
        assert self.rotated(third_party, "inplace")
        assert self.rotated(third_party, "functional")
        assert self.rotated(third_party, "compiled")

    @pytest.mark.parametrize("third_party", ["INDEXFUZZ_VLLM_WHEEL_0_22", "INDEXFUZZ_VLLM_WHEEL_0_33"], indirect=True)
    def test_fallbacks(self, third_party):
        """0.22 lines the scales of keys up with rows."""
        step = Case().replace(
            model={"head_dim": 32, "quant_group": 32},
            batch={"decode": (3,), "prefill": ({"length": 4, "new": 1},), "max_model_len": 8},
        )
        fallbacks = load(f"vllm-torch:{third_party}")
        outcome = run(step, fallbacks, LockstepDevice())
        assert (outcome.stages, [str(f.signature) for f in outcome.findings]) == (
            ["prefill_logits", "paged_logits"],
            ["prefill_logits/shape"] if "0.22" in fallbacks.name else [],
        )

    def inserted(self, path, block_size):
        """The kinds of violations, and whether the cache holds what the reference writes."""
        k = torch.arange(-48, 48).view(3, 32).bfloat16()
        slots = torch.tensor([2 * block_size, -1, block_size + block_size // 2])
        options = {"scale_fmt": "ue8m0", "fp8": "e4m3fn", "quant_group": 32, "layout": "auto"}
        got = torch.zeros(4, block_size, 36, dtype=torch.uint8)
        want = got.clone()
        with Lockstep() as machine:
            load(f"vllm:{path}").stages["k_quant_cache"](k, got, slots, **options)
        reference.k_quant_cache(k, want, slots, **options)
        return {violation.kind for violation in machine.violations}, torch.equal(got, want)

    @pytest.mark.parametrize("third_party", ["INDEXFUZZ_VLLM_WHEEL_0_22"], indirect=True)
    def test_0_22_writes_outside_pages_of_one_token(self, third_party):
        kinds, equal = self.inserted(third_party, 1)
        assert "out-of-bounds" in kinds
        assert not equal
        assert self.inserted(third_party, 64) == (set(), True)

    @pytest.mark.parametrize("third_party", ["INDEXFUZZ_VLLM_WHEEL_0_33"], indirect=True)
    def test_0_33_writes_every_page_right(self, third_party):
        assert self.inserted(third_party, 1) == (set(), True)
        assert self.inserted(third_party, 16) == (set(), True)

    @pytest.mark.parametrize("third_party", ["INDEXFUZZ_VLLM_WHEEL_0_22"], indirect=True)
    def test_contract_of_0_22(self, third_party):
        assert "block_size is 1 or 64" in {clause.sentence for clause in load(f"vllm:{third_party}").contract.clauses}

    @pytest.mark.parametrize("third_party", ["INDEXFUZZ_VLLM_WHEEL_0_33"], indirect=True)
    def test_every_place_of_the_contract_of_0_33_has_a_line(self, third_party):
        for scheme in ("vllm", "vllm-v4-logits", "vllm-torch"):
            implementation = load(f"{scheme}:{third_party}")
            here = [c for c in implementation.contract.clauses if set(c.stages) & set(implementation.stages)]
            assert [c.place for c in here if not re.search(r":\d+$", c.place)] == []

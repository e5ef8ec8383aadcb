import pytest
import torch

from indexfuzz.core.case import Case
from indexfuzz.implementations.aiter import load, load_converted, load_stage1
from indexfuzz.implementations.loading.source import SourceError
from indexfuzz.lockstep import Lockstep

PREFILL = "aiter/ops/triton/attention/fp8_mqa_logits.py"
PAGED = "aiter/ops/triton/attention/pa_mqa_logits.py"
KERNELS = "aiter/ops/triton/_triton_kernels/attention"

FILES = {
    PREFILL: """\
        import torch
        from aiter.ops.triton._triton_kernels.attention.fp8_mqa_logits import _fp8_mqa_logits_kernel
        from aiter.ops.triton.utils._triton import arch_info

        arch = arch_info.get_arch()
        _gluon_kernel = None
        try:
            if arch == "gfx950":
                from aiter.ops.triton._gluon_kernels.gfx950.attention.fp8_mqa_logits import _gluon_kernel
        except Exception:
            _gluon_kernel = None
        SEEN = []

        def fp8_mqa_logits(Q, KV, kv_scales, weights, cu_starts, cu_ends, clean_logits=True):
            SEEN.append((arch, _fp8_mqa_logits_kernel, _gluon_kernel, clean_logits, tuple(kv_scales.shape)))
            return torch.full((Q.shape[0], 256), 4.0)[:, : KV.shape[0]]
        """,
    f"{KERNELS}/fp8_mqa_logits.py": "_fp8_mqa_logits_kernel = 'prefill kernel'\n",
    PAGED: """\
        from aiter import dtypes
        from aiter.jit.utils.chip_info import get_gfx
        from aiter.ops.triton._triton_kernels.attention.pa_mqa_logits import _deepgemm_fp8_paged_mqa_logits
        from aiter.ops.triton.gluon.pa_mqa_logits import _gluon_deepgemm_fp8_paged_mqa_logits
        from aiter.ops.triton.utils.device_info import get_num_sms

        enable_gluon = get_gfx() in ("gfx942", "gfx950", "gfx1250")
        SEEN = []

        def deepgemm_fp8_paged_mqa_logits(q_fp8, kv_cache, weights, out_logits, context_lens, kv_indices, max_model_len,
                                          Preshuffle=False, KVBlockSize=1, ChunkK=256, TotalCuCount=None):
            assert not enable_gluon
            SEEN.append((dtypes.fp8, tuple(kv_cache.shape), max_model_len, Preshuffle, KVBlockSize, get_num_sms() > 0))
            kernel = _deepgemm_fp8_paged_mqa_logits[(1,)](out_logits, ChunkK=ChunkK)
            return kernel.hash

        def deepgemm_fp8_paged_mqa_logits_stage1(q_fp8, kv_cache_fp8, weights, out_qk, context_lens, kv_indices,
                                                 max_model_len, ChunkQ=64, ChunkK=256, TotalCuCount=None):
            SEEN.append((tuple(out_qk.shape), ChunkQ, max_model_len, float(out_qk.max())))
            out_qk[:, :, 0] = 0.5
        """,
    f"{KERNELS}/pa_mqa_logits.py": """\
        from triton.runtime.jit import KernelInterface

        class Kernel(KernelInterface):
            def run(self, out_logits, ChunkK, grid, warmup):
                out_logits[:, 0] = ChunkK
        _deepgemm_fp8_paged_mqa_logits = Kernel()
        """,
}


@pytest.fixture
def implementation(tree):
    return load(tree.folder(FILES))


class TestKernels:
    def test_is_found_under_the_name_it_is_published_as(self, tree):
        path = tree.wheel("aiter", "0.1", FILES)
        assert load(path).name == "aiter 0.1"

    @pytest.mark.parametrize(("fp8", "gpu"), [("e4m3fn", "gfx1201"), ("e4m3fnuz", "gfx942")])
    def test_prefill_with_the_wrappers_defaults(self, implementation, fp8, gpu):
        score = implementation.stages["prefill_logits"]
        q, k, logits = torch.zeros(2, 16, 32), torch.zeros(3, 32).to(getattr(torch, f"float8_{fp8}")), torch.zeros(2, 3)
        score(q, k, torch.ones(3), None, None, None, logits)
        seen = score.__self__.prefill(fp8).SEEN
        assert seen == [(gpu, "prefill kernel", None, True, (3,))]
        assert logits.eq(4.0).all()

    def test_prefill_of_e4m3fn_as_the_gpu_gets_it_that_knows_e4m3fnuz_alone(self, tree):
        implementation = load_converted(tree.folder(FILES))
        score, k = implementation.stages["prefill_logits"], torch.zeros(3, 32).to(torch.float8_e4m3fn)
        score(torch.zeros(2, 16, 32), k, torch.ones(3), None, None, None, torch.zeros(2, 3))
        assert [seen[0] for seen in score.__self__.prefill("e4m3fn").SEEN] == ["gfx942"]
        fnuz, gaps = case(model={"fp8": "e4m3fnuz"}), case(memory={"q_fp8_pad": 16})
        assert implementation.contract.outside("prefill_logits", case()) is None
        assert "q and keys are e4m3fn" in implementation.contract.outside("prefill_logits", fnuz)
        assert "q_fp8 is dense" in implementation.contract.outside("prefill_logits", gaps)

    @pytest.mark.parametrize(
        ("layout", "block_size", "preshuffle"), [("auto", 1, False), ("normal", 16, False), ("auto", 16, True)]
    )
    def test_paged_with_the_wrappers_defaults(self, implementation, layout, block_size, preshuffle):
        score = implementation.stages["paged_logits"]
        q, logits = torch.zeros(2, 1, 16, 32).to(torch.float8_e4m3fn), torch.zeros(2, 3)
        pages = torch.zeros(5, block_size, 36, dtype=torch.uint8)
        score(q, pages, None, None, None, logits, layout=layout)
        seen = score.__self__.paged("e4m3fn").SEEN
        assert seen == [(torch.float8_e4m3fn, (5, block_size, 1, 36), 3, preshuffle, block_size, True)]
        assert logits.tolist() == [[256.0, float("-inf"), float("-inf")]] * 2

    def test_stage1_sums_over_the_heads(self, tree):
        score = load_stage1(tree.folder(FILES)).stages["paged_logits"]
        q, logits = torch.zeros(2, 2, 16, 32).to(torch.float8_e4m3fn), torch.zeros(4, 3)
        score(q, torch.zeros(5, 1, 36, dtype=torch.uint8), None, None, None, logits, layout="auto")
        seen = score.__self__.paged("e4m3fn").SEEN
        assert seen == [((16, 4, 3), 16, 3, float("-inf"))]
        assert logits.tolist() == [[8.0, float("-inf"), float("-inf")]] * 4

    def test_stage1_cannot_be_asked_for_shuffled_pages(self, tree):
        score = load_stage1(tree.folder(FILES)).stages["paged_logits"]
        with pytest.raises(ValueError, match="NORMAL layout only"):
            score(None, torch.zeros(5, 16, 36), None, None, None, None, layout="auto")

    def test_a_checkout_without_the_file(self, tree):
        with pytest.raises(SourceError, match=rf"has no {PAGED}: the file has moved"):
            load(tree.folder({name: text for name, text in FILES.items() if name != PAGED}))


def case(**parts):
    model = {"num_heads": 16, "head_dim": 32, "quant_group": 32, **parts.pop("model", {})}
    batch = {"decode": (3,), "max_model_len": 8, **parts.pop("batch", {})}
    return Case().replace(model=model, batch=batch, **parts)


STRIDED = ("q_fp8", "q_fp8_head", "k_fp8", "q_weights", "logits")


class TestContract:
    @pytest.mark.parametrize(
        ("stage", "parts", "reason"),
        [
            ("prefill_logits", {"model": {"num_heads": 24}}, "num_heads is a power of two"),
            ("prefill_logits", {"model": {"head_dim": 96}}, "head_dim is a power of two"),
            ("paged_logits", {"model": {"num_heads": 8}}, "num_heads is a power of two"),
            ("paged_logits", {"model": {"quant_group": 16}}, "every key has one scale"),
            ("paged_logits", {"cache": {"block_size": 16}}, "needs a Gluon kernel"),
            ("paged_logits", {"cache": {"block_size": 48, "layout": "normal"}}, "one divides the other"),
            ("paged_logits", {"batch": {"lens": "2d", "next_n": 2}}, "one length per request"),
            ("paged_logits", {"memory": {"table_pad": 3}}, "block table is dense"),
            ("paged_logits", {"memory": {"q_weights_head_pad": 1}}, "q_weights_head is dense"),
            ("paged_logits", {"memory": {"lens_pad": 1}}, "lens is dense"),
            ("paged_logits", {"memory": {"far": "q_fp8"}}, "the rows of q_fp8 are not 2^31 elements apart"),
        ],
    )
    def test_outside(self, implementation, stage, parts, reason):
        assert reason in implementation.contract.outside(stage, case(**parts))
        assert not implementation.contract.must_reject(stage, case(**parts))

    @pytest.mark.parametrize(
        ("stage", "parts"),
        [
            ("prefill_logits", {"cache": {"block_size": 48}}),
            ("paged_logits", {}),
            ("paged_logits", {"cache": {"block_size": 512, "layout": "normal"}, "batch": {"lens": "2d"}}),
            ("gather", {}),
            *(("prefill_logits", {"memory": {f"{name}_pad": 16}}) for name in STRIDED),
            ("prefill_logits", {"memory": {"q_weights_head_pad": 1}}),
            *(("prefill_logits", {"memory": {"far": name}}) for name in ("q_fp8", "k_fp8", "q_weights")),
            *(("paged_logits", {"memory": {f"{name}_pad": 16}}) for name in STRIDED),
        ],
    )
    def test_inside(self, implementation, stage, parts):
        assert implementation.contract.outside(stage, case(**parts)) is None


@pytest.mark.parametrize(("stage", "file"), [("prefill_logits", PREFILL), ("paged_logits", PAGED)])
def test_what_callers_keep_to_is_said_of_the_wrapper_that_they_call(implementation, stage, file):
    assert f"({file}:" in implementation.contract.outside(stage, case(memory={"shift": 4}))


@pytest.mark.wheel
@pytest.mark.parametrize("third_party", ["INDEXFUZZ_AITER"], indirect=True)
@pytest.mark.parametrize("fp8", [torch.float8_e4m3fn, torch.float8_e4m3fnuz])
def test_the_real_prefill_kernel(third_party, fp8):
    q, k = torch.ones(2, 16, 32).to(fp8), torch.full((5, 32), -2.0)
    weights, scale, logits = torch.ones(2, 16), torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0]), torch.zeros(2, 5)
    k[3] = 2.0
    window = torch.tensor([0, 2], dtype=torch.int32), torch.tensor([1, 4], dtype=torch.int32)
    with Lockstep() as machine:
        load(third_party).stages["prefill_logits"](q, k.to(fp8), scale, weights, *window, logits)
    hidden = float("-inf")
    assert machine.violations == []
    assert logits.tolist() == [[0.0, *[hidden] * 4], [hidden, hidden, 0.0, 16 * 32 * 2 * 8.0, hidden]]

import pytest

from indexfuzz.core.case import Case
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.implementations import load
from indexfuzz.implementations.loading.source import SourceError
from indexfuzz.oracles.differential import run

KPOOL = "sglang/srt/layers/attention/dsa/kpool_fp8_index.py"
KPOOL_TEXT = """\
    import torch
    from sglang.srt.environ import envs
    from sglang.srt.layers.attention.dsa.utils import INDEXER_K_CACHE_PRESHUFFLE_TILE
    from sglang.srt.layers.attention.dsa.utils import aiter_can_use_preshuffle_paged_mqa
    from sglang.srt.utils import is_cuda

    ON_CUDA = is_cuda()

    def gather_index_k_scale_prefix_into(pool, buf, page_indices, seq_len, k_out, scale_out):
        assert pool.index_page_size == 64 and buf.shape[1] == 64 * 132 and page_indices.is_contiguous()
        tile = INDEXER_K_CACHE_PRESHUFFLE_TILE if aiter_can_use_preshuffle_paged_mqa() else 0
        assert ON_CUDA == (tile == 0)
        for token in range(seq_len):
            page, slot = buf[int(page_indices[token // 64])], token % 64
            values = page[: 64 * 128]
            if tile:
                values = values.view(4, 8, 16, 16).transpose(1, 2).reshape(64, 128)
            k_out[token] = values.view(64, 128)[slot]
            scale_out[token] = page[64 * 128 :].view(torch.float32)[{wrong} slot]

    UNRELATED = 1 // envs.number
"""
UTILS = {"sglang/srt/layers/attention/dsa/utils.py": "INDEXER_K_CACHE_PRESHUFFLE_TILE = 16\n"}
CASE = Case().replace(
    model={"head_dim": 128, "quant_group": 128},
    cache={"block_size": 64, "layout": "normal", "pages": "reversed"},
    batch={"prefill": ({"length": 70, "new": 1}, {"length": 0, "new": 0}, {"length": 9, "new": 2})},
)


def spec(tree, wrong=""):
    return f"sglang-kpool:{tree.folder({KPOOL: KPOOL_TEXT.format(wrong=wrong), **UTILS})}"


@pytest.mark.parametrize("layout", ["normal", "shuffle"])
def test_a_right_gather_gives_no_finding(tree, layout):
    outcome = run(CASE.replace(cache={"layout": layout}), load(spec(tree)), LockstepDevice())
    assert (outcome.findings, outcome.stages) == ([], ["gather"])


def test_a_wrong_scale_is_found(tree):
    outcome = run(CASE, load(spec(tree, wrong="0 *")), LockstepDevice())
    assert [str(finding.signature) for finding in outcome.findings] == ["gather/code-mismatch/k_scale"]


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"model": {"fp8": "e4m3fnuz"}}, "keys are e4m3fn"),
        ({"model": {"head_dim": 64, "quant_group": 64}}, "head_dim is 128"),
        ({"model": {"quant_group": 64}}, "one scale"),
        ({"cache": {"block_size": 16}}, "block_size is 64"),
        ({"cache": {"page_pad": 16}}, "the cache is dense"),
        ({"batch": {"gather_pad": 1}}, "exactly seq_len keys"),
    ],
)
def test_outside_the_contract(tree, parts, reason):
    contract = load(spec(tree)).contract
    assert reason in contract.outside("gather", CASE.replace(**parts))
    assert contract.outside("gather", CASE) is None


def test_a_release_without_the_file(tree):
    with pytest.raises(SourceError, match=rf"has no {KPOOL}: the file has moved"):
        load(f"sglang-kpool:{tree.folder(UTILS)}")


@pytest.mark.wheel
@pytest.mark.parametrize("third_party", ["INDEXFUZZ_SGLANG"], indirect=True)
@pytest.mark.parametrize("layout", ["normal", "shuffle"])
def test_the_real_kernel(third_party, layout):
    outcome = run(CASE.replace(cache={"layout": layout}), load(f"sglang-kpool:{third_party}"), LockstepDevice())
    assert (outcome.findings, outcome.stages) == ([], ["gather"])

"""LMDeploy's indexer: a stand-in of our own, right and with mistakes planted in it, and the real kernels."""

import pytest
import torch

from indexfuzz.core.case import Case
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.implementations import load
from indexfuzz.implementations.lmdeploy.gpu import Gpu
from indexfuzz.implementations.lmdeploy.requests import NOT_READ, insertions, paged, runs_of_rows, trimmed
from indexfuzz.implementations.loading.source import SourceError
from indexfuzz.oracles.differential import run

FOLDER = "lmdeploy/pytorch/kernels/cuda"

PREPARE = """\
    import torch
    from .blocked_gemm_fp8 import quantise

    def turn(x, cos, sin, interleaved):
        half, shape = cos.shape[1] // 2, (len(x), *[1] * (x.dim() - 2), -1)
        cos, sin, out = cos[:, :half].reshape(shape), sin[:, :half].reshape(shape), x.clone()
        if interleaved:
            at = slice(0, 2 * half, 2), slice(1, 2 * half, 2)
        else:
            at = slice(0, half), slice(half, 2 * half)
        a, b = (x[..., part] for part in at)
        out[..., at[0]], out[..., at[1]] = a * cos - b * sin, b * cos + a * sin
        return out

    def prepare_dsa_indexer_q(q, weights, cos, sin, score_scale, out_dtype, rope_interleaved):
        codes, scale = quantise(turn(q, cos, sin, rope_interleaved))
        return codes, weights * scale * score_scale

    def places(query_start, lengths, table, size):
        for request, length in enumerate(lengths.tolist()):
            start, end = query_start[request : request + 2].tolist()
            for token in range(start, end):
                position = length - (end - start) + token - start
                yield token, int(table[request, position // size]), position % size

    def prepare_dsa_indexer_k_cache(k, norm_weight, norm_bias, cos, sin, k_cache, k_s_cache, cu_seqlen_q, kv_seqlens,
                                    block_offsets, max_q_seqlen, eps, rope_interleaved):
        x = torch.nn.functional.layer_norm(k.float(), (128,), norm_weight, norm_bias, eps).bfloat16()
        codes, scale = quantise(turn(x, cos, sin, rope_interleaved))
        for token, page, offset in places(cu_seqlen_q, kv_seqlens, block_offsets, k_cache.shape[1]):
            k_cache.view(torch.uint8)[page, offset] = codes[token].view(torch.uint8)
            k_s_cache[page, offset] = scale[token]

    def flatten_dsa_indexer_k_cache(k_cache, k_s_cache, cu_seqlen_k, kv_seqlens, block_offsets, out_size):
        keys = torch.zeros(out_size, k_cache.shape[2], dtype=torch.uint8)
        scales = torch.zeros(out_size)
        for token, page, offset in places(cu_seqlen_k, kv_seqlens, block_offsets, k_cache.shape[1]):
            keys[token], scales[token] = k_cache.view(torch.uint8)[page, offset], k_s_cache[page, offset]
        return keys.view(k_cache.dtype), scales
"""
QUANT = """\
    import torch
    from lmdeploy.utils import get_logger
    from .utils import get_device_props
    logger = get_logger("lmdeploy")

    def fast_round_scale(amax):
        mantissa, exponent = torch.frexp(amax)
        return torch.ldexp(torch.ones_like(amax), torch.where(mantissa == 0.5, exponent - 1, exponent))

    def quantise(x):
        scale = fast_round_scale(x.float().abs().amax(-1).clamp_min(1e-6) / 448)
        return (x.float() / scale.unsqueeze(-1)).to(torch.float8_e4m3fn), scale

    def quant_fp8(A, group_size, dtype, trans_scale, scale_fmt):
        assert get_device_props(A.device.index)["warps_per_sm"] and group_size == 128
        return quantise(A)
"""
INSERT = """\
    import torch
    from .blocked_gemm_fp8 import quantise
    from .dsa_indexer_preprocess import places

    def fill_kv_cache_blocked_fp8(k, v, k_cache, v_cache, k_s_cache, v_s_cache, cu_seqlen_q, kv_seqlens, max_q_seqlen,
                                  block_offsets, group_size, scale_fmt):
        codes, scale = quantise(k[:, 0])
        for token, page, offset in places(cu_seqlen_q, kv_seqlens, block_offsets, k_cache.shape[1]):
            k_cache.view(torch.uint8)[page, offset, 0] = codes[token].view(torch.uint8)
            k_s_cache[page, offset, 0] = scale[token]
"""
SCORES = """\
    import torch

    def fp8_index(q, q_s, k_cache, k_s_cache, cu_seqlen_q, k_seqlens, block_offset, max_q_seqlen, max_k_seqlen, causal):
        out = torch.full((len(q), max_k_seqlen), float("nan"))
        for request, length in enumerate(k_seqlens.tolist()):
            start, end = cu_seqlen_q[request : request + 2].tolist()
            at = torch.arange(length)
            page, offset = block_offset[request, at // k_cache.shape[1]].long(), at % k_cache.shape[1]
            keys = k_cache.view(torch.uint8)[page, offset].view(k_cache.dtype).float()
            for row in range(start, end):
                scores = (q[row].float() @ keys.T).relu()
                out[row, :length] = (q_s[row] @ scores) * k_s_cache[page, offset]
                out[row, max(length - (end - 1 - row), 0) : length] = float("-inf")
        return out
"""
TOPK = """\
    import torch
    from lmdeploy.pytorch.kernels.cuda.utils import get_device_props

    def bitonic_topk(scores, q_seqlens, kv_seqlens, k, fill, descending):
        out = torch.full((len(scores), k), fill, dtype=torch.int32)
        for row, length in enumerate(kv_seqlens.tolist()):
            order = scores[row, :length].sort(descending=descending).indices[:k]
            out[row, : len(order)] = order.int()
        return out
"""
ROPE = """\
    import torch
    from .dsa_indexer_preprocess import turn

    def apply_rotary_pos_emb(q, k, cos, sin, q_embed, k_embed, complex_mode):
        if complex_mode:
            cos, sin = cos.repeat(1, 2), sin.repeat(1, 2)
        return q_embed.copy_(turn(q, cos, sin, complex_mode)), k_embed.copy_(turn(k, cos, sin, complex_mode))
"""
CALLER = """\
    import torch
    from lmdeploy.pytorch.consts import DSA_INDEX_SCALE_BYTES
    from lmdeploy.pytorch.kernels.cuda.ds_index import fp8_index

    def _get_dsa_indexer_k_cache_views(cache, head_dim):
        pages, size, heads, width = cache.shape
        assert heads == 1 and width == head_dim + DSA_INDEX_SCALE_BYTES
        flat = cache.view(pages, -1)
        keys = flat[:, : size * head_dim].view(torch.float8_e4m3fn).view(pages, size, head_dim)
        return keys, flat[:, size * head_dim :].view(torch.float32).view(pages, size, 1)
"""
FILES = {
    f"{FOLDER}/dsa_indexer_preprocess.py": PREPARE,
    f"{FOLDER}/blocked_gemm_fp8.py": QUANT,
    f"{FOLDER}/fill_kv_cache.py": INSERT,
    f"{FOLDER}/ds_index.py": SCORES,
    f"{FOLDER}/bitonic_topk.py": TOPK,
    f"{FOLDER}/apply_rotary_pos_emb.py": ROPE,
    "lmdeploy/pytorch/backends/cuda/nsa.py": CALLER,
    "lmdeploy/pytorch/consts.py": "DSA_INDEX_SCALE_BYTES = 4",
}

STEP = Case().replace(
    model={"num_heads": 16, "head_dim": 128, "quant_group": 128, "rope_dim": 64, "index_topk": 16},
    cache={"block_size": 16, "layout": "normal", "page_pad": 192, "pages": "permuted"},
    batch={"decode": (40, 3), "prefill": ({"length": 70, "new": 5},), "next_n": 2, "max_model_len": 60},
    rope={"table": "bf16", "style": "interleaved"},
    values={"seed": 3},
)
CASES = (
    STEP,
    STEP.replace(rope={"style": "neox"}, batch={"next_n": 1, "slot_holes": 2}, values={"q": "clamp", "k": "outlier"}),
    STEP.replace(
        batch={"decode": (), "prefill": ({"length": 20, "new": 20}, {"length": 33, "new": 1})},
        values={"weights": "zeros", "k": "tied"},
    ),
)

PLANTED = {
    "products in fp32": (
        f"{FOLDER}/dsa_indexer_preprocess.py",
        "at[1]] = a * cos - b * sin, b * cos + a * sin",
        "at[1]] = (y.float() * cos - z.float() * sin for y, z in ((a, b), (b, -a)))",
        "fused_q",
        "rope: its products are kept in fp32",
    ),
    "pairs": (
        f"{FOLDER}/dsa_indexer_preprocess.py",
        "if interleaved:",
        "if not interleaved:",
        "fused_k",
        "rope: pairs are",
    ),
    "eps": (f"{FOLDER}/dsa_indexer_preprocess.py", "norm_bias, eps)", "norm_bias, 10 * eps)", "fused_k", "k_norm: eps"),
    "place": (
        f"{FOLDER}/dsa_indexer_preprocess.py",
        "position = length - (end - start)",
        "position = length - 1 - (end - start)",
        "fused_k",
        "k_quant_cache: ",
    ),
    "floor": (f"{FOLDER}/blocked_gemm_fp8.py", "clamp_min(1e-6)", "clamp_min(1e-4)", "fused_q", "q_quant: "),
    "floor of single steps": (f"{FOLDER}/blocked_gemm_fp8.py", "clamp_min(1e-6)", "clamp_min(1e-4)", "q_quant", ""),
    "gathered from elsewhere": (
        f"{FOLDER}/dsa_indexer_preprocess.py",
        "keys[token], scales[token] =",
        "keys[token], scales[-1 - token] =",
        "gather",
        "",
    ),
    "the neighbour's scale": (
        f"{FOLDER}/ds_index.py",
        "* k_s_cache[page, offset]",
        "* k_s_cache[page, offset // 2]",
        "paged_logits",
        "",
    ),
    "a row sees the key after its own": (
        f"{FOLDER}/ds_index.py",
        "(end - 1 - row)",
        "(end - 2 - row)",
        "prefill_logits",
        "",
    ),
    "equal scores": (
        f"{FOLDER}/bitonic_topk.py",
        "out[row, : len(order)] = order.int()",
        "out[row, : len(order)] = order[(scores[row, order, None] == scores[row, order]).int().argmax(1)].int()",
        "topk",
        "chosen more than once",
    ),
    "single steps are put elsewhere": (
        f"{FOLDER}/fill_kv_cache.py",
        "k_s_cache[page, offset, 0]",
        "k_s_cache[page, 0, 0]",
        "k_quant_cache",
        "",
    ),
}


EVERYTHING = [
    "fused_q",
    "fused_k",
    "rope",
    "q_quant",
    "k_quant_cache",
    "gather",
    "prefill_logits",
    "paged_logits",
    "topk",
]


def found_in(implementation):
    return [finding for case in CASES for finding in run(case, implementation, LockstepDevice()).findings]


def test_a_right_stand_in_passes_and_every_operation_runs(tree):
    implementation = load(f"lmdeploy:{tree.wheel('lmdeploy', '0.16.0', FILES)}")
    assert implementation.name == "lmdeploy 0.16.0"
    assert list(implementation.stages) == EVERYTHING
    ran = set()
    for case in CASES:
        outcome = run(case, implementation, LockstepDevice())
        assert outcome.findings == []
        assert outcome.outside == {}
        ran |= set(outcome.stages)
    assert ran == set(EVERYTHING)


@pytest.mark.parametrize("name", PLANTED)
def test_a_mistake_in_a_copy_is_found_and_blamed(tree, name):
    file, old, new, operation, blame = PLANTED[name]
    assert FILES[file].count(old) == 1
    found = found_in(load(f"lmdeploy:{tree.folder(FILES | {file: FILES[file].replace(old, new)})}"))
    assert any(blame in finding.detail for finding in found if finding.stage == operation)


def test_what_lies_outside_is_left_alone_by_name(tree):
    implementation = load(f"lmdeploy:{tree.folder(FILES)}")
    outside = {
        "head_dim is 128": (
            STEP.replace(model={"head_dim": 64, "quant_group": 64}),
            "fused_q",
            "gather",
            "paged_logits",
        ),
        "angles are bf16": (STEP.replace(rope={"table": "fp32"}), "fused_q", "fused_k", "rope"),
        "block_size is a power of two": (STEP.replace(cache={"block_size": 48}), "fused_k", "gather", "paged_logits"),
        "one length per request": (STEP.replace(batch={"lens": "2d"}), "paged_logits"),
        "index_topk is a power of two": (STEP.replace(model={"index_topk": 3}), "topk"),
    }
    for words, (case, *operations) in outside.items():
        outcome = run(case, implementation, LockstepDevice())
        assert outcome.findings == []
        assert all(words in outcome.outside[operation] for operation in operations)


def test_says_who_reaches_what(tree):
    caller = (
        CALLER
        + "\n    class TritonNSAIndexFP8:"
        + "\n        def forward_fused(self):\n            q, q_s = prepare_dsa_indexer_q(q)\n"
    )
    implementation = load(f"lmdeploy:{tree.folder(FILES | {'lmdeploy/pytorch/backends/cuda/nsa.py': caller})}")
    fused, single, logits, topk = implementation.notes[1:]
    assert "DeepSeek-V3.2 and GLM-5" in fused
    assert "nsa.py:14" in fused
    assert all("off the default path" in note for note in (single, logits, topk))


def test_a_release_whose_caller_takes_more_constants_passes(tree):
    caller = CALLER.replace("import DSA_INDEX_SCALE_BYTES", "import DSA_INDEX_SCALE_BYTES, DSA_INDEXER_K_CACHE_NAME")
    caller = caller.replace("assert heads", "assert DSA_INDEXER_K_CACHE_NAME is None\n        assert heads")
    files = FILES | {"lmdeploy/pytorch/backends/cuda/nsa.py": caller}
    implementation = load(f"lmdeploy:{tree.wheel('lmdeploy', '0.18.0', files)}")
    assert run(CASES[0], implementation, LockstepDevice()).findings == []


def test_a_release_without_the_kernels_is_refused_in_one_sentence(tree):
    with pytest.raises(SourceError, match=r"has no lmdeploy/pytorch/kernels/cuda/ds_index\.py"):
        load(f"lmdeploy:{tree.folder({name: text for name, text in FILES.items() if 'ds_index' not in name})}")


def test_a_gpu_is_as_large_as_what_is_sorted_needs_and_the_smallest_else():
    gpu, seen = Gpu(), []
    for pieces in (0, 255, 256, 1 << 20):
        with gpu.sorting(pieces):
            seen.append(gpu.properties["multi_processor_count"])
    assert seen == [4, 7, 8, 128]
    assert gpu.properties["multi_processor_count"] == 4


def test_a_launcher_that_sorts_is_told_of_a_gpu_for_its_pieces(tree):
    told = "get_device_props(0)['multi_processor_count']"
    topk = TOPK.replace("= order.int()", f"= {told}")
    select = load(f"lmdeploy:{tree.folder(FILES | {f'{FOLDER}/bitonic_topk.py': topk})}").stages["topk"]
    for rows, columns, each, processors in ((2, 40, 16, 4), (64, 64, 1, 128), (64, 64, 2, 64)):
        assert (select(torch.rand(rows, columns), index_topk=each) == processors).all()


class TestRequests:
    def test_of_slots(self):
        slots = torch.tensor([14, 15, 32, 33, -1, 7, 40, -1])
        into = insertions(slots, 16)
        assert into.tokens.tolist() == [0, 1, 2, 3, 5, 6]
        assert into.query_start.tolist() == [0, 4, 5, 6]
        assert into.lengths.tolist() == [34, 24, 25]
        assert into.table.tolist() == [[NOT_READ, 0, 2], [NOT_READ, 0, NOT_READ], [NOT_READ, 2, NOT_READ]]
        assert into.longest_query == 6
        assert insertions(torch.tensor([3, 3]), 16).longest_query == 1
        assert insertions(torch.tensor([-1]), 16).query_start.tolist() == [0]

    def test_rows_keep_their_strides_where_padding_is_last(self):
        rows = torch.arange(12.0).view(4, 3)[:, :2]
        assert insertions(torch.tensor([5, 6, -1, -1]), 16).of_tokens(rows).stride() == (3, 1)
        assert insertions(torch.tensor([-1, 6, 9, -1]), 16).of_tokens(rows).tolist() == rows[1:3].tolist()

    def test_of_rows(self):
        ks, ke = torch.tensor([0, 0, 9, 9, 9]), torch.tensor([3, 4, 11, 12, 14])
        runs = runs_of_rows(ks, ke)
        assert [(run.rows.start, run.rows.stop) for run in runs] == [(0, 2), (2, 4), (4, 5)]
        assert [(run.keys.start, run.keys.stop) for run in runs] == [(0, 4), (9, 12), (9, 14)]
        keys = torch.arange(14).view(14, 1).expand(14, 128).float().to(torch.float8_e4m3fn)
        pages = paged(keys, torch.arange(14.0), runs)
        assert pages.table.tolist() == [[2], [1], [0]]
        assert pages.lengths.tolist() == [4, 3, 5]
        scales = pages.cache.view(3, -1)[:, 64 * 128 :].view(torch.float32)
        assert scales[1, :3].tolist() == [9, 10, 11]

    def test_of_logits(self):
        low = float("-inf")
        rows = trimmed(torch.tensor([[low, 2.0, low, 3.0, low], [low] * 5, [1.0, low, low, low, low]]))
        assert rows.starts.tolist() == [1, 0, 0]
        assert rows.lengths.tolist() == [3, 0, 1]
        assert rows.logits[0, :3].tolist() == [2.0, low, 3.0]

    def test_of_logits_of_many_requests_as_wide_as_the_pages_of_the_longest(self):
        logits = torch.full((3, 1000), float("-inf"))
        logits[1, 700:765], logits[2, 990:] = torch.arange(65.0), 7.0
        rows = trimmed(logits)
        assert rows.logits.shape == (3, 128)
        assert rows.logits.is_contiguous()
        assert (rows.starts.tolist(), rows.lengths.tolist()) == ([0, 700, 990], [0, 65, 10])
        assert rows.logits[1, :65].tolist() == list(range(65))
        assert rows.logits[2, :10].tolist() == [7.0] * 10
        assert trimmed(logits[:1]).logits.shape == (1, 64)
        assert trimmed(logits[:0]).logits.shape == (0, 64)


@pytest.mark.wheel
@pytest.mark.parametrize("third_party", ["INDEXFUZZ_LMDEPLOY"], indirect=True)
def test_0_16_passes_but_for_what_is_known(third_party):
    known = {"rope/promise", "topk/illegal-topk/prefill_topk", "topk/illegal-topk/paged_topk"}
    assert {str(finding.signature) for finding in found_in(load(f"lmdeploy:{third_party}"))} <= known

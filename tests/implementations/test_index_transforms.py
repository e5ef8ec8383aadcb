"""Positions to slots by vLLM and SGLang: stand-ins of our own, right and with mistakes, and the real kernels."""

import pytest

from indexfuzz.core.case import Case
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.implementations import load
from indexfuzz.implementations.loading.source import SourceError
from indexfuzz.oracles.differential import run

REMAP = "vllm/v1/attention/backends/mla/sparse_utils.py"
TRANSFORM = "sglang/kernels/ops/attention/dsa/transform_index.py"

REMAP_TEXT = """\
    import torch
    from vllm.model_executor.warmup.jit_warmup import kernel_launcher
    from vllm.model_executor.warmup.jit_warmup_triton_helper import LaunchSpec, VllmTritonJitKernel
    from vllm.triton_utils import tl, triton

    class Remap(VllmTritonJitKernel["Remap.Key"]):
        @staticmethod
        @triton.jit
        def kernel(owner_ptr, table_ptr, columns_ptr, out_ptr, count_ptr, width, SIZE: tl.constexpr, K: tl.constexpr,
                   LANES: tl.constexpr):
            token, entry = tl.program_id(0), tl.arange(0, LANES)
            position = tl.load(columns_ptr + token * K + entry, mask=entry < K, other=-1)
            chosen = position >= 0
            page = tl.load(table_ptr + tl.load(owner_ptr + token) * width + position // SIZE, mask=chosen, other=0)
            count = tl.sum(chosen.to(tl.int32))
            behind = count - tl.cumsum(chosen.to(tl.int32))
            tl.store(out_ptr + token * K + behind, page * SIZE + position % SIZE, mask=chosen)
            tl.store(out_ptr + token * K + entry, -1, mask=(entry >= count) & (entry < K))
            tl.store(count_ptr + token, count)

        @kernel_launcher
        def __call__(self, owner, table, columns, out, counts, *, SIZE, K) -> LaunchSpec:
            return (len(owner),), dict(count_ptr=counts, width=table.shape[1], LANES=triton.next_power_of_2(K))

    REMAP = Remap()

    def triton_convert_req_index_to_global_index(owner, table, columns, BLOCK_SIZE, NUM_TOPK_TOKENS, BLOCK_N=128, *,
                                                 return_valid_counts):
        assert NUM_TOPK_TOKENS % BLOCK_N == 0
        out, counts = torch.empty_like(columns), torch.empty_like(owner)
        REMAP(owner, table.contiguous(), columns, out, counts, SIZE=BLOCK_SIZE, K=NUM_TOPK_TOKENS)
        return out, counts
"""

TRANSFORM_TEXT = """\
    import torch
    import triton
    import triton.language as tl

    @triton.jit
    def kernel(table, columns, out, row, K, LANES: tl.constexpr):
        token, entry = tl.program_id(0), tl.arange(0, LANES)
        position = tl.load(columns + token * K + entry, mask=entry < K, other=-1)
        slot = tl.load(table + token * row + position, mask=position >= 0, other=-1)
        tl.store(out + token * K + entry, slot, mask=entry < K)

    def transform_index_page_table_decode(page_table, topk_indices, result=None, page_size=1):
        out, k = torch.empty_like(topk_indices), topk_indices.shape[1]
        kernel[(len(out),)](page_table, topk_indices, out, page_table.stride(0), k, triton.next_power_of_2(k))
        return out
"""
REMAP_ON_AMD = "vllm/v1/attention/backends/mla/rocm_aiter_mla_sparse.py"

REMAP_ON_AMD_TEXT = """\
    import torch
    from vllm.triton_utils import tl, triton

    @triton.jit
    def kernel(owner_ptr, table_ptr, columns_ptr, starts_ptr, out_ptr, width, K, ROWS, SIZE: tl.constexpr,
               TILE: tl.constexpr):
        token, entry = tl.program_id(0), tl.program_id(1) * TILE + tl.arange(0, TILE)
        at, end = tl.load(starts_ptr + token) + entry, tl.load(starts_ptr + token + 1)
        position = tl.load(columns_ptr + token * K + entry)
        page = tl.load(table_ptr + tl.load(owner_ptr + token) * width + position // SIZE, mask=position >= 0, other=0)
        tl.store(out_ptr + at, page * ROWS + position % SIZE, mask=at < end)

    def triton_convert_req_index_to_global_index(req_id, block_table, token_indices, cu_seqlens, paged_kv_indices,
                                                 BLOCK_STRIDE_ROWS, BLOCK_SIZE=64, NUM_TOPK_TOKENS=2048, BLOCK_N=128):
        assert NUM_TOPK_TOKENS % BLOCK_N == 0
        table = block_table.contiguous()
        kernel[(len(req_id), NUM_TOPK_TOKENS // BLOCK_N)](
            req_id, table, token_indices, cu_seqlens, paged_kv_indices, table.shape[1], NUM_TOPK_TOKENS,
            BLOCK_STRIDE_ROWS, SIZE=BLOCK_SIZE, TILE=BLOCK_N
        )
"""
LOOKUP = "vllm/models/deepseek_v4/common/ops/cache_utils.py"

LOOKUP_TEXT = """\
    import torch
    from vllm.model_executor.warmup.jit_warmup import kernel_launcher
    from vllm.model_executor.warmup.jit_warmup_triton_helper import LaunchSpec, VllmTritonJitKernel
    from vllm.triton_utils import tl, triton

    class Lookup(VllmTritonJitKernel["Lookup.Key"]):
        @staticmethod
        @triton.jit
        def kernel(columns_ptr, owner_ptr, table_ptr, is_token_ptr, out_ptr, count_ptr, row, SIZE: tl.constexpr,
                   K: tl.constexpr, LANES: tl.constexpr):
            token, entry = tl.program_id(0), tl.arange(0, LANES)
            position = tl.load(columns_ptr + token * K + entry, mask=entry < K, other=-1)
            chosen = position >= 0
            page = tl.load(table_ptr + tl.load(owner_ptr + token) * row + position // SIZE, mask=chosen, other=0)
            slot = tl.where(chosen, page * SIZE + position % SIZE, -1)
            tl.store(out_ptr + token * K + entry, slot, mask=entry < K)
            count = tl.sum(chosen.to(tl.int32))
            tl.store(count_ptr + token, tl.where(tl.load(is_token_ptr + token), count, 0))

        @kernel_launcher
        def __call__(self, columns, owner, table, is_token, out, count, *, SIZE) -> LaunchSpec:
            k = columns.shape[1]
            return (len(owner),), dict(row=table.stride(0), K=k, LANES=triton.next_power_of_2(k))

    LOOKUP = Lookup()

    def compute_global_topk_indices_and_lens(topk_indices, token_to_req_indices, block_table, block_size, is_valid):
        out, count = torch.empty_like(topk_indices), torch.empty_like(token_to_req_indices)
        LOOKUP(topk_indices, token_to_req_indices, block_table, is_valid, out, count, SIZE=block_size)
        return out, count
"""
LOOKUP_ON_AMD = "vllm/models/deepseek_v41/amd/rocm.py"

LOOKUP_ON_AMD_TEXT = """\
    import torch
    from vllm.triton_utils import tl, triton

    @triton.jit
    def _rows(columns_ptr, owner_ptr, table_ptr, row, starts_ptr, out_ptr, SIZE: tl.constexpr, K: tl.constexpr,
              LANES: tl.constexpr):
        token, entry = tl.program_id(0), tl.arange(0, LANES)
        start = tl.load(starts_ptr + token)
        chosen = entry < tl.load(starts_ptr + token + 1) - start
        position = tl.load(columns_ptr + token * K + entry, mask=chosen, other=0)
        page = tl.load(table_ptr + tl.load(owner_ptr + token) * row + position // SIZE, mask=chosen, other=0)
        tl.store(out_ptr + start + entry, page * SIZE + position % SIZE, mask=chosen)

    def compute_global_topk_ragged_indices_and_indptr(topk_indices, owner, table, block_size, is_valid):
        from vllm.models.deepseek_v41.amd.ops import topk_pack
        assert topk_pack.pack(topk_indices, owner, table, block_size, is_valid) is None
        columns = topk_indices.contiguous()
        tokens, k = columns.shape
        lens = torch.where(is_valid, (columns >= 0).sum(1), 0).int()
        starts = torch.nn.functional.pad(lens.cumsum(0), (1, 0)).int()
        out = torch.empty(tokens * k, dtype=torch.int32)
        _rows[(tokens,)](columns, owner, table, table.stride(0), starts, out, block_size, k, triton.next_power_of_2(k))
        return out, starts, lens
"""
STAND_INS = {
    "vllm-v41-index-amd": (LOOKUP_ON_AMD, LOOKUP_ON_AMD_TEXT),
    "vllm-v41-index": (LOOKUP.replace("v4/", "v41/"), LOOKUP_TEXT),
    "vllm-v4-index": (LOOKUP, LOOKUP_TEXT),
    "vllm-index": (REMAP, REMAP_TEXT),
    "vllm-index-amd": (REMAP_ON_AMD, REMAP_ON_AMD_TEXT),
    "sglang-index": (TRANSFORM, TRANSFORM_TEXT),
}

CASES = tuple(
    Case().replace(
        model={"index_topk": topk},
        cache={"block_size": block_size, "layout": "normal", "pages": "permuted"},
        batch={"decode": (40, 300), "prefill": ({"length": 40, "new": 7},), "next_n": 2, "max_model_len": 300}
        | {"pad_tokens": 2, "select_holes": holes},
        memory={"table_pad": 3, "table_tail": "huge"},
    )
    for topk, block_size, holes in ((128, 16, 0), (256, 64, 3), (128, 1, 0))
)

WRONG = {
    "the neighbour's page": ("vllm-index", "tl.load(owner_ptr + token)", "tl.load(owner_ptr + token) // 2", "select"),
    "gaps stay": ("vllm-index", "token * K + behind,", "token * K + entry,", "select"),
    "one too many": ("vllm-index", "count_ptr + token, count)", "count_ptr + token, count + 1)", "select"),
    "the slot within a page of one token": ("vllm-index-amd", "page * ROWS + position % SIZE", "page * ROWS", "select"),
    "a row starts where another one ends": (
        "vllm-v41-index-amd",
        "tl.store(out_ptr + start + entry",
        "tl.store(out_ptr + token * K + entry",
        "select",
    ),
    "the request before": (
        "vllm-v41-index-amd",
        "tl.load(owner_ptr + token)",
        "tl.load(owner_ptr + token) // 2",
        "select",
    ),
    "pages of another size": ("vllm-v4-index", "position // SIZE", "position // 16", "select"),
    "rows as long as they may be": ("vllm-v4-index", "tl.sum(chosen.to(tl.int32))", "K", "select"),
    "the request of the first token": (
        "vllm-index-amd",
        "tl.load(owner_ptr + token) * width",
        "tl.load(owner_ptr) * width",
        "select",
    ),
    "the table of the first row": ("sglang-index", "table + token * row", "table", "select"),
    "no -1": ("sglang-index", "mask=position >= 0, other=-1)", "mask=position >= 0, other=0)", "select"),
}


def findings_of(implementation):
    return [finding for case in CASES for finding in run(case, implementation, LockstepDevice()).findings]


@pytest.mark.parametrize("scheme", STAND_INS)
def test_a_right_stand_in_passes(tree, scheme):
    file, text = STAND_INS[scheme]
    implementation = load(f"{scheme}:{tree.folder({file: text})}")
    outcomes = [run(case, implementation, LockstepDevice()) for case in CASES]
    assert [outcome.findings for outcome in outcomes] == [[], [], []]
    with_gaps = ["select"] if scheme == "vllm-index" else []
    assert [outcome.stages for outcome in outcomes] == [["select"], with_gaps, ["select"]]


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_in_a_copy_is_found(tree, name):
    scheme, old, new, blame = WRONG[name]
    file, text = STAND_INS[scheme]
    assert text.count(old) == 1
    findings = findings_of(load(f"{scheme}:{tree.folder({file: text.replace(old, new)})}"))
    assert {finding.stage for finding in findings} == {"select"}
    assert any(finding.detail.startswith(blame) for finding in findings)


def test_what_lies_outside_is_left_alone_by_name(tree):
    for scheme, case, words in (
        ("vllm-index", CASES[0].replace(model={"index_topk": 129}), "index_topk is a multiple of 128"),
        ("sglang-index", CASES[1], "selected positions stand in front"),
        ("sglang-index", CASES[0].replace(memory={"missing_pages": 1}), "every selected position has a page"),
        ("sglang-index", CASES[0].replace(memory={"far": "columns"}), "selected positions are dense"),
        ("sglang-index", CASES[0].replace(memory={"columns_pad": 4}), "selected positions are dense"),
        ("vllm-index-amd", CASES[0].replace(model={"index_topk": 129}), "index_topk is a multiple of 128"),
        ("vllm-v4-index", CASES[1], "selected positions stand in front"),
        ("vllm-v4-index", CASES[0].replace(memory={"missing_pages": 1}), "every selected position has a page"),
        ("vllm-index-amd", CASES[1], "selected positions stand in front"),
        ("vllm-index-amd", CASES[0].replace(memory={"missing_pages": 1}), "every selected position has a page"),
    ):
        file, text = STAND_INS[scheme]
        outcome = run(case, load(f"{scheme}:{tree.folder({file: text})}"), LockstepDevice())
        assert outcome.stages == []
        assert words in outcome.outside["select"]


@pytest.mark.parametrize("scheme", STAND_INS)
def test_a_release_without_it_is_refused_in_one_sentence(tree, scheme):
    file, _ = STAND_INS[scheme]
    package = file.partition("/")[0]
    with pytest.raises(SourceError, match=f"has no {file}"):
        load(f"{scheme}:{tree.folder({f'{package}/__init__.py': ''})}")


@pytest.mark.wheel
@pytest.mark.parametrize("third_party", ["INDEXFUZZ_VLLM_WHEEL_0_33"], indirect=True)
def test_vllm_0_33_passes(third_party):
    assert findings_of(load(f"vllm-index:{third_party}")) == []
    assert findings_of(load(f"vllm-index-amd:{third_party}")) == []
    assert findings_of(load(f"vllm-v4-index:{third_party}")) == []


@pytest.mark.wheel
@pytest.mark.parametrize("third_party", ["INDEXFUZZ_SGLANG"], indirect=True)
def test_sglang_0_5_23_passes(third_party):
    assert findings_of(load(f"sglang-index:{third_party}")) == []

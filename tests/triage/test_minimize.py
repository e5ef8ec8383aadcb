"""The minimiser: small results, the same signature, and an error when there is nothing to minimise."""

import math

import pytest

from indexfuzz.core.case import Case
from indexfuzz.core.signature import Signature
from indexfuzz.reference import cache, paged_mqa_logits
from indexfuzz.subjects.in_process import InProcess
from indexfuzz.triage.minimize import NotFailingError, minimise
from indexfuzz.triage.reductions import REDUCTIONS

BIG = Case().replace(
    model={"num_heads": 16, "head_dim": 128, "rope_dim": 64, "quant_group": 128, "scale_fmt": "fp32"},
    cache={"block_size": 32, "pages": "permuted", "spare_blocks": 3, "page_pad": 132, "shared_prefix": True},
    batch={
        "decode": (40, 3, 65),
        "prefill": ({"length": 40, "new": 7}, {"length": 9, "new": 9}),
        "next_n": 2,
        "max_model_len": 300,
        "pad_tokens": 2,
        "gather_pad": 2,
        "lens": "2d",
    },
    rope={"style": "interleaved", "mode": "inplace"},
    memory={"k_pad": 16, "table_pad": 5, "table_tail": "huge"},
    values={"seed": 12345},
)


def always_normal(k, cache_, slot_mapping, **options):
    cache.k_quant_cache(k, cache_, slot_mapping, **(options | {"layout": "normal"}))


def test_a_layout_bug_ends_at_one_token(reference_with, pytorch_device):
    def broken(k, cache, slot_mapping, **options):
        always_normal(k, cache, slot_mapping, **options)

    subject = InProcess(reference_with(k_quant_cache=broken), pytorch_device)
    small, finding = minimise(
        BIG, subject, Signature("k_quant_cache", "layout-mismatch", "cache_values"), seconds=math.inf
    )
    assert str(finding.signature) == "k_quant_cache/layout-mismatch/cache_values"
    assert len(small.lengths) == 1
    assert small.batch.tokens <= 2
    assert small.model.num_heads == 1
    assert small.model.head_dim == 32
    assert small.cache.block_size == 16
    assert small.values.seed == 0


def test_a_bug_of_long_contexts_keeps_its_length(reference_with, pytorch_device):
    def forgetful(logits, context_lens, **given):
        paged_mqa_logits.paged_mqa_logits(logits=logits, context_lens=context_lens.clamp_max(64), **given)

    subject = InProcess(reference_with(paged_logits=forgetful), pytorch_device)
    small, _ = minimise(BIG, subject, Signature.parse("paged_logits/mask-mismatch/logits"), seconds=math.inf)
    assert small.batch.decode == (65,)
    assert small.batch.prefill == ()


def test_nothing_to_minimise(reference_with, pytorch_device):
    with pytest.raises(NotFailingError, match=r"does not show gather/crash"):
        minimise(Case(), InProcess(reference_with(), pytorch_device), Signature("gather", "crash", "RuntimeError"))


@pytest.mark.parametrize("reduction", REDUCTIONS, ids=lambda r: r.__name__)
def test_reductions_yield_other_valid_cases(reduction):
    candidates = list(reduction(BIG))
    assert all(candidate != BIG and Case.model_validate(candidate.model_dump()) for candidate in candidates)

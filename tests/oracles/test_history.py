"""Launches one after the other: silent where nothing is kept, and whatever a launcher remembers is found and named."""

import pytest
import torch

from indexfuzz.core.case import Case
from indexfuzz.core.stage_names import COVERS, FUSED, STAGE_NAMES
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.implementations.base import Implementation
from indexfuzz.implementations.builtin import builtin
from indexfuzz.oracles import schedule
from indexfuzz.oracles.history import run, with_other_contents
from indexfuzz.reference import cache, fused, gather, mqa_logits, paged_mqa_logits, quant
from indexfuzz.samples.materialise import materialise
from indexfuzz.stages.k_norm import KNorm

CASE = Case().replace(
    model={"num_heads": 2, "head_dim": 32, "rope_dim": 16, "quant_group": 32},
    cache={"block_size": 16, "pages": "permuted", "spare_blocks": 2},
    batch={
        "decode": (40, 3),
        "prefill": ({"length": 40, "new": 7}, {"length": 9, "new": 7}),
        "max_model_len": 60,
        "pad_tokens": 2,
    },
)
VARIANTS = [
    CASE,
    CASE.replace(rope={"mode": "inplace"}, cache={"layout": "normal"}, model={"fp8": "e4m3fnuz", "scale_fmt": "fp32"}),
    CASE.replace(cache={"block_size": 1, "page_pad": 1 << 30}, batch={"decode": (3,), "prefill": ()}),
    CASE.replace(memory={"q_fp8_pad": 8, "weights_pad": 1, "far": "k"}),
]


def signatures(outcome):
    return [str(finding.signature) for finding in outcome.findings]


@pytest.mark.parametrize("case", VARIANTS)
def test_the_reference_and_the_kernels_keep_nothing(case, reference_with, pytorch_device):
    assert signatures(run(case, reference_with(), pytorch_device)) == []
    outcome = run(case, builtin(), LockstepDevice())
    assert signatures(outcome) == []
    assert set(outcome.stages) == {stage for stage in outcome.stages if stage in builtin().stages}
    of_stages = [stage for stage in outcome.stages if stage in STAGE_NAMES]
    assert len(of_stages) == (8 if case.batch.prefill else 5)
    assert set(outcome.stages) - set(of_stages) == {*COVERS} - ({*FUSED} if case.model.scale_fmt == "fp32" else set())


def test_the_other_contents_are_other_contents_of_the_same_form():
    one, other = materialise(CASE), materialise(with_other_contents(CASE))
    same = [n for n, t in one.tensors.items() if torch.equal(t.view(torch.uint8), other.tensors[n].view(torch.uint8))]
    assert {name: t.shape for name, t in one.tensors.items()} == {name: t.shape for name, t in other.tensors.items()}
    assert not {"q", "k", "weights", "cache", "decode_table", "context_lens", "ks", "cu_seqlens"} & set(same)


class Remembers:
    """A stage whose launcher keeps what it makes of one argument, by the argument's address."""

    def __init__(self, function, argument):
        self.function, self.argument = function, argument
        self.kept = {}

    def __call__(self, **arguments):
        tensor = arguments[self.argument]
        arguments[self.argument] = self.kept.setdefault(tensor.data_ptr(), tensor.clone())
        return self.function(**arguments)


@pytest.mark.parametrize(
    ("stage", "function", "argument"),
    [
        ("q_quant", quant.q_quant, "weights"),
        ("k_quant_cache", cache.k_quant_cache, "slot_mapping"),
        ("gather", gather.gather, "cu_seqlens"),
        ("prefill_logits", mqa_logits.mqa_logits, "ke"),
        ("paged_logits", paged_mqa_logits.paged_mqa_logits, "context_lens"),
    ],
)
def test_an_argument_that_is_remembered_is_found_and_named(stage, function, argument, reference_with, pytorch_device):
    tested = reference_with(**{stage: Remembers(function, argument)})
    assert schedule.REFERENCE.run(CASE, tested, pytorch_device, frozenset()).findings == []
    found = run(CASE, reference_with(**{stage: Remembers(function, argument)}), pytorch_device).findings
    assert {(finding.stage, finding.kind) for finding in found} == {(stage, "state-kept")}
    assert all(finding.detail.endswith(f"it is right for {argument} of the launch before") for finding in found)
    (again,) = schedule.ask(CASE, tested, pytorch_device, found[0].signature).findings
    assert again.kind == "state-kept"


def test_a_result_that_is_remembered_is_found(reference_with, pytorch_device):
    kept = []

    def first_result(**given):
        kept.append(quant.q_quant(**given))
        return kept[0]

    (finding,) = run(CASE, reference_with(q_quant=first_result), pytorch_device).findings
    assert finding.detail.endswith("it is right for q and weights of the launch before")


def test_an_argument_that_is_remembered_by_its_form_is_found_and_named(reference_with, pytorch_device):
    kept = {}

    def remembers(*, ke, **given):
        mqa_logits.mqa_logits(ke=kept.setdefault(ke.shape, ke.clone()), **given)

    (finding,) = run(CASE, reference_with(prefill_logits=remembers), pytorch_device).findings
    assert finding.detail.endswith("it is right for ke of the launch before")


def in_token_order(*, cache, block_table, layout, **given):
    """Takes every page for one in token order."""
    paged_mqa_logits.paged_mqa_logits(cache=cache, block_table=block_table, layout="normal", **given)


WITH_POISON = Case().replace(
    model={"num_heads": 1, "head_dim": 32, "rope_dim": 2, "index_topk": 1},
    cache={"block_size": 16, "spare_blocks": 3, "pages": "permuted"},
    batch={"decode": (1,), "prefill": (), "max_model_len": 1},
    values=dict.fromkeys(("q", "k", "weights", "cache", "rope"), "zeros"),
)
"""The table of one launch and the cache of the other give NaN, and so does who reads pages in the wrong layout."""

WITH_A_DOUBLE = Case().replace(
    model={"num_heads": 9, "head_dim": 32, "rope_dim": 20, "index_topk": 1},
    cache={"block_size": 16},
    batch={"decode": (2,), "prefill": (), "max_model_len": 2, "lens": "ragged"},
    values={
        **dict.fromkeys(("cache", "rope"), "normal"),
        **dict.fromkeys(("k", "weights"), "zeros"),
        "q": "cancelling",
        "seed": 2539342250,
        "set": {"weights": ((0, 5, "-0x1.74cef6p+108"), (0, 8, "0x1.a91d52p+108"))},
    },
)
"""With the weights of the launch before, the logits of the right layout are those of the wrong one."""


@pytest.mark.parametrize("case", [WITH_POISON, WITH_A_DOUBLE])
def test_who_is_wrong_by_himself_remembers_nothing_though_it_looks_so(case, reference_with, pytorch_device):
    tested = reference_with(paged_logits=in_token_order)
    assert signatures(run(case, tested, pytorch_device)) == []


def test_a_sum_that_is_not_reset_is_found(reference_with, pytorch_device):
    total = torch.zeros(())

    def adds_up(*, logits, **given):
        mqa_logits.mqa_logits(logits=logits, **given)
        logits += total
        total.add_(1)

    (finding,) = run(CASE, reference_with(prefill_logits=adds_up), pytorch_device).findings
    assert str(finding.signature) == "prefill_logits/state-kept/logits"
    assert finding.detail.endswith("the same launch once more gives something else")


def test_a_plan_that_fits_the_first_contents_alone_is_found(reference_with, pytorch_device):
    planned = {}

    def refuses(*, cu_seqlens, **given):
        plan = planned.setdefault(cu_seqlens.data_ptr(), cu_seqlens.tolist())
        if plan != cu_seqlens.tolist():
            raise RuntimeError("not as planned")
        gather.gather(cu_seqlens=cu_seqlens, **given)

    (finding,) = run(CASE, reference_with(gather=refuses), pytorch_device).findings
    assert str(finding.signature) == "gather/state-kept/RuntimeError"


def test_what_is_wrong_by_itself_is_left_to_others(reference_with, pytorch_device):
    def doubled(*, logits, **given):
        mqa_logits.mqa_logits(logits=logits, **given)
        logits *= 2

    def fails(**_):
        raise RuntimeError("boom")

    assert run(CASE, reference_with(prefill_logits=doubled, gather=fails), pytorch_device).findings == []


def test_who_takes_no_notice_of_an_argument_does_not_remember_it(pytorch_device):
    def norm(k, k_norm_weight, k_norm_bias, *, eps):
        return fused.k_norm(k, k_norm_weight, torch.zeros_like(k_norm_bias), eps=eps)

    seeds = (CASE.replace(values={"seed": seed}) for seed in range(40))
    cases = [case for case in seeds if not KNorm().tensors(materialise(case))["k_norm_bias"].any()]
    assert len(cases) > 3
    for case in cases:
        assert signatures(run(case, Implementation("forgets the bias", {"k_norm": norm}), pytorch_device)) == []

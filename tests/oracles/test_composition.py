"""The whole indexer against its stages: silent where they agree, and loud where only the whole is wrong."""

import re
from dataclasses import replace

import pytest

from indexfuzz.core.case import Case
from indexfuzz.devices import open_device
from indexfuzz.implementations.builtin import builtin
from indexfuzz.implementations.faults.planting import edited_kernels
from indexfuzz.oracles import composition, differential, schedule, walked
from indexfuzz.stages.table import STAGES

DEVICE = open_device("lockstep")
CASE = Case().replace(
    model={"num_heads": 2, "rope_dim": 16, "quant_group": 32},
    cache={"block_size": 16},
    batch={
        "decode": (18, 3),
        "prefill": ({"length": 20, "new": 5}, {"length": 3, "new": 3}),
        "next_n": 2,
        "max_model_len": 20,
        "pad_tokens": 1,
    },
    rope={"mode": "inplace"},
)
SIGNATURE = "topk/metamorphic/composition/"
ALONE = {stage.name for stage in STAGES}


def with_edit(label: str, old: str, new: str, file: str = "kernels/indexer.py"):
    return builtin(edited_kernels(label, [(label, file, old, new)]))


@pytest.mark.parametrize("mode", ["inplace", "functional"])
@pytest.mark.parametrize("kind", [{}, {"decode": ()}, {"prefill": ()}, {"decode": (), "prefill": ()}])
def test_the_built_in_whole_selects_what_its_stages_select(mode, kind):
    case = CASE.replace(batch=kind, rope={"mode": mode})
    assert composition.run(case, builtin(), DEVICE).findings == []


@pytest.mark.parametrize(
    ("label", "old", "new", "output", "words"),
    [
        (
            "rows",
            "selected[rows] = _select_prefill(q_fp8[rows], q_weights[rows]",
            "selected[rows] = _select_prefill(q_fp8[: prefill.ks.shape[0]], q_weights[: prefill.ks.shape[0]]",
            "selected",
            "of the prefill rows, row 0 chose .*; q and weights are those of tokens 0 to 7, not 4 to 11",
        ),
        (
            "weights",
            "selected[rows] = _select_prefill(q_fp8[rows], q_weights[rows]",
            "selected[rows] = _select_prefill(q_fp8[rows], q_weights[: prefill.ks.shape[0]]",
            "selected",
            "of the prefill rows, row .*; weights are those of tokens 0 to 7, not 4 to 11",
        ),
        (
            "offset",
            "columns - prefill.ks.unsqueeze(1)",
            "columns",
            "selected",
            "positions of prefill rows count from the first of all gathered keys",
        ),
        (
            "decode-weights",
            "selected[rows] = _select_decode(q_fp8[rows], q_weights[rows]",
            "selected[rows] = _select_decode(q_fp8[rows], q_weights[decode_end : 2 * decode_end]",
            "selected",
            "of the decode rows, .*; weights are those of tokens 4 to 7, not 0 to 3",
        ),
        (
            "lens",
            "        decode.context_lens,",
            "        decode.context_lens - decode.next_n,",
            "selected",
            "of the decode rows, .*; context_lens leaves out the tokens of this step",
        ),
        (
            "swapped",
            "    return selected\n\n\ndef",
            "    d = decode_end\n    return torch.cat([selected[d:-1], selected[:d], selected[-1:]])\n\n\ndef",
            "selected",
            "the rows of decode and prefill requests have changed places",
        ),
        (
            "unstored",
            "        slot_mapping,\n        scale_fmt",
            "        slot_mapping[:0],\n        scale_fmt",
            "cache",
            "the whole indexer leaves other keys in the cache than its stages",
        ),
        (
            "unrotated",
            "q, k = rope(\n        q,\n        k,",
            "q, k = rope(\n        q.clone(),\n        k.clone(),",
            "q",
            "another q behind than RoPE in place",
        ),
        (
            "padded",
            "selected = torch.full((q.shape[0], config.index_topk), -1",
            "selected = torch.full((q.shape[0], config.index_topk), 0",
            "selected",
            "positions for padded tokens",
        ),
        (
            "raises",
            "selected = torch.full(",
            "selected = torch.fill(",
            "selected",
            "the whole indexer raised TypeError",
        ),
        ("form", "    return selected\n", "    return selected.long()\n", "selected", "is torch.int64"),
    ],
)
def test_a_mistake_of_the_whole_alone_is_found_and_named(label, old, new, output, words):
    (found,) = composition.run(CASE, with_edit(label, old, new), DEVICE).findings
    assert str(found.signature) == f"{SIGNATURE}{output}"
    assert re.search(words, found.detail)
    assert bool(found.index) is not (label in ("raises", "form"))
    if "of the prefill rows" in found.detail:
        assert CASE.batch.decode_rows <= found.index[0] < CASE.batch.tokens - CASE.batch.pad_tokens
    (again,) = schedule.ask(CASE, with_edit(label, old, new), DEVICE, found.signature).findings
    assert again.signature == found.signature


UNROTATED = ("discarded", "    q_fp8, q_weights = q_quant(q, weights", "    q_fp8, q_weights = q_quant(raw, weights")
RAW = ("    q, k = rope(\n", "    raw = q.clone()\n    q, k = rope(\n")


@pytest.mark.parametrize(
    "batch",
    [
        {"decode": (18,), "prefill": (), "pad_tokens": 0},
        {"decode": ()},
        {"decode": (), "prefill": ({"length": 20, "new": 5},)},
        {},
    ],
)
def test_a_rotation_that_is_discarded_is_found_in_every_kind_of_step(batch):
    label, old, new = UNROTATED
    edits = [(label, "kernels/indexer.py", *edit) for edit in ((old, new), RAW)]
    (found,) = composition.run(CASE.replace(batch=batch), builtin(edited_kernels(label, edits)), DEVICE).findings
    assert found.detail.endswith("q is as it was before RoPE")


def test_campaigns_ask_about_the_whole_in_every_step():
    wrong = with_edit("offset", "columns - prefill.ks.unsqueeze(1)", "columns")
    for seed in range(8):
        findings = schedule.run(CASE.replace(values={"seed": seed}), wrong, DEVICE).findings
        assert [str(finding.signature) for finding in findings] == [f"{SIGNATURE}selected"]


def test_nothing_is_asked_without_a_whole_or_outside_the_contract():
    wrong = with_edit("offset", "columns - prefill.ks.unsqueeze(1)", "columns")
    assert composition.run(CASE, replace(wrong, forward=None), DEVICE).findings == []
    assert composition.run(CASE, wrong, DEVICE, frozenset({"gather"})).findings == []
    assert composition.run(CASE.replace(cache={"block_size": 8}), wrong, DEVICE).findings == []


def test_the_step_that_the_stages_were_judged_on_is_taken_once():
    implementation, launched = builtin(), []
    stages = {
        name: lambda _name=name, _run=run, **given: launched.append(_name) or _run(**given)
        for name, run in implementation.stages.items()
    }
    watched = replace(implementation, stages=stages)
    with walked.keeping():
        assert differential.run(CASE, watched, DEVICE).findings == []
        once = list(launched)
        assert composition.run(CASE, watched, DEVICE).findings == []
        assert launched == once
        assert composition.run(CASE, watched, DEVICE).findings == []
        assert launched == once + [name for name in once if name in ALONE]
    assert walked.take(CASE, watched, DEVICE) is None


def test_no_step_is_kept_of_a_case_that_showed_something_or_of_another_one():
    wrong = with_edit("weights-twice", "tl.load(weights_ptr", "2 * tl.load(weights_ptr", "kernels/quant.py")
    right = builtin()
    with walked.keeping():
        assert differential.run(CASE, wrong, DEVICE).findings != []
        assert walked.take(CASE, wrong, DEVICE) is None
        assert differential.run(CASE, right, DEVICE).findings == []
        assert walked.take(CASE.replace(), right, DEVICE) is None
        assert walked.take(CASE, wrong, DEVICE) is None
        assert walked.take(CASE, right, DEVICE) is not None
